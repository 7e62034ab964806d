"""symmetry.py: the group of a square, and convolutions that keep its symmetry.

Weights and inputs are whole numbers in double precision, so that sums are exact in any
order and results can be compared bit for bit.
"""

import io

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from symmetry import (
    D4Conv2d,
    D4LiftingConv2d,
    D4MeanPool2d,
    division_table,
    image_and_mirror,
    product_table,
    symmetries,
)
from tests.helpers import random_data, refused
from trainer import Trainer

table = pytest.mark.parametrize
case = pytest.param
EIGHT = range(8)

# The same group, written in another way: as matrices that act on (x, y), y upwards.
QUARTER_TURN = np.array([[0, -1], [1, 0]])
MIRROR = np.array([[-1, 0], [0, 1]])
MATRICES = []
for first in (np.eye(2, dtype=int), MIRROR):
    for turns in range(4):
        MATRICES.append(np.linalg.matrix_power(QUARTER_TURN, turns) @ first)


def number_of(matrix):
    """The place of a matrix among MATRICES."""
    (number,) = [n for n in EIGHT if np.array_equal(MATRICES[n], matrix)]
    return number


def moved(image, matrix):
    """A square array (k, k) with each entry moved by a matrix, one at a time."""
    k = len(image)
    centre = (k - 1) / 2
    result = np.empty_like(image)
    for row in range(k):
        for column in range(k):
            x, y = matrix @ (column - centre, centre - row)
            result[round(centre - y), round(centre + x)] = image[row, column]
    return result


def whole_numbers(*shape, seed=0):
    """A tensor of random whole numbers, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=generator).double()


def with_whole_numbers(layer):
    """The layer with whole numbers as weights, in double precision."""
    layer = layer.double()
    layer.weight.data = whole_numbers(*layer.weight.shape, seed=1)
    layer.bias.data = whole_numbers(*layer.bias.shape, seed=2)
    return layer


# --- The group ------------------------------------------------------------------------


@table("side", [2, 3, 6])
@table("number", EIGHT)
def test_a_symmetry_moves_pixels_as_its_matrix_does(number, side):
    image = whole_numbers(2, side, side)
    form = symmetries(image)[number]
    for before, after in zip(image.numpy(), form.numpy(), strict=True):
        assert np.array_equal(after, moved(before, MATRICES[number]))


def test_an_image_is_paired_with_its_mirror_image():
    image = whole_numbers(2, 3, 5)
    one, mirrored = image_and_mirror(image)
    assert torch.equal(one, image)
    assert np.array_equal(mirrored.numpy(), image.numpy()[..., ::-1])


def test_the_product_is_that_of_the_matrices():
    product = product_table()
    for g in EIGHT:
        for h in EIGHT:
            assert product[g, h] == number_of(MATRICES[g] @ MATRICES[h])


def test_the_product_makes_a_group():
    product = product_table().numpy()
    every = list(EIGHT)
    for g in EIGHT:
        assert sorted(product[g]) == every  # closed, with an inverse from the right
        assert sorted(product[:, g]) == every  # and from the left
    assert list(product[0]) == every  # 0 changes nothing
    assert list(product[:, 0]) == every
    for g in EIGHT:
        for h in EIGHT:
            for i in EIGHT:
                assert product[product[g, h], i] == product[g, product[h, i]]
    assert not np.array_equal(product, product.T)  # the order matters in D4


def test_division_undoes_the_product():
    product = product_table()
    division = division_table()
    for g in EIGHT:
        for h in EIGHT:
            assert division[g, product[g, h]] == h


# --- The layers -----------------------------------------------------------------------

LAYERS = [
    case(D4LiftingConv2d(3, 2, 6, stride=2, padding=2), (16, 16), id="stem"),
    case(D4LiftingConv2d(3, 2, 6, stride=2, padding=2), (12, 16), id="stem, oblong"),
    case(D4LiftingConv2d(1, 3, 3, padding=1), (7, 7), id="lifting, 3×3"),
    case(D4LiftingConv2d(2, 2, 5, stride=2, padding=2), (9, 9), id="lifting, stride 2"),
    case(D4Conv2d(2, 3, 3, padding=1), (8, 8), id="group, 3×3"),
    case(D4Conv2d(2, 3, 3, padding=1), (5, 8), id="group, oblong"),
    case(D4Conv2d(3, 1, 3, stride=2, padding=1), (9, 9), id="group, stride 2"),
    case(D4Conv2d(1, 2, 4, stride=2, padding=1), (8, 8), id="group, even kernel"),
    case(D4Conv2d(2, 2, 2), (4, 4), id="group, 2×2"),
    case(D4Conv2d(2, 2, 1), (4, 4), id="group, 1×1"),
]


def turned_response(response, number):
    """A response (B, 8 * fields, H, W) as it is where the image had that symmetry."""
    orientations = symmetries(response)[number].unflatten(1, (-1, 8))
    result = torch.empty_like(orientations)
    for before, after in enumerate(product_table()[number]):
        result[:, :, after] = orientations[:, :, before]
    return result.flatten(1, 2)


def turned_input(layer, x, number):
    """The input (B, C, H, W) of a layer where the image had that symmetry."""
    if isinstance(layer, D4Conv2d):
        return turned_response(x, number)
    return symmetries(x)[number]


@table("number", EIGHT)
@table("layer, size", LAYERS)
def test_a_turned_image_gives_the_turned_response(layer, size, number):
    layer = with_whole_numbers(layer)
    x = whole_numbers(2, layer.in_channels, *size)
    expected = turned_response(layer(x), number)
    found = layer(turned_input(layer, x, number))
    assert torch.equal(found, expected)


def slow_response(layer, x):
    """The response of a layer to x (C, H, W): one filter and channel at a time."""
    weight = layer.weight.detach().numpy()
    stride, _ = layer.stride
    padding, _ = layer.padding
    x = np.pad(x.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    response = []
    for filters, bias in zip(weight, layer.bias.tolist(), strict=True):
        for g in EIGHT:
            total = bias
            for channel, image in enumerate(x):
                used = channel
                if isinstance(layer, D4Conv2d):
                    field, h = divmod(channel, 8)
                    undone = np.linalg.inv(MATRICES[g]).round() @ MATRICES[h]
                    used = 8 * field + number_of(undone)
                kernel = moved(filters[used], MATRICES[g])
                total = total + correlate2d(image, kernel, "valid")
            response.append(total[::stride, ::stride])
    return torch.tensor(np.array(response))


@table("layer, size", LAYERS)
def test_a_layer_equals_loops_over_its_definition(layer, size):
    layer = with_whole_numbers(layer)
    x = whole_numbers(2, layer.in_channels, *size)
    response = layer(x)
    assert response.shape[1] == layer.out_channels == 8 * layer.fields
    for image, found in zip(x, response, strict=True):
        assert torch.equal(found, slow_response(layer, image))


SMALL_LAYERS = [
    case(D4LiftingConv2d(2, 1, 4, stride=2, padding=1), id="lifting"),
    case(D4Conv2d(1, 1, 2, stride=2, padding=1), id="group"),
    case(D4Conv2d(1, 2, 3), id="group, 3×3"),
]


@table("layer", SMALL_LAYERS)
def test_gradients_of_the_tied_weights(layer):
    layer = with_whole_numbers(layer)
    x = whole_numbers(1, layer.in_channels, 4, 4)

    def response(x, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x,))

    inputs = [x.requires_grad_(), layer.weight, layer.bias]
    assert torch.autograd.gradcheck(response, inputs)


def test_a_layer_is_a_convolution_with_an_eighth_of_the_weights():
    layer = D4Conv2d(4, 5, 3, stride=2, padding=1)
    plain = nn.Conv2d(4 * 8, 5 * 8, 3, stride=2, padding=1)
    assert isinstance(layer, nn.Conv2d)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding"):
        assert getattr(layer, name) == getattr(plain, name)
    assert layer.weight.shape == (5, 4 * 8, 3, 3)
    assert layer.bias.shape == (5,)
    assert layer.expanded_weight().shape == plain.weight.shape
    assert D4LiftingConv2d(3, 16, 6).weight.shape == (16, 3, 6, 6)


WRONG_SIZES = [
    case("kernel_size", (3, 5), id="oblong kernel"),
    case("stride", (1, 2), id="two strides"),
    case("padding", "same", id="a name"),
]


@table("kind", [D4LiftingConv2d, D4Conv2d])
@table("name, size", WRONG_SIZES)
def test_sizes_that_differ_by_direction_are_refused(kind, name, size):
    sizes = {"kernel_size": 3, name: size}
    with refused(ValueError, f"{name} must be one whole number", repr(size)):
        kind(1, 1, **sizes)


UNEVEN = [
    case(D4LiftingConv2d(3, 1, 6, stride=2, padding=2), (16, 15), "14 or 16", id="6×6"),
    case(D4Conv2d(1, 1, 3, stride=2, padding=1), (8, 9), "7 or 9", id="3×3"),
    case(D4Conv2d(1, 1, 3, stride=3), (9, 11), "9 or 12", id="stride 3"),
]


@table("layer, size, fitting", UNEVEN)
def test_a_side_that_breaks_symmetry_is_refused(layer, size, fitting):
    x = torch.zeros(1, layer.in_channels, *size)
    with refused(ValueError, "breaks symmetry", f"give {fitting}"):
        layer(x)


# --- Whole networks -------------------------------------------------------------------


def network():
    """A small network of each kind of layer, for images of 16×16 pixels or more."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            D4LiftingConv2d(3, 4, 6, stride=2, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            D4Conv2d(4, 5, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            D4Conv2d(5, 6, 3, padding=1),
            D4MeanPool2d(),
            nn.Linear(6, 10),
        )


def largest_difference(model, images):
    """The largest difference between scores of the eight views, relative to scores."""
    with torch.inference_mode():
        scores = torch.stack([model(view) for view in symmetries(images)])
    spread = scores.amax(0) - scores.amin(0)
    return (spread.max() / scores.abs().max()).item()


def test_scores_are_the_same_for_all_eight_views():
    images, _ = random_data(4, 64, 10).tensors
    model = network().double()
    assert largest_difference(model, images.double()) < 1e-14
    assert images[0].ne(images[0].flip(-1)).any()  # the views themselves differ
    with torch.inference_mode():
        scores = model(images.double())
    assert (scores[0] - scores[1]).abs().max() > 1e-6  # and so do the images' scores


def test_number_of_parameters():
    stem = 4 * 3 * 6**2 + 4
    second = 5 * 8 * 4 * 3**2 + 5
    third = 6 * 8 * 5 * 3**2 + 6
    last = 6 * 10 + 10
    total = sum(weights.numel() for weights in network().parameters())
    assert total == stem + second + third + last


def test_a_file_holds_weights_and_biases_only():
    stored = network().half().state_dict()
    for name in stored:
        assert name.endswith((".weight", ".bias"))
    file = io.BytesIO()
    torch.save(stored, file)
    file.seek(0)
    model = network()
    for weights in model.parameters():
        weights.data.zero_()
    model.load_state_dict(torch.load(file, weights_only=True))
    rounded = network().half().float()
    images, _ = random_data(2, 32, 10).tensors
    assert torch.equal(model(images), rounded(images))


def test_symmetry_outlives_training_averaging_and_half_precision():
    data = random_data(12, 32, 10)
    cfg = {"batch_size": 4, "epochs": 2, "ema_decay": 0.9, "learning_rate": 0.01}
    trainer = Trainer(network(), cfg, "cpu")
    before = [weights.clone() for weights in trainer.model.parameters()]
    trainer.train(data, label="")
    for old, new in zip(before, trainer.model.parameters(), strict=True):
        assert not torch.equal(old, new)
    images, _ = data.tensors
    model = trainer.model.half().double()
    assert largest_difference(model, images.double()) < 1e-14


def test_channels_last_and_bfloat16():
    images, _ = random_data(4, 64, 10).tensors
    model = network()
    expected = model(images)
    expected.square().sum().backward()
    gradients = [weights.grad.clone() for weights in model.parameters()]
    model.zero_grad()

    model = model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    assert model[0](images).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images)
    assert scores.dtype == torch.bfloat16
    scores.float().square().sum().backward()
    error = (scores - expected).abs().max() / expected.abs().max()
    assert error < 0.03
    for weights, gradient in zip(model.parameters(), gradients, strict=True):
        assert weights.grad.dtype == torch.float32
        error = (weights.grad - gradient).norm() / gradient.norm()
        assert error < 0.1


def test_the_network_of_part_2_gives_equal_scores_to_all_views(part2):
    model = part2["new_model"](0).double()
    nn.init.normal_(model[-1].weight)  # it starts at zero, and would hide a fault
    for block in (model[4], model[8]):
        nn.init.normal_(block[-1].weight, std=0.01)
    assert sum(weights.numel() for weights in model.parameters()) == 412_458
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        scores = model(torch.cat(symmetries(image)))
    assert scores.std(1).min() > 0.01
    assert torch.allclose(scores, scores[:1], rtol=1e-12)
