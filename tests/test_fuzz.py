"""Generated cases against oracles, and mutated files against the loaders and tools: no crash, no hang, no silent wrong answer.

A short part runs always, the long one with `-m soak`. A case depends on its number alone, which stands in each message.
"""
import base64
import contextlib
import copy
import io
import json
import logging
import os
import signal

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import signal as scipy_signal
from scipy import special
from torch import nn
from torchvision.io import decode_jpeg

import utils
from tests.grading import isolated
from tests.test_theory import theory  # noqa: F401, a fixture
from tools import check

EXTREMES = [0.0, -0.0, 1e-300, -1e-300, 1e300, -1e300, 1e-45, 3e38, 255, 256, -1, 2**53, np.pi]
TYPES = ["float64", "float32", "float16", "int64", "int8", "uint8", "bool"]


def cases(few, many):
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=pytest.mark.soak)])


def generated(number):
    """A random generator for each case; a case of more than ten seconds is a TimeoutError."""
    def stop(*_):
        raise TimeoutError(f"case {case} hangs")
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for case in range(number):
            signal.alarm(10)
            yield np.random.default_rng(case)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def array(rng, shape, kind=None):
    kind = kind or rng.choice(TYPES)
    with np.errstate(over="ignore", invalid="ignore"):
        values = rng.normal(0, rng.choice([1, 100]), shape)
        if kind == "float64" and rng.random() < 0.3:
            values = rng.choice(EXTREMES, shape)
        elif rng.random() < 0.3:
            values = np.round(values)  # ties
        return (np.abs(values) % 127 if kind in ("uint8", "bool", "int8", "int64") else values).astype(kind)


def close(ours, theirs, scale, case):
    eps = {4: 2e-6, 8: 1e-14}[ours.dtype.itemsize]
    assert ours.shape == theirs.shape, case
    with np.errstate(over="ignore"):
        assert (np.abs(ours - theirs) <= eps * 100 * scale + 1e-300).all(), case


def in_torch(function, x, *args, **kwargs):
    return function(torch.tensor(x.astype(np.float64))[None, None], *args, **kwargs)[0, 0].numpy()


# Arithmetic

@cases(250, 4000)
def test_cross_correlation_and_convolution(theory, number):  # noqa: F811
    for case, rng in enumerate(generated(number)):
        h, w, padding, stride = rng.integers(1, 14), rng.integers(1, 14), int(rng.integers(0, 4)), int(rng.integers(1, 16))
        x = array(rng, (h, w))
        kernel = array(rng, (rng.integers(1, h + 2 * padding + 2), rng.integers(1, w + 2 * padding + 2)))
        if np.abs(x.astype(float)).max() > 1e200:  # the product must not overflow: that is another test
            kernel = array(rng, kernel.shape, "uint8")
        fits = all(k <= n + 2 * padding for k, n in zip(kernel.shape, x.shape))
        for name, turned in (("cross_correlate2d", kernel), ("convolve2d", kernel[::-1, ::-1])):
            if not fits:
                with pytest.raises(ValueError, match="kernel must fit"):
                    theory[name](x, kernel, stride, padding)
                continue
            ours = theory[name](x, kernel, stride, padding)
            weight = torch.tensor(turned.astype(np.float64))[None, None]
            scale = np.abs(x.astype(float)).max() * np.abs(kernel.astype(float)).sum()
            close(ours, in_torch(F.conv2d, x, weight, stride=stride, padding=padding), scale, case)
            padded = np.pad(x.astype(float), padding)
            close(ours, scipy_signal.correlate2d(padded, turned.astype(float), mode="valid")[::stride, ::stride], scale, case)
    print(f"{number} cases: cross-correlation and convolution against torch and scipy")


@cases(250, 4000)
def test_pooling(theory, number):  # noqa: F811
    for case, rng in enumerate(generated(number)):
        size = int(rng.integers(1, 7))
        padding, stride = int(rng.integers(0, size // 2 + 1)), [None, int(rng.integers(1, 9))][rng.integers(2)]
        x = array(rng, tuple(rng.integers(max(1, size - 2 * padding), 15, 2)))
        maximum = in_torch(F.max_pool2d, x, size, stride, padding)
        ours = theory["max_pool2d"](x, size, stride, padding)
        assert np.array_equal(ours, maximum) and ours.dtype == np.result_type(x, np.float32), case
        mean = in_torch(F.avg_pool2d, x, size, stride, padding)
        close(theory["average_pool2d"](x, size, stride, padding), mean, np.abs(x.astype(float)).max(), case)
    print(f"{number} cases: pooling against torch")


@pytest.mark.filterwarnings("error")
@cases(200, 2000)
def test_sigmoid_and_sizes(theory, number):  # noqa: F811
    for case, rng in enumerate(generated(number)):
        z = array(rng, rng.integers(0, 5, rng.integers(0, 4)), rng.choice(["float64", "float32", "int64"]))
        np.testing.assert_allclose(theory["sigmoid"](z), special.expit(z), rtol=1e-5, atol=1e-30, err_msg=case)
        size, kernel, stride, padding = map(int, rng.integers([1, 1, 1, 0], [60, 30, 30, 9]))
        windows = len(range(0, size + 2 * padding - kernel + 1, stride))
        with pytest.raises(ValueError, match="must fit") if not windows else contextlib.nullcontext():
            assert theory["output_size"](size, kernel, stride, padding) == windows, case
    print(f"{number} cases: sigmoid and output sizes against scipy and counting")


@pytest.mark.parametrize("kind", ["uint8", "bool", "int8"])
def test_sigmoid_of_bytes(theory, kind):  # noqa: F811
    z = np.array([0, 1, 33]).astype(kind) if kind != "int8" else np.array([-128], kind)
    np.testing.assert_allclose(theory["sigmoid"](z), special.expit(z.astype(float)), rtol=1e-3)


@cases(250, 4000)
def test_max_pool_in_values_and_gradients(part2, number):
    for case, rng in enumerate(generated(number)):
        k = int(rng.integers(1, 7))
        s, p = int(rng.integers(1, 9)), int(rng.integers(0, k // 2 + 1))
        shape = (*rng.integers(1, 4, rng.integers(1, 3)), *rng.integers(max(1, k - 2 * p), 14, 2))
        kind = [torch.float64, torch.float32, torch.bfloat16, torch.float16][rng.integers(4)]
        x = torch.tensor(array(rng, shape, rng.choice(["float32", "int8"]))).to(kind)
        x[torch.tensor(rng.random(shape) < 0.05)] = float(rng.choice([np.inf, -np.inf, np.nan, 6e4, -6e4]))
        if rng.random() < 0.5:
            x = x.transpose(-1, -2).contiguous().transpose(-1, -2)  # other strides
        elif x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        ours, theirs = part2["MyMaxPool"](k, s, p)(x), nn.MaxPool2d(k, s, p)(x)
        assert ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(1e4), theirs.nan_to_num(1e4)), case
        if not x.isnan().any() and kind in (torch.float64, torch.float32):
            weights = torch.tensor(rng.random(ours.shape)).to(kind)
            gradients = [torch.autograd.grad(out, x, weights)[0] for out in (ours, theirs)]
            assert torch.allclose(*gradients, atol=1e-5), case
    print(f"{number} cases: MyMaxPool against nn.MaxPool2d")


@cases(300, 4000)
def test_class_counts(part2, number):
    for case, rng in enumerate(generated(number)):
        length, weights = int(10 ** rng.uniform(0, 9)), rng.integers(0, rng.choice([2, 10, 10**6]), rng.integers(1, 30)) + 0.0
        weights[rng.integers(len(weights))] += 1
        shares = weights / weights.sum()
        counts = part2["class_counts"](length, shares)
        assert counts.sum() == length and counts.min() >= 0 and counts.dtype.kind == "i", case
        assert (np.abs(counts - shares * length) < 1 + 1e-6).all() and not counts[shares == 0].any(), case
    print(f"{number} cases: class_counts against its definition")


def test_class_counts_of_shares_that_are_off_by_what_is_allowed(part2):
    assert part2["class_counts"](2 * 10**7, [0.1 + 9e-8] * 10).sum() == 2 * 10**7


def is_turned(picture, source):
    return any(np.array_equal(picture, np.rot90(source, turns, (1, 2))) for turns in range(4))


@cases(120, 2500)
def test_rotated_dataset(part2, number):
    """Each item is one of the four rotations of its source, with the label of its source, and the classes are as asked."""
    for case, rng in enumerate(generated(number)):
        classes, each, side = int(rng.integers(1, 11)), int(rng.integers(1, 7)), int(rng.integers(1, 6))
        labels = torch.tensor(rng.permutation(np.repeat(np.arange(classes), each)))
        images = torch.tensor(rng.integers(0, 256, (len(labels), 3, side, side), np.uint8))
        data = utils.Pictures(images.clone(), labels, [f"{i}.jpg" for i in range(len(labels))], utils.CLASSES)
        weights = rng.integers(0, 5, classes) + 0.0
        weights[-1] += 1
        length, seed, state = int(rng.integers(1, 60)), int(rng.integers(2**40)), torch.get_rng_state()
        rotated = part2["RotateEuroSAT"](data, length, weights / weights.sum(), seed=seed)
        source = rotated.source_index
        assert torch.equal(rotated.labels, labels[source]) and len(rotated) == length, case
        counts = np.bincount(rotated.labels, minlength=classes)
        assert (counts == part2["class_counts"](length, weights / weights.sum())).all(), case
        assert all(is_turned(*pair) for pair in zip(rotated.images.numpy(), images[source].numpy())), case
        times = torch.bincount(source, minlength=len(labels))
        assert all(times[labels == label].max() - times[labels == label].min() <= 1 for label in range(classes)), case
        assert torch.equal(data.images, images) and torch.equal(torch.get_rng_state(), state), case
    print(f"{number} cases: RotateEuroSAT against its definition")


# Files

def mutated(content, rng):
    """The bytes with a few of them changed, cut out, doubled or put in."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        a, b = sorted(rng.integers(0, len(content) + 1, 2))
        b = min(b, a + int(rng.integers(1, 200)))
        change = rng.integers(5)
        if change == 0 and a < len(content):
            content[a] ^= 1 << int(rng.integers(8))
        elif change == 1:
            del content[a:b]
        elif change == 2:
            content[a:a] = content[a:b]
        elif change == 3:
            content[a:a] = rng.bytes(int(rng.integers(1, 20)))
        elif rng.random() < 0.2:
            del content[a:]
    return bytes(content)


@contextlib.contextmanager
def quiet():
    """Without what libraries in C write to standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def jpegs():
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)))
    for options in (dict(quality=90), dict(quality=30, progressive=True), dict(quality=75, restart_marker_blocks=4), dict(subsampling=0)):
        file = io.BytesIO()
        Image.fromarray(smooth).save(file, "JPEG", **options)
        yield file.getvalue()


@cases(150, 2000)
def test_mutated_jpegs(tmp_path, number):
    """Refused by name, or the same pixels as another decoder finds in the same bytes."""
    sources, file, refused, compared = list(jpegs()), tmp_path / "Forest_1.jpg", 0, 0
    for case, rng in enumerate(generated(number)):
        content = mutated(sources[case % 4], rng)
        file.write_bytes(content)
        try:
            pixels = utils._decode(file)
        except ValueError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error), case
            refused += 1
            continue
        assert pixels.shape == (64, 64, 3) and pixels.dtype == np.uint8, case
        with contextlib.suppress(RuntimeError), quiet():  # the other decoder is stricter
            other = decode_jpeg(torch.tensor(list(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()
            assert np.array_equal(pixels, other), case
            compared += 1
    print(f"{number} mutated JPEGs: {refused} refused by name, {compared} equal to another decoder")
    assert refused > number / 5 and compared > number / 20


def notebook():
    v4, figure = nbformat.v4, io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(figure, "PNG")
    picture = {"image/png": base64.b64encode(figure.getvalue()).decode(), "text/plain": "<Figure>"}
    return v4.new_notebook(cells=[
        v4.new_markdown_cell("# Title\n\nA sentence with $x^2$. Another one.", id="text"),
        v4.new_code_cell("import math\n%matplotlib inline\nRATE = 0.1\ndef f(x):\n    return x\nprint(f(2))", id="code", execution_count=1,
                         outputs=[v4.new_output("stream", text="accuracy 97.87 % of 5,400\n")]),
        v4.new_code_cell("plot()", id="plot", execution_count=2, outputs=[v4.new_output("display_data", picture)])])


def places(node):
    """(container, key) of every value in a JSON tree."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [(node, key) for key, _ in pairs] + [place for _, value in pairs for place in places(value)]


def with_other_values(rng):
    """The notebook with a few values of its JSON taken out, doubled, replaced by one of another kind, or with another text."""
    tree, gentle = json.loads(nbformat.writes(notebook())), rng.random() < 0.6  # lines of code and of output only
    for _ in range(rng.integers(1, 4)):
        everywhere = [(where, key) for where, key in places(tree)
                      if not gentle or (isinstance(where, list) and isinstance(where[key], str))]
        if not everywhere:
            break
        container, key = everywhere[rng.integers(len(everywhere))]
        new = [None, 0, -1, 1e308, "", "\ud800", "\0", [], {}, [[]], True, "import os", copy.deepcopy(container)][rng.integers(13)]
        if gentle or (isinstance(container[key], str) and rng.random() < 0.7):
            cut = int(rng.integers(len(container[key]) + 1))
            container[key] = container[key][:cut] + str(rng.choice(["0", "é", "\n", " ", "%", '"', "$", "\\", "<b>"])) + container[key][cut:]
        elif rng.random() < 0.3:
            del container[key]
        else:
            container[key] = new
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def is_valid(content):
    try:
        nbformat.validate(json.loads(content))
    except Exception:
        return False
    return True


@cases(100, 2000)
def test_mutated_notebooks(tmp_path, number, monkeypatch):
    """A valid notebook is read and compared, unless a picture in it is broken; an invalid one is refused, or no worse than that."""
    monkeypatch.setattr(logging.getLogger("traitlets"), "disabled", True)
    whole, other = tmp_path / "whole.ipynb", tmp_path / "other.ipynb"
    nbformat.write(notebook(), whole)
    valid, refused = 0, 0
    for case, rng in enumerate(generated(number)):
        content = with_other_values(rng) if case % 2 else mutated(whole.read_bytes(), rng)
        other.write_bytes(content)
        valid += (good := is_valid(content))
        try:
            list(isolated.cells(other))
        except Exception:
            assert not good, case
        try:
            found, itself = check.compare(whole, other), check.compare(other, other)
        except Exception as error:
            refused += 1
            assert not good or isinstance(error, (ValueError, OSError)), case
        else:
            assert bool(found) == (content != whole.read_bytes()) and not (good and itself), case
    print(f"{number} mutated notebooks: {valid} still valid, {refused} refused")
