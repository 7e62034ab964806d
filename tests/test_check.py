"""Differences between two notebooks, named one by one, whatever the files hold."""

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools import check


def png(mark=0):
    file, image = io.BytesIO(), Image.new("L", (40, 30), 200)
    image.paste(10, (0, 0, 5, mark))
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


TABLE = new_output("stream", text="profile: quick\nmodel\nown  97.87\ntuned  97.80\nbest  1.0\n")
IMAGE = new_output("display_data", {"image/png": png()}, metadata={"image/png": {"alt": "Loss"}})
TEXT = new_markdown_cell("First. Wins by chance. Last.", id="text", metadata={"vscode": 0})
SCORE = new_code_cell("f()", id="score", execution_count=1, outputs=[TABLE])
PLOT = new_code_cell("plot()", id="plot", outputs=[IMAGE], metadata={"tags": ["a"]})
CELLS = [TEXT, SCORE, PLOT]
WHOLE = nbformat.writes(new_notebook(cells=CELLS))
SWAPS = [  # what is replaced, by what, and the row that says so
    ("by chance", "clearly", "text sentence Wins by chance. Wins clearly."),
    ("f()", "f(x)", "score code f() f(x)"),
    ('_count": 1', '_count": 7', "score execution_count 1 7"),
    ("model", "net", "score outputs 1 text model net"),
    ("97.87", "98.10", "score number 1 of 'own' 97.87 98.10 moved by 0.23% (allowed)"),
    ("97.80", "100.10", "score number 1 of 'tuned' 97.80 100.10 moved by 2.30%"),
    ("1.0", "1.00", "score number 1 of 'best' 1.0 1.00 moved by 0.00% (allowed)"),
    ('"a"', '"b"', "plot metadata tags a b"),
    (png(), png(20), "plot outputs 1 data image/png 40 x 30 40 x 30 100 of 1,200 pixels differ"),
    ("Loss", "Gain", "plot outputs 1 metadata image/png alt Loss Gain"),
    ('e": 0', 'e": 1', 'the notebook editors [["vscode", 0]] [["vscode", 1]] noise (allowed)'),
]
OTHERS = {'score cell {"code": ["f()"], ': [TEXT, PLOT]}
OTHERS["the notebook order of cells text score plot plot score text"] = [PLOT, SCORE, TEXT]
OTHERS["score outputs 1 {"] = [TEXT, nbformat.NotebookNode(SCORE, outputs=[]), PLOT]
CASES = [(CELLS, swaps) for swaps in ([], SWAPS, *([swap] for swap in SWAPS))]
CASES += [(cells, [("", "", row)]) for row, cells in OTHERS.items()]


def compare(folder, content, tolerance=check.TOLERANCE):
    (folder / "a").write_text(WHOLE)
    (folder / "b").write_bytes(content.encode())
    return [check.compare(folder / name, folder / "b", tolerance) for name in "ab"]


@pytest.mark.parametrize("cells, swaps", CASES)
def test_each_difference_is_one_row(tmp_path, capsys, cells, swaps):
    content = nbformat.writes(new_notebook(cells=cells))
    for old, new, _ in swaps:
        content = content.replace(old, new)
    found, itself = compare(tmp_path, content)
    rows = [row for *_, row in swaps]
    assert check.report("title", found) == any("(allowed)" not in row for row in rows)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()][2:]
    assert all(line.startswith(row) for line, row in zip(shown, rows, strict=True)) and not itself
    assert not any(row.allowed and row.note != "noise" for row in compare(tmp_path, content, 0)[0])
    assert compare(tmp_path, re.sub(r'"id": "\w+",', "", content))[1] == []


@pytest.mark.parametrize("profile, runs", [("quick", 2), ("replay", 3)])
def test_part_2_is_compared_with_a_run_of_its_profile(tmp_path, monkeypatch, profile, runs):
    made = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "execute", lambda _, out: made.append(Path(out).write_text(WHOLE)))
    Path("build/check").mkdir(parents=True)
    Path("ps2_theory.ipynb").write_text(WHOLE)
    Path("ps2_eurosat.ipynb").write_text(WHOLE.replace("quick", profile))
    assert check.check_all() == 0 and len(made) == runs


TOKENS = re.split(r'("[^"]*"|\d+|\{\}|null)', WHOLE)
VALUES = st.sampled_from('null true 0 -1 1e308 "\\ud800" "\\u0000" [] {} [[]] [{}]'.split())
CHANGES = st.dictionaries(st.integers(0, len(TOKENS) // 2 - 1), VALUES | st.text().map(json.dumps))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, st.integers(0, 2000), st.integers(0, 200), st.text())
def test_any_file_is_compared_or_refused(tmp_path, changes, at, gone, new):
    content = "".join(changes.get(n // 2, t) if n % 2 else t for n, t in enumerate(TOKENS))
    content = content[:at] + new + content[at + gone :]
    try:
        found, itself = compare(tmp_path, content)
        assert bool(found) == (content != WHOLE) and itself == []
    except ValueError:
        with pytest.raises(Exception):  # noqa: B017, nbformat's refusals are of many kinds
            nbformat.validate(json.loads(content))
