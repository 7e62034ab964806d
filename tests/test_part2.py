"""What ps2_eurosat.ipynb defines, beyond the calls of the course's template.

Those are made in test_template.py, on any notebook.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import nn

from eurosat import ImageDataset
from standin import CLASSES
from tests.helpers import refused
from trainer import Trainer

table = pytest.mark.parametrize
case = pytest.param
AT_LEAST_1 = "must be a whole number, at least 1"


def tiny(labels, side=2):
    """An ImageDataset of images (N, 3, side, side) that all differ."""
    shape = (len(labels), 3, side, side)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    names = [f"{number}.jpg" for number in range(len(labels))]
    classes = CLASSES[: max(labels) + 1]
    images = torch.from_numpy(pixels)
    return ImageDataset(images, torch.tensor(labels), classes, names=names)


# --- Task 1: rotated images -----------------------------------------------------------


@table("rotation", [90, 180, 270, 360])
def test_rotation_moves_pixels_and_changes_none(part2, rotation):
    rotate_picture = part2["rotate_picture"]
    image = tiny([0], side=5).images[0]
    pixels = image.permute(1, 2, 0).numpy()
    expected = np.rot90(pixels, rotation // 90)

    turned = rotate_picture(image, rotation)
    assert np.array_equal(turned.permute(1, 2, 0), expected)
    turned = rotate_picture(Image.fromarray(pixels), rotation)
    assert np.array_equal(np.asarray(turned), expected)


WRONG_ANGLES = [
    case(0, id="0"),
    case(1, id="1"),
    case(89.9, id="89.9"),
    case(-90, id="negative"),
    case(720, id="720"),
    case("90", id="a text"),
    case(float("nan"), id="NaN"),
    case(None, id="None"),
    case([90], id="a list"),
    case(True, id="True"),
]


@table("angle", WRONG_ANGLES)
def test_a_rotation_by_another_angle_is_refused(part2, angle):
    with refused(ValueError, "rotation must be 90, 180, 270 or 360"):
        part2["rotate_picture"](torch.zeros(3, 2, 2), angle)


WEIGHTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any)


@given(st.integers(1, 10**9), WEIGHTS)
def test_class_counts_are_whole_exact_and_close(part2, length, weights):
    shares = np.array(weights) / sum(weights)
    counts = part2["class_counts"](length, shares)
    assert counts.dtype.kind == "i"
    assert counts.sum() == length
    assert counts.min() >= 0
    assert (abs(counts - shares * length) < 1 + 1e-6).all()
    assert not counts[shares == 0].any()


FEW_WEIGHTS = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


@given(FEW_WEIGHTS, st.integers(1, 60), st.integers(0, 2**32), st.data())
def test_rotated_dataset_is_as_defined(part2, weights, length, seed, data):
    """Each item is a rotation of its source, with its label; the counts are as asked.

    No image of a class comes again before all others of it.
    """
    RotateEuroSAT = part2["RotateEuroSAT"]
    classes = len(weights)
    three_of_each = 3 * list(range(classes))
    original = tiny(data.draw(st.permutations(three_of_each)))
    shares = np.array(weights) / sum(weights)
    before = original.images.clone()
    state = torch.get_rng_state()

    rotated = RotateEuroSAT(original, length, shares, seed=seed)
    again = RotateEuroSAT(original, length, shares, seed=seed)
    assert torch.equal(rotated.images, again.images)
    assert torch.equal(original.images, before)
    assert torch.equal(torch.get_rng_state(), state)

    source = rotated.source_index
    assert torch.equal(rotated.labels, original.labels[source])
    turns = torch.stack([before[source].rot90(turn, (2, 3)) for turn in range(4)])
    is_this_turn = (turns == rotated.images).flatten(2).all(dim=2)  # (4, length)
    assert is_this_turn.any(dim=0).all()

    counts = np.bincount(rotated.labels, minlength=classes)
    assert (counts == part2["class_counts"](length, shares)).all()
    times = torch.bincount(source, minlength=len(original))
    for label in range(classes):
        times_of_class = times[original.labels == label]
        assert times_of_class.max() - times_of_class.min() <= 1

    image, _ = rotated[0]
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1


TWENTY = tiny([*range(10), *range(10)])
EQUAL = [0.1] * 10
WRONG_LENGTHS = [
    case(-1, id="negative"),
    case(2.5, id="no whole number"),
    case(True, id="True"),
]
WRONG_SHARES = [
    case([0.2] * 5 + [-0.1] * 5, "numbers from 0", id="negative"),
    case(None, "numbers from 0", id="None"),
    case([float("nan")] * 10, "numbers from 0", id="NaN"),
    case([1 / 9] * 10, "add up to 1", id="more than 1"),
    case(["a"] * 10, "could not convert", id="texts"),
    case([1 / 9] * 9, "9 shares", id="too few"),
    case([1 / 11] * 11, "11 shares", id="too many"),
]


@table("length", WRONG_LENGTHS)
def test_a_rotated_dataset_of_no_length_is_refused(part2, length):
    with refused(ValueError, f"length {AT_LEAST_1}, not {length}"):
        part2["RotateEuroSAT"](TWENTY, length, EQUAL)


@table("shares, words", WRONG_SHARES)
def test_shares_that_are_none_are_refused(part2, shares, words):
    with refused(ValueError, words):
        part2["RotateEuroSAT"](TWENTY, 5, shares)


def test_a_seed_that_is_none_is_refused(part2):
    with refused(ValueError, "seed must be a whole number, at least 0, not 1.5"):
        part2["RotateEuroSAT"](TWENTY, 5, EQUAL, seed=1.5)


def test_a_share_of_a_class_without_images_is_refused_by_name(part2):
    without_forest = tiny([0, 2])
    with refused(ValueError, "Forest has a share above 0 but no image"):
        part2["RotateEuroSAT"](without_forest, 6, [1 / 3] * 3)


TEN_WEIGHTS = st.lists(st.integers(1, 9), min_size=10, max_size=10)


@given(TEN_WEIGHTS, st.integers(0, 99))
def test_no_image_is_on_both_sides_of_a_split(part2, weights, seed):
    shares = np.array(weights) / sum(weights)
    four_of_each = tiny(4 * list(range(10)))
    rotated = part2["RotateEuroSAT"](four_of_each, 200, shares, seed=seed)
    one, two = part2["hold_out"](rotated, seed=seed)
    sources_of_one = set(part2["sources_of"](one).tolist())
    sources_of_two = set(part2["sources_of"](two).tolist())
    assert not sources_of_one & sources_of_two
    assert len(one) + len(two) == 200


LABELS = torch.arange(10).repeat_interleave(270)


def test_draws_with_replacement_are_even_and_repeat_images(part2):
    generator = torch.Generator().manual_seed(0)
    drawn = part2["draw_with_replacement"](LABELS, 1000, generator)
    assert torch.bincount(LABELS[drawn]).tolist() == [100] * 10
    assert len(drawn.unique()) < 1000


COPIES = [  # sources, and the share of the test side that training has seen
    case(torch.arange(1000), 0, id="none twice"),
    case(torch.arange(500).repeat(2), 0.8, id="each twice"),
    case(torch.zeros(1000), 1, id="one image alone"),
]


@table("sources, expected", COPIES)
def test_copies_on_the_test_side_are_counted(part2, sources, expected):
    train, test = part2["random_sides"](1000)
    assert len(train) == 800
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1000))
    share = part2["share_with_copy"](sources, train, test)
    assert share == pytest.approx(expected, abs=0.05)


# --- Task 2: the own network ----------------------------------------------------------


@given(st.data())
def test_max_pool_equals_torch_in_values_and_gradients(part2, data):
    kernel_size = data.draw(st.integers(1, 6))
    stride = data.draw(st.integers(1, 8))
    padding = data.draw(st.integers(0, kernel_size // 2))
    sides = st.integers(max(1, kernel_size - 2 * padding), 13)
    height = data.draw(sides)
    width = data.draw(sides)
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))

    x = torch.randint(-9, 3, (2, 3, height, width), generator=generator)  # with ties
    x = x.to(dtype)
    if data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = data.draw(st.sampled_from([1.0, torch.inf, torch.nan]))
    x.requires_grad_()
    ours = part2["MyMaxPool"](kernel_size, stride, padding)(x)
    theirs = nn.MaxPool2d(kernel_size, stride, padding)(x)
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours.nan_to_num(99), theirs.nan_to_num(99))

    # a NaN has no gradient to agree on, and sums in bfloat16 depend on their order
    if not x.isnan().any() and dtype != torch.bfloat16:
        weights = torch.rand(theirs.shape, generator=generator).to(dtype)
        our_gradient = torch.autograd.grad(ours, x, weights)[0]
        their_gradient = torch.autograd.grad(theirs, x, weights)[0]
        assert torch.allclose(our_gradient, their_gradient, atol=1e-5)


WRONG_KERNELS = [
    case(0, id="0"),
    case(-1, id="negative"),
    case(2.5, id="2.5"),
    case("2", id="a text"),
    case(None, id="None"),
    case((2, 2), id="a pair"),
    case(True, id="True"),
]
WRONG_STRIDES = [
    case(0, id="0"),
    case(1.5, id="1.5"),
]
WRONG_PADDINGS = [
    case(-1, id="negative"),
    case(2, id="more than half the kernel"),
    case(None, id="None"),
]


@table("kernel_size", WRONG_KERNELS)
def test_a_wrong_kernel_size_is_refused(part2, kernel_size):
    rule = f"kernel_size {AT_LEAST_1}, not {kernel_size!r}"
    with refused(ValueError, rule):
        part2["MyMaxPool"](kernel_size)


@table("stride", WRONG_STRIDES)
def test_a_wrong_stride_is_refused(part2, stride):
    with refused(ValueError, f"stride {AT_LEAST_1}, not {stride}"):
        part2["MyMaxPool"](2, stride)


@table("padding", WRONG_PADDINGS)
def test_a_wrong_padding_is_refused(part2, padding):
    rule = f"padding must be a whole number, from 0 to 1, not {padding}"
    with refused(ValueError, rule):
        part2["MyMaxPool"](2, 1, padding)


TOO_SMALL = [
    case((1, 3, 1, 5), id="too low"),
    case((1, 3, 5, 1), id="too narrow"),
    case((1, 3, 0, 0), id="empty"),
]


@table("shape", TOO_SMALL)
def test_max_pool_of_too_small_an_image_is_refused(part2, shape):
    with refused(ValueError, "kernel_size 2 is larger than the padded input"):
        part2["MyMaxPool"](2)(torch.zeros(shape))


@table("n_classes, size", [(2, 8), (17, 46), (10, 128)])
def test_model_of_other_sizes(part2, n_classes, size):
    model = part2["MyCNNModel"](n_classes)
    assert model(torch.rand(2, 3, size, size)).shape == (2, n_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 600_000


WRONG_NUMBERS_OF_CLASSES = [
    case(0, id="0"),
    case(-1, id="negative"),
    case(2.5, id="2.5"),
    case("3", id="a text"),
    case(None, id="None"),
]


@table("n_classes", WRONG_NUMBERS_OF_CLASSES)
def test_a_model_of_no_number_of_classes_is_refused(part2, n_classes):
    with refused(ValueError, f"n_classes {AT_LEAST_1}, not {n_classes!r}"):
        part2["MyCNNModel"](n_classes)


# --- Task 3: tuning -------------------------------------------------------------------


def test_muon_changes_every_parameter(part2):
    model = part2["MyCNNModel"](3)
    before = [parameter.clone() for parameter in model.parameters()]
    cfg = {"optimizer": part2["Muon"], "epochs": 3, "learning_rate": 0.02}
    Trainer(model, cfg, "cpu").train(tiny([0, 1, 2, 0], side=32), label="")
    for old, new in zip(before, model.parameters(), strict=True):
        assert not torch.equal(old, new)


def symmetries(image):
    """The eight symmetries of an image (C, H, H), by numpy."""
    turned = []
    for each in (image, image.flip(2)):
        for turns in range(4):
            turned.append(np.rot90(each, turns, (1, 2)))
    return turned


@given(st.integers(0, 10**6))
def test_augmentation_cuts_a_window_of_one_of_eight_symmetries(part2, seed):
    images = tiny([0] * 3, side=8).images
    generator = torch.Generator().manual_seed(seed)
    moved = part2["random_symmetry_and_window"](images, generator).numpy()
    window = moved.shape[1:]
    for image, result in zip(images, moved, strict=True):
        found = False
        for view in symmetries(image):
            windows = sliding_window_view(view, window)
            is_result = (windows == result).all(axis=(3, 4, 5))
            found = found or is_result.any()
        assert found


# --- Task 4: the pretrained network ---------------------------------------------------


@table("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_pretrained_network_has_the_packages_weights_and_a_new_last_layer(part2, name):
    classifier = part2["pretrained_model"](name, 4).eval()
    features = part2["pretrained_model"](name, 0).eval()
    images = torch.rand(1, 3, 64, 64)
    assert classifier(images).shape == (1, 4)
    assert features(images).shape == (1, 1280)
    path = part2["PACKAGED"][name].get_model_file_path()
    stored = torch.load(path, weights_only=True)
    first_stored = next(iter(stored.values()))
    assert torch.equal(next(classifier.parameters()), first_stored)


def test_images_are_resized_and_normalised_for_the_pretrained_network(part2):
    model = part2["pretrained_model"]("tf_efficientnet_lite0", 4)
    transform = part2["as_pretrained"](model, 96)
    images = torch.full((2, 3, 64, 64), 0.75)
    expected = torch.full((2, 3, 96, 96), 0.5)  # its mean and deviation are 0.5
    assert torch.allclose(transform(images), expected)


def test_batch_norm_ends_on_the_statistics_of_the_averaged_weights(part2):
    one_batch = tiny([0, 1] * 32, side=32)
    trainer = part2["fine_tuner"]("tf_efficientnet_lite0", n_classes=2, epochs=1)
    trainer.train(one_batch, label="")
    maps = trainer.model.conv_stem(trainer.prepare(one_batch.images)).detach()
    mean = trainer.model.bn1.running_mean
    assert torch.allclose(mean, maps.mean((0, 2, 3)), atol=1e-2)


# --- Task 5: calibration --------------------------------------------------------------


def test_temperature_mends_the_calibration(part2):
    generator = torch.Generator().manual_seed(0)
    true_scores = torch.randn(5000, 4, generator=generator)
    probabilities = true_scores.softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator).flatten()
    scores = 3 * true_scores  # too sure

    def error_of(scores):
        confidence, guess = scores.softmax(1).max(1)
        return part2["calibration_error"](confidence, guess == labels)

    temperature = part2["fit_temperature"](scores, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert 0.1 <= error_of(scores) <= 1
    assert 0 <= error_of(scores / temperature) <= 0.03
