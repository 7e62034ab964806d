"""tools/check.py: what differs between two notebooks, or in a new run of the record."""

import base64
import io
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import results
from standin import CLASSES
from tests.helpers import refused
from tools import check
from tools.notebook import EUROSAT, THEORY, execute

ROOT = Path(__file__).parent.parent


def png(grey):
    """A small grey image as a PNG in base64."""
    file = io.BytesIO()
    Image.new("L", (20, 10), grey).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- Two notebooks --------------------------------------------------------------------


PRINTED = """\
profile: quick
PermanentCrop 500 12
test loss 0.5123 0.9750
own  97.87%
"""
CELLS = [
    new_markdown_cell("# Wins by chance", id="text"),
    new_code_cell(
        "score()\nshow()",
        id="score",
        execution_count=1,
        outputs=[
            new_output("stream", text=PRINTED),
            new_output("error", ename="Stop", evalue="now", traceback=["line 1"]),
        ],
    ),
    new_code_cell(
        "plot()",
        id="plot",
        metadata={"tags": ["figure"], "editor": {"folded": True}},
        outputs=[
            new_output(
                "display_data",
                {"image/png": png(200), "text/plain": "<Image>"},
                metadata={"image/png": {"alt": "Heat map"}},
            ),
            new_output(
                "execute_result",
                {
                    "text/html": "<b>91.00</b>",
                    "image/svg+xml": "<svg>91.00</svg>",
                    "application/json": {"field": 1},
                },
                execution_count=3,
            ),
        ],
    ),
    new_markdown_cell("The end.", id="end"),
]
WHOLE = json.dumps(new_notebook(cells=CELLS, metadata={"title": "Part 2"}))
TEXT, SCORE, PLOT, END = (json.dumps(cell) for cell in CELLS)
LONG = "word " * 100
DIFFERENCES = [  # what is replaced, by what, and the lines that say so
    pytest.param(
        "by chance",
        "clearly",
        ["text, cell 1", "- source: # Wins by chance", "+ source: # Wins clearly"],
        id="word of a text",
    ),
    pytest.param(
        "<b>91.00",
        "<b>98.99",
        [
            "plot, cell 3",
            "- text/html: <b>91.00</b>",
            "+ text/html: <b>98.99</b>",
        ],
        id="field of a heat map",
    ),
    pytest.param(
        "Crop 500",
        "Crop 333",
        [
            "score, cell 2",
            "- text: PermanentCrop 500 12",
            "+ text: PermanentCrop 333 12",
        ],
        id="count of a confusion matrix",
    ),
    pytest.param(
        "0.9750",
        "0.9600",
        [
            "score, cell 2",
            "- text: test loss 0.5123 0.9750",
            "+ text: test loss 0.5123 0.9600",
        ],
        id="accuracy behind a loss",
    ),
    pytest.param(
        "0.9750",
        "0.97500",
        [
            "score, cell 2",
            "- text: test loss 0.5123 0.9750",
            "+ text: test loss 0.5123 0.97500",
        ],
        id="one more digit",
    ),
    pytest.param(
        png(200),
        png(201),
        ["plot, cell 3", "image differs: Heat map"],
        id="image",
    ),
    pytest.param(
        "<svg>91.00",
        "<svg>98.99",
        ["plot, cell 3", "image differs: it has no alt text"],
        id="drawing without alt text",
    ),
    pytest.param(
        "Heat map",
        "Bars",
        [
            "plot, cell 3",
            '- metadata of image/png (JSON):  "alt": "Heat map"',
            '+ metadata of image/png (JSON):  "alt": "Bars"',
        ],
        id="alt text",
    ),
    pytest.param(
        '"figure"',
        '"table"',
        ["plot, cell 3", '- tags (JSON):  "figure"', '+ tags (JSON):  "table"'],
        id="tag",
    ),
    pytest.param(
        '"field": 1',
        '"field": true',
        [
            "plot, cell 3",
            '- application/json (JSON):  "field": 1',
            '+ application/json (JSON):  "field": true',
        ],
        id="true in place of 1",
    ),
    pytest.param(
        '"evalue": "now"',
        '"evalue": "then"',
        ["score, cell 2", "- evalue: now", "+ evalue: then"],
        id="error",
    ),
    pytest.param(
        '"stdout"',
        '"stderr"',
        ["score, cell 2", "- name: stdout", "+ name: stderr"],
        id="stream",
    ),
    pytest.param(
        "execute_result",
        "display_data",
        ["plot, cell 3", "- output: execute_result", "+ output: display_data"],
        id="kind of an output",
    ),
    pytest.param(
        "own  97",
        "own 97",
        ["score, cell 2", "- text: 'own  97.87%'", "+ text: 'own 97.87%'"],
        id="a blank less",
    ),
    pytest.param(
        r"97.87%\n",
        "97.87%",
        ["score, cell 2", "- text: ''"],
        id="end of a line",
    ),
    pytest.param(
        "97.87%",
        r"\u001b[2J97.87%",
        ["score, cell 2", "- text: own  97.87%", r"+ text: 'own  \x1b[2J97.87%'"],
        id="sign for the terminal",
    ),
    pytest.param(
        "# Wins",
        f"{LONG}Wins",
        [
            "text, cell 1",
            "- source: # Wins by chance",
            f"+ source: {LONG[:100]}...",
        ],
        id="long line",
    ),
    pytest.param(
        '"end", "cell_type": "markdown"',
        '"end", "cell_type": "raw"',
        ["end, cell 4", "- type: markdown", "+ type: raw"],
        id="kind of a cell",
    ),
    pytest.param(
        '"source": "The end."',
        '"source": "The end.", "attachments": {"a.png": {"image/png": "AAAA"}}',
        [
            "end, cell 4",
            "+ attachments (JSON): {",
            '+ attachments (JSON):  "a.png": {',
            '+ attachments (JSON):   "image/png": "AAAA"',
            "+ attachments (JSON):  }",
            "+ attachments (JSON): }",
        ],
        id="attachment",
    ),
    pytest.param(f"{SCORE}, ", "", ["score, cell 2: removed"], id="cell removed"),
    pytest.param(
        f"{SCORE}, ",
        f"{SCORE}, {SCORE.replace('score', 'other')}, ",
        ["other, cell 3: added"],
        id="cell added",
    ),
    pytest.param(
        f"{SCORE}, {PLOT}, {END}",
        f"{PLOT}, {END}, {SCORE}",
        ["score, cell 2: moved, now cell 4"],
        id="cell moved",
    ),
]
OF_THE_WHOLE = pytest.param(
    "Part 2",
    "Part 3",
    ["the whole notebook", "- title: Part 2", "+ title: Part 3"],
    id="title",
)
IN_TWO_PIECES = r'quick\\n"}, {"output_type": "stream", "name": "stdout", "text": "'
NOISE = [  # what other people's copies have in another way: a pattern, what replaces it
    pytest.param('"id": "[a-z]+", ', "", id="no ids"),
    pytest.param('"id": "[a-z]+"', '"id": "a"', id="one id for all"),
    pytest.param('"id": "([a-z])[a-z]+"', r'"id": "\1"', id="other ids"),
    pytest.param('_minor": 5', '_minor": 2', id="minor version"),
    pytest.param('_count": [13]', '_count": null', id="execution counts"),
    pytest.param('"folded": true', '"folded": false', id="an editor's metadata"),
    pytest.param('"title"', '"colab": {}, "title"', id="another editor's metadata"),
    pytest.param(r"quick\\n", IN_TWO_PIECES, id="pieces of a print"),
    pytest.param(r"\\n", r"\\r\\n", id="ends of lines"),
    pytest.param(re.escape(png(200)), png(200) + r"\\n", id="end of an image"),
    pytest.param(r"\A", "\ufeff", id="byte order mark"),
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The names of two files with the notebook WHOLE, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.ipynb", "b.ipynb"):
        Path(name).write_text(WHOLE, "utf-8")
    return "a.ipynb", "b.ipynb"


def run(monkeypatch, capsys, *arguments):
    """(exit status, lines that it prints) of python -m tools.check."""
    monkeypatch.setattr("sys.argv", ["check", *arguments])
    status = check.main()
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("old, new, expected", [*DIFFERENCES, OF_THE_WHOLE])
def test_a_difference_is_named_with_its_lines(
    files, monkeypatch, capsys, old, new, expected
):
    assert old in WHOLE
    Path("b.ipynb").write_text(WHOLE.replace(old, new), "utf-8")
    status, (first, *lines, last) = run(monkeypatch, capsys, *files)
    assert status == 1
    assert first == last
    assert first.startswith("a.ipynb and b.ipynb: different")
    assert [line.strip() for line in lines] == expected


def test_the_verdict_counts_the_cells(files, monkeypatch, capsys):
    content = WHOLE.replace("chance", "skill").replace("500", "333")
    Path("b.ipynb").write_text(content, "utf-8")
    status, (first, *_) = run(monkeypatch, capsys, *files)
    assert first == "a.ipynb and b.ipynb: different, 2 cells"


@pytest.mark.parametrize("pattern, other", NOISE)
def test_how_a_file_is_written_is_no_difference(
    files, monkeypatch, capsys, pattern, other
):
    content, count = re.subn(pattern, other, WHOLE)
    assert count > 0
    Path("b.ipynb").write_text(content, "utf-8")
    status, lines = run(monkeypatch, capsys, *files)
    assert status == 0
    assert lines == ["a.ipynb and b.ipynb: identical"]


@pytest.mark.parametrize("pattern, other", NOISE)
def test_how_a_file_is_written_hides_no_difference(files, pattern, other):
    for case in DIFFERENCES:
        old, new, _ = case.values
        content = re.sub(pattern, other, WHOLE.replace(old, new))
        Path("b.ipynb").write_text(content, "utf-8")
        assert check.compare(*files), case.id


WITHOUT_IDS = [  # what is replaced, by what, and the places that are named
    pytest.param("Crop 500", "Crop 333", ["cell 2"], id="output"),
    pytest.param("plot()", "plot(2)", ["cell 3"], id="source"),
    pytest.param(f"{SCORE}, ", "", ["cell 2: removed"], id="cell removed"),
    pytest.param(TEXT, f"{END}, {TEXT}", ["cell 1: added"], id="cell added"),
    pytest.param(
        f"{SCORE}, {PLOT}, {END}",
        f"{PLOT}, {END}, {SCORE}",
        ["cell 2: moved, now cell 4"],
        id="cell moved",
    ),
]


@pytest.mark.parametrize("old, new, expected", WITHOUT_IDS)
def test_cells_without_ids_are_aligned_by_content(files, old, new, expected):
    pattern = '"id": "[a-z]+", '
    content = WHOLE.replace(old, new)
    Path("a.ipynb").write_text(re.sub(pattern, "", WHOLE), "utf-8")
    Path("b.ipynb").write_text(re.sub(pattern, "", content), "utf-8")
    lines = check.describe(check.compare(*files))
    assert [line for line in lines if line.startswith("cell")] == expected


def test_copies_of_an_id_are_no_names(files, monkeypatch, capsys):
    one_id = re.sub('"id": "[a-z]+"', '"id": "a"', WHOLE)
    Path("a.ipynb").write_text(one_id, "utf-8")
    first = re.sub('"id": "[a-z]+"', '"id": "a"', TEXT)
    Path("b.ipynb").write_text(one_id.replace(f"{first}, ", ""), "utf-8")
    _, lines = run(monkeypatch, capsys, *files)
    assert [line.strip() for line in lines[1:-1]] == ["cell 1: removed"]


def test_exchanged_ids_of_equal_cells_are_no_difference(files):
    content = WHOLE.replace('"id": "score"', '"id": "other"')
    content = content.replace('"id": "plot"', '"id": "score"')
    content = content.replace('"id": "other"', '"id": "plot"')
    Path("b.ipynb").write_text(content, "utf-8")
    assert check.compare(*files) == []


def test_a_change_far_into_a_long_line_is_shown():
    (pair,) = check.pair_lines(
        [check.Line("text", f"{LONG}97 %")], [check.Line("text", f"{LONG}98 %")]
    )
    old, new = check.describe_pair(*pair)
    assert old.startswith("- text: ...") and old.endswith("word 97 %")
    assert new.startswith("+ text: ...") and new.endswith("word 98 %")
    assert len(old) < 120


def test_two_long_outputs_are_compared_in_seconds(files):
    for name, factor in (("a.ipynb", 1), ("b.ipynb", 2)):
        lines = [f"step {step}, loss {step * factor}" for step in range(5000)]
        output = new_output("stream", text="\n".join(lines))
        cells = [new_code_cell("train()", outputs=[output])]
        nbformat.write(new_notebook(cells=cells), name)
    start = time.process_time()
    (change,) = check.compare(*files)
    assert time.process_time() - start < 20  # nbdime alone takes minutes
    assert len(change.pairs) == 4999  # all but step 0


@pytest.mark.parametrize("arguments", [["a.ipynb"], ["a.ipynb"] * 3])
def test_one_file_or_three_are_no_comparison(monkeypatch, capsys, arguments):
    with refused(SystemExit, "2"):
        run(monkeypatch, capsys, *arguments)
    assert "give two notebook files" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    "given, files",
    [
        pytest.param([], [], id="none"),
        pytest.param(["BEFORE=a.ipynb"], ["a.ipynb"], id="before alone"),
        pytest.param(["AFTER=b.ipynb"], ["b.ipynb"], id="after alone"),
        pytest.param(
            ["BEFORE=of 'us' (1).ipynb", 'AFTER="b" $(c) `d`.ipynb'],
            ["of 'us' (1).ipynb", '"b" $(c) `d`.ipynb'],
            id="names with signs of the shell",
        ),
    ],
)
def test_make_hands_over_the_files_that_are_given(given, files):
    printing = "PY=printf '%s\\n'"
    command = ["make", "-so", ".venv/installed", printing, "check", *given]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["-m", "tools.check", *files]


TOKENS = re.split(r'("[^"]*"|\d+|\{\}|null)', WHOLE)
VALUES = 'null true 0 -1 1e308 "\\ud800" "\\u0000" [] {} [[]] [{}]'.split()
TEXTS = ["# Wins by chance", "score()\\nshow()", "Stop", "line 1", "figure", "<Image>"]
TEXTS += ["Heat map", "<b>91.00</b>", png(200), "The end.", "Part 2", "own  97.87%"]


def compare_contents(tmp_path_factory, old, new):
    """The Changes between two files with these contents."""
    folder = tmp_path_factory.getbasetemp()
    paths = folder / "a", folder / "b"
    for path, content in zip(paths, (old, new), strict=True):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    return check.compare(*paths)


@given(
    st.dictionaries(
        st.integers(0, len(TOKENS) // 2 - 1),
        st.sampled_from(VALUES) | st.text().map(json.dumps),
    ),
    st.integers(0, len(WHOLE)),
    st.integers(0, 200),
    st.text(),
)
def test_any_file_is_compared_or_refused_by_name(
    tmp_path_factory, replaced, start, length, new
):
    tokens = list(TOKENS)
    for place, value in replaced.items():
        tokens[2 * place + 1] = value
    content = "".join(tokens)
    content = content[:start] + new + content[start + length :]
    try:
        there = compare_contents(tmp_path_factory, WHOLE, content)
    except ValueError as error:
        assert "b is no notebook" in str(error)
        return
    back = compare_contents(tmp_path_factory, content, WHOLE)
    assert bool(there) == bool(back)
    assert compare_contents(tmp_path_factory, content, content) == []


@given(st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_other_text_is_a_difference(tmp_path_factory, text, other):
    assert text in WHOLE
    assume(json.dumps(other) != f'"{text}"')
    content = WHOLE.replace(text, json.dumps(other)[1:-1])
    assert compare_contents(tmp_path_factory, WHOLE, content)


# --- The record -----------------------------------------------------------------------


def model_row(correct, loss):
    """One model's row of a record: so many right of 5,400."""
    return {
        "Accuracy (train)": 0.99,
        "Loss (train)": loss,
        "Accuracy (test)": correct / 5400,
        "Loss (test)": loss,
        "correct": correct,
        "total": 5400,
        "interval": results.wilson_interval(correct, 5400),
        "views": "1",
    }


def two_models(only_one, only_two):
    """A row of McNemar's test: so many images that one of two models alone gets."""
    one = torch.tensor([True] * only_one + [False] * only_two)
    return results.mcnemar("tuned", "pretrained", {"tuned": one, "pretrained": ~one})


def made_up_record():
    return {
        "data": "EuroSAT",
        "numbers of": "full run",
        "judged on": "test list",
        "images": 5400,
        "seeds of": {"our tuned model": ["tuned"], "pretrained model": ["pretrained"]},
        "together": {},
        "neighbours": {
            "split by draw": {
                "copies": 0.26,
                "correct": 990,
                "total": 1200,
                "interval": results.wilson_interval(990, 1200),
            },
        },
        "processor": "AVX512",
        "epochs": {
            "template's settings": 1,
            "our model": 16,
            "our tuned model": 16,
            "pretrained model": 6,
        },
        "grid": [[0.91, 0.92], [0.93, 0.94]],
        "curves": {
            "our model": {
                "training loss": 0.3,
                "test loss": 0.3141,
                "test accuracy": 3653 / 5400,
            },
        },
        "results": {
            "template's settings": model_row(3000, 0.95),
            "our model": model_row(3653, 0.842957),
            "tuned": model_row(5300, 0.155104),
            "pretrained": model_row(5346, 0.132401),
        },
        "mcnemar": [two_models(16, 62)],
        "mcnemar of tuning": two_models(27, 241),
        "confusion": {"tuned": [[500, 12], [3, 485]]},
        "wrong by all": 23,
        "calibration": {
            "tuned": {
                "scaled": {
                    "temperature": 0.5512,
                    "confidence": 0.9821,
                    "test accuracy": 5300 / 5400,
                    "calibration error": 0.0047,
                    "noise floor": 0.0031,
                    "test loss": 0.0632,
                },
            },
        },
        "cost": {"our tuned model": 171264.5},
        "most like K_edge": 0.7712,
    }


def changed(place, value):
    """A copy of the made-up record with another value at one place; ... for none."""
    record = made_up_record()
    *parents, last = place
    part = record
    for key in parents:
        part = part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return record


def places(part, above=()):
    """Yield the place of each key and of each item in a record, at any depth."""
    if isinstance(part, list):
        part = dict(enumerate(part))
    if isinstance(part, dict):
        for key, below in part.items():
            yield *above, key
            yield from places(below, (*above, key))


def in_words(place):
    """A place as a report names it."""
    return ", ".join(str(key + 1) if isinstance(key, int) else key for key in place)


RECORD = made_up_record()
PLACES = list(places(RECORD))
KEYS = [place for place in PLACES if isinstance(place[-1], str)]
ON_THE_SAME = [  # differences on the same kind of processor
    pytest.param(
        ("results", "tuned", "correct"),
        5301,
        ["results, tuned, correct: 5300, now 5301"],
        id="one answer",
    ),
    pytest.param(
        ("calibration", "tuned", "scaled", "calibration error"),
        0,
        ["calibration, tuned, scaled, calibration error: 0.0047, now 0"],
        id="calibration error",
    ),
    pytest.param(
        ("results", "our model", "Loss (test)"),
        0.84295700001,
        ["results, our model, Loss (test): 0.842957, now 0.84295700001"],
        id="last digit of a loss",
    ),
    pytest.param(
        ("grid",),
        [[0.91, 0.92], [0.93]],
        ["grid, 2, 2: 0.94, now missing"],
        id="field of the grid missing",
    ),
    pytest.param(
        ("confusion", "tuned", 0, 0),
        333,
        ["confusion, tuned, 1, 1: 500, now 333"],
        id="count of the confusion matrix",
    ),
    pytest.param(
        ("processor",),
        "AVX2",
        ['processor: "AVX512", now "AVX2"'],
        id="processor",
    ),
    pytest.param(
        ("images",), 5400.0, ["images: 5400, now 5400.0"], id="kind of number"
    ),
]


@pytest.mark.parametrize("place, value, expected", ON_THE_SAME)
def test_on_the_same_kind_of_processor_each_digit_counts(place, value, expected):
    moved, different = check.compare_records(RECORD, changed(place, value), True)
    assert different == expected
    assert moved == []


@pytest.mark.parametrize("is_same_processor", [True, False])
def test_a_record_is_equal_to_itself(is_same_processor):
    found = check.compare_records(RECORD, made_up_record(), is_same_processor)
    assert found == ([], [])


@pytest.mark.parametrize("is_same_processor", [True, False])
@pytest.mark.parametrize("place", KEYS, ids=in_words)
def test_a_missing_key_is_named_in_both_directions(place, is_same_processor):
    without = changed(place, ...)
    for pair in [(RECORD, without), (without, RECORD)]:
        _, different = check.compare_records(*pair, is_same_processor)
        assert different
        for line in different:
            assert line.startswith(in_words(place))
            assert "missing" in line


ON_ANOTHER = [  # (place, value, may it move?) on another kind of processor
    pytest.param(("processor",), "AVX2", True, id="processor"),
    pytest.param(("processor",), ..., False, id="no processor"),
    pytest.param(
        ("results", "tuned"), model_row(5302, 0.155104), True, id="two answers"
    ),
    pytest.param(
        ("results", "tuned"), model_row(5297, 0.155104), False, id="three answers"
    ),
    pytest.param(
        ("results", "tuned", "correct"), 5301, False, id="an answer, not the accuracy"
    ),
    pytest.param(
        ("results", "tuned", "Accuracy (test)"), 0.99, False, id="accuracy alone"
    ),
    pytest.param(
        ("results", "tuned", "interval"), [0.97, 0.99], False, id="interval alone"
    ),
    pytest.param(
        ("results", "tuned", "Accuracy (train)"),
        1978 / 2000,
        True,
        id="two of a sample",
    ),
    pytest.param(
        ("results", "tuned", "Accuracy (train)"), 1977 / 2000, False, id="three of it"
    ),
    pytest.param(("results", "tuned", "total"), 5401, False, id="number of images"),
    pytest.param(
        ("results", "tuned", "Loss (test)"), 0.1549, True, id="fourth digit of a loss"
    ),
    pytest.param(
        ("results", "tuned", "Loss (test)"), 0.1544, False, id="third digit of a loss"
    ),
    pytest.param(
        ("curves", "our model", "test loss"), 0.3142, True, id="end of a test curve"
    ),
    pytest.param(
        ("curves", "our model", "test accuracy"),
        3655 / 5400,
        True,
        id="two at its end",
    ),
    pytest.param(
        ("curves", "our model", "test accuracy"), 3656 / 5400, False, id="three at it"
    ),
    pytest.param(
        ("curves", "our model", "training loss"), 0.3001, False, id="stored curve"
    ),
    pytest.param(
        ("calibration", "tuned", "scaled", "calibration error"),
        0.0048,
        True,
        id="calibration",
    ),
    pytest.param(
        ("calibration", "tuned", "scaled", "calibration error"),
        0,
        False,
        id="calibration of none",
    ),
    pytest.param(
        ("calibration", "tuned", "scaled", "temperature"),
        0.5514,
        True,
        id="fourth digit of a temperature",
    ),
    pytest.param(
        ("mcnemar of tuning", "p"), 0.5, False, id="p of tuning that does not follow"
    ),
    pytest.param(
        ("confusion", "tuned", 0), [498, 14], True, id="two in the confusion matrix"
    ),
    pytest.param(("confusion", "tuned", 0), [497, 15], False, id="three in it"),
    pytest.param(("wrong by all",), 25, True, id="two wrong by all"),
    pytest.param(("wrong by all",), 26, False, id="three wrong by all"),
    pytest.param(
        ("neighbours", "split by draw", "interval"),
        [0.8, 0.85],
        False,
        id="interval of the neighbours alone",
    ),
    pytest.param(("grid", 0, 0), 0.9100001, False, id="grid, which is stored"),
    pytest.param(("mcnemar", 0), two_models(18, 58), True, id="right alone"),
    pytest.param(("mcnemar", 0), two_models(21, 62), False, id="five right alone"),
    pytest.param(("mcnemar", 0, "p"), 0.5, False, id="p that does not follow"),
    pytest.param(("mcnemar", 0, "models", 0), "other", False, id="name"),
]


@pytest.mark.parametrize("place, value, is_allowed", ON_ANOTHER)
def test_on_another_kind_of_processor_two_answers_may_move(place, value, is_allowed):
    other = changed(place, value)
    for pair in [(RECORD, other), (other, RECORD)]:
        moved, different = check.compare_records(*pair, False)
        assert bool(different) != is_allowed
        if is_allowed:
            assert moved  # and named


@pytest.mark.parametrize("place", PLACES, ids=in_words)
def test_no_value_changes_in_silence(place):
    _, different = check.compare_records(RECORD, changed(place, "other"), True)
    (line,) = different
    assert line.startswith(f"{in_words(place)}: ")
    assert line.endswith('now "other"')


def test_a_table_that_cannot_be_made_is_refused():
    with refused(ValueError, "report/results.json lacks 'judged on'"):
        check.check_tables(changed(("judged on",), ...))


# The run of all of it, with two small notebooks in place of the two parts.

REPLAY = """\
import os, pathlib, shutil
pathlib.Path("build/report").mkdir(parents=True)
shutil.copy("new.json", "build/report/results.json")
print(os.environ["PS2_PROFILE"], 97.87)
"""
FIGURE = """\
from IPython.display import Image, display
display(Image("figure.png", alt="Heat map"))
"""
README = """\
# Results

```text
{table}
```
"""


@pytest.fixture(scope="module")
def small_record(tmp_path_factory):
    """A folder with all that the check of the record reads, in miniature."""
    folder = tmp_path_factory.mktemp("record")
    for name in CLASSES:
        (folder / "eurosat/2750" / name).mkdir(parents=True)
    for part in ("train", "val", "test"):
        (folder / f"eurosat/eurosat-{part}.txt").write_text("a.jpg")
    (folder / "report/weights").mkdir(parents=True)
    (folder / "report/weights/my-model.pt").touch()
    record = {**RECORD, "processor": torch.backends.cpu.get_cpu_capability()}
    for path in ("report/results.json", "new.json"):
        (folder / path).write_text(results.json_text(record))
    (folder / "figure.png").write_bytes(base64.b64decode(png(200)))
    table = results.as_text(results.summary_table(record))
    (folder / "README.md").write_text(README.format(table=table))
    first = f"display({{'text/plain': '''{table}'''}}, raw=True)"
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), folder / THEORY)
    cells = [new_code_cell(source) for source in (first, REPLAY, FIGURE)]
    nbformat.write(new_notebook(cells=cells), folder / EUROSAT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PS2_PROFILE", "replay")
        for name in (THEORY, EUROSAT):
            execute(folder / name)
    shutil.rmtree(folder / "build")
    return folder


def edit(path, old, new):
    """Replace a text in a file of the current folder."""
    text = Path(path).read_text("utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), "utf-8")


RUNS = [  # edits of files, exit status, what is said
    pytest.param(
        [],
        0,
        [
            f"{THEORY}, executed again: identical",
            f"{EUROSAT}, executed again: identical",
            "report/results.json and the new run's: identical",
            f"README.md and {EUROSAT}, its first table, beside report/results.json: "
            "identical",
        ],
        id="nothing differs",
    ),
    pytest.param(
        [(THEORY, '"2"', '"3"')],
        1,
        ["- text/plain: 3", "+ text/plain: 2"],
        id="part 1",
    ),
    pytest.param(
        [(EUROSAT, "replay 97.87", "replay 97.88")],
        1,
        ["- text: replay 97.88", "+ text: replay 97.87"],
        id="print of part 2",
    ),
    pytest.param(
        [(EUROSAT, png(200), png(201))],
        0,
        ["identical but for images", "image differs: Heat map"],
        id="image of part 2",
    ),
    pytest.param(
        [("new.json", '"correct": 5300', '"correct": 5301')],
        1,
        ["results, tuned, correct: 5300, now 5301"],
        id="answer",
    ),
    pytest.param(
        [
            ("report/results.json", '"processor": "', '"processor": "another '),
            ("report/results.json", "0.155104", "0.155105"),
            (EUROSAT, "replay 97.87", "replay 97.88"),
        ],
        0,
        [
            f"{EUROSAT}: another kind of processor, so its text is not compared",
            "identical but for what may move on another kind of processor",
            "results, tuned, Loss (test): 0.155105, now 0.155104",
        ],
        id="another processor",
    ),
]


@pytest.fixture
def small(small_record, tmp_path, monkeypatch):
    """A copy of the small record is the current folder."""
    shutil.copytree(small_record, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path))
    monkeypatch.setenv("PS2_PROFILE", "quick")  # which the check does not obey


@pytest.mark.parametrize("edits, status, expected", RUNS)
def test_the_record_is_executed_and_compared(
    small, monkeypatch, capsys, edits, status, expected
):
    for path, old, new in edits:
        edit(path, old, new)
    found, lines = run(monkeypatch, capsys)
    text = "\n".join(lines)
    assert found == status
    for words in expected:
        assert words in text


def test_without_weights_part_2_is_not_executed(small, monkeypatch, capsys):
    shutil.rmtree("report/weights")
    status, lines = run(monkeypatch, capsys)
    assert status == 0
    assert f"{EUROSAT} was not executed again: that takes EuroSAT" in "\n".join(lines)
    assert not Path("build/check", EUROSAT).exists()


TABLES = [  # a file, an edit, and the place that is named
    pytest.param("README.md", "98.15%", "99.15%", "README.md", id="README.md"),
    pytest.param("README.md", "Accuracy", "Table", "README.md", id="no table in it"),
    pytest.param(EUROSAT, "98.15%", "99.15%", f"{EUROSAT}, its first", id="part 2"),
    pytest.param(EUROSAT, "Accuracy", "Table", f"{EUROSAT}, its", id="none in it"),
]


@pytest.mark.parametrize("path, old, new, place", TABLES)
def test_another_table_is_named(small, capsys, path, old, new, place):
    assert check.check_tables(RECORD)
    capsys.readouterr()
    edit(path, old, new)
    assert not check.check_tables(RECORD)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith("different")
    assert second.strip().startswith(place)
