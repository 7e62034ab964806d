"""The functions of ps2_theory.ipynb against torch and scipy, over many shapes, strides, paddings and types."""
import pathlib

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, special

from tools.notebook import definitions

NOTEBOOK = pathlib.Path(__file__).parent.parent / "ps2_theory.ipynb"
DTYPES = ("float64", "float32", "int64", "uint8", "bool")
many = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def theory(tmp_path_factory):
    """The definitions of the notebook; the folders for its figures are made in a temporary place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("theory"))
        patch.delenv("PS2_PROFILE", raising=False)
        return definitions(NOTEBOOK)


def picture(seed, shape, dtype):
    values = np.random.default_rng(seed).normal(0, 100, shape)
    return values.astype(dtype) if dtype.startswith("float") else (np.abs(values) % 256).astype(dtype)


@st.composite
def cases(draw, pooling=False):
    """A picture, a kernel that fits it once padded, a stride and a padding; a pooling kernel is square."""
    h, w = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    padding = draw(st.integers(0, 3))
    kh, kw = draw(st.integers(1, h + 2 * padding)), draw(st.integers(1, w + 2 * padding))
    if pooling:
        kh = kw = draw(st.integers(1, min(h, w)))
        padding = draw(st.integers(0, kh // 2))
    seed, dtype = draw(st.integers(0, 9999)), draw(st.sampled_from(DTYPES))
    return (picture(seed, (h, w), dtype), picture(seed + 1, (kh, kw), draw(st.sampled_from(DTYPES))),
            draw(st.integers(1, 14)), padding)


def in_torch(function, x, *args, **kwargs):
    return function(torch.tensor(x, dtype=torch.float64)[None, None], *args, **kwargs)[0, 0].numpy()


def close(ours, theirs, dtype):
    tolerance = {"float32": 1e-5, "float64": 1e-11}[str(dtype)]
    assert ours.shape == theirs.shape and ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, np.abs(theirs).max()) * 10)


@many
@given(case=cases())
def test_cross_correlation_and_convolution_equal_torch(theory, case):
    x, kernel, stride, padding = case
    dtype = np.result_type(x, kernel, np.float32)
    for ours, turned in ((theory["cross_correlate2d"], kernel), (theory["convolve2d"], kernel[::-1, ::-1])):
        weight = torch.tensor(turned.astype(np.float64))[None, None]
        expected = in_torch(F.conv2d, x, weight, stride=stride, padding=padding)
        close(ours(x, kernel, stride, padding), expected, dtype)


@many
@given(case=cases())
def test_cross_correlation_and_convolution_equal_scipy(theory, case):
    x, kernel, padding = case[0].astype(np.float64), case[1].astype(np.float64), case[3]
    for ours, theirs in (("cross_correlate2d", signal.correlate2d), ("convolve2d", signal.convolve2d)):
        expected = theirs(np.pad(x, padding), kernel, mode="valid")
        close(theory[ours](x, kernel, padding=padding), expected, "float64")


@many
@given(case=cases(pooling=True), default=st.booleans())
def test_pooling_equals_torch(theory, case, default):
    x, kernel, stride, padding = case
    size, stride = len(kernel), None if default else stride
    for ours, theirs in (("max_pool2d", F.max_pool2d), ("average_pool2d", F.avg_pool2d)):
        expected = in_torch(theirs, x, size, stride, padding)
        close(theory[ours](x, size, stride, padding), expected, np.result_type(x, np.float32))


@many
@given(case=cases())
def test_naive_loops_equal_the_vectorised_version(theory, case):
    x, stride = case[0].astype(np.float64), case[2]
    kernel = case[1].astype(np.float64)[:x.shape[0], :x.shape[1]]
    naive = theory["slide"](x, kernel.shape, lambda patch: (patch * kernel).sum(), stride)
    close(theory["cross_correlate2d"](x, kernel, stride), naive, "float64")


@many
@given(size=st.integers(1, 40), kernel=st.integers(1, 40), stride=st.integers(1, 40), padding=st.integers(0, 9))
def test_output_size_counts_the_windows(theory, size, kernel, stride, padding):
    starts = range(0, size + 2 * padding - kernel + 1, stride)
    if len(starts) == 0:
        with pytest.raises(ValueError, match="kernel must fit the padded input"):
            theory["output_size"](size, kernel, stride, padding)
    else:
        assert theory["output_size"](size, kernel, stride, padding) == len(starts)


@pytest.mark.parametrize("shape", [(3, 3), (1, 5), (5, 1), (1, 1)])
def test_a_kernel_as_large_as_the_picture_gives_one_row_or_value(theory, shape):
    x, kernel = picture(0, shape, "float64"), picture(1, (shape[0], 1), "float64")
    assert theory["cross_correlate2d"](x, x).item() == pytest.approx((x * x).sum())
    assert theory["cross_correlate2d"](x, kernel).shape == (1, shape[1])


def test_a_byte_picture_does_not_overflow_and_is_not_changed(theory):
    white = np.full((4, 4), 255, np.uint8)
    assert theory["cross_correlate2d"](white, np.ones((2, 2), np.uint8)).tolist() == [[1020.0] * 3] * 3
    theory["average_pool2d"](white, 2, padding=1)
    assert (white == 255).all()


X = np.ones((4, 5))
WRONG = [
    ("cross_correlate2d", (X, np.ones((5, 1))), "kernel must fit the padded input of 4 pixels, got 5"),
    ("cross_correlate2d", (X, np.ones((1, 8)), 1, 1), "kernel must fit the padded input of 7 pixels, got 8"),
    ("cross_correlate2d", (X, np.ones((0, 2))), "kernel must be .* at least 1, got 0"),
    ("cross_correlate2d", (np.ones((0, 5)), np.ones((1, 1))), "size must be .* at least 1, got 0"),
    ("cross_correlate2d", (X[0], X), r"x must be .*\(rows, columns\).*shape \(5,\)"),
    ("cross_correlate2d", (X[None], X), r"x must be .*shape \(1, 4, 5\)"),
    ("cross_correlate2d", (X, X[0]), r"kernel must be .*shape \(5,\)"),
    ("convolve2d", (X, X[0]), r"kernel must be .*shape \(5,\)"),
    ("cross_correlate2d", ([["a"]], X), "x must be real numbers"),
    ("cross_correlate2d", (X * 1j, X), "x must be real numbers"),
    ("cross_correlate2d", (X, X, 0), "stride must be .* at least 1, got 0"),
    ("cross_correlate2d", (X, X, -1), "stride must be .* at least 1, got -1"),
    ("cross_correlate2d", (X, X, 1.5), "stride must be a whole number .* got 1.5"),
    ("cross_correlate2d", (X, X, True), "stride must be a whole number .* got True"),
    ("cross_correlate2d", (X, X, 1, -1), "padding must be .* at least 0, got -1"),
    ("cross_correlate2d", (X, X, 1, "same"), "padding must be a whole number .* got 'same'"),
    ("max_pool2d", (X, 0), "size must be .* at least 1, got 0"),
    ("max_pool2d", (X, 2, 0), "stride must be .* at least 1, got 0"),
    ("max_pool2d", (X, 2, 2, 2), "padding must be at most half the size 2, got 2"),
    ("max_pool2d", (X, 2, 2, -1), "padding must be .* at least 0, got -1"),
    ("max_pool2d", (X, 2, 2, "same"), "padding must be a whole number .* got 'same'"),
    ("average_pool2d", (X, 5), "kernel must fit the padded input of 4 pixels, got 5"),
    ("average_pool2d", (X[0], 1), "x must be real numbers"),
    ("pad2d", (X, -1), "padding must be .* at least 0, got -1"),
    ("output_size", (4, 2, 1.0, 0), "stride must be a whole number .* got 1.0"),
    ("output_size", (0, 1, 1, 1), "size must be .* at least 1, got 0"),
    ("output_size", (4, 2, 1, -1), "padding must be .* at least 0, got -1"),
]


@pytest.mark.parametrize("name, arguments, message", WRONG, ids=range(len(WRONG)))
def test_wrong_arguments_are_value_errors_that_say_what_is_allowed(theory, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        theory[name](*arguments)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_sigmoid_equals_scipy_and_torch_without_overflow(theory, dtype):
    z = np.array([-1000, -30, -2, 0, 2, 30, 1000], dtype)
    np.testing.assert_allclose(theory["sigmoid"](z), special.expit(z), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(theory["sigmoid"](z), torch.sigmoid(torch.tensor(z)), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("computed, typed, same", [([0.8808], [0.88], True), ([0.8749], [0.88], False),
                                                   ([[0.88]], [0.88], False)])
def test_agrees_compares_two_decimals_and_the_shape(theory, computed, typed, same):
    assert theory["agrees"](computed, typed) is same


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_ridge_and_the_shore_are_circled(theory, seed):
    scene, *lines = theory["draw_scene"](seed=seed)
    _, masks, scale = theory["strong_areas"](scene, theory["LEARNED"])
    assert len(masks) == 2
    for mask, line in zip(masks, lines):
        rows, columns = np.nonzero(mask)
        off = (rows + 1.5) * scale - line[columns * scale + 3 * scale // 2]
        assert np.unique(columns).size == mask.shape[1] and np.abs(off).max() < 3 * scale


def test_only_dark_above_bright_is_circled(theory):
    scene, *_ = theory["draw_scene"]()
    step = np.repeat([0.0, 1.0], 80)[:, None] * np.ones(160)
    for picture, areas in ((step, 1), (step[::-1], 0), (step.T, 0), (step * 0, 0), (1 - scene, 0)):
        assert len(theory["strong_areas"](picture, theory["LEARNED"])[1]) == areas


def test_receptive_field_equals_the_pixels_that_a_gradient_reaches(theory):
    """All kernels are ones, and a sum stands for the maximum: then the gradient of one value is nonzero on its whole field."""
    x = y = torch.ones(1, 1, 419, 419, dtype=torch.float64, requires_grad=True)
    for row in theory["trace"](theory["ALEXNET"])[:8]:
        kernel = torch.ones(1, 1, row["kernel"], row["kernel"], dtype=torch.float64)
        y = F.conv2d(y, kernel, stride=row["stride"], padding=row["padding"])
        middle = y.shape[-1] // 2
        gradient, = torch.autograd.grad(y[0, 0, middle, middle], x, retain_graph=True)
        assert (gradient[0, 0].abs().sum(0) > 0).sum() == row["field"]


def test_layers_of_other_sizes_are_counted_as_torch_does(theory):
    layers = [("conv", 7, 3, 2, 1), ("pool", 0, 2, 2, 0), ("flatten", 0, 0, 1, 0), ("fc", 10, 1, 1, 0)]
    rows = theory["trace"](layers, size=32, channels=2)
    with torch.device("meta"):
        linear, conv = torch.nn.Linear(7 * 8 * 8, 10), torch.nn.Conv2d(2, 7, 3, 2, 1)
    assert [row["after"] for row in rows] == [(7, 16, 16), (7, 8, 8), (448, 1, 1), (10, 1, 1)]
    assert [row["field"] for row in rows] == [3, 5, 32, 32]  # never more than the picture
    assert [row["parameters"] for row in rows] == [sum(p.numel() for p in conv.parameters()), 0, 0,
                                                   sum(p.numel() for p in linear.parameters())]
    assert [row["macs"] for row in rows] == [conv.weight.numel() * 16 * 16, 0, 0, linear.weight.numel()]


@pytest.mark.parametrize("cell, text", [("counts-table", "62,378,344"), ("dimensions-table", "floor(216/4)+1 = 55"),
                                        ("corrections", "[[3.5, 5.5],"), ("corrections", "vanishing gradient")])
def test_the_committed_notebook_shows_its_tables(cell, text):
    outputs = {part.id: part.get("outputs", []) for part in nbformat.read(NOTEBOOK, as_version=4).cells}
    assert text in "".join(output.text for output in outputs[cell])


def test_the_committed_notebook_was_run_in_order_and_without_errors():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.get("name", output.output_type) for cell in cells for output in cell.outputs}
    assert kinds <= {"stdout", "display_data"}
