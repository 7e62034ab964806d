"""Differences between two notebooks, named one by one, whatever the files hold."""

import base64
import io
import json
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools import check


def png(width=0, height=0):
    (image := Image.new("L", (100, 80), 200)).paste(10, (0, 0, width, height))
    image.save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


PRINTED = "profile: quick\nown  97.87%\nLoss  0.51  5.0\naccuracy 98.04 loss 0.500\nn 1.0\n"
PRINTED = new_output("stream", text=PRINTED + "1.59 loss and 0.475 accuracy\n")
DATA, ALT = {"image/png": png(), "application/json": {"n": 1}}, {"image/png": {"alt": "Curve"}}
CELLS = [new_markdown_cell("Wins by chance. Last.\n\nEnd.", id="text", metadata={"vscode": 0})]
CELLS += [new_code_cell("f()", id="score", execution_count=1, outputs=[PRINTED])]
CELLS += [new_code_cell("plot()", id="plot", metadata={"tags": ["a"]})]
CELLS[2].outputs = [new_output("display_data", DATA, metadata=ALT)]
WHOLE, SCORE, PLOT = map(json.dumps, (new_notebook(cells=CELLS), *CELLS[1:]))
IMAGE = "plot outputs 1 data image/png 100 x 80 100 x 80"
SWAPS = [  # what is replaced, by what, and the row that says so
    ("by chance", "clearly", "text source Wins by chance. Wins clearly."),
    (r"\n\nEnd", r"\nEnd", r"text source '\n' missing"),
    ("own  ", "own ", "score outputs 1 text own 97.87% own 97.87%"),
    ("97.87", "97.88", "score number 1 of 'own' 97.87 97.88 moved by 0.01%"),
    ("0.51", "0.52", "score number 1 of 'Loss' 0.51 0.52 moved by 1.92% (allowed)"),
    ("98.04 loss 0.500", "# loss 0.501", "score outputs 1 text accuracy 98.04 loss 0.500 acc"),
    ("1.59", "1.60", "score number 1 of '#' 1.59 1.60 moved by 0.63% (allowed)"),
    ("0.475", "0.476", "score number 2 of '#' 0.475 0.476 moved by 0.21%"),
    ("1.0", "1.00", "score number 1 of 'n' 1.0 1.00 moved by 0.00% (allowed)"),
    ('["a"]', '"a"', 'plot metadata tags ["a"] a'),
    ('["a"]', '{"1": "a"}', 'plot metadata tags ["a"] {"1": "a"}'),
    ('"n": 1', '"n": true', "plot outputs 1 data application/json n 1 true"),
    ('"n": 1', '"n": 1, "m": null', "plot outputs 1 data application/json m missing null"),
    (png(), png(7, 20), f"{IMAGE} 140 of 8,000 pixels differ, by up to 190 of 255 (allowed)"),
    (png(), png(8, 8), f"{IMAGE} 64 of 8,000 pixels differ, by up to 190 of 255"),
    ("Curve", "Line", "plot outputs 1 metadata image/png alt Curve Line"),
    (f"{SCORE}, {PLOT}", f"{PLOT}, {SCORE}", "the notebook order of cells text score plot text pl"),
    (f"{SCORE}, ", "", 'score cell {"cell_type": "code", '),
    ('"vscode": 0', '"vscode": 1', "the notebook noise vscode (allowed)"),
]
SPLIT = r'\\n"}, {"output_type": "stream", "name": "stdout", "text": "'
NOISE = [  # what people's copies have in another way
    ('"id": "[a-z]+", ', ""),
    ('"id": "[a-z]+"', '"id": "a"'),
    ('_minor": 5', '_minor": 2'),
    (r'5, "metadata": \{', '5, "metadata": {"colab": {}, "kernelspec": {"name": "venv"}'),
    ('_count": 1', '_count": null'),
    (r'"vscode": \d', '"ExecuteTime": {"start": "10:00"}, "pycharm": {}'),
    (r"quick\\n", f"quick{SPLIT}"),
    (r"\\n", r"\\r\\n"),
    (r"\A", "\ufeff"),
]


def compare(content, tolerance=check.TOLERANCE, whole=WHOLE):
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "a"), Path(folder, "b")
        for file, text in zip(files, (whole, content), strict=True):
            file.write_bytes(text.encode())
        return check.compare(*files, tolerance)


@pytest.mark.parametrize("old, new, row", SWAPS)
def test_each_difference_is_one_row_and_noise_hides_none(capsys, old, new, row):
    changed, expected = WHOLE.replace(old, new), "(allowed)" in row
    found = compare(changed)
    assert check.report("title", found) != expected
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[2].startswith(row) and lines[0] == lines[-1] and found[1:] in ([], found[1:2])
    assert all(row.allowed == (row.what == "noise") for row in compare(changed, check.EXACT))
    for pattern, other in NOISE:
        rows = compare(re.sub(pattern, other, changed))
        assert all(row.allowed for row in rows) == expected
        assert re.search(pattern, WHOLE) and [row.what for row in rows].count("noise") <= 1


def test_cells_without_ids_are_paired_by_their_content():
    content = re.sub('"id": "[a-z]+", ', "", WHOLE.replace('"cells": [', f'"cells": [{PLOT}, '))
    (loud,) = [row for row in compare(content.replace(r"\n", r"\r\n")) if not row.allowed]
    assert (loud.cell, loud.before) == ("cell 1", "missing")


@pytest.mark.parametrize(
    "profile, processor, runs, status",
    [("quick", "same", 1, 0), ("replay", "same", 2, 1), ("replay", "another", 2, 0)],
)
def test_part_2_is_executed_where_it_replays_and_compared_on_the_same_processor(
    tmp_path, monkeypatch, profile, processor, runs, status
):
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "execute", lambda _, out: made.append(Path(out).write_text(WHOLE)))
    monkeypatch.setattr(check, "record_rows", lambda _: [])
    monkeypatch.setattr(check.record, "read", lambda: {"processor": processor})
    monkeypatch.setattr(check.torch.backends.cpu, "get_cpu_capability", lambda: "same")
    monkeypatch.setattr(check.utils, "load_eurosat", lambda: None)
    monkeypatch.setattr(check.utils, "choose_profile", lambda *_: profile)
    Path("build/check").mkdir(parents=True)
    Path("ps2_theory.ipynb").write_text(WHOLE)
    Path("ps2_eurosat.ipynb").write_text(WHOLE.replace("97.87", "97.88"))
    assert check.check_all() == status and len(made) == runs


TOKENS = re.split(r'("[^"]*"|\d+|\{\}|null)', WHOLE)
VALUES = st.sampled_from('null true 0 -1 1e308 "\\ud800" "\\u0000" [] {} [[]] [{}]'.split())
CHANGES = st.dictionaries(st.integers(0, len(TOKENS) // 2 - 1), VALUES | st.text().map(json.dumps))


@given(CHANGES, st.integers(0, 2000), st.integers(0, 200), st.text())
def test_any_file_is_compared_or_refused(changes, at, gone, new):
    content = "".join(changes.get(n // 2, t) if n % 2 else t for n, t in enumerate(TOKENS))
    content = content[:at] + new + content[at + gone :]
    try:
        assert bool(compare(content)) == (content != WHOLE)
        assert compare(content, whole=content) == []
    except ValueError as error:
        assert "b is no notebook" in str(error)
        with pytest.raises(Exception):  # noqa: B017, nbformat's refusals are of many kinds
            nbformat.validate(json.loads(content))
