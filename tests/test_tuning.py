"""The grid search of part 2: every pair, broken off, in several processes."""

import functools
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import joblib
import nbformat
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from torch.utils.data import Subset, TensorDataset

from tests.helpers import refused, within
from tools import tune
from tools.notebook import execute
from trainer import Trainer

CFG = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "optimizer": "SGD"}
RATES = [0.01, 0.02]
SIZES = [8, 16]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data():
    """24 images of two shades of grey."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (24,), generator=generator)
    noise = torch.rand(24, 3, 32, 32, generator=generator) / 4
    return TensorDataset(noise + labels.view(-1, 1, 1, 1) / 2, labels)


@pytest.fixture(scope="module")
def search(part2, data):
    """grid_search on these images."""
    return functools.partial(part2["grid_search"], data)


@pytest.fixture(scope="module")
def expected(search):
    """What the search finds in this process."""
    return search(CFG, RATES, SIZES)


# --- Pairs ----------------------------------------------------------------------------


def test_each_pair_is_listed_once(part2):
    assert part2["grid_pairs"](RATES, iter(SIZES)) == [
        {"learning_rate": 0.01, "batch_size": 8},
        {"learning_rate": 0.02, "batch_size": 8},
        {"learning_rate": 0.01, "batch_size": 16},
        {"learning_rate": 0.02, "batch_size": 16},
    ]


@pytest.mark.parametrize(
    "kind, other",
    [
        pytest.param(iter, 1e-9, id="iterators, and a rate that is too low"),
        pytest.param(np.array, 1e30, id="arrays, and a rate that diverges"),
    ],
)
def test_every_pair_is_tried_and_the_best_wins(search, kind, other):
    rates = [other, 0.01]
    model, cfg, loss, accuracy = search(CFG, kind(rates), kind(SIZES))
    assert model.grid.shape == (2, 2)
    assert accuracy == model.grid.max()
    assert np.isfinite(loss)
    row, column = divmod(model.grid.argmax(), 2)
    assert cfg["learning_rate"] == rates[column]
    assert cfg["batch_size"] == SIZES[row]
    assert cfg["epochs"] == 2
    assert type(cfg["batch_size"]) is int


def test_a_diverging_point_counts_as_wrong_on_all_images(search):
    model, _, _, _ = search(CFG, [1e30, 0.01], [8])
    assert model.grid[0, 0] == 0
    assert model.grid[0, 1] > 0


def test_the_best_model_is_the_one_that_was_measured(part2, data):
    train = Subset(data, range(16))
    held_out = Subset(data, range(16, 24))
    model, cfg, loss, accuracy = part2["grid_search"](
        train, CFG, RATES, SIZES, validation=held_out
    )
    losses, accuracies = Trainer(model, cfg, "cpu").test(held_out, label="")
    assert accuracies[-1] == accuracy
    assert losses[-1] == pytest.approx(loss)


@pytest.mark.parametrize(
    "rates, sizes, kind, words",
    [
        pytest.param(["a"], [4], ValueError, "learning_rate", id="a text as rate"),
        pytest.param([0.1], [0], ValueError, "batch_size", id="no image a batch"),
        pytest.param([], [4], ValueError, "at least one value", id="no rate"),
        pytest.param([0.1], [], ValueError, "at least one value", id="no batch size"),
        pytest.param(
            [1e30], [8], RuntimeError, "lower the learning rates", id="all diverge"
        ),
    ],
)
def test_wrong_grids_are_refused(search, rates, sizes, kind, words):
    with refused(kind, words):
        search(CFG, rates, sizes)


# --- A full run that breaks off -------------------------------------------------------


class Interruption:
    """An augmentation that changes nothing, and interrupts a training.

    `steps` counts how often it was called, `after` is how many of them pass. A full run
    takes two such objects for the same augmentation: they say nothing of themselves.
    """

    def __init__(self, after):
        self.after = after
        self.steps = 0

    def __call__(self, images, generator):
        if self.steps == self.after:
            raise KeyboardInterrupt
        self.steps += 1
        return images


def test_a_full_search_goes_on_with_the_points_it_has_finished(
    search, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    points = Path("build/work-full/grid")
    # 19 images: 6 steps with batches of 8, 4 with batches of 16, in two epochs
    interruption = Interruption(after=8)  # in the second point
    with pytest.raises(KeyboardInterrupt):
        search({**CFG, "augment": interruption}, RATES, SIZES, profile="full")
    (finished,) = points.iterdir()
    assert finished.name == "rate 0.01, batch 8.pt"
    others = Interruption(after=100)
    model, cfg, loss, accuracy = search(
        {**CFG, "augment": others}, RATES, SIZES, profile="full"
    )
    assert others.steps == 6 + 4 + 4  # the first point is not trained again
    assert len(list(points.iterdir())) == 4
    expected_model, expected_cfg, *expected_scores = expected
    assert [loss, accuracy] == expected_scores
    assert cfg["learning_rate"] == expected_cfg["learning_rate"]
    assert cfg["batch_size"] == expected_cfg["batch_size"]
    assert np.array_equal(model.grid, expected_model.grid)
    none = Interruption(after=0)
    _, _, *again = search({**CFG, "augment": none}, RATES, SIZES, profile="full")
    assert again == expected_scores


def test_points_of_other_settings_are_refused(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(CFG, [0.01], [8], profile="full")
    Path("build/work-full/grid.pt").unlink()
    with refused(ValueError, "rate 0.01, batch 8.pt does not fit", "remove it"):
        search({**CFG, "seed": 1}, [0.01], [8], profile="full")


# --- Several processes ----------------------------------------------------------------


@pytest.fixture(scope="module")
def rotated(part2, data):
    """The images as a RotateEuroSAT, which no other process can take as it is."""
    return part2["RotateEuroSAT"](data, 24, [0.5, 0.5])


@pytest.fixture(scope="module")
def alone(part2, rotated):
    """What the search finds on them in this process."""
    return part2["grid_search"](rotated, CFG, RATES, SIZES)


def keep_process(folder, images, generator):
    """An augmentation that changes nothing; leaves a file named after its process."""
    Path(folder, str(os.getpid())).touch()
    return images


def test_two_processes_find_the_same(part2, rotated, alone, tmp_path):
    cfg = {**CFG, "augment": functools.partial(keep_process, tmp_path)}
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        found = part2["grid_search"](rotated, cfg, RATES, SIZES)
    assert 1 <= len(os.listdir(tmp_path)) <= 2
    assert str(os.getpid()) not in os.listdir(tmp_path)
    compare(found, alone)


def compare(found, expected):
    """The same but for last digits, which other threads may change."""
    model, cfg, loss, accuracy = found
    expected_model, expected_cfg, expected_loss, expected_accuracy = expected
    assert loss == pytest.approx(expected_loss, abs=1e-4)
    assert accuracy == pytest.approx(expected_accuracy, abs=1e-4)
    assert cfg["learning_rate"] == expected_cfg["learning_rate"]
    assert cfg["batch_size"] == expected_cfg["batch_size"]
    assert model.grid == pytest.approx(expected_model.grid, abs=1e-4)


def kill_once(marker, images, generator):
    """An augmentation that changes nothing, but kills its process, once."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return images


def test_three_machines_one_of_them_dies(part2, rotated, alone, tmp_path):
    marker = tmp_path / "killed"
    cfg = {**CFG, "augment": functools.partial(kill_once, marker)}
    with (
        within(300),
        LocalCluster(3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        joblib.parallel_config("dask", client=client),
    ):
        found = part2["grid_search"](rotated, cfg, RATES, SIZES)
    assert marker.exists()
    compare(found, alone)


def fail(images, generator):
    raise OSError("the disk of this machine is full")


def test_an_error_in_another_process_is_one_sentence(part2, rotated):
    cfg = {**CFG, "augment": fail}
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        with refused(OSError, "the disk of this machine is full"):
            part2["grid_search"](rotated, cfg, RATES, SIZES)


# --- The real notebook ----------------------------------------------------------------

PROCESSES = """\
import os
import torch
from joblib import Parallel, delayed

def told(_):
    return os.getpid(), torch.get_num_threads()

found = Parallel()(delayed(told)(number) for number in range(4))
print(os.getpid() in dict(found), set(dict(found).values()))
"""


def test_make_tune_gives_the_notebook_several_processes_of_one_thread(
    tmp_path, monkeypatch
):
    cells = [
        nbformat.v4.new_code_cell(PROCESSES, id="tune"),
        nbformat.v4.new_code_cell("1 / 0", id="after"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, tmp_path / tune.NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tune", "2"])
    tune.main()
    *_, last = nbformat.read("build/tune.ipynb", as_version=4).cells
    assert last.outputs[0].text == "False {1}\n"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder with part 2 and its modules, from which only the stand-in can be had."""
    for path in [*ROOT.glob("*.py"), ROOT / "ps2_eurosat.ipynb"]:
        shutil.copy(path, tmp_path)
    monkeypatch.setenv("PS2_PROFILE", "quick")
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path / "data"))
    monkeypatch.delenv("EUROSAT_REQUIRED", raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path


def tune_notebook(folder, first):
    """Execute part 2 up to its search after a cell `first`; the search's last line."""
    notebook = folder / "ps2_eurosat.ipynb"
    with within(900):
        out = execute(notebook, folder / "tune.ipynb", until="tune", first=first)
    *_, last = nbformat.read(out, as_version=4).cells
    *_, printed = last.outputs
    assert "Best model achieves" in printed.text
    return printed.text


LOKY = """\
import joblib

joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1)
"""
DASK = """\
import joblib
from distributed import Client

client = Client({!r})
joblib.parallel_config("dask", client=client)
"""


def kill_a_busy_worker(client, pids):
    """Wait until workers compute, then kill one of them: {address: process id}."""
    busy = []
    while not busy:
        time.sleep(0.1)
        processing = client.processing()
        busy = [address for address, tasks in processing.items() if tasks]
    time.sleep(1)
    os.kill(pids[busy[0]], signal.SIGKILL)


@pytest.mark.soak
def test_the_notebook_itself_in_two_processes_and_on_two_machines_one_dies(stand_in):
    here = tune_notebook(stand_in, LOKY)
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        killer = threading.Thread(target=kill_a_busy_worker, args=(client, pids))
        killer.start()
        elsewhere = tune_notebook(stand_in, DASK.format(cluster.scheduler_address))
        killer.join()
        client.wait_for_workers(2, timeout=60)
        assert client.run(os.getpid) != pids
    assert elsewhere == here
