"""Differences between two notebooks, named one by one."""
import base64
import io
import json

import nbformat
import numpy as np
import pytest
from PIL import Image

from tools import check


def picture(mark=0):
    pixels = np.full((30, 40, 3), 200, np.uint8)
    pixels[:mark, :5] = 10
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def notebook():
    table = "model        accuracy  pictures\nown CNN        97.87 %     5,400\nfine-tuned     97.80 %     5,400\n"
    v4 = nbformat.v4
    return v4.new_notebook(cells=[
        v4.new_markdown_cell("First sentence. The best model wins by chance. Last sentence.", id="discussion"),
        v4.new_code_cell("print_table(results)", id="score", execution_count=1, outputs=[v4.new_output("stream", text=table)]),
        v4.new_code_cell("plot(curves)", id="curves", execution_count=2, outputs=[
            v4.new_output("display_data", data={"image/png": picture(), "text/plain": "<Figure>"})])])


@pytest.fixture
def rows(notebook, tmp_path):
    """Differences that a change of the notebook makes, as (cell, what, before, after)."""
    def after(change):
        nbformat.write(notebook, tmp_path / "before.ipynb")
        change(notebook.cells)
        nbformat.write(notebook, tmp_path / "after.ipynb")
        return check.compare(tmp_path / "before.ipynb", tmp_path / "after.ipynb")
    return after


def test_a_number_a_picture_and_a_sentence_are_exactly_three_rows(rows, capsys):
    def change(cells):
        cells[0].source = cells[0].source.replace("by chance", "clearly")
        cells[1].outputs[0].text = cells[1].outputs[0].text.replace("97.80", "91.80")
        cells[2].outputs[0].data["image/png"] = picture(mark=20)
    found = rows(change)
    assert [(row.cell, row.what, row.before, row.after) for row in found] == [
        ("discussion", "sentence", "The best model wins by chance.", "The best model wins clearly."),
        ("score", "number 1 of 'fine-tuned'", "97.80", "91.80"),
        ("curves", "picture", "40 x 30", "40 x 30")]
    assert found[2].note == "100 of 1,200 pixels differ, by up to 190 of 255"
    assert check.report("title", found, check.TOLERANCE) == 1
    assert len(capsys.readouterr().out.splitlines()) == 5  # title, head of the table, three rows


def test_equal_files_are_identical(rows, capsys):
    assert check.report("title", rows(lambda cells: None), check.TOLERANCE) == 0
    assert capsys.readouterr().out == "title: identical, byte for byte\n"


@pytest.mark.parametrize("number, status", [("98.10", 0), ("90.10", 1), ("100.10", 1)])
def test_a_number_within_the_tolerance_is_shown_and_passes(rows, number, status):
    found = rows(lambda cells: cells[1].outputs[0].update(text=cells[1].outputs[0].text.replace("97.87", number)))
    assert [(row.before, row.after) for row in found] == [("97.87", number)]
    assert check.report("title", found, check.TOLERANCE) == status


@pytest.mark.parametrize("change, expected", [
    (lambda cells: cells.pop(1), ("score", "cell", "code", "missing")),
    (lambda cells: cells[1].outputs.clear(), ("score", "output", "stdout", "missing")),
    (lambda cells: cells[2].update(execution_count=7), ("curves", "execution_count", "2", "7")),
    (lambda cells: cells[2].metadata.update(tags=["x"]), ("curves", "metadata", "{}", '{"tags": ["x"]}')),
    (lambda cells: cells.reverse(), ("curves", "order of cells", "discussion stood here", "moved")),
    (lambda cells: cells[1].update(source="print_table(r)"), ("score", "code", "print_table(results)", "print_table(r)")),
    (lambda cells: cells[1].outputs[0].update(text=cells[1].outputs[0].text.replace("fine-tuned", "tuned")),
     ("score", "text", "fine-tuned     97.80 %     5,400", "tuned     97.80 %     5,400"))])
def test_every_other_kind_of_change_fails(rows, change, expected):
    row, = rows(change)
    assert (row.cell, row.what, row.before, row.after) == expected and not row.within


def test_a_notebook_without_cell_ids_equals_itself(notebook, tmp_path):
    for cell in notebook.cells:
        del cell["id"]
    (tmp_path / "plain.ipynb").write_text(json.dumps(notebook))
    assert check.compare(tmp_path / "plain.ipynb", tmp_path / "plain.ipynb") == []
