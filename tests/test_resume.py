"""Trainings that stop and go on: checkpoints, kills, grids shared by processes."""
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import utils
from tools.notebook import definitions

RECIPE = definitions("ps2_eurosat.ipynb")
CFG = utils.Config(batch_size=16, epochs=4, learning_rate=0.02, optimizer=RECIPE["Muon"], seed=3, warm_up=0.1, average=0.9)
WORKER = """
import sys, torch, utils
from tests.test_resume import CFG, dataset, model
trainer = utils.Trainer(model(), CFG)
trainer.train(dataset(), checkpoint=sys.argv[1])
torch.save(trainer.model.state_dict(), sys.argv[2])
"""
SEARCH = """
import sys, time, utils
from tests.test_resume import CFG, POINTS
grid = utils.SharedGrid(sys.argv[1], POINTS, CFG, patience=3)
def train(point, report):
    print("start", point, flush=True)
    for epoch in range(3):
        time.sleep(0.3)
        report(epoch, POINTS[point]["learning_rate"] + epoch)
grid.run(train)
print("best", grid.best(), flush=True)
"""
POINTS = [dict(learning_rate=rate, batch_size=size) for rate in (0.1, 0.2, 0.3) for size in (16, 32)]


def dataset():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(40, 3, 8, 8, generator=generator), torch.randint(0, 4, (40,), generator=generator))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 4))


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=pathlib.Path(__file__).parent.parent)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, RECIPE["Muon"]])
@pytest.mark.parametrize("stop", [0, 2, 3])
def test_a_resumed_training_ends_bit_identical(tmp_path, optimizer, stop):
    cfg = dataclasses.replace(CFG, optimizer=optimizer)
    whole, first, second = (utils.Trainer(model(), cfg) for _ in range(3))
    curves = whole.train(dataset())

    def interrupt(epoch):
        if epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.train(dataset(), after_epoch=interrupt, checkpoint=tmp_path / "a.pt")
    assert all(map(torch.isfinite, first.predict(dataset())[0].flatten()))  # an interrupted model is usable
    assert second.train(dataset(), checkpoint=tmp_path / "a.pt") == curves
    assert torch.equal(weights(whole), weights(second))


def test_a_finished_training_is_read_back(tmp_path):
    trainers = [utils.Trainer(model(), CFG) for _ in range(2)]
    curves = [trainer.train(dataset(), checkpoint=tmp_path / "a.pt") for trainer in trainers]
    assert curves[0] == curves[1] and torch.equal(*map(weights, trainers))


def test_a_killed_training_goes_on(tmp_path):
    """SIGKILL at random times, until the training ends; the weights are those of an undisturbed one."""
    whole, kills, times = utils.Trainer(model(), CFG), 0, random.Random(0)
    whole.train(dataset())
    for _ in range(3):
        process = start(WORKER, tmp_path / "a.pt", tmp_path / "end.pt")
        while not (tmp_path / "a.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(times.uniform(0, 0.05))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills and start(WORKER, tmp_path / "a.pt", tmp_path / "end.pt").wait() == 0
    end = torch.load(tmp_path / "end.pt", weights_only=True)
    assert all(torch.equal(end[name], value) for name, value in whole.model.state_dict().items())


@pytest.mark.parametrize("change", [dict(learning_rate=0.03), dict(seed=4), dict(optimizer=torch.optim.SGD),
                                    dict(criterion=nn.CrossEntropyLoss(label_smoothing=0.2))])
def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path, change):
    utils.Trainer(model(), CFG).train(dataset(), checkpoint=tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"a.pt is of another training: {next(iter(change))}"):
        utils.Trainer(model(), dataclasses.replace(CFG, **change)).train(dataset(), checkpoint=tmp_path / "a.pt")


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, keep):
    file = tmp_path / "a.pt"
    utils.Trainer(model(), CFG).train(dataset(), checkpoint=file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="a.pt is no readable checkpoint"):
        utils.Trainer(model(), CFG).train(dataset(), checkpoint=file)


def test_out_of_memory_suggests_a_batch_size():
    class Greedy(nn.Module):
        def forward(self, x):
            return x.flatten(1).repeat(1, 10**9)[:, :4]
    with pytest.raises(MemoryError, match="set batch_size to 8"):
        utils.Trainer(Greedy(), dataclasses.replace(CFG, optimizer=lambda p, lr: None)).iter_step(*dataset()[:16])


@pytest.mark.parametrize("field, value", [("batch_size", 0), ("batch_size", 2.5), ("epochs", -1), ("learning_rate", 0), ("views", 3),
                                          ("optimizer", "adam"), ("criterion", "mse"), ("warm_up", 2), ("average", 1), ("clip", None)])
def test_wrong_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*allowed"):
        utils.Config(**{field: value})


def test_other_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="momentum"):
        utils.Config.of(dict(momentum=0.9))
    with pytest.raises(ValueError, match="device is 'tpu9'"):
        utils.Trainer(model(), CFG, device="tpu9")
    with pytest.raises(ValueError, match="dataset is empty"):
        utils.Trainer(model(), CFG).train(TensorDataset(torch.rand(0, 3, 8, 8), torch.zeros(0)))
    with pytest.raises(ValueError, match="classes 0 to 3"):
        utils.Trainer(model(), CFG).iter_step(torch.rand(2, 3, 8, 8), torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="grpc://host:port"):
        utils.SharedGrid("grpc://nowhere", POINTS, CFG)


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


def test_three_workers_over_grpc_one_of_them_killed(tmp_path):
    port = random.Random().randrange(20000, 30000)
    code = ("import sys, optuna, utils; optuna.storages.run_grpc_proxy_server(utils._open_storage(sys.argv[1])[0], "
            "host='127.0.0.1', port=int(sys.argv[2]))")
    server = start(code, tmp_path, port)
    try:
        time.sleep(4)
        search_with_one_kill(f"grpc://127.0.0.1:{port}")
    finally:
        server.kill()
    assert finished(tmp_path) == [1] * len(POINTS)


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
