"""The grid search: every pair, several processes, several machines, and broken off."""

import functools
import os
import signal

import joblib
import nbformat
import pytest
import torch
from distributed import Client, LocalCluster
from torch.utils.data import TensorDataset

import utils
from tests.helpers import refused
from tools import tune

CFG = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "optimizer": "SGD"}


@pytest.fixture(scope="module")
def dataset():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (24,), generator=generator)
    return TensorDataset(
        torch.rand(24, 3, 32, 32, generator=generator) / 4 + labels.view(-1, 1, 1, 1) / 2, labels
    )


def test_every_pair_is_tried_and_the_best_wins(part2, dataset):
    model, cfg, loss, accuracy = part2["grid_search"](
        dataset, CFG, iter([1e-9, 0.01]), iter([8, 16])
    )
    table = part2["grid_search"].accuracies
    assert table.shape == (2, 2) and accuracy == table.max()
    assert (cfg["learning_rate"], cfg["batch_size"]) == (
        [1e-9, 0.01][table.argmax() % 2],
        [8, 16][table.argmax() // 2],
    )
    assert cfg["epochs"] == 2 and isinstance(model, part2["MyCNNModel"])


def test_a_point_that_diverges_loses_and_none_left_is_an_error(part2, dataset):
    cfg = part2["grid_search"](dataset, CFG, [1e30, 0.01], [8])[1]
    assert cfg["learning_rate"] == 0.01
    with refused(RuntimeError, "lower the learning rates"):
        part2["grid_search"](dataset, CFG, [1e30], [8])


@pytest.mark.parametrize(
    "rates, sizes, word",
    [(["a"], [4], "could not convert"), ([0.1], [0], "batch_size"), ([], [4], "at least one")],
)
def test_wrong_grids_are_refused(part2, dataset, rates, sizes, word):
    with refused(ValueError, word):
        part2["grid_search"](dataset, CFG, rates, sizes)


def test_a_broken_search_goes_on_with_the_points_it_has(part2, dataset, tmp_path, monkeypatch):
    run = utils.Run("quick", tmp_path, tmp_path / "work")
    whole = part2["grid_search"](dataset, CFG, [0.01, 0.02], [8, 16])
    steps, step = [], utils.Trainer._optimise

    def stop(trainer, X, Y):
        steps.append(trainer.learning_rate)
        if len(steps) == 8:  # in the second point
            raise KeyboardInterrupt
        step(trainer, X, Y)

    monkeypatch.setattr(utils.Trainer, "_optimise", stop)
    with pytest.raises(KeyboardInterrupt):
        part2["grid_search"](dataset, CFG, [0.01, 0.02], [8, 16], run=run)
    steps[:] = [0] * 9
    again = part2["grid_search"](dataset, CFG, [0.01, 0.02], [8, 16], run=run)
    assert again[1:] == whole[1:] and again[1]["optimizer"] == "SGD"
    assert 0.01 not in steps[9 : 9 + 2]  # the first point is not trained again


def kill_once(marker, images, generator):
    """An augmentation that changes nothing, but kills the process that runs it, once."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return images
    os.kill(os.getpid(), signal.SIGKILL)


def test_three_machines_one_of_them_dies(part2, dataset, tmp_path):
    expected = part2["grid_search"](dataset, CFG, [0.01, 0.02], [8, 16])
    cfg = CFG | {"augment": functools.partial(kill_once, tmp_path / "killed")}
    options = {"n_workers": 3, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        with joblib.parallel_config("dask", client=client):
            found = part2["grid_search"](dataset, cfg, [0.01, 0.02], [8, 16])
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


def test_make_tune_names_a_scheduler_of_other_machines():
    assert "Client('tcp://host:8786')" in tune.first_cell(2, "tcp://host:8786")
