"""The functions of ps2_eurosat.ipynb, called as the course's template calls them."""
import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.data import random_split

import utils


@pytest.mark.parametrize("rotation", [90, 180, 270, 360])
def test_rotation_moves_pixels_and_changes_none(part2, pictures, rotation, stand_in):
    picture = pictures.images[3]
    turned = part2["rotate_picture"](picture, rotation)
    assert np.array_equal(turned.permute(1, 2, 0), np.rot90(picture.permute(1, 2, 0), rotation // 90))
    pil, _ = torchvision.datasets.EuroSAT(stand_in)[3]
    assert np.array_equal(np.asarray(part2["rotate_picture"](pil, rotation)), turned.permute(1, 2, 0))


@pytest.mark.parametrize("rotation", [0, 45, -90, 450, None])
def test_other_angles_are_refused(part2, pictures, rotation):
    with pytest.raises(ValueError, match="90, 180, 270 or 360"):
        part2["rotate_picture"](pictures.images[0], rotation)


@given(length=st.integers(1, 10**4), weights=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
@settings(deadline=None, derandomize=True)
def test_class_counts_are_whole_exact_and_close(part2, length, weights):
    shares = [weight / sum(weights) for weight in weights]
    counts = part2["class_counts"](length, shares)
    assert counts.sum() == length
    assert all(abs(count - share * length) < 1 + 1e-6 for count, share in zip(counts, shares))


def test_rotated_dataset_as_the_template_makes_it(part2, stand_in):
    data = torchvision.datasets.EuroSAT(stand_in)
    rotated = part2["RotateEuroSAT"](data, length=10**4, shares=[1/10] * 10, seed=42)
    assert len(rotated) == 10**4
    assert torch.bincount(rotated.labels).tolist() == [1000] * 10
    train_data, test_data = random_split(rotated, [0.8, 0.2])
    assert len(train_data) == 8000 and train_data[0][0].shape == (3, 64, 64)
    part2["plot_histogram"](data)


def test_rotated_items_are_turned_sources_with_their_labels(part2, pictures):
    rotated = part2["RotateEuroSAT"](pictures, length=60, shares=[0.5, 0.5] + [0] * 8)
    for index, source in enumerate(rotated.source_index.tolist()):
        picture, label = rotated[index]
        original, original_label = pictures[source]
        assert label == original_label
        assert any(torch.equal(picture, torch.rot90(original, turn, (1, 2))) for turn in range(4))


def test_no_picture_repeats_until_its_class_is_used_up(part2, pictures):
    rotated = part2["RotateEuroSAT"](pictures, length=250, shares=[0.1] * 10)
    times = torch.bincount(rotated.source_index, minlength=len(pictures))
    assert times.min() == 2 and times.max() == 3


def test_rotated_dataset_depends_on_its_seed_alone(part2, pictures):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second, other = (part2["RotateEuroSAT"](pictures, 50, [0.1] * 10, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first.images, second.images) and not torch.equal(first.images, other.images)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("length, shares", [(0, [0.1] * 10), (10, [0.2] * 10), (10, [1.5, -0.5] + [0] * 8), (10, [0.5, 0.5])])
def test_wrong_shares_are_refused(part2, pictures, length, shares):
    with pytest.raises(ValueError, match="length|shares"):
        part2["RotateEuroSAT"](pictures, length, shares)


@given(weights=st.lists(st.integers(1, 9), min_size=10, max_size=10), seed=st.integers(0, 99))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_no_source_picture_is_in_two_parts(part2, weights, seed):
    labels = torch.arange(10).repeat_interleave(12)
    data = utils.Pictures(torch.arange(120).reshape(120, 1, 1, 1).expand(120, 3, 2, 2).to(torch.uint8), labels,
                          [f"{i:03}.jpg" for i in range(120)], utils.CLASSES, real=False)
    shares = [weight / sum(weights) for weight in weights]
    split = utils.split_eurosat(data, seed=seed)
    parts = [part2["RotateEuroSAT"](data.part(index), 200, shares, seed=seed) for index in split.values()]
    shown = [set(part.images.flatten().tolist()) for part in parts]
    assert not (shown[0] & shown[1] or shown[0] & shown[2] or shown[1] & shown[2])
    one, two = part2["hold_out"](parts[0])
    assert not set(part2["sources_of"](one).tolist()) & set(part2["sources_of"](two).tolist())


@given(k=st.integers(1, 4), s=st.integers(1, 4), p=st.integers(0, 2), seed=st.integers(0, 99), last=st.booleans(),
       size=st.tuples(st.integers(4, 9), st.integers(4, 9)))
@settings(deadline=None, derandomize=True)
def test_max_pool_equals_torch_in_values_and_gradients(part2, k, s, p, seed, last, size):
    p = min(p, k // 2)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 0, (2, 3, *size), generator=generator).double()  # negative, with ties
    x = x.to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    ours, theirs = part2["MyMaxPool"](k, s, p)(x), nn.MaxPool2d(k, s, p)(x)
    weights = torch.rand(theirs.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours, theirs)]
    assert torch.equal(ours, theirs) and torch.allclose(*gradients, atol=1e-12)


def test_model_keeps_the_layer_rule(part2):
    model = part2["MyCNNModel"](n_classes=3)
    layers = [layer for layer in model.modules() if not list(layer.children())]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert {type(layer) for layer in layers} <= {nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d, part2["MyMaxPool"]}
    assert len(convolutions) >= 3 and len({layer.kernel_size for layer in convolutions}) >= 2
    assert any(isinstance(layer, part2["MyMaxPool"]) for layer in layers)
    assert sum(p.numel() for p in part2["MyCNNModel"](10).parameters()) <= 600_000


@pytest.mark.parametrize("n_classes, size", [(2, 32), (3, 64), (10, 64), (17, 45), (10, 128)])
def test_model_gives_one_score_per_class(part2, n_classes, size):
    assert part2["MyCNNModel"](n_classes)(torch.rand(2, 3, size, size)).shape == (2, n_classes)


def test_grid_search_and_template_calls(part2, pictures):
    rotated = part2["RotateEuroSAT"](pictures, length=60, shares=[0.4, 0.3, 0.3] + [0] * 7)
    train_data, _ = random_split(rotated, [0.8, 0.2])
    cfg = dict(batch_size=16, criterion=nn.CrossEntropyLoss(), epochs=1, learning_rate=1e-3, optimizer=torch.optim.Adam, seed=1)
    loss, accuracy = utils.Trainer(part2["MyCNNModel"](n_classes=3), cfg).train(train_data)
    assert len(loss) == len(accuracy) == 3
    model, best, losses, accuracies = part2["grid_search"](train_data, cfg, [1e-3, 1e-2], [16])
    assert isinstance(model, part2["MyCNNModel"]) and best.learning_rate in (1e-3, 1e-2) and best.batch_size == 16
    assert all(map(math.isfinite, losses)) and len(accuracies) == len(losses)
    assert len(part2["grid_search"].study.trials) == 2


def test_pretrained_network_gets_a_new_last_layer(part2):
    for name in ("squeezenet1_1", "resnet18"):
        model = part2["replace_last_layer"](torchvision.models.get_model(name), 4)
        assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 4)


def test_pretrained_weights_come_from_the_named_file(part2, tmp_path):
    source = torchvision.models.squeezenet1_1()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model, origin = part2["pretrained_model"]("squeezenet1_1", 10, tmp_path / "weights.pth")
    assert torch.equal(model.features[0].weight, source.features[0].weight) and origin.startswith("weights.pth, sha256")
