"""The grid search: every pair, several processes, several machines, and broken off."""

import functools
import os
import signal

import joblib
import nbformat
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from torch.utils.data import TensorDataset

import utils
from tests.helpers import refused
from tools import tune

CFG = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "optimizer": "SGD"}
RATES, SIZES = [0.01, 0.02], [8, 16]


@pytest.fixture(scope="module")
def search(part2):
    """grid_search on 24 images of two shades of grey."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (24,), generator=generator)
    images = torch.rand(24, 3, 32, 32, generator=generator) / 4 + labels.view(-1, 1, 1, 1) / 2
    return functools.partial(part2["grid_search"], TensorDataset(images, labels))


@pytest.mark.parametrize("kind, other", [(iter, 1e-9), (np.array, 1e30)])  # too slow, diverging
def test_every_pair_is_tried_and_the_best_wins(search, kind, other):
    rates = [other, 0.01]
    model, cfg, loss, accuracy = search(CFG, kind(rates), kind(SIZES))
    assert model.grid.shape == (2, 2) and accuracy == model.grid.max()
    row, column = divmod(model.grid.argmax(), 2)
    assert (cfg["learning_rate"], cfg["batch_size"]) == (rates[column], SIZES[row])
    assert cfg["epochs"] == 2 and type(cfg["batch_size"]) is int


WRONG = [(["a"], [4], ValueError, "learning_rate"), ([0.1], [0], ValueError, "batch_size")]
WRONG += [([], [4], ValueError, "at least one"), ([1e30], [8], RuntimeError, "lower the learning")]


@pytest.mark.parametrize("rates, sizes, kind, word", WRONG)
def test_wrong_grids_are_refused(search, rates, sizes, kind, word):
    with refused(kind, word):
        search(CFG, rates, sizes)


def test_a_broken_search_goes_on_with_the_points_it_has(search, tmp_path, monkeypatch):
    for name in ("BUILD", "WORK"):
        monkeypatch.setattr(utils, name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    whole, rates, step = search(CFG, RATES, SIZES), [], utils.Trainer.iter_step

    def counted(trainer, X, Y):
        rates.append(trainer.learning_rate)
        if len(rates) == 8:  # in the second point
            raise KeyboardInterrupt
        return step(trainer, X, Y)

    monkeypatch.setattr(utils.Trainer, "iter_step", counted)
    with pytest.raises(KeyboardInterrupt):
        search(CFG, RATES, SIZES, profile="full")
    rates[:] = [0] * 9
    again = search(CFG, RATES, SIZES, profile="full")
    assert again[1:] == whole[1:] and rates[9] == 0.02  # the first point is not trained again


def kill_once(marker, images, generator):
    """An augmentation that changes nothing, but kills the process that runs it, once."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return images


def test_three_machines_one_of_them_dies(search, tmp_path):
    expected = search(CFG, RATES, SIZES)
    cfg = CFG | {"augment": functools.partial(kill_once, tmp_path / "killed")}
    options = {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        with joblib.parallel_config("dask", client=client):
            found = search(cfg, RATES, SIZES)
    assert (tmp_path / "killed").exists()
    assert found[2:] == pytest.approx(expected[2:], abs=1e-4)  # other threads, other last digits
    assert found[1]["learning_rate"] == expected[1]["learning_rate"]


def test_make_tune_gives_the_notebook_several_processes_of_one_thread(tmp_path, monkeypatch):
    code = "import os, torch\nfrom joblib import Parallel, delayed\n"
    code += "def told(_): return os.getpid(), torch.get_num_threads()\n"
    code += "pairs = Parallel()(delayed(told)(n) for n in range(4))\n"
    code += "print(os.getpid() in dict(pairs), set(dict(pairs).values()))"
    cells = [nbformat.v4.new_code_cell(code, id="tune"), nbformat.v4.new_code_cell("1/0", id="x")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / tune.NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tune", "2"])
    tune.main()
    *_, last = nbformat.read("build/tune.ipynb", as_version=4).cells
    assert last.outputs[0].text == "False {1}\n"
    assert "Client('tcp://host:8786')" in tune.first_cell(2, "tcp://host:8786")
