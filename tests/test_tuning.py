"""A grid search that processes share: each point once, whoever dies."""
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import optuna
import pytest

import utils

ROOT = pathlib.Path(__file__).parent.parent
CFG = utils.Config(batch_size=16, epochs=4, learning_rate=0.02, seed=3)
POINTS = [dict(learning_rate=rate, batch_size=size) for rate in (0.1, 0.2, 0.3) for size in (16, 32)]
SEARCH = """
import sys, time, utils
from tests.test_tuning import CFG, POINTS
grid = utils.SharedGrid(sys.argv[1], POINTS, CFG, patience=3)
def train(point, report):
    print("start", point, flush=True)
    for epoch in range(3):
        time.sleep(0.3)
        report(epoch, POINTS[point]["learning_rate"] + epoch)
grid.run(train)
print("best", grid.best(), flush=True)
"""


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT)


@pytest.mark.parametrize("storage", ["grpc://nowhere", "grpc://:1", "grpc://host:port"])
def test_a_wrong_address_is_refused(storage):
    with pytest.raises(ValueError, match="storage is .*grpc://host:port"):
        utils.SharedGrid(storage, POINTS, CFG)


def finished(storage):
    """Number of finished trials of each point, and the lines of the searches."""
    trials = utils.SharedGrid(storage, POINTS, CFG).study.get_trials()
    done = [trial.user_attrs["point"] for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    return [done.count(point) for point in range(len(POINTS))]


def search_with_one_kill(storage):
    processes = [start(SEARCH, storage) for _ in range(3)]
    assert "start" in processes[0].stdout.readline()
    processes[0].kill()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0, 0]
    best = [output.splitlines()[-1] for output in outputs[1:]]
    assert best[0] == best[1] and best[0].startswith("best")


def test_three_workers_on_one_journal_one_of_them_killed(tmp_path):
    search_with_one_kill(tmp_path)
    assert finished(tmp_path) == [1] * len(POINTS)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_three_workers_over_grpc_one_of_them_killed(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen([sys.executable, "tools/tune.py", "--serve", address], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PS2_STORAGE": str(tmp_path)})
    try:
        assert "serving" in server.stdout.readline()
        search_with_one_kill(f"grpc://{address}")
    finally:
        server.kill()
        server.wait()
    assert finished(tmp_path) == [1] * len(POINTS)


def test_make_tune_runs_the_cells_of_the_notebook_in_several_processes(tmp_path):
    offline = {"https_proxy": "http://127.0.0.1:9", "EUROSAT_ROOT": str(tmp_path / "none"), "EUROSAT_REQUIRED": "0"}
    done = subprocess.run([sys.executable, "tools/tune.py", "2"], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, **offline, "PS2_PROFILE": "quick", "PS2_STORAGE": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("2 of 2 workers came to the end:")[1].count("best: learning rate") == 1  # they agree
    assert "worker 1: rate 0.0" in done.stdout and "worker 2: rate 0.0" in done.stdout  # each trained one of the two points


def test_a_search_goes_on_after_all_processes_died(tmp_path):
    process = start(SEARCH, tmp_path)
    for _ in range(3):
        process.stdout.readline()
    process.kill()
    process.wait()
    output = start(SEARCH, tmp_path).communicate(timeout=60)[0]
    assert output.count("start") < len(POINTS) and finished(tmp_path) == [1] * len(POINTS)


def test_a_diverging_point_counts_as_stopped_and_none_left_is_an_error():
    def train(point, report):
        raise FloatingPointError
    grid = utils.SharedGrid(None, POINTS, CFG)
    grid.run(train)
    assert {trial.state for trial in grid.study.trials} == {optuna.trial.TrialState.PRUNED}
    with pytest.raises(RuntimeError, match="lower the learning rates"):
        grid.best()
