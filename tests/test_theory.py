"""ps2_theory.ipynb: its functions against torch and scipy, its text against its cells.

The convention: a matrix in Markdown is written `NAME = \\begin{bmatrix}` and is the
variable NAME; a decimal, or a number above 99, is one of the values that the code cells
of its answer leave: those whose ids begin with the id of the answer.
"""

import ast
import ctypes
import os
import re
import sys
from fractions import Fraction
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pypdfium2
import pypdfium2.raw as raw
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nbconvert.exporters import HTMLExporter, LatexExporter
from PIL import Image
from scipy import signal, special
from torch.utils.flop_counter import FlopCounterMode

import utils
from tools.pdf import PANDOC

PATH = Path(__file__).parent.parent / "ps2_theory.ipynb"
CELLS = nbformat.read(PATH, as_version=4).cells
SOURCES = {cell.id: cell.source for cell in CELLS}
QUESTIONS = "1.1 1.2 1.3.1 1.3.2 1.3.3 1.4 1.5".split()  # a fence each
ANSWERS = {  # the id of the cell that answers it
    "1.1a": "a",
    "1.1b": "b",
    "1.1c": "c",
    "1.2.1": "pattern",
    "1.2.2": "areas",
    "1.3.1": "layer",
    "1.3.2": "pooling",
    "1.3.3": "discussion",
    "1.4": "average",
    "1.5": "dimensions",
}
LARGEST = 64  # elements of a matrix whose values count as said; images have more

# --- What stands in the text ----------------------------------------------------------

# Between the two, Otter's reading copy takes a question.
BEGIN = "<!-- BEGIN QUESTION -->\n"
END = "\n<!-- END QUESTION -->"

# Z = \begin{bmatrix} ..., M_{\text{padded}} = \begin{bmatrix} ...,
# K_b = \frac{1}{16} \begin{bmatrix} ...
MATRIX = re.compile(
    r"(?P<name>\w+?)(?:_\{\\text\{(?P<index>\w+)\}\})? = "
    r"(?:\\frac\{1\}\{(?P<divisor>\d+)\} )?"
    r"\\begin\{bmatrix\}(?P<body>.*?)\\end"
)

# Between two elements of a matrix: & in a row, \\ at its end.
SEPARATOR = re.compile(r"&|\\\\")

# 2.71, -0.005, 1.86 \cdot 10^{-6}
DECIMAL = r"-?\d+\.\d+(?: \\cdot 10\^\{-?\d+\})?"

# 1,857 or 62,378,344
GROUPED = r"-?\d{1,3}(?:,\d{3})+"

# 280 or 9216: three digits or more
LARGE = r"-?\d{3,}"

# Any of the three, not from the middle of a number, and not the course's E1394.
NUMBER = re.compile(rf"(?<![E\d])(?:{DECIMAL}|{GROUPED}|{LARGE})")

HEADING = r"^#.*"
LINK = r"\[.*?\]\(.*?\)"
REFERENCE = r"\(\D*, \d{4}\)"  # (Goodfellow et al., 2016)
DATE = r"\b\d+ [A-Z][a-z]+ \d{4}\b"  # 17 October 2025
SUBTASK = r"\b1\.\d(?:\.\d|[abc])"  # 1.3.1 or 1.1a
TASK = r"\b1\.\d[: ]"  # 1.4: or 1.4 in a table
BRACKETS = r"\\begin.*?\\end"  # a matrix, whose elements have their own check
CODE = r"`.*?`"  # what a reader is to type

# What holds digits and is no number that a cell computes.
NO_NUMBER = re.compile(
    "|".join([HEADING, LINK, REFERENCE, DATE, SUBTASK, TASK, BRACKETS, CODE]),
    re.MULTILINE,
)

# | [1.1a](#Question-1.1a:-a-kernel) | 7 ...: a row of the first table; the points may
# be missing.
ANSWER_ROW = re.compile(r"^\| \[(\S+)\]\(#(\S+)\) \| (\d*)", re.MULTILINE)

# ## Question 1.1: kernels: the text of a heading of any level.
HEADING_TEXT = re.compile(r"^#+ (.+)", re.MULTILINE)

# **Try it.** ... change `old`, ..., to `new`: a change to the last cell that holds it.
TRY = re.compile(r"^\*\*Try it\.\*\* .*?`(?P<old>.+?)`.*? to `(?P<new>.+?)`")

# | 3 | conv 5×5, p=2 | ... |: what follows the number of a layer in its table.
LAYER_ROW = re.compile(r"^\| \d+ \| (.+) \|$", re.MULTILINE)


def fenced_cells(cells=CELLS):
    """The cells of each question, a list for each pair of fences."""
    questions = []
    is_inside = False
    for cell in cells:
        if cell.source.startswith(BEGIN):
            assert not is_inside, cell.id
            is_inside = True
            questions.append([])
        if is_inside:
            questions[-1].append(cell)
        if cell.source.endswith(END):
            assert is_inside, cell.id
            is_inside = False
    assert not is_inside
    return questions


def cells_of(answer):
    """The cells of an answer: the one with this id, and those that begin with it."""
    return [cell for cell in CELLS if f"{cell.id}-".startswith(f"{answer}-")]


def is_said(entry, value):
    """Whether an element such as 0.88, -1 or 1/4 is `value`, rounded to its digits."""
    _, _, decimals = entry.partition(".")
    digits = 9 if "/" in entry else len(decimals)
    return round(float(value), digits) == float(Fraction(entry))


def wrong_matrices(text, space):
    """The names of the matrices in a text that differ from the variables."""
    wrong = []
    for matrix in MATRIX.finditer(text):
        name = matrix["name"]
        if matrix["index"]:
            name = f"{name}_{matrix['index']}"
        held = np.ravel(space[name])
        if matrix["divisor"]:
            held = held * int(matrix["divisor"])
        entries = SEPARATOR.split(matrix["body"])
        for entry, value in zip(entries, held, strict=True):
            if not is_said(entry.strip(), value):
                wrong.append(name)
    return wrong


def wrong_numbers(text, known):
    """The numbers in a text that no known value gives, rounded to as many digits."""
    wrong = []
    for number in NUMBER.findall(NO_NUMBER.sub("", text)):
        mantissa, _, power = number.replace(",", "").partition(r" \cdot 10^")
        scale = 1.0
        if power:
            scale = 10.0 ** int(power.strip("{}"))
        _, _, decimals = mantissa.partition(".")
        rounded = [f"{value / scale:.{len(decimals)}f}" for value in known]
        if mantissa not in rounded:
            wrong.append(number)
    return wrong


# --- What the cells hold --------------------------------------------------------------


def values(item):
    """All numbers in a variable, unless it is an image or a large matrix."""
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, (list, tuple)):
        numbers = []
        for part in item:
            numbers.extend(values(part))
        return numbers
    if not isinstance(item, (int, float, np.ndarray, np.generic)):
        return []
    array = np.ravel(item)
    if array.size > LARGEST or array.dtype.kind not in "iuf":
        return []
    return array.tolist()


def close_figure(fig, *_, **__):
    """In place of show_figure: drawn, but neither saved nor shown."""
    plt.close(fig)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The variables of all cells, and the values that each code cell leaves, by id."""
    space = {}
    left = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("theory"))
        patch.setattr(sys, "path", sys.path.copy())  # the first cell changes both
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        patch.setattr(utils, "show_figure", close_figure)
        Path("utils.py").touch()  # the first cell looks for it
        for cell in CELLS:
            if cell.cell_type == "code":
                before = dict(space)
                exec(cell.source, space)
                new = [space[name] for name in space if is_new(name, space, before)]
                left[cell.id] = values(new)
    return space, left


def is_new(name, space, before):
    return name not in before or space[name] is not before[name]


@pytest.fixture(scope="module")
def space(executed):
    """The variables of all cells, by name."""
    variables, _ = executed
    return variables


@pytest.fixture(scope="module")
def answers(executed):
    """For each answer its Markdown, and the values that its code cells leave."""
    _, left = executed
    pairs = {}
    for task, answer in ANSWERS.items():
        texts = []
        known = []
        for cell in cells_of(answer):
            if cell.cell_type == "code":
                known.extend(left[cell.id])
            else:
                texts.append(cell.source)
        pairs[task] = ("\n".join(texts), known)
    return pairs


# --- The text against the cells -------------------------------------------------------


def test_the_reading_copy_holds_every_answer():
    fences = fenced_cells()
    for cells, task in zip(fences, QUESTIONS, strict=True):
        text = "\n".join(cell.source for cell in cells)
        assert f"# Question {task}: " in text
        for subtask in ANSWERS:
            if subtask.startswith(task):
                assert f"# Question {subtask}: " in text
        parts = [subtask for subtask in ANSWERS if subtask.startswith(task)]
        assert text.count("**Answer.**") == len(parts)
    everything = "\n".join(SOURCES.values())
    assert everything.count("**Answer.**") == len(ANSWERS)
    assert everything.count(" QUESTION -->") == 2 * len(fences)


def test_part_1_has_more_fences_than_part_2():
    """The collector makes its reading copy of the notebook with most of them."""
    part_2 = nbformat.read(PATH.with_name("ps2_eurosat.ipynb"), as_version=4)
    others = sum(cell.source.count(END.strip()) for cell in part_2.cells)
    assert len(fenced_cells()) > others


def test_inside_the_fences_is_no_check_but_the_image_that_is_an_answer():
    inside = []
    for cells in fenced_cells():
        inside.extend(cell.id for cell in cells if cell.cell_type == "code")
    assert inside == ["areas-circles"]
    order = list(SOURCES)
    assert order.index("areas-circles") < order.index("areas-rule")


def test_the_first_table_leads_to_every_answer():
    rows = ANSWER_ROW.findall(SOURCES["title"])
    headings = HEADING_TEXT.findall("\n".join(SOURCES.values()))
    targets = [heading.replace(" ", "-") for heading in headings]
    tasks = [task for task, _, _ in rows]
    points = [int(points) for _, _, points in rows if points]
    assert tasks == list(ANSWERS)
    assert sum(points) == 50
    for task, link, _ in rows:
        assert link.startswith(f"Question-{task}:-")
        assert link in targets


def test_every_link_of_the_first_cell_works_in_html_latex_and_pdf(monkeypatch):
    links = re.findall(r"\]\(#(\S+)\)", SOURCES["title"])
    notebook = nbformat.read(PATH, as_version=4)

    page, _ = HTMLExporter().from_notebook_node(notebook)
    for link in links:
        assert f'id="{link}"' in page

    monkeypatch.setenv("PATH", os.path.dirname(PANDOC), prepend=os.pathsep)
    source, _ = LatexExporter().from_notebook_node(notebook)
    labels = re.findall(r"\\label\{(\S+?)\}", source)
    targets = re.findall(r"\\hyperref\[(\S+?)\]", source)
    assert len(targets) == len(links)
    assert set(targets) <= set(labels)

    report = pypdfium2.PdfDocument(PATH.parent / "report/ps2_theory.pdf")
    assert len(pages_linked(report, page=0)) == len(links)


def pages_linked(document, page):
    """The numbers of the pages to which the links on a page of a PDF lead."""
    position = ctypes.c_int(0)
    link = raw.FPDF_LINK()
    pages = []
    while raw.FPDFLink_Enumerate(document[page], position, link):
        target = raw.FPDFLink_GetDest(document, link)
        if target:
            pages.append(raw.FPDFDest_GetDestPageIndex(document, target))
    return pages


def test_each_heading_begins_with_a_word():
    """pandoc leaves out what stands before the first letter of a link's target."""
    for cell in CELLS:
        if cell.cell_type == "markdown":
            for heading in HEADING_TEXT.findall(cell.source):
                assert heading[0].isalpha(), heading


def test_the_dates_of_the_assignment_and_of_the_version_are_named():
    about = nbformat.read(PATH, as_version=4).metadata
    due, this_version = about["date"].split("; ")
    assert due == "Assignment due on 17 October 2025"
    version = this_version.removeprefix("this version: ")
    assert re.fullmatch(DATE, version)
    assert "The assignment was due on 17 October 2025." in SOURCES["title"]
    assert version in SOURCES["title"]


def test_the_text_of_each_answer_says_what_its_cells_hold(space, answers):
    for text, known in answers.values():
        assert wrong_matrices(text, space) == []
        assert wrong_numbers(text, known) == []


@pytest.mark.parametrize("cell", ["title", "corrections"])
def test_the_text_around_the_questions_says_what_any_cell_holds(space, cell):
    text = SOURCES[cell]
    assert wrong_matrices(text, space) == []
    assert wrong_numbers(text, values(space)) == []


def test_each_matrix_in_the_text_has_a_name(answers):
    texts = [text for text, _ in answers.values()]
    for text in [*texts, SOURCES["title"], SOURCES["corrections"]]:
        assert len(MATRIX.findall(text)) == text.count(r"\begin{bmatrix}")


def test_each_row_of_the_table_of_layers_says_what_the_cells_hold(space, answers):
    text, _ = answers["1.5"]
    table = [line.split(" | ") for line in LAYER_ROW.findall(text)]
    _, flattened, *_ = table.pop(9)  # no layer: the same values in one row
    assert flattened == str(space["flat"])
    for line, row in zip(table, space["rows"], strict=True):
        _, output, _, parameters, macs, field = line
        shape = f"{row.channels}×{row.size}×{row.size}"
        if row.size == 1:
            shape = str(row.channels)
        assert output == shape
        assert parameters == f"{row.parameters:,}"
        assert macs == f"{row.macs:,}"
        assert field == str(min(row.field, 227))  # no unit sees more than the image


# --- What a reader does with it -------------------------------------------------------


def changed_source(name):
    """The last cell before a *Try it* that holds what it names, with the change."""
    found = TRY.match(SOURCES[name])
    source = None
    for cell in CELLS:
        if cell.id == name:
            break
        if cell.cell_type == "code" and found["old"] in cell.source:
            source = cell.source
    return source.replace(found["old"], found["new"])


def outcome(source, space, capsys):
    """What a cell prints, then the value of its last line."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), space)
    if isinstance(last, ast.Expr):
        print(eval(compile(ast.Expression(last.value), "cell", "eval"), space))
    else:
        exec(compile(ast.Module([last], []), "cell", "exec"), space)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("b-try", "[[0. 4. 4. 4. 4.]]", id="a bright line"),
        pytest.param("c-try", "vertical edge    0.0 to  1.0", id="a corner"),
        pytest.param("areas-try", "1\n", id="a bright sky"),
        pytest.param("average-try", "torch.Size([1, 5, 3, 3])", id="five channels"),
    ],
)
def test_each_try_it_runs_and_shows_what_can_be_predicted(space, capsys, name, shown):
    assert shown in outcome(changed_source(name), dict(space), capsys)


def test_all_that_can_be_tried_is_tried():
    found = [cell.id for cell in CELLS if TRY.match(cell.source)]
    assert found == ["b-try", "c-try", "areas-try", "average-try"]
    assert sum("Try it" in source for source in SOURCES.values()) == len(found)


@pytest.mark.parametrize(
    ("size", "is_laid_over"),
    [
        pytest.param((500, 394), True, id="the measured copy"),
        pytest.param((1000, 794), True, id="a larger one"),
        pytest.param((500, 380), False, id="cropped"),
        pytest.param((394, 500), False, id="upright"),
    ],
)
def test_the_circles_are_laid_over_a_copy_of_figure_1_with_its_sides(
    space, tmp_path, monkeypatch, size, is_laid_over
):
    (tmp_path / "figures").mkdir()
    pixels = (255 * space["scene"]).astype(np.uint8)
    Image.fromarray(pixels).resize(size).save(tmp_path / "figures/figure1.jpg")
    monkeypatch.chdir(tmp_path)
    shown = {}

    def keep_figure(fig, path, caption, alt, note=""):
        drawn = [len(ax.patches) for ax in fig.axes]  # two areas in one axes
        shown[path.stem] = (drawn, note)
        plt.close(fig)

    own = {**space, "show_figure": keep_figure}
    for name in ("areas-circles", "areas-images", "areas-figure"):
        exec(SOURCES[name], own)
    if is_laid_over:
        circles, note = shown["theory_figure1"]
        assert note == ""
    else:
        circles, note = shown["theory_circles"]
        assert "500:394" in note
    assert circles == [2]
    beside_the_rule, _ = shown["theory_figure1_rule"]
    assert sum(beside_the_rule) == (2 if is_laid_over else 0)


# --- The cells against torch and scipy ------------------------------------------------


def test_operations_and_parameters_are_those_of_torch_and_torchvision(space):
    features = torch.nn.Sequential(*space["features"])
    with FlopCounterMode(display=False) as counter:
        features(torch.zeros(1, 3, 227, 227))
    macs = sum(row.macs for row in space["rows"][:9])
    assert counter.get_total_flops() == 2 * macs
    network = torchvision.models.alexnet()
    parameters = sum(weights.numel() for weights in network.parameters())
    assert parameters == space["totals"]["torchvision"]


PIXELS = st.floats(-9, 9, width=32)
SHAPES = st.tuples(st.integers(3, 9), st.integers(3, 9))
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))
STRIDES = st.integers(1, 4)
IMAGES = arrays(float, SHAPES, elements=PIXELS)
KERNELS = arrays(float, SIZES, elements=PIXELS)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@given(IMAGES, KERNELS, STRIDES)
def test_sliding_equals_torch_and_scipy(space, x, kernel, stride):
    ours = space["cross_correlate2d"](x, kernel, stride)
    assert_close(ours, space["slide"](x, kernel, stride))
    image = space["as_batch"](x)
    weights = space["as_batch"](kernel)
    assert_close(ours, F.conv2d(image, weights, stride=stride)[0, 0])
    flipped = kernel[::-1, ::-1]
    every = signal.convolve2d(x, flipped, mode="valid")
    assert_close(ours, every[::stride, ::stride])


@given(IMAGES, SIZES, STRIDES)
def test_pooling_equals_torch(space, x, size, stride):
    windows = space["shifts"](x, size, stride)
    image = space["as_batch"](x)
    assert_close(np.max(windows, axis=0), F.max_pool2d(image, size, stride)[0, 0])
    assert_close(np.mean(windows, axis=0), F.avg_pool2d(image, size, stride)[0, 0])


@given(IMAGES)
def test_the_sigmoid_equals_scipy(space, x):
    z = 70 * x  # -630 to 630
    assert_close(space["sigmoid"](z), special.expit(z))


ROWS = np.repeat([0.0, 1.0], 80)
STEP = ROWS[:, None] * np.ones(160)  # dark above bright, (160, 160)


@pytest.mark.parametrize(
    ("image", "areas"),
    [
        pytest.param(STEP, 1, id="dark above bright"),
        pytest.param(STEP[::-1], 0, id="bright above dark"),
        pytest.param(STEP.T, 0, id="dark beside bright"),
    ],
)
def test_only_dark_above_bright_is_circled(space, image, areas):
    response, _ = space["respond"](image)
    assert len(space["strong_areas"](response)) == areas


def test_skyline_and_far_shore_of_the_scene_are_circled(space):
    response, _ = space["respond"](space["scene"])
    assert len(space["strong_areas"](response)) == 2


def test_receptive_field_is_what_a_gradient_reaches(space):
    """All kernels are ones, and a sum stands for the maximum."""
    x = space["as_batch"](np.ones((419, 419))).requires_grad_()
    y = x
    for layer, row in zip(space["alexnet"]()[:8], space["rows"][1:9], strict=True):
        ones = torch.ones(1, 1, layer.window, layer.window, dtype=torch.float64)
        y = F.conv2d(y, ones, stride=layer.stride, padding=layer.padding)
        middle = y.shape[-1] // 2
        output = y[0, 0, middle, middle]
        (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
        reached = gradient[0, 0].abs().sum(0) > 0
        assert reached.sum() == row.field
