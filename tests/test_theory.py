"""ps2_theory.ipynb: its functions against torch and scipy, its prose against what its cells hold.

The convention: a matrix in Markdown is written `NAME = \\begin{bmatrix}` and is the variable NAME;
a decimal, or a number above 99, is one of the values that the code cells of its section leave.
"""

import re
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import signal, special
from torch.utils.flop_counter import FlopCounterMode

import utils

CELLS = nbformat.read(Path(__file__).parent.parent / "ps2_theory.ipynb", as_version=4).cells
TITLE, CORRECTIONS = (cell.source for cell in CELLS if cell.id in ("title", "corrections"))
TASKS = "1.1a 1.1b 1.1c 1.2.1 1.2.2 1.3.1 1.3.2 1.3.3 1.4 1.5".split()
MATRIX = r"(\w+?)(?:_\{\\text\{(\w+)\}\})? = (?:\\frac\{1\}\{(\d+)\} )?\\begin\{bmatrix\}(.*?)\\end"
NUMBER = r"(?<![E\d])(?:-?\d+\.\d+(?: \\cdot 10\^\{-?\d+\})?|-?\d{1,3}(?:,\d{3})+|-?\d{3,})"
NO_NUMBER = r"^#.*|\[.*?\]\(.*?\)|\(\D*, \d{4}\)|\b1\.\d(?:\.\d|[abc])|\b1\.\d[: ]|\\begin.*?\\end"
SIDE, PIXELS = st.integers(3, 9), {"elements": st.floats(-9, 9, width=32)}


def values(item):
    """All numbers in a variable, unless it is an image or a large matrix."""
    if isinstance(item, (dict, list, tuple)):
        return sum(map(values, item.values() if isinstance(item, dict) else item), [])
    small = isinstance(item, (int, float, np.ndarray, np.generic)) and np.size(item) <= 64
    return np.ravel(item).tolist() if small and np.asarray(item).dtype.kind in "iuf" else []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the cells leave, and Otter's reading copy: [Markdown, values of its code] a question."""
    space, copy, inside = {}, [], False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("theory"))
        patch.setattr(utils, "show_figure", lambda figure, *_, **__: utils.plt.close(figure))
        Path("utils.py").touch()  # the first cell looks for it
        for cell in CELLS:
            for fence in re.findall("^<!-- (BEGIN|END) QUESTION -->$", cell.source, re.M):
                assert inside == (fence == "END"), cell.id
                inside = fence == "BEGIN"
                copy += [["", []]] if inside else []
            is_code, new = cell.cell_type == "code", cell.source
            if is_code:
                before = dict(space)
                exec(cell.source, space)
                new = values([v for k, v in space.items() if before.get(k) is not v])
            if inside:
                copy[-1][is_code] += new
    assert not inside
    return space, copy


def drift(text, space, known):
    """What a Markdown text says and the cells do not: names of matrices, and numbers."""
    wrong = []
    for name, index, divisor, body in re.findall(MATRIX, text):
        held = np.atleast_2d(space[f"{name}_{index}" if index else name]) * int(divisor or 1)
        for entry, value in zip(re.split(r"&|\\\\", body), held.flat, strict=True):
            digits = 9 if "/" in entry else len(entry.strip().partition(".")[2])
            wrong += [name] * (round(float(value), digits) != float(Fraction(entry.strip())))
    for number in re.findall(NUMBER, re.sub(NO_NUMBER, "", text, flags=re.M)):
        plain, _, power = number.replace(",", "").partition(r" \cdot 10^")
        digits, scale = len(plain.partition(".")[2]), 10.0 ** int(power.strip("{}") or 0)
        wrong += [number] * all(f"{value / scale:.{digits}f}" != plain for value in known)
    return wrong


def test_the_reading_copy_holds_every_answer_and_the_first_table_leads_there(run):
    for (text, _), task in zip(run[1], TASKS, strict=True):
        assert f"## {task} " in text and "**Question" in text and "**Answer.**" in text
    rows = re.findall(r"^\| \[(\S+)\]\(#(\S+)\) \| (\d*)", TITLE, re.M)
    headings = re.findall(r"^#+ (.+)", "\n".join(cell.source for cell in CELLS), re.M)
    assert [task for task, *_ in rows] == TASKS and sum(int(n or 0) for *_, n in rows) == 50
    assert {link for _, link, _ in rows} <= {heading.replace(" ", "-") for heading in headings}


def test_prose_says_what_the_cells_hold(run):
    for text, known in [*run[1], *((text, values(run[0])) for text in (TITLE, CORRECTIONS))]:
        assert drift(text, run[0], known) == []
        assert len(re.findall(MATRIX, text)) == text.count(r"\begin{bmatrix}"), "one has no name"


def test_each_row_of_the_table_of_layers_says_what_the_cells_hold(run):
    table = [line.split(" | ") for line in re.findall(r"^\| \d+ \| (.+) \|$", run[1][-1][0], re.M)]
    assert table.pop(9)[1] == str(run[0]["flat"])
    for line, (channels, size, *counts) in zip(table, run[0]["rows"], strict=True):
        shape = f"{channels}×{size}×{size}" if size > 1 else f"{channels}"
        counts[2] = min(counts[2], 227)  # no unit sees more than the image
        assert [line[1], *line[3:]] == [shape, *(f"{n:,}" for n in counts)]
    with FlopCounterMode(display=False) as counter:
        torch.nn.Sequential(*run[0]["features"])(torch.zeros(1, 3, 227, 227))
    assert counter.get_total_flops() == 2 * run[0]["rows"][:9, 3].sum()
    parameters = torchvision.models.alexnet().parameters()
    assert sum(p.numel() for p in parameters) == run[0]["totals"]["torchvision"]


@given(st.data(), st.tuples(SIDE, SIDE), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_sliding_and_pooling_equal_torch_and_scipy(run, data, shape, size):
    x, kernel = (data.draw(arrays(float, n, **PIXELS)) for n in (shape, size))
    stride, batch = data.draw(st.integers(1, 4)), run[0]["as_batch"]
    flipped, shifts = kernel[::-1, ::-1], run[0]["shifts"](x, size, stride)
    ours = run[0]["cross_correlate2d"](x, kernel, stride)
    for theirs, mine in [
        (run[0]["slide"](x, kernel, stride), ours),
        (F.conv2d(batch(x), batch(kernel), stride=stride)[0, 0], ours),
        (signal.convolve2d(x, flipped, mode="valid")[::stride, ::stride], ours),
        (F.max_pool2d(batch(x), size, stride)[0, 0], np.max(shifts, axis=0)),
        (F.avg_pool2d(batch(x), size, stride)[0, 0], np.mean(shifts, axis=0)),
        (special.expit(70 * x), run[0]["sigmoid"](70 * x)),  # -630 to 630
    ]:
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


def test_only_dark_above_bright_is_circled(run):
    step = np.repeat([0.0, 1.0], 80)[:, None] * np.ones(160)
    for image, areas in ((step, 1), (step[::-1], 0), (step.T, 0), (run[0]["scene"], 2)):
        assert len(run[0]["strong_areas"](run[0]["respond"](image)[0])) == areas


def test_receptive_field_is_what_a_gradient_reaches(run):
    """All kernels are ones, and a sum stands for the maximum."""
    x = y = run[0]["as_batch"](np.ones((419, 419))).requires_grad_()
    for (_, k, s, p, _), row in zip(run[0]["alexnet"]()[:8], run[0]["rows"][1:], strict=False):
        y = F.conv2d(y, torch.ones(1, 1, k, k, dtype=torch.float64), stride=s, padding=p)
        middle = y.shape[-1] // 2
        (gradient,) = torch.autograd.grad(y[0, 0, middle, middle], x, retain_graph=True)
        assert (gradient[0, 0].abs().sum(0) > 0).sum() == row[4]
