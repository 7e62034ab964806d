"""Arguments of part 2 as people give them: datasets, grids, pretrained networks and weights."""

import os
import pickle

import pytest
import torch
import torchvision
from torch.utils.data import TensorDataset

import utils
from tests.helpers import Harm, refused

CFG = {"batch_size": 4, "epochs": 2, "learning_rate": 0.125, "seed": 3}
DATA = TensorDataset(torch.rand(8, 3, 4, 4), torch.arange(8) % 3)


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


def test_weights_run_nothing(part2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Harm()}, "weights.pth")
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        part2["pretrained_model"]("squeezenet1_1", 10, "weights.pth")
    assert os.listdir() == ["weights.pth"]
