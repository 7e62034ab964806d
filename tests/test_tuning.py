"""The grid search of part 2: every pair, broken off, in several processes.

Several processes are started as tools/tune.py does it, by its first cell.
"""

import contextlib
import functools
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import joblib
import nbformat
import numpy as np
import pytest
import torch
from distributed import Client, KilledWorker, LocalCluster
from distributed.scheduler import NoWorkerError
from joblib import Parallel, delayed
from torch.utils.data import Subset, TensorDataset

from tests.helpers import (
    copy_with_commands,
    offline,
    readme_command,
    refused,
    within,
)
from tools import tune
from tools.files import command
from trainer import Trainer

CFG = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "optimizer": "SGD"}
RATES = [0.01, 0.02]
SIZES = [8, 16]


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


@contextlib.contextmanager
def processes_of(first):
    """Within the block, joblib.Parallel uses what this first cell of the tool says."""
    names = {}
    with joblib.parallel_config():  # puts back what the cell changes
        exec(first, names)
        try:
            yield
        finally:
            if "client" in names:
                names["client"].close()


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
    with processes_of(tune.first_cell(2)):
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


def fail(images, generator):
    raise OSError("the disk of this machine is full")


def test_an_error_in_another_process_is_one_sentence(part2, rotated):
    cfg = {**CFG, "augment": fail}
    with processes_of(tune.first_cell(2)):
        with refused(OSError, "the disk of this machine is full"):
            part2["grid_search"](rotated, cfg, RATES, SIZES)


# --- Several machines -----------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Dask scheduler with two workers; one that dies is started anew."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


@pytest.fixture
def elsewhere(cluster):
    """The test may take a minute; joblib.Parallel uses the workers."""
    with within(60), processes_of(tune.first_cell(2, cluster.scheduler_address)):
        yield


def kill_once(marker, images, generator):
    """An augmentation that changes nothing, but kills its process, once."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return images


def test_two_machines_find_the_same_though_one_dies(
    part2, rotated, alone, elsewhere, tmp_path
):
    marker = tmp_path / "killed"
    cfg = {**CFG, "augment": functools.partial(kill_once, marker)}
    found = part2["grid_search"](rotated, cfg, RATES, SIZES)
    assert marker.exists()
    compare(found, alone)


def test_an_error_on_another_machine_is_one_sentence(part2, rotated, elsewhere):
    cfg = {**CFG, "augment": fail}
    with refused(OSError, "the disk of this machine is full"):
        part2["grid_search"](rotated, cfg, RATES, SIZES)


def test_what_no_other_machine_can_take_is_one_sentence(part2, rotated, elsewhere):
    cfg = {**CFG, "augment": functools.partial(kill_once, threading.Lock())}
    with refused(
        TypeError, "cannot be sent to another process", "'_thread.lock' object"
    ):
        part2["grid_search"](rotated, cfg, RATES, SIZES)


def test_a_task_that_each_worker_dies_of_is_one_sentence(elsewhere):
    kill = delayed(os._exit)
    with refused(KilledWorker, "on 4 different workers", "died while running it"):
        Parallel()(kill(1) for _ in range(2))


def test_without_any_worker_left_the_end_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tune, "PATIENCE", 1)
    with (
        within(60),
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        processes_of(tune.first_cell(2, cluster.scheduler_address)),
        refused(NoWorkerError, "timed out", "without any running workers"),
    ):
        Parallel()(delayed(abs)(number) for number in range(2))


# --- The tool on a small notebook -----------------------------------------------------

PROCESSES = """\
import os
import torch
from joblib import Parallel, delayed

def told(_):
    return os.getpid(), torch.get_num_threads()

found = Parallel()(delayed(told)(number) for number in range(4))
print(os.getpid() in dict(found), set(dict(found).values()))
"""
FAILS = """\
from joblib import Parallel, delayed

Parallel()(delayed(int)(text) for text in ["1", "one"])
"""


def run_tool(monkeypatch, folder, code, *arguments):
    """Run the tool in a folder with a notebook whose search is `code`; its status."""
    cells = [
        nbformat.v4.new_code_cell(code, id="tune"),
        nbformat.v4.new_code_cell("1 / 0", id="after"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, folder / tune.NOTEBOOK)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        command(tune.main)
    return ended.value.code


def test_make_tune_gives_the_notebook_several_processes_of_one_thread(
    tmp_path, monkeypatch
):
    assert run_tool(monkeypatch, tmp_path, PROCESSES, "2") is None
    *_, last = nbformat.read("build/tune.ipynb", as_version=4).cells
    assert last.outputs[0].text == "False {1}\n"


@pytest.mark.soak
def test_an_error_on_another_machine_ends_the_tool_in_a_sentence(
    cluster, tmp_path, monkeypatch
):
    for name in ("tools", "utils.py"):  # its kernel imports them
        (tmp_path / name).symlink_to(Path(name).resolve())
    address = cluster.scheduler_address
    with within(120):
        told = run_tool(monkeypatch, tmp_path, FAILS, "--scheduler", address)
    place = f"{tune.NOTEBOOK}, code cell 2"
    reason = "ValueError: invalid literal for int() with base 10: 'one'"
    assert told == f"stopped: {place}: {reason}"


# --- The real notebook, as README.md says ---------------------------------------------


def tune_as_typed(line, folder):
    """Type a line that tunes the notebook; the last that its search prints."""
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=offline(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    *_, last = nbformat.read(folder / "build/tune.ipynb", as_version=4).cells
    *_, printed = last.outputs
    assert "Best model achieves" in printed.text
    return printed.text


@contextlib.contextmanager
def started(line, folder):
    """Within the block, what this line starts is running."""
    process = subprocess.Popen(
        ["sh", "-c", line],
        cwd=folder,
        env=offline(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def kill_a_busy_worker(client, pids):
    """Wait until workers compute, then kill one of them: {address: process id}."""
    busy = []
    while not busy:
        time.sleep(0.1)
        processing = client.processing()
        busy = [address for address, tasks in processing.items() if tasks]
    time.sleep(1)
    os.kill(pids[busy[0]], signal.SIGKILL)


def typed_here(word):
    """The line of README.md with this word, where `first` is this machine."""
    return readme_command(word).replace("//first", "//127.0.0.1")


@pytest.mark.soak
def test_the_notebook_as_typed_in_two_processes_and_on_two_machines(tmp_path):
    folder = copy_with_commands(tmp_path / "Übung 2 (final)")
    here = tune_as_typed(readme_command("make tune"), folder)
    with (
        started(typed_here("dask_scheduler"), folder),
        started(typed_here("dask_worker"), folder),
        Client("tcp://127.0.0.1:8786", timeout=60) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        pids = client.run(os.getpid)
        assert len(pids) == 2
        killer = threading.Thread(target=kill_a_busy_worker, args=(client, pids))
        killer.start()
        elsewhere = tune_as_typed(typed_here("--scheduler"), folder)
        killer.join()
        client.wait_for_workers(2, timeout=60)
        assert client.run(os.getpid) != pids
    assert elsewhere == here
