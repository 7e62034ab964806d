"""Wrong arguments: a ValueError that names the argument and says what is allowed."""
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import utils

CFG = utils.Config(batch_size=4, epochs=1)
NAN, INF = float("nan"), float("inf")
SETTINGS = {
    "batch_size": [0, -1, 2.5, "64", None, NAN], "epochs": [0, -3, 1.0, "10", None], "seed": [-1, 1.5, "42", None, 2**32],
    "learning_rate": [0, -0.1, NAN, INF, "0.1", None, 1j], "clip": [0, -1, NAN, "1", None],
    "warm_up": [-0.1, 1.1, NAN, "0.1", None], "average": [-0.1, 1, NAN, None], "views": [0, 2, -8, "8", None],
    "optimizer": ["adam", None, 3, nn.Linear, dict, torch.optim.SGD([nn.Parameter(torch.zeros(1))])],
    "criterion": ["cross entropy", None, nn.CrossEntropyLoss, nn.CrossEntropyLoss(reduction="sum"), nn.NLLLoss(reduction="none")]}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in SETTINGS.items() for value in values])
def test_settings(name, value):
    for make in (lambda: dataclasses.replace(CFG, **{name: value}), lambda: utils.Trainer(nn.Flatten(), {name: value})):
        with pytest.raises(ValueError, match=f"^{name} is .*; allowed: "):
            make()


@pytest.mark.parametrize("cfg", [{"learning_rte": 1}, {"batch size": 1}, {1: 2}])
def test_unknown_setting(cfg):
    with pytest.raises(ValueError, match="unknown fields .* it takes .*'learning_rate'"):
        utils.Trainer(nn.Flatten(), cfg)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", 99, -5, 1.5, "cpu:x", [], "mps:7"])
def test_device(device):
    with pytest.raises(ValueError, match="device is .*; allowed here: cpu"):
        utils.Trainer(nn.Linear(1, 1), CFG, device)


@pytest.fixture
def trainer():
    return utils.Trainer(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), CFG, "cpu")


def pictures(labels):
    return TensorDataset(torch.rand(len(labels), 3, 2, 2), torch.tensor(labels))


@pytest.mark.parametrize("data", [TensorDataset(torch.zeros(0, 3, 2, 2), torch.zeros(0)), Subset(pictures([0]), []), []])
def test_empty_dataset(trainer, data):
    for use in (trainer.train, trainer.test, trainer.predict):
        with pytest.raises(ValueError, match="dataset is empty"):
            use(data)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [2, 255]])
def test_labels_outside_the_classes(trainer, labels):
    data = pictures(labels)
    before = [value.clone() for value in trainer.model.parameters()]
    for use in (lambda: trainer.iter_step(*data.tensors), lambda: trainer.train(data), lambda: trainer.test(data)):
        with pytest.raises(ValueError, match=f"labels run from {min(labels)} to {max(labels)}; .* classes 0 to 2"):
            use()
    assert all(map(torch.equal, before, trainer.model.parameters()))


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_batch_size_of_a_prediction(trainer, size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, not"):
        trainer.predict(pictures([0]), batch_size=size)


# Functions of ps2_eurosat.ipynb; test_part2.py has more of their arguments

EQUAL = [0.1] * 10
SHARES = [("length", -1, EQUAL, {}), ("length", 0, EQUAL, {}), ("shares", 5, [0.2] * 5 + [-0.1] * 5, {}), ("shares", 5, [INF] * 10, {}),
          ("shares", 5, [1 / 9] * 9, {}), ("shares", 5, [0.1 + 1e-5] * 10, {}), ("share above 0", 500, [1 / 11] * 11, {}),
          ("shares", 5, [NAN] * 10, {}), ("shares", 5, [], {}), ("shares", 5, None, {}), ("shares", 5, ["a"] * 10, {}),
          ("length", 2.5, EQUAL, {}), ("length", "5", EQUAL, {}), ("device", 5, EQUAL, {"device": "gpu"}), ("seed", 5, EQUAL, {"seed": 1.5})]


@pytest.mark.parametrize("name, length, shares, more", SHARES)
def test_rotated_dataset(part2, name, length, shares, more):
    data = utils.Pictures(torch.zeros(20, 3, 2, 2), torch.arange(20) % 10, [f"{i}.jpg" for i in range(20)], utils.CLASSES)
    with pytest.raises(ValueError, match=name):
        part2["RotateEuroSAT"](data, length, shares, **more)


def test_rotated_dataset_of_nothing(part2):
    data = utils.Pictures(torch.zeros(0, 3, 2, 2), torch.zeros(0, dtype=torch.long), [], utils.CLASSES)
    with pytest.raises(ValueError, match="original_data"):
        part2["RotateEuroSAT"](data, 5, EQUAL)


@pytest.mark.parametrize("rotation", [0, 1, 89.9, -90, 720, "90", NAN, INF, None, [90], True])
def test_angle(part2, rotation):
    with pytest.raises(ValueError, match="rotation must be 90, 180, 270 or 360"):
        part2["rotate_picture"](torch.zeros(3, 2, 2), rotation)


@pytest.mark.parametrize("arguments", [(0,), (-1,), (NAN,), (2.5,), ("2",), (None,), ((2, 2),), (2, 0), (2, -2), (2, 1.5),
                                       (2, 1, -1), (2, 1, 2), (3, 1, 2), (2, 1, None)])
def test_max_pool(part2, arguments):
    with pytest.raises(ValueError, match=f"^{('kernel_size', 'stride', 'padding')[len(arguments) - 1]} must be "):
        part2["MyMaxPool"](*arguments)


@pytest.mark.parametrize("shape", [(1, 3, 1, 5), (1, 3, 5, 1), (1, 3, 0, 0)])
def test_max_pool_of_too_small_a_picture(part2, shape):
    with pytest.raises(ValueError, match="kernel_size 2 is larger than the padded input"):
        part2["MyMaxPool"](2)(torch.zeros(shape))


@pytest.mark.parametrize("n_classes", [0, -1, 2.5, "3", None])
def test_number_of_classes(part2, n_classes):
    with pytest.raises(ValueError, match="n_classes"):
        part2["MyCNNModel"](n_classes)


@pytest.mark.parametrize("rates, sizes, name", [([-1], [4], "learning_rate"), (["a"], [4], "learning_rate"), ([0.1], [0], "batch_size"),
                                                ([], [4], "learning_rates"), ([0.1], [], "batch_sizes")])
def test_grid(part2, rates, sizes, name):
    rng = np.random.default_rng(0)
    data = utils.Pictures(torch.from_numpy(rng.integers(0, 255, (20, 3, 32, 32), np.uint8)), torch.arange(20) % 2,
                          [f"{i}.jpg" for i in range(20)], utils.CLASSES)
    with pytest.raises(ValueError, match=name):
        part2["grid_search"](data, CFG, rates, sizes)
