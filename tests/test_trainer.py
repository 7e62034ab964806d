"""Trainer: averages, repeatability, resuming, faults. test_template.py has the template's calls."""

import io
import math
import multiprocessing
import os
import pickle
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.transforms import v2

import utils
from tests.helpers import Harm, random_data, refused
from tools.definitions import load_definitions

NOTEBOOK = load_definitions("ps2_eurosat.ipynb")[0]
MUON, VIEWS = NOTEBOOK["Muon"], NOTEBOOK["eight_views"]
PLAIN = {"batch_size": 16, "epochs": 2, "learning_rate": 0.01, "optimizer": "SGD", "seed": 3}
CFG = PLAIN | {"optimizer": MUON, "warmup": 0.1, "max_grad_norm": 1.0, "ema_decay": 0.9}
CFG |= {"augment": NOTEBOOK["symmetry_and_crop"], "transform": v2.Normalize([0.5] * 3, [0.2] * 3)}
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["tests.test_trainer"])
table = pytest.mark.parametrize


def network(start=0):
    torch.manual_seed(start)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 4))


def images(seed=0, number=40):
    return random_data(number, 12, 4, seed)


def trainer(start=0, **changes):
    return utils.Trainer(network(start), CFG | changes, "cpu")


def curves(data=None, **changes):
    return trainer(**changes).train(data or images(), label="")


def weights(trained):
    return torch.cat([value.flatten() for value in trained.model.state_dict().values()])


def test_test_gives_the_means_over_samples_and_symmetries():
    tested, (X, Y) = trainer(tta=VIEWS, transform=None), images().tensors
    losses, accuracies = tested.test(images(), label="")
    scores, labels = tested.predict(images(), label="")
    views = [x.rot90(k, (2, 3)) for x in (X, X.flip(3)) for k in range(4)]
    expected = torch.stack([tested.model(view).softmax(1) for view in views]).mean(0)
    assert torch.equal(labels, Y) and torch.allclose(scores.exp(), expected, atol=1e-6)
    assert len(losses) == len(accuracies) == 3  # 40 images in batches of 16: 16, 16, 8
    assert accuracies[-1] == pytest.approx((scores.argmax(1) == Y).float().mean().item())
    assert losses[-1] == pytest.approx(nn.functional.nll_loss(scores, Y).item(), abs=1e-6)


def test_scores_stay_finite_where_a_probability_vanishes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    nn.init.eye_(model[1].weight)
    data = TensorDataset(1e5 * torch.eye(3).reshape(3, 3, 1, 1), torch.tensor([1, 2, 0]))
    assert utils.Trainer(model, {"tta": VIEWS}, "cpu").test(data, label="")[0][-1] < 1e6


def test_training_averages_are_over_samples_and_restart_each_epoch():
    steps, trained, (X, Y) = [], trainer(**PLAIN), images().tensors
    step, before = trained.iter_step, weights(trained)
    assert step(X, Y)[0].requires_grad and torch.equal(before, weights(trained))  # no step is taken
    trained.iter_step = lambda X, Y: steps.append((*step(X, Y), len(Y))) or steps[-1][:2]
    for which, values in enumerate(trained.train(images(), label="")):
        sums = [s[which].item() * s[2] for s in steps]
        assert len(values) == 6
        assert [values[2], values[5]] == pytest.approx([sum(sums[:3]) / 40, sum(sums[3:]) / 40])


FIELDS = type("Fields", (), PLAIN | {"criterion": "NLLLoss"})  # of the class, not the object


def test_names_objects_and_fields_are_the_same_settings():
    objects = PLAIN | {"optimizer": torch.optim.SGD, "criterion": nn.NLLLoss()}
    settings = FIELDS(), PLAIN | {"criterion": "NLLLoss"}, objects
    first, *others = (utils.Trainer(network(), cfg, "cpu").train(images(), "") for cfg in settings)
    assert len(first[0]) == 6 and others == [first, first]


@table("optimizer", ["SGD", MUON])
def test_same_seed_same_numbers_and_no_side_effect(optimizer):
    trainers = [trainer(optimizer=optimizer, seed=seed) for seed in (3, 3, 4)]
    before = torch.random.get_rng_state()
    first, second, other = (each.train(images(), label="") for each in trainers)
    assert first == second != other and torch.equal(torch.random.get_rng_state(), before)


def test_one_cycle_rises_and_falls():
    rates, trained = [], trainer(epochs=10, warmup=0.1)
    step, group = trained.iter_step, trained.optimizer.param_groups[0]
    trained.iter_step = lambda X, Y: rates.append(group["lr"]) or step(X, Y)
    trained.train(images(), label="")
    assert rates[:4] == sorted(rates[:4]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert max(rates) == pytest.approx(CFG["learning_rate"]) and 0 < rates[-1] < max(rates) / 100


X, Y = images().tensors
KINDS = torch.int32, torch.int16, torch.uint8, torch.float32, torch.float64
SAME = [TensorDataset(X, Y.to(kind)) for kind in KINDS]
SAME += [[*zip(X, Y.numpy(), strict=True)], [*zip(X, Y[:, None], strict=True)]]
SAME += [ConcatDataset([images()]), Subset(images(), range(40))]
MASK = torch.ones(40, dtype=torch.bool)
BAD = [(TensorDataset(X, torch.rand(40)), "labels must be whole numbers")]
BAD += [(TensorDataset(X, MASK), "labels must be whole numbers")]
BAD += [(Subset(images(), MASK), "indices must be whole numbers")]
BAD += [(data, "number of images") for data in (images(number=0), Subset(images(), []), [])]


@table("data", SAME)
def test_the_same_images_and_labels_in_other_forms_give_the_same_training(data):
    assert curves(data) == curves()


@table("data, words", BAD)
def test_bad_datasets_are_refused_by_name(data, words):
    for use in (trainer().train, trainer().test):
        with refused(ValueError, words):
            use(data)


SUM = nn.NLLLoss(reduction="sum")
WRONG = [("optimizer", value, "AdamW") for value in ("adam", None, 3)]
WRONG += [("criterion", value, "CrossEntropyLoss") for value in ("entropy", None, SUM)]
NUMPY = [("seed", np.int64(3)), ("batch_size", np.uint8(16)), ("epochs", np.array([2])[0])]
NUMPY += [("learning_rate", kind(0.125)) for kind in (np.float64, np.float32)]


@table("name, value", NUMPY)
def test_numbers_of_numpy_are_plain_numbers(tmp_path, name, value):
    plain, given = (trainer(**{"learning_rate": 0.125, name: v}) for v in (value.item(), value))
    assert given.train(images(), "", tmp_path) == plain.train(images(), "", tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # the second went on from the file of the first
    assert type(given.cfg[name]) in (int, float)


ODD = [True, None, "8", [8], np.True_, 8j, math.nan, np.array([8, 16]), torch.tensor([8])]


@given(st.sampled_from([*utils.RANGES]), st.sampled_from(ODD) | st.floats() | st.integers())
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


@table("name, value, allowed", [*WRONG, ("learning_rte", 1, "learning_rate")])
def test_wrong_settings_are_refused_by_name_with_what_is_allowed(name, value, allowed):
    with refused(ValueError, name, allowed):
        utils.Trainer(network(), {name: value}, "cpu")


def stop_at(trained, step, stop):
    """Let `stop()` be called before optimisation step number `step` of the trainer."""
    count, original = iter(range(10**9)), trained.iter_step
    trained.iter_step = lambda X, Y: (stop() if next(count) == step else 0) or original(X, Y)
    return trained


def interrupt():
    raise KeyboardInterrupt


@table("optimizer", ["SGD", "AdamW", MUON])
@table("step", [0, 4, 8])
def test_an_interrupted_training_goes_on_and_ends_bit_identical(tmp_path, optimizer, step):
    changes = {"epochs": 3, "optimizer": optimizer}
    whole = trainer(**changes)
    expected = whole.train(images(), "", None, images(1))
    with pytest.raises(KeyboardInterrupt):
        stop_at(trainer(**changes), step, interrupt).train(images(), "", tmp_path, images(1))
    for resumed in (trainer(**changes), trainer(**changes)):  # the second reads a finished training
        assert resumed.train(images(), "", tmp_path, images(1)) == expected
        assert torch.equal(weights(whole), weights(resumed))
        assert resumed.validation == whole.validation and len(whole.validation) == 3
    losses, accuracies = whole.test(images(1), "")  # of the averaged weights, as in the end
    assert whole.validation[-1] == [losses[-1], accuracies[-1]]


def train_apart(folder, step=-1):
    torch.set_num_threads(1)
    trained = stop_at(trainer(epochs=25), step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    curves = trained.train(images(), "", folder)
    torch.save([weights(trained), torch.tensor(curves)], folder / "end")


def run_apart(*arguments):
    process = APART.Process(target=train_apart, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@table("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_it_goes_on_and_ends_bit_identical(tmp_path, kills):
    chance = random.Random(1)
    for _ in range(kills):  # in its first to second epoch from where it is
        assert run_apart(tmp_path / "killed", chance.randrange(1, 5)) == -signal.SIGKILL
    assert run_apart(tmp_path / "killed") == run_apart(tmp_path / "whole") == 0
    ends = [torch.load(tmp_path / name / "end") for name in ("killed", "whole")]
    assert all(map(torch.equal, *ends))


WEIGHTED = nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 4]))
OTHERS = {"batch_size": 20, "criterion": WEIGHTED, "learning_rate": 1e-3, "seed": 4, "epochs": 2}
OTHERS |= {"optimizer": "AdamW", "warmup": 0.2, "max_grad_norm": 2.0, "ema_decay": 0.8}
OTHERS |= {"augment": None, "transform": None, "tta": VIEWS, "start": 1}


def test_no_other_training_is_taken_for_this_one(tmp_path):
    cases = [({}, images()), ({}, images(seed=1)), ({}, images(number=39))]
    cases += [({"criterion": nn.CrossEntropyLoss(label_smoothing=0.1)}, images())]
    cases += [({name: value}, images()) for name, value in OTHERS.items()]
    for number, (changes, data) in enumerate(cases, 1):
        trainer(**{"epochs": 1} | changes).train(data, "", tmp_path)
        assert len(list(tmp_path.iterdir())) == number, changes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Path and bytes of a checkpoint after the first of two epochs, and the weights at the end."""
    folder, trained = tmp_path_factory.mktemp("checkpoint"), trainer()
    with pytest.raises(KeyboardInterrupt):
        stop_at(trainer(), 4, interrupt).train(images(), "", folder)
    trained.train(images(), "")
    return next(folder.iterdir()), next(folder.iterdir()).read_bytes(), weights(trained)


def torch_bytes(value):
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def resume(path, content):
    path.write_bytes(content)
    trained = trainer()
    trained.train(images(), "", path.parent)
    return weights(trained)


FOREIGN = [b"", b"text", pickle.dumps(Harm()), *map(torch_bytes, (Harm(), [1], {"model": 1}))]


@table("content", FOREIGN + [0.01, 0.9, 0.9999])
def test_a_damaged_or_foreign_checkpoint_is_refused_and_runs_nothing(checkpoint, content):
    path, whole, _ = checkpoint
    content = content if isinstance(content, bytes) else whole[: int(len(whole) * content)]
    with refused(ValueError, str(path), "does not fit", "remove it"):
        resume(path, content)
    assert path.read_bytes() == content and not Path("harm").exists()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_wrong_bit_is_refused_or_changes_nothing(checkpoint, place, bit):
    path, whole, expected = checkpoint
    content = bytearray(whole)
    content[int(place * len(whole))] ^= 1 << bit
    try:
        assert torch.equal(resume(path, bytes(content)), expected)
    except ValueError as error:
        assert str(path) in str(error)


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(checkpoint, monkeypatch):
    (path, whole, _), write = checkpoint, Path.write_bytes
    path.write_bytes(whole)
    monkeypatch.setattr(Path, "write_bytes", lambda file, content: write(file, content[:99]) / 0)
    with pytest.raises(ZeroDivisionError):
        trainer().train(images(), "", path.parent)
    monkeypatch.undo()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == whole


def infinite_gradient(scores, labels):
    return (scores - scores.detach()).abs().sqrt().sum()


FAULTS = [({"criterion": infinite_gradient}, "its gradient nan long")]
FAULTS += [({"learning_rate": 1e38}, "lower learning_rate (now 1e+38)")]


@table("changes, words", FAULTS)
def test_a_failing_training_says_what_to_do_and_leaves_finite_weights(changes, words):
    trained = utils.Trainer(network(), PLAIN | {"epochs": 20, "ema_decay": 0.9} | changes, "cpu")
    with refused(FloatingPointError, words):
        trained.train(images(), label="")
    assert weights(trained).isfinite().all()
