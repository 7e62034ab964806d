"""Arguments as people give them: taken in once as plain values, or refused by name."""

import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import utils
from tests.helpers import refused

CFG = {"batch_size": 4, "epochs": 2, "learning_rate": 0.125, "seed": 3}
KINDS = [np.int64, np.uint8, np.float64, np.float32, lambda value: np.array([value])[0]]
ODD = [True, None, "8", [8], np.True_, 8j, math.nan, np.array([8, 16]), torch.tensor([8])]
DATA = TensorDataset(torch.rand(8, 3, 4, 4), torch.arange(8) % 3)


def trainer(**changes):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    return utils.Trainer(model, CFG | changes, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_numpy_are_plain_numbers(kind, tmp_path):
    whole = () if kind in (np.float64, np.float32) else ("batch_size", "epochs", "seed")
    changes = {name: kind(CFG[name]) for name in whole}
    changes |= {} if whole else {"learning_rate": kind(0.125)}
    curves = trainer(**changes).train(DATA, "", tmp_path)
    (path,) = tmp_path.iterdir()
    assert trainer().train(DATA, "", tmp_path) == curves  # goes on from the same file
    assert list(tmp_path.iterdir()) == [path]
    assert {type(value) for value in trainer(**changes).cfg.values()} <= {
        int,
        float,
        str,
        type(None),
    }


@given(
    st.sampled_from([*utils.RANGES]), st.one_of(st.sampled_from(ODD), st.floats(), st.integers())
)
def test_a_setting_is_taken_in_or_refused_by_name(name, value):
    low, high = utils.RANGES[name]
    try:
        taken = utils.settings({name: value})[name]
    except ValueError as error:
        assert str(error).startswith(f"{name} must be a ") and f"not {value!r}" in str(error)
        allowed = (int,) if isinstance(low, int) else (int, float)
        assert type(value) not in allowed or not low <= value <= high
    else:
        assert type(taken) is type(low) and low <= taken <= high and taken == value


def test_a_plain_list_is_a_dataset_for_the_grid(part2):
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 2
    data = [*zip(images, labels, strict=True)]
    assert part2["grid_search"](data, CFG | {"epochs": 1}, [0.01], [4])[0].grid.shape == (1, 1)


@pytest.mark.parametrize("sizes", [[True], [8.0], ["8"], [0]])
def test_a_batch_size_that_is_none_is_refused_before_any_training(part2, sizes, monkeypatch):
    monkeypatch.setattr(utils.Trainer, "train", lambda *_: pytest.fail("it trains"))
    with refused(ValueError, "batch_size must be a whole number"):
        part2["grid_search"](DATA, CFG, [0.1], sizes)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "resnet", "fcn_resnet50", ""])
def test_a_network_that_cannot_be_fine_tuned_is_refused_by_name(part2, name):
    with refused(ValueError, name):
        part2["pretrained_model"](name, 10)


def test_weights_that_a_gpu_saved_are_loaded(part2, tmp_path, monkeypatch):
    source = torchvision.models.squeezenet1_1()
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(source.state_dict(), tmp_path / "gpu.pth")
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
        torch.load(tmp_path / "gpu.pth", weights_only=True)
    model, _ = part2["pretrained_model"]("squeezenet1_1", 10, tmp_path / "gpu.pth")
    assert torch.equal(model.features[0].weight, source.features[0].weight)
