"""Trainer: averages, repeatability, resuming, faults. test_template.py has the template's calls."""

import io
import math
import multiprocessing
import os
import pickle
import random
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.transforms import v2

import utils
from tests.helpers import refused
from tools.definitions import load_definitions

NOTEBOOK = load_definitions("ps2_eurosat.ipynb")[0]
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["tests.test_trainer"])
PLAIN = {"batch_size": 16, "epochs": 2, "learning_rate": 0.01, "optimizer": "SGD", "seed": 3}
CFG = PLAIN | {"optimizer": NOTEBOOK["Muon"], "warmup": 0.1, "max_grad_norm": 1.0}
CFG |= {"ema_decay": 0.9, "augment": NOTEBOOK["symmetry_and_shift"]}
CFG |= {"transform": v2.Normalize([0.5] * 3, [0.2] * 3)}


def network(start=0):
    torch.manual_seed(start)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 4))


def images(seed=0, number=40):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (number,), generator=generator)
    return TensorDataset(torch.rand(number, 3, 12, 12, generator=generator), labels)


def trainer(start=0, **changes):
    return utils.Trainer(network(start), CFG | changes, "cpu")


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Numbers


def test_test_gives_the_means_over_all_samples():
    tested = trainer(tta=8)
    losses, accuracies = tested.test(images(), label="")
    scores, labels = tested.predict(images(), label="")
    assert torch.equal(labels, images().tensors[1])
    assert len(losses) == len(accuracies) == 3  # 40 images in batches of 16: 16, 16, 8
    assert accuracies[-1] == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    assert losses[-1] == pytest.approx(nn.functional.nll_loss(scores, labels).item(), abs=1e-6)


def test_scores_are_the_mean_probability_over_the_eight_symmetries():
    tested, (X, _) = trainer(tta=8, transform=None), images().tensors
    model, turns = (
        tested.model.eval(),
        [x.rot90(k, (2, 3)) for x in (X, X.flip(3)) for k in range(4)],
    )
    expected = torch.stack([model(turned).softmax(1) for turned in turns]).mean(0)
    assert torch.allclose(tested.scores(X).exp(), expected, atol=1e-6)


def test_scores_stay_finite_where_a_probability_vanishes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    nn.init.eye_(model[1].weight)
    data = TensorDataset(1e5 * torch.eye(3).reshape(3, 3, 1, 1), torch.tensor([1, 2, 0]))
    assert math.isfinite(utils.Trainer(model, {"tta": 8}, "cpu").test(data, label="")[0][-1])


def test_training_averages_are_over_samples_and_restart_each_epoch():
    steps, trained = [], trainer(**PLAIN)
    step = trained.iter_step
    trained.iter_step = lambda X, Y: steps.append((*step(X, Y), len(Y))) or steps[-1][:2]
    for which, values in enumerate(trained.train(images(), label="")):
        for epoch in (0, 3):
            expected = sum(s[which].item() * s[2] for s in steps[epoch : epoch + 3]) / 40
            assert values[epoch + 2] == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["SGD", NOTEBOOK["Muon"]])
def test_same_seed_same_numbers_and_no_side_effect(optimizer):
    trainers = [trainer(optimizer=optimizer, seed=seed) for seed in (3, 3, 4)]
    before = torch.random.get_rng_state()
    first, second, other = (each.train(images(), label="") for each in trainers)
    assert first == second != other
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("optimizer, rate", [("Adam", 0.02), (NOTEBOOK["Muon"], 0.1)])
def test_training_learns_two_colours(optimizer, rate):
    labels = torch.arange(64) % 2
    colours = labels.view(64, 1, 1, 1) * torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    data = TensorDataset(colours + torch.rand(64, 3, 8, 8) / 10, labels)
    trained = trainer(**PLAIN | {"epochs": 40, "learning_rate": rate, "optimizer": optimizer})
    trained.train(data, label="")
    assert trained.test(data, label="")[1][-1] == 1


def test_evaluation_has_its_own_number_of_threads():
    seen, tested, threads = [], trainer(), torch.get_num_threads()
    tested.model[0].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(1)
    tested.predict(images(), label="")
    assert set(seen) == {utils.THREADS} and torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_one_cycle_rises_and_falls():
    rates = [utils.one_cycle(100, 0.1, step) for step in range(100)]
    top = rates.index(max(rates))
    assert top == 10 and max(rates) == 1 and rates[-1] < 0.01
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert utils.one_cycle(1, 0.1, 0) > 0 and utils.one_cycle(100, 0, 50) == 1


# Labels, datasets and settings as people have them


@pytest.mark.parametrize("kind", ["int32", "int16", "uint8", "float32", "float64"])
def test_whole_labels_of_any_type_count_as_int64(kind):
    X, Y = images().tensors
    Y = Y.to(getattr(torch, kind))
    expected = trainer().train(images(), label="")
    for data in (TensorDataset(X, Y), [(x, y.numpy()) for x, y in zip(X, Y, strict=True)]):
        assert trainer().train(data, label="") == expected


@pytest.mark.parametrize("labels", [torch.rand(40), torch.ones(40, dtype=torch.bool)])
def test_other_labels_are_refused(labels):
    with refused(ValueError, "labels must be whole numbers", str(labels.dtype)):
        trainer().train(TensorDataset(images().tensors[0], labels), label="")


def test_datasets_of_datasets_and_masks():
    assert trainer().train(ConcatDataset([images()]), "") == trainer().train(images(), label="")
    with refused(ValueError, "indices must be whole numbers", "bool"):
        trainer().train(Subset(images(), torch.ones(40, dtype=torch.bool)), label="")


@pytest.mark.parametrize("data", [images(number=0), Subset(images(), []), []])
def test_empty_dataset(data):
    for use in (trainer().train, trainer().test, trainer().predict):
        with refused(ValueError, "dataset is empty"):
            use(data)


WHOLE = [0, 2.5, "64", None, True]
WRONG = [({name: v}, name) for name in ("batch_size", "epochs", "tta") for v in WHOLE]
WRONG += [({"seed": value}, "seed") for value in (-1, 1.5, "42", None)]
WRONG += [({"optimizer": value}, "allowed: ") for value in ("adam", None, 3)]
WRONG += [({"criterion": v}, "allowed: ") for v in ("entropy", None, nn.NLLLoss(reduction="none"))]
WRONG += [({"learning_rate": -0.1}, "learning rate"), ({"learning_rte": 1}, "allowed: batch_size")]


@pytest.mark.parametrize("changes, word", WRONG)
def test_wrong_settings_are_refused_by_name(changes, word):
    with refused(ValueError, word):
        utils.Trainer(network(), {"optimizer": "Adam"} | changes, "cpu")


# Stopped and started again


def stop_at(trained, step, stop):
    """Let `stop()` be called before optimisation step number `step` of the trainer."""
    count, original = iter(range(10**9)), trained.iter_step
    trained.iter_step = lambda X, Y: (stop() if next(count) == step else 0) or original(X, Y)
    return trained


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", NOTEBOOK["Muon"]])
@pytest.mark.parametrize("step", [0, 4, 8])
def test_an_interrupted_training_goes_on_and_ends_bit_identical(tmp_path, optimizer, step):
    changes = {"epochs": 3, "optimizer": optimizer}
    whole = trainer(**changes)
    curves = whole.train(images(), label="")
    with pytest.raises(KeyboardInterrupt):
        stop_at(trainer(**changes), step, interrupt).train(images(), "", tmp_path)
    for resumed in (trainer(**changes), trainer(**changes)):  # the second reads a finished training
        assert resumed.train(images(), "", tmp_path) == curves
        assert same(state(whole.model), state(resumed.model))


def train_apart(folder, step):
    torch.set_num_threads(1)
    trained = trainer(epochs=25)
    if step is not None:
        stop_at(trained, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    curves = trained.train(images(), "", folder)
    torch.save({"weights": state(trained.model), "curves": list(curves)}, folder / "end")


def run_apart(folder, step=None):
    folder.mkdir(exist_ok=True)
    process = APART.Process(target=train_apart, args=(folder, step))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_it_goes_on_and_ends_bit_identical(tmp_path, kills):
    chance = random.Random(1)
    for _ in range(kills):  # in its first to second epoch from where it is
        assert run_apart(tmp_path / "killed", chance.randrange(1, 5)) == -signal.SIGKILL
    assert run_apart(tmp_path / "killed") == run_apart(tmp_path / "whole") == 0
    killed, whole = (torch.load(tmp_path / name / "end") for name in ("killed", "whole"))
    assert whole["curves"] == killed["curves"] and same(whole["weights"], killed["weights"])


WEIGHTED = nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 4]))
OTHERS = {"batch_size": 20, "criterion": WEIGHTED, "learning_rate": 1e-3, "seed": 4, "epochs": 2}
OTHERS |= {"optimizer": "AdamW", "warmup": 0.2, "max_grad_norm": 2.0, "ema_decay": 0.8}
OTHERS |= {"augment": None, "transform": None, "tta": 8}


def test_no_other_training_is_taken_for_this_one(tmp_path):
    smooth = {"criterion": nn.CrossEntropyLoss(label_smoothing=0.1)}
    cases = [({}, images(), 0), ({}, images(seed=1), 0), ({}, images(number=39), 0)]
    cases += [({}, images(), 1), (smooth, images(), 0)]
    cases += [({name: value}, images(), 0) for name, value in OTHERS.items()]
    for number, (changes, data, start) in enumerate(cases, 1):
        trainer(start, **{"epochs": 1} | changes).train(data, "", tmp_path)
        assert len(list(tmp_path.iterdir())) == number, changes


# Damaged files


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Path and bytes of a checkpoint after the first of two epochs, and the weights at the end."""
    folder, kept, trained = tmp_path_factory.mktemp("checkpoint"), [], trainer()
    trained.train(images(), "", folder, lambda _: kept.append(next(folder.iterdir()).read_bytes()))
    return next(folder.iterdir()), kept[0], state(trained.model)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def torch_bytes(value):
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


FOREIGN = [b"", b"text", pickle.dumps(Harm()), *map(torch_bytes, (Harm(), [1], {"model": 1}))]


def resume(path, content):
    path.write_bytes(content)
    trained = trainer()
    trained.train(images(), "", path.parent)
    return state(trained.model)


@pytest.mark.parametrize("part", FOREIGN + [0.01, 0.3, 0.9, 0.9999])
def test_a_damaged_or_foreign_checkpoint_is_one_sentence_and_runs_nothing(
    checkpoint, part, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path, whole, _ = checkpoint
    content = part if isinstance(part, bytes) else whole[: int(len(whole) * part)]
    with refused(ValueError, str(path), "does not fit", "remove it"):
        resume(path, content)
    assert path.read_bytes() == content and not Path("harm").exists()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_wrong_bit_is_refused_or_changes_nothing(checkpoint, place, bit):
    path, whole, weights = checkpoint
    content = bytearray(whole)
    content[int(place * len(whole))] ^= 1 << bit
    try:
        assert same(resume(path, bytes(content)), weights)
    except ValueError as error:
        assert str(path) in str(error)


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(checkpoint, monkeypatch):
    (path, whole, weights), write = checkpoint, Path.write_bytes
    path.write_bytes(whole)

    def half_then_full(file, content):
        write(file, bytes(content)[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_then_full)
    with refused(OSError, "No space left on device"):
        trainer().train(images(), "", path.parent)
    monkeypatch.undo()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert same(resume(path, whole), weights)


# Diverging, out of memory


class Hungry(nn.Linear):
    def forward(self, x):
        return torch.empty(2**50, dtype=torch.uint8)  # more than any machine has


def infinite_gradient(scores, labels):
    return (scores - scores.detach()).abs().sqrt().sum()


FAULTS = [(network(), {"criterion": infinite_gradient}, FloatingPointError, "the gradient is")]
FAULTS += [
    (network(), {"learning_rate": 1e38}, FloatingPointError, "lower learning_rate (now 1e+38)")
]
FAULTS += [
    (nn.Sequential(nn.Flatten(), Hungry(432, 4)), {}, MemoryError, "batch_size to 8 or less")
]


@pytest.mark.parametrize("model, changes, kind, words", FAULTS)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_that_fails_says_what_to_do_and_leaves_finite_weights(
    model, changes, kind, words, ema_decay
):
    cfg = PLAIN | {"epochs": 20, "ema_decay": ema_decay} | changes
    trained = utils.Trainer(model, cfg, "cpu")
    with refused(kind, words):
        trained.train(images(), label="")
    assert all(value.isfinite().all() for value in model.parameters())
