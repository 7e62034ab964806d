"""Faults of a training, each caused for real: stopped, killed, interrupted, out of memory, diverging, with a damaged checkpoint."""
import contextlib
import dataclasses
import io
import math
import multiprocessing
import os
import pathlib
import pickle
import random
import resource
import signal
import time

import pytest
import torch
from jupyter_client.manager import start_new_kernel
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

import utils
from tools.notebook import definitions

RECIPE = definitions("ps2_eurosat.ipynb")
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["utils"])
CFG = utils.Config(batch_size=16, epochs=2, learning_rate=1e-2, optimizer=RECIPE["Muon"], seed=3, warm_up=0.1, clip=1.0,
                   average=0.9, augment=RECIPE["random_views_and_shift"], transform=v2.Normalize([0.5] * 3, [0.2] * 3))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Dropout(0.2), nn.Linear(64, 4))


def pictures(seed=0, number=40):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(number, 3, 12, 12, generator=generator), torch.randint(0, 4, (number,), generator=generator))


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Stopped and started again

@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, RECIPE["Muon"]])
@pytest.mark.parametrize("stop", [0, 1])
def test_a_resumed_training_ends_bit_identical(tmp_path, optimizer, stop):
    cfg = dataclasses.replace(CFG, epochs=3, optimizer=optimizer)
    whole, first, second, third = (utils.Trainer(model(), cfg, "cpu") for _ in range(4))
    curves = whole.train(pictures(), label="")

    def interrupt(epoch):
        if epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.train(pictures(), label="", after_epoch=interrupt, checkpoint=tmp_path / "state.pt")
    for trainer in (second, third):  # the third reads back a finished training
        assert trainer.train(pictures(), label="", checkpoint=tmp_path / "state.pt") == curves
        assert same(state(whole.model), state(trainer.model))


# Killed

def train_apart(folder, epochs, begun=None):
    """In a process of its own: train with a checkpoint; what came out lies in the file `end`."""
    torch.set_num_threads(1)
    trainer = utils.Trainer(model(), dataclasses.replace(CFG, epochs=epochs), "cpu")
    step = trainer.iter_step
    trainer.iter_step = lambda X, Y: begun.set() or step(X, Y) if begun else step(X, Y)
    curves = trainer.train(pictures(), label="", checkpoint=folder / "state.pt")
    torch.save({"weights": state(trainer.model), "losses": curves[0], "accuracies": curves[1]}, folder / "end")


def start(folder, epochs):
    begun = APART.Event()
    process = APART.Process(target=train_apart, args=(folder, epochs, begun))
    process.start()
    assert begun.wait(60)
    return process


@pytest.mark.parametrize("trainings, epochs", [(4, 60), pytest.param(20, 200, marks=pytest.mark.soak)])
def test_killed_at_random_times_it_ends_with_the_same_weights(tmp_path, trainings, epochs):
    whole = tmp_path / "whole"
    whole.mkdir()
    process = start(whole, epochs)
    began = time.monotonic()
    process.join()
    seconds, expected = time.monotonic() - began, torch.load(whole / "end", weights_only=True)
    assert len(expected["losses"]) == 3 * epochs
    chance, kills, resumed, halves = random.Random(1), 0, 0, 0
    for number in range(trainings):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(5):
            resumed += (folder / "state.pt").exists()
            process = start(folder, epochs)
            time.sleep(chance.uniform(0, seconds / 6))
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        halves += len(list(folder.glob("*.part.pt")))
        if not (folder / "end").exists():
            process = start(folder, epochs)
            process.join()
        found = torch.load(folder / "end", weights_only=True)
        assert same(found["weights"], expected["weights"])
        assert found["losses"] == expected["losses"] and found["accuracies"] == expected["accuracies"]
    print(f"{kills} kills survived with equal weights; {resumed} starts from a checkpoint, {halves} kills in the middle of writing one")
    assert kills > 4 * trainings and resumed > trainings


# Interrupted

def interrupted_apart(answer, begun):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
    torch.set_num_threads(1)
    trainer = utils.Trainer(model(), dataclasses.replace(CFG, epochs=10**6), "cpu")
    before, step = state(trainer.model), trainer.iter_step
    trainer.iter_step = lambda X, Y: begun.set() or step(X, Y)
    try:
        trainer.train(pictures(), label="")
    except KeyboardInterrupt:
        loss, accuracy = (values[-1] for values in trainer.test(pictures(), label=""))
        trainer.cfg = dataclasses.replace(trainer.cfg, epochs=1)
        again = trainer.train(pictures(), label="")
        answer.put((math.isfinite(loss), 0 <= accuracy <= 1, same(before, state(trainer.model)), len(again[0])))


@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_interrupted_training_leaves_a_usable_model(times):
    chance = random.Random(2)
    for _ in range(times):
        answer, begun = APART.Queue(), APART.Event()
        process = APART.Process(target=interrupted_apart, args=(answer, begun))
        process.start()
        assert begun.wait(60)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGINT)
        assert answer.get(timeout=60) == (True, True, False, 3)
        process.join()
    print(f"{times} interruptions, each with a usable model after it")


@pytest.mark.soak
def test_interrupted_kernel_of_a_notebook_keeps_the_model():
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        def text_of(code):
            lines = []
            client.execute_interactive(code, timeout=60, output_hook=lambda message: lines.append(
                message["content"].get("text", message["content"].get("ename", ""))))
            return "".join(lines)
        text_of("import dataclasses, utils; from tests.test_faults_training import *\n"
                "trainer = Trainer = utils.Trainer(model(), dataclasses.replace(CFG, epochs=10**6))")
        client.execute("trainer.train(pictures())")
        time.sleep(3)
        manager.interrupt_kernel()
        client.get_shell_msg(timeout=60)  # what is sent before the answer to the interrupted cell is dropped by the kernel
        assert "0 <= 1" in text_of("accuracy = trainer.test(pictures())[1][-1]; print('0 <= 1' if 0 <= accuracy <= 1 else accuracy)")
        assert "True" in text_of("print(trainer.averaged is None and all(p.isfinite().all() for p in trainer.model.parameters()))")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# Out of memory, diverging

def hungry_apart(answer):
    torch.set_num_threads(1)
    trainer = utils.Trainer(model(), CFG, "cpu")
    X, Y = torch.zeros(4000, 3, 64, 64, dtype=torch.uint8), torch.zeros(4000, dtype=torch.long)
    taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**27, unlimited[1]))  # less than the pictures take as float32
    try:
        trainer.iter_step(X, Y)
    except MemoryError as error:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)  # other processes may take what is left: not what is tested here
        answer.put((str(error), math.isfinite(trainer.iter_step(X[:4], Y[:4])[0])))
    except BaseException as error:
        answer.put((repr(error), False))


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="Linux tells what the process has taken")
def test_out_of_memory_suggests_half_the_batch_and_training_can_go_on():
    answer = APART.Queue()
    process = APART.Process(target=hungry_apart, args=(answer,))
    process.start()
    assert answer.get(timeout=60) == ("no memory for a batch of 4000 pictures: set batch_size to 2000 or less", True)
    process.join()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_out_of_memory_of_a_gpu_suggests_half_the_batch():
    size = torch.cuda.mem_get_info()[0] // (64 * 64 * 64 * 4)
    with pytest.raises(MemoryError, match="set batch_size to"):
        utils.Trainer(model(), CFG, "cuda").iter_step(torch.zeros(size, 3, 64, 64), torch.zeros(size, dtype=torch.long))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_diverging_training_stops_by_name_with_finite_weights(average):
    cfg = dataclasses.replace(CFG, optimizer=torch.optim.SGD, learning_rate=1e25, average=average, epochs=20, clip=math.inf, warm_up=0)
    trainer = utils.Trainer(model(), cfg, "cpu")
    with pytest.raises(FloatingPointError, match="lower learning_rate .now 1e.25. or set clip"):
        trainer.train(pictures(), label="")
    assert all(value.isfinite().all() for value in trainer.model.parameters())


def test_gradient_that_is_not_finite_never_reaches_the_weights():
    class Root(nn.Module):
        """A finite loss with an infinite slope."""

        def forward(self, scores, labels):
            return (scores - scores.detach()).abs().sqrt().sum()

    trainer = utils.Trainer(model(), dataclasses.replace(CFG, criterion=Root(), epochs=1, batch_size=40), "cpu")
    before = state(trainer.model)
    with pytest.raises(FloatingPointError, match="gradient"):
        trainer.train(pictures(), label="")
    assert same(before, state(trainer.model))


# Checkpoints

@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint after one epoch of two; its bytes, and the weights at the end."""
    path = tmp_path_factory.mktemp("checkpoint") / "state.pt"
    trainer = utils.Trainer(model(), CFG, "cpu")

    def copy(epoch):
        if epoch == 0:
            path.with_suffix(".one").write_bytes(path.read_bytes())
    trainer.train(pictures(), label="", checkpoint=path, after_epoch=copy)
    return path.with_suffix(".one").read_bytes(), state(trainer.model)


def resume(path, cfg=CFG, data=None, network=None):
    trainer = utils.Trainer(network or model(), cfg, "cpu")
    trainer.train(data or pictures(), label="", checkpoint=path)
    return state(trainer.model)


@contextlib.contextmanager
def refused(path, *words):
    before = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        yield
    text = str(caught.value)
    assert text.startswith(str(path)) and "emove it" in text and "\n" not in text and all(word in text for word in words), text
    assert path.read_bytes() == before


OTHERS = dict(batch_size=20, criterion=nn.CrossEntropyLoss(label_smoothing=0.1), epochs=3, learning_rate=1e-3, seed=4,
              optimizer=torch.optim.AdamW, warm_up=0.2, clip=2.0, average=0.8, augment=None, transform=None, views=8)


@pytest.mark.parametrize("field", [*OTHERS, "loss weights", "pictures", "number", "weights"])
def test_checkpoint_of_another_training_is_refused_by_name(checkpoint, tmp_path, field):
    path = tmp_path / "state.pt"
    path.write_bytes(checkpoint[0])
    cases = {"pictures": dict(data=pictures(seed=1)), "number": dict(data=pictures(number=39)),
             "weights": dict(network=model().apply(lambda layer: setattr(layer, "bias", None) if hasattr(layer, "bias") else 0)),
             "loss weights": dict(cfg=dataclasses.replace(CFG, criterion=nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 4]))))}
    arguments = cases.get(field) or dict(cfg=dataclasses.replace(CFG, **{field: OTHERS[field]}))
    with refused(path, "is of another training", {"loss weights": "criterion", "number": "pictures"}.get(field, field)):
        resume(path, **arguments)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_checkpoint_cut_off_is_refused_by_name(checkpoint, tmp_path, share):
    path = tmp_path / "state.pt"
    path.write_bytes(checkpoint[0][:int(len(checkpoint[0]) * share)])
    with refused(path, "is no readable checkpoint"):
        resume(path)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def torch_bytes(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"text", pickle.dumps(Harm()), torch_bytes(Harm()), torch_bytes([1]), torch_bytes({"of": [1]}),
                                     torch_bytes(model().state_dict()), torch_bytes({"of": {}})],
                         ids=["text", "pickle", "object", "list", "list of", "weights", "empty"])
def test_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with refused(path):
        resume(path)
    assert not pathlib.Path("harm").exists()


@pytest.mark.parametrize("name", ["model", "averaged", "optimizer", "schedule", "order", "random", "epochs", "losses", "seconds"])
def test_checkpoint_with_a_part_missing_is_refused_by_name(checkpoint, tmp_path, name):
    path = tmp_path / "state.pt"
    content = torch.load(io.BytesIO(checkpoint[0]), weights_only=True)
    del content[name]
    torch.save(content, path)
    with refused(path, "is no readable checkpoint"):
        resume(path)


@pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.soak)])
def test_checkpoint_with_wrong_bits_is_refused_or_ends_with_the_same_weights(checkpoint, tmp_path, cases):
    path, chance, refusals = tmp_path / "state.pt", random.Random(3), 0
    for case in range(cases):
        content = bytearray(checkpoint[0])
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            assert same(resume(path), checkpoint[1]), f"case {case}"
        except ValueError as error:
            assert str(error).startswith(str(path)), f"case {case}"
            refusals += 1
    print(f"{cases} checkpoints with a wrong bit: {refusals} refused by name, the others ended with equal weights")


def fill_apart(path, limit, answer):
    """Train on from a checkpoint where no file may grow beyond the limit."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        resume(path)
    except Exception as error:
        answer.put((type(error).__name__, str(error)))


def test_full_disk_leaves_the_checkpoint_before_it_whole(checkpoint, tmp_path):
    path, answer = tmp_path / "state.pt", APART.Queue()
    path.write_bytes(checkpoint[0])
    process = APART.Process(target=fill_apart, args=(path, len(checkpoint[0]) // 2, answer))
    process.start()
    kind, text = answer.get(timeout=60)
    process.join()
    assert kind == "OSError" and str(path) in text and "free some space" in text and "\n" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert same(resume(path), checkpoint[1])
