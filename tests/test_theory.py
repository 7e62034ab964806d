"""The functions of ps2_theory.ipynb against torch, scipy and counting; what its cells hold."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import signal, special

from tools.definitions import load_definitions

NOTEBOOK = Path(__file__).parent.parent / "ps2_theory.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
KINDS = ("float64", "float32", "float16", "int64", "int8", "uint8", "bool")


@pytest.fixture(scope="module")
def theory(tmp_path_factory):
    """What the notebook defines; the folders for its figures are made in a temporary place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("theory"))
        patch.delenv("PS2_PROFILE", raising=False)
        space, problems = load_definitions(NOTEBOOK)
        assert not problems
        return space


@st.composite
def images(draw, shape, exponent=900):
    """An array of a number type: any integers; finite floats, -0.0 and subnormal ones too.

    A float64 ends at 2**exponent and a float32 at 2**50, so that no product overflows.
    """
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    limit = 2.0 ** {"float64": exponent, "float32": 50}.get(kind.name, 15)
    floats = dict(min_value=-limit, max_value=limit) if kind.kind == "f" else {}
    return draw(arrays.arrays(kind, shape, elements=arrays.from_dtype(kind, **floats)))


@st.composite
def windows(draw):
    """An image, a kernel that is at most one pixel too large once padded, a stride, a padding."""
    side, padding = st.integers(1, 13), draw(st.integers(0, 3))
    x = draw(images(st.tuples(side, side)))
    size = st.tuples(*(st.integers(1, n + 2 * padding + 1) for n in x.shape))
    return x, draw(images(size, exponent=100)), draw(st.integers(1, 15)), padding


@st.composite
def pools(draw):
    """An image, the size of a window that fits it once padded, a stride or None, a padding."""
    size = draw(st.integers(1, 6))
    padding = draw(st.integers(0, size // 2))
    side = st.integers(max(1, size - 2 * padding), 14)
    return draw(images(st.tuples(side, side))), size, draw(st.none() | st.integers(1, 8)), padding


def in_torch(function, x, *args):
    """A torch function of (1, 1, H, W) on x (H, W) as float64: -> (h, w)."""
    return function(torch.tensor(x.astype(float))[None, None], *args)[0, 0].numpy()


def close(ours, theirs, scale):
    """Equal up to 100 roundings of `scale`, the largest sum that could arise."""
    kind = np.finfo(ours.dtype)
    assert ours.shape == theirs.shape
    assert (np.abs(ours - theirs) <= 100 * (kind.eps * scale + kind.tiny)).all()


@pytest.mark.parametrize("name, flip", [("cross_correlate2d", 1), ("convolve2d", -1)])
@given(case=windows())
def test_sliding_a_kernel_equals_naive_loops_torch_and_scipy(theory, name, flip, case):
    x, kernel, stride, padding = case
    padded, weights = np.pad(x.astype(float), padding), kernel[::flip, ::flip].astype(float)
    if not np.less_equal(kernel.shape, padded.shape).all():
        with pytest.raises(ValueError, match="kernel must fit the padded input"):
            theory[name](*case)
        return
    ours, scale = theory[name](*case), np.abs(padded).max() * np.abs(weights).sum()
    assert ours.dtype == np.result_type(x, kernel, np.float32)
    close(ours, in_torch(F.conv2d, padded, torch.tensor(weights)[None, None], None, stride), scale)
    close(ours, signal.correlate2d(padded, weights, mode="valid")[::stride, ::stride], scale)
    naive = theory["slide"](padded, kernel.shape, lambda patch: (patch * weights).sum(), stride)
    close(ours, naive, scale)


@given(case=pools())
def test_pooling_equals_torch(theory, case):
    x, *_ = case
    maximum, mean = (theory[name](*case) for name in ("max_pool2d", "average_pool2d"))
    assert maximum.dtype == mean.dtype == np.result_type(x, np.float32)
    assert np.array_equal(maximum, in_torch(F.max_pool2d, *case))
    close(mean, in_torch(F.avg_pool2d, *case), np.abs(x.astype(float)).max())


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_output_size_counts_the_windows(theory, size, kernel, stride, padding):
    starts = range(0, size + 2 * padding - kernel + 1, stride)
    if starts:
        assert theory["output_size"](size, kernel, stride, padding) == len(starts)
    else:
        with pytest.raises(ValueError, match="kernel must fit the padded input"):
            theory["output_size"](size, kernel, stride, padding)


@pytest.mark.filterwarnings("error")
@given(z=images(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), 1023))
@example(z=np.array([-1000.0, -30, -2, 0, 2, 30, 1000]))
@example(z=np.array([-np.inf, np.inf]))
def test_sigmoid_equals_scipy_and_torch_without_overflow(theory, z):
    ours, exact = theory["sigmoid"](z), z.astype(float)
    rtol = {"float16": 1e-2, "float32": 1e-5}.get(z.dtype.name, 1e-12)
    for theirs in (special.expit(exact), torch.sigmoid(torch.tensor(exact)).numpy()):
        np.testing.assert_allclose(ours, theirs, rtol, np.finfo(ours.dtype).tiny)


def test_a_byte_image_does_not_overflow_and_is_not_changed(theory):
    white = np.full((4, 4), 255, np.uint8)
    correlated = theory["cross_correlate2d"](white, np.ones((2, 2), np.uint8))
    assert correlated.tolist() == [[1020.0] * 3] * 3
    theory["average_pool2d"](white, 2, padding=1)
    assert (white == 255).all()
    assert theory["output_size"](np.uint8(200), np.uint8(1), padding=np.uint8(100)) == 400


X = np.ones((4, 5))
WRONG = [
    ("cross_correlate2d", (X, np.ones((5, 1))), "kernel must fit the padded input of 4 .* not 5"),
    ("cross_correlate2d", (X, np.ones((1, 8)), 1, 1), "must fit the padded input of 7 .* not 8"),
    ("cross_correlate2d", (X, np.ones((0, 2))), "kernel must be .* at least 1, not 0"),
    ("cross_correlate2d", (np.ones((0, 5)), np.ones((1, 1))), "size must be .* at least 1, not 0"),
    ("cross_correlate2d", (X[0], X), r"x must be .*\(rows, columns\).*shape \(5,\)"),
    ("cross_correlate2d", (X[None], X), r"x must be .*shape \(1, 4, 5\)"),
    ("cross_correlate2d", (X, X[0]), r"kernel must be .*shape \(5,\)"),
    ("convolve2d", (X, X[0]), r"kernel must be .*shape \(5,\)"),
    ("cross_correlate2d", ([["a"]], X), "x must be real numbers"),
    ("cross_correlate2d", (X * 1j, X), "x must be real numbers"),
    ("max_pool2d", (X, 2, 2, 2), "padding must be at most half the size 2, not 2"),
    ("average_pool2d", (X, 5), "kernel must fit the padded input of 4 pixels, not 5"),
    ("average_pool2d", (X[0], 1), "x must be real numbers"),
]
SLIDE, POOL = dict(x=X, kernel=X, stride=1, padding=0), dict(x=X, size=2, stride=1, padding=0)
GOOD = {"cross_correlate2d": SLIDE, "convolve2d": SLIDE, "max_pool2d": POOL, "average_pool2d": POOL}
GOOD |= {"pad2d": dict(x=X, padding=0), "output_size": dict(size=4, kernel=2, stride=1, padding=0)}
WHOLE = [(name, key) for name, good in GOOD.items() for key in good if good[key] is not X]
AGREE = [([0.8808], [0.88], True), ([0.8749], [0.88], False), ([[0.88]], [0.88], False)]


@pytest.mark.parametrize("name, arguments, message", WRONG, ids=range(len(WRONG)))
def test_wrong_arrays_and_sizes_are_refused(theory, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        theory[name](*arguments)


@pytest.mark.parametrize("name, argument", WHOLE)
def test_only_whole_numbers_are_allowed(theory, name, argument):
    least = 0 if argument == "padding" else 1
    for value in (least - 1, -5, 1.5, True, "same"):
        message = f"{argument} must be a whole number of at least {least}, not '?{value}"
        with pytest.raises(ValueError, match=message):
            theory[name](**GOOD[name] | {argument: value})


@pytest.mark.parametrize("computed, typed, same", AGREE)
def test_agrees_compares_two_decimals_and_the_shape(theory, computed, typed, same):
    assert theory["agrees"](computed, typed) is same


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_ridge_and_the_shore_are_circled(theory, seed):
    scene, *lines = theory["draw_scene"](seed=seed)
    _, masks, scale = theory["strong_areas"](scene, theory["LEARNED"])
    for mask, line in zip(masks, lines, strict=True):
        rows, columns = np.nonzero(mask)
        off = (rows + 1.5) * scale - line[columns * scale + 3 * scale // 2]
        assert np.unique(columns).size == mask.shape[1] and np.abs(off).max() < 3 * scale


def test_only_dark_above_bright_is_circled(theory):
    scene, step = theory["draw_scene"]()[0], np.repeat([0.0, 1.0], 80)[:, None] * np.ones(160)
    for image, areas in ((step, 1), (step[::-1], 0), (step.T, 0), (step * 0, 0), (1 - scene, 0)):
        assert len(theory["strong_areas"](image, theory["LEARNED"])[1]) == areas


def test_receptive_field_equals_the_pixels_that_a_gradient_reaches(theory):
    """All kernels are ones, a sum stands for the maximum: the gradient covers the whole field."""
    x = y = torch.ones(1, 1, 419, 419, dtype=torch.float64, requires_grad=True)
    for row in theory["trace"](theory["ALEXNET"])[:8]:
        kernel = torch.ones(1, 1, row["kernel"], row["kernel"], dtype=torch.float64)
        y = F.conv2d(y, kernel, stride=row["stride"], padding=row["padding"])
        middle = y.shape[-1] // 2
        (gradient,) = torch.autograd.grad(y[0, 0, middle, middle], x, retain_graph=True)
        assert (gradient[0, 0].abs().sum(0) > 0).sum() == row["field"]


def test_layers_of_other_sizes_are_counted_as_torch_does(theory):
    layers = [("conv", 7, 3, 2, 1), ("pool", 0, 2, 2, 0), ("flatten", 0, 0, 1, 0)]
    rows = theory["trace"]([*layers, ("fc", 10, 1, 1, 0)], size=32, channels=2)
    with torch.device("meta"):
        linear, conv = torch.nn.Linear(7 * 8 * 8, 10), torch.nn.Conv2d(2, 7, 3, 2, 1)
    weights = [sum(p.numel() for p in layer.parameters()) for layer in (conv, linear)]
    assert [row["after"] for row in rows] == [(7, 16, 16), (7, 8, 8), (448, 1, 1), (10, 1, 1)]
    assert [row["field"] for row in rows] == [3, 5, 32, 32]  # never more than the image
    assert [row["parameters"] for row in rows] == [weights[0], 0, 0, weights[1]]
    macs = [conv.weight.numel() * 16 * 16, 0, 0, linear.weight.numel()]
    assert [row["macs"] for row in rows] == macs


SHOWN = [("counts-table", "62,378,344"), ("dimensions-table", "floor(216/4)+1 = 55")]
SHOWN += [("corrections", "[[3.5, 5.5],"), ("corrections", "vanishing gradient")]


@pytest.mark.parametrize("cell, text", SHOWN)
def test_the_committed_notebook_shows_its_tables(cell, text):
    assert text in "".join(output.text for output in CELLS[cell].outputs)
