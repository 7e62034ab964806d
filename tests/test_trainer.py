"""trainer.py: averages, repeatability, settings, faults.

tests/test_template.py holds the calls of the course's template against it.
"""

import functools
import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from symmetry import symmetries
from tests.helpers import random_data, refused
from trainer import SETTINGS, Trainer, has_bfloat16, settings

PLAIN = {
    "batch_size": 16,
    "epochs": 2,
    "learning_rate": 0.01,
    "optimizer": "SGD",
    "seed": 3,
}


def network(start=0):
    """A small classifier of four classes, with dropout."""
    torch.manual_seed(start)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 64, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, 4),
    )


def images(seed=0, number=40):
    """A TensorDataset of four classes."""
    return random_data(number, 12, 4, seed)


@pytest.fixture(scope="module")
def full_cfg(part2):
    """Settings that use everything a Trainer can, with the functions of part 2."""
    return {
        **PLAIN,
        "optimizer": part2["Muon"],
        "warmup": 0.1,
        "max_grad_norm": 1.0,
        "ema_decay": 0.9,
        "augment": part2["random_symmetry_and_window"],
        "transform": v2.Normalize([0.5] * 3, [0.2] * 3),
    }


@pytest.fixture(scope="module")
def make_trainer(full_cfg):
    """A function that makes a Trainer with those settings, but for `changes`."""

    def make(start=0, **changes):
        return Trainer(network(start), {**full_cfg, **changes}, "cpu")

    return make


def weights(trained):
    """All parameters and buffers of a trainer's model in one tensor."""
    values = trained.model.state_dict().values()
    return torch.cat([value.flatten() for value in values])


# --- Scores and averages --------------------------------------------------------------


def test_test_gives_the_means_over_the_images(make_trainer):
    tested = make_trainer()
    losses, accuracies = tested.test(images(), label="")
    scores, labels = tested.predict(images(), label="")
    _, expected_labels = images().tensors
    assert torch.equal(labels, expected_labels)
    assert len(losses) == len(accuracies) == 3  # 40 images in batches of 16: 16, 16, 8
    accuracy = (scores.argmax(1) == labels).float().mean().item()
    loss = nn.functional.cross_entropy(scores, labels).item()
    assert accuracies[-1] == pytest.approx(accuracy)
    assert losses[-1] == pytest.approx(loss, abs=1e-6)


def test_views_are_averaged_as_probabilities(make_trainer):
    tested = make_trainer(transform=None)
    scores, _ = tested.predict(images(), label="", tta=symmetries)
    X, _ = images().tensors
    expected = []
    for image in (X, X.flip(3)):
        for turn in range(4):
            view = image.rot90(turn, (2, 3))
            expected.append(tested.model(view).softmax(1))
    expected = torch.stack(expected).mean(0)
    assert torch.allclose(scores.exp(), expected, atol=1e-6)


def test_scores_stay_finite_where_a_probability_vanishes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    nn.init.eye_(model[1].weight)
    model[1].weight.data *= 1e5
    X = torch.eye(3).reshape(3, 3, 1, 1)
    data = TensorDataset(X, torch.tensor([1, 2, 0]))
    tested = Trainer(model, {}, "cpu")
    for tta in (None, symmetries):
        scores, labels = tested.predict(data, label="", tta=tta)
        assert nn.functional.cross_entropy(scores, labels) < 1e6
    losses, _ = tested.test(data, label="")
    assert losses[-1] < 1e6


def test_an_iteration_gives_gradients_and_takes_no_step(make_trainer):
    trained = make_trainer()
    before = weights(trained)
    X, Y = images().tensors
    loss, accuracy = trained.iter_step(X, Y)
    assert loss.requires_grad
    assert 0 <= accuracy <= 1
    assert torch.equal(before, weights(trained))


def test_training_averages_are_over_images_and_restart_each_epoch():
    trained = Trainer(network(), PLAIN, "cpu")
    measured = {"loss": [], "accuracy": []}
    iter_step = trained.iter_step

    def kept(X, Y):
        loss, accuracy = iter_step(X, Y)
        measured["loss"].append(loss.item() * len(Y))
        measured["accuracy"].append(accuracy.item() * len(Y))
        return loss, accuracy

    trained.iter_step = kept
    avg_loss, avg_acc = trained.train(images(), label="")
    averages = {"loss": avg_loss, "accuracy": avg_acc}
    for name, values in averages.items():
        sums = measured[name]
        assert len(values) == 6
        assert values[0] == pytest.approx(sums[0] / 16)
        assert values[1] == pytest.approx(sum(sums[:2]) / 32)
        assert values[2] == pytest.approx(sum(sums[:3]) / 40)
        assert values[3] == pytest.approx(sums[3] / 16)
        assert values[5] == pytest.approx(sum(sums[3:]) / 40)


def test_validation_is_of_the_averaged_weights_and_changes_nothing(make_trainer):
    held_out = images(seed=1)
    trained = make_trainer()
    alone = make_trainer()
    curves = trained.train(images(), "", held_out)
    assert curves == alone.train(images(), "")
    assert torch.equal(weights(trained), weights(alone))
    assert len(trained.validation) == 2  # one an epoch
    losses, accuracies = trained.test(held_out, "")  # of the averaged weights, as ever
    assert trained.validation[-1] == [losses[-1], accuracies[-1]]


# --- The same training, again and in other words --------------------------------------


@pytest.mark.parametrize("optimizer", ["SGD", "Muon of part 2"])
def test_same_seed_same_numbers_and_no_side_effect(make_trainer, part2, optimizer):
    if optimizer != "SGD":
        optimizer = part2["Muon"]
    first = make_trainer(optimizer=optimizer)
    second = make_trainer(optimizer=optimizer)
    other = make_trainer(optimizer=optimizer, seed=4)
    expected = first.train(images(), label="")
    torch.rand(5)  # dropout does not go on from here
    before = torch.random.get_rng_state()
    assert second.train(images(), label="") == expected
    assert other.train(images(), label="") != expected
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_cycle_rises_and_falls(make_trainer, full_cfg):
    trained = make_trainer(epochs=10, warmup=0.1)
    iter_step = trained.iter_step
    rates = []

    def kept(X, Y):
        rates.append(trained.optimizer.param_groups[0]["lr"])
        return iter_step(X, Y)

    trained.iter_step = kept
    trained.train(images(), label="")
    assert len(rates) == 30
    assert rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert max(rates) == pytest.approx(full_cfg["learning_rate"])
    assert 0 < rates[-1] < max(rates) / 100


class Fields:
    """Settings as attributes of a class, not of its objects."""

    batch_size = 16
    epochs = 2
    learning_rate = 0.01
    optimizer = "SGD"
    seed = 3
    criterion = "NLLLoss"


@pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(Fields(), id="an object"),
        pytest.param(Fields, id="a class"),
        pytest.param({**PLAIN, "criterion": nn.NLLLoss}, id="a class of losses"),
        pytest.param({**PLAIN, "criterion": nn.NLLLoss()}, id="a loss"),
        pytest.param(
            {**PLAIN, "criterion": "NLLLoss", "optimizer": torch.optim.SGD},
            id="a class of optimizers",
        ),
    ],
)
def test_names_objects_and_attributes_are_the_same_settings(cfg):
    named = Trainer(network(), {**PLAIN, "criterion": "NLLLoss"}, "cpu")
    other = Trainer(network(), cfg, "cpu")
    assert other.train(images(), "") == named.train(images(), "")


@pytest.mark.parametrize(
    "name, value",
    [
        pytest.param("seed", np.int64(3), id="seed as int64"),
        pytest.param("batch_size", np.uint8(16), id="batch_size as uint8"),
        pytest.param("epochs", np.array([2])[0], id="epochs of an array"),
        pytest.param("learning_rate", np.float64(0.125), id="learning_rate as float64"),
        pytest.param("learning_rate", np.float32(0.125), id="learning_rate as float32"),
    ],
)
def test_numbers_of_numpy_are_plain_numbers(make_trainer, name, value):
    plain = make_trainer(**{name: value.item()})
    given = make_trainer(**{name: value})
    assert given.train(images(), "") == plain.train(images(), "")
    assert given.identity(images()) == plain.identity(images())
    assert type(given.cfg[name]) in (int, float)


X, Y = images().tensors
ONE_EACH = [label[None] for label in Y]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(TensorDataset(X, Y.to(torch.int32)), id="labels as int32"),
        pytest.param(TensorDataset(X, Y.to(torch.int16)), id="labels as int16"),
        pytest.param(TensorDataset(X, Y.to(torch.uint8)), id="labels as uint8"),
        pytest.param(TensorDataset(X, Y.to(torch.float32)), id="labels as float32"),
        pytest.param(TensorDataset(X, Y.to(torch.float64)), id="labels as float64"),
        pytest.param(list(zip(X, Y.numpy(), strict=True)), id="labels of numpy"),
        pytest.param(list(zip(X, ONE_EACH, strict=True)), id="labels of shape (1,)"),
        pytest.param(ConcatDataset([images()]), id="a ConcatDataset"),
        pytest.param(Subset(images(), range(40)), id="a Subset of a range"),
        pytest.param(Subset(images(), list(range(40))), id="a Subset of a list"),
        pytest.param(
            Subset(Subset(images(), range(39, -1, -1)), range(39, -1, -1)),
            id="a Subset of a Subset",
        ),
    ],
)
def test_the_same_images_and_labels_in_other_forms_train_the_same(make_trainer, data):
    expected = make_trainer().train(images(), "")
    assert make_trainer().train(data, "") == expected


class CountedIndices:
    """The numbers 0 to 39 for a Subset; counts how often one of them is read."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 40

    def __getitem__(self, place):
        self.reads += 1
        return range(40)[place]


def test_the_indices_of_a_subset_are_not_read_at_each_step(make_trainer):
    reads = []
    for epochs in (1, 3):
        indices = CountedIndices()
        trained = make_trainer(epochs=epochs, batch_size=4)
        trained.train(Subset(images(), indices), "")
        reads.append(indices.reads)
    once, thrice = reads
    assert once >= 40
    assert thrice == once


# --- What is refused ------------------------------------------------------------------

IS_ODD = torch.arange(40) % 2 == 1
TEXTS = [(image, "forest") for image in X]
ROWS = list(zip(X, [[0], [1, 2]] * 20, strict=True))


@pytest.mark.parametrize(
    "data, words",
    [
        pytest.param(
            TensorDataset(X, torch.rand(40)),
            "labels must be whole numbers",
            id="fractions as labels",
        ),
        pytest.param(
            TensorDataset(X, IS_ODD),
            "labels must be whole numbers",
            id="truth values as labels",
        ),
        pytest.param(
            TensorDataset(X, Y - 1),
            "labels must be whole numbers from 0",
            id="a negative label",
        ),
        pytest.param(TEXTS, "labels must be whole numbers", id="texts as labels"),
        pytest.param(
            ROWS, "labels must be whole numbers", id="several labels an image"
        ),
        pytest.param(
            Subset(images(), IS_ODD),
            "indices of a Subset must be whole numbers",
            id="truth values as indices",
        ),
        pytest.param(images(number=0), "the dataset is empty", id="no image"),
        pytest.param(
            Subset(images(), []), "the dataset is empty", id="an empty Subset"
        ),
        pytest.param([], "the dataset is empty", id="an empty list"),
    ],
)
def test_bad_datasets_are_refused_by_name(make_trainer, data, words):
    tested = make_trainer()
    for use in (tested.train, tested.test, tested.predict):
        with refused(ValueError, words):
            use(data, "")


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        pytest.param("learning_rte", 1, "learning_rate", id="a typing error"),
        pytest.param("tta", None, "transform", id="tta, an argument of predict"),
        pytest.param("optimizer", "adam", "AdamW", id="a module of torch.optim"),
        pytest.param("optimizer", "Optimizer", "AdamW", id="Optimizer"),
        pytest.param("optimizer", "LBFGS", "AdamW", id="LBFGS"),
        pytest.param("optimizer", "SparseAdam", "AdamW", id="SparseAdam"),
        pytest.param("optimizer", "Muon", "AdamW", id="Muon of torch"),
        pytest.param("optimizer", None, "AdamW", id="no optimizer"),
        pytest.param("optimizer", 3, "AdamW", id="a number as optimizer"),
        pytest.param("criterion", "entropy", "CrossEntropyLoss", id="no such loss"),
        pytest.param("criterion", "CTCLoss", "CrossEntropyLoss", id="CTCLoss"),
        pytest.param("criterion", "MSELoss", "CrossEntropyLoss", id="MSELoss"),
        pytest.param("criterion", "Module", "CrossEntropyLoss", id="Module"),
        pytest.param(
            "criterion", "factory_kwargs", "CrossEntropyLoss", id="a function"
        ),
        pytest.param("criterion", nn.MSELoss, "CrossEntropyLoss", id="a class"),
        pytest.param("criterion", None, "CrossEntropyLoss", id="no loss"),
        pytest.param("criterion", nn.NLLLoss(reduction="sum"), "'mean'", id="a sum"),
        pytest.param("augment", "flip", "a function or None", id="a text as augment"),
        pytest.param("transform", 2, "a function or None", id="a number as transform"),
    ],
)
def test_wrong_settings_are_refused_by_name_with_what_is_allowed(name, value, allowed):
    with refused(ValueError, name, allowed):
        Trainer(network(), {name: value}, "cpu")


@pytest.mark.parametrize("name, place", [("criterion", nn), ("optimizer", torch.optim)])
def test_each_name_of_torch_trains_or_is_refused(name, place):
    taken = []
    for choice in dir(place):
        try:
            trained = Trainer(network(), {**PLAIN, name: choice}, "cpu")
        except ValueError as error:
            assert str(error).startswith(f"{name} {choice!r}"), choice
            assert "\n" not in str(error), choice
        else:
            losses, _ = trained.train(images(), "")
            assert math.isfinite(losses[-1]), choice
            taken.append(choice)
    assert SETTINGS[name].default in taken
    assert len(taken) >= 3


NUMBERS = [name for name, setting in SETTINGS.items() if setting.kind in (int, float)]
ODD = [True, None, "8", [8], np.True_, 8j, np.array([8, 16]), torch.tensor([8])]
values = st.sampled_from(ODD) | st.floats() | st.integers()


@given(name=st.sampled_from(NUMBERS), value=values)
def test_a_number_is_taken_in_or_refused_by_name(name, value):
    _, kind, low, high = SETTINGS[name]
    try:
        taken = settings({name: value})[name]
    except ValueError as error:
        assert str(error).startswith(f"{name} must be a ")
        assert f"not {value!r}" in str(error)
        is_of_kind = type(value) is int or type(value) is kind
        assert not is_of_kind or not low <= value <= high
    else:
        assert type(taken) is kind
        assert taken == value
        assert low <= taken <= high


# --- One truth ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_can_be_assigned_afterwards(make_trainer, full_cfg, name):
    made = make_trainer()
    before = getattr(made, name)
    with refused(AttributeError, name, "make a new Trainer"):
        setattr(made, name, full_cfg.get(name, 2))
    assert getattr(made, name) is before


def test_cfg_holds_all_settings_and_cannot_be_changed(make_trainer, full_cfg):
    made = make_trainer()
    assert made.cfg.keys() == SETTINGS.keys()
    assert made.cfg["optimizer"] is full_cfg["optimizer"]
    with refused(AttributeError, "cfg", "make a new Trainer"):
        made.cfg = {**made.cfg, "epochs": 3}
    with pytest.raises(TypeError):
        made.cfg["epochs"] = 3
    assert made.cfg["epochs"] == made.epochs == 2


def test_the_callers_dictionary_stays_the_callers():
    cfg = dict(PLAIN)
    made = Trainer(network(), cfg, "cpu")
    assert cfg == PLAIN
    cfg["epochs"] = 7
    assert made.cfg["epochs"] == made.epochs == 2


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_trainer_can_be_made_where_no_gradients_are_kept(without):
    with without():
        made = Trainer(network(), PLAIN, "cpu")
        losses, _ = made.test(images(), "")
    assert math.isfinite(losses[-1])


# --- Identity: which training a file belongs to ---------------------------------------

NORMALISED = v2.Normalize([0.5, 0.25, 0.125], [0.2, 0.1, 0.1])


def test_the_identity_is_the_text_that_the_files_of_the_record_hold(part2):
    """As in report/weights/: another text would make all of them useless."""
    cfg = {
        "batch_size": 32,
        "criterion": nn.CrossEntropyLoss(label_smoothing=0.1),
        "epochs": 16,
        "learning_rate": 0.02,
        "optimizer": part2["Muon"],
        "warmup": 0.1,
        "max_grad_norm": 1.0,
        "ema_decay": 0.998,
        "augment": part2["random_symmetry_and_window"],
        "transform": NORMALISED,
    }
    labels = np.array([0, 1, 2, 3, 0, 1], "<i8")
    digest = hashlib.sha256(labels.tobytes()).hexdigest()[:16]
    data = TensorDataset(torch.rand(6, 3, 12, 12), torch.tensor(labels))
    assert Trainer(network(), cfg, "cpu").identity(data) == (
        "batch_size 32 [], criterion CrossEntropyLoss() [0.1], epochs 16 [], "
        "learning_rate 0.02 [], optimizer Muon, seed 42 [], warmup 0.1 [], "
        "max_grad_norm 1.0 [], ema_decay 0.998 [], augment random_symmetry_and_window, "
        "transform Normalize(mean=[0.5, 0.25, 0.125], std=[0.2, 0.1, 0.1], "
        f"inplace=False) []; 6 images with labels {digest}"
    )
    assert Trainer(network(), {}, "cpu").identity(data) == (
        "batch_size 64 [], criterion CrossEntropyLoss [], epochs 1 [], "
        "learning_rate 0.001 [], optimizer Adam [], seed 42 [], warmup 0.0 [], "
        "max_grad_norm inf [], ema_decay 0.0 [], augment None [], transform None []; "
        f"6 images with labels {digest}"
    )


WEIGHTED = nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 4]))
SMOOTHED = nn.CrossEntropyLoss(label_smoothing=0.1)


@pytest.mark.parametrize(
    "changes, data",
    [
        pytest.param({}, images(seed=1), id="other labels"),
        pytest.param({}, images(number=39), id="one image less"),
        pytest.param({"batch_size": 20}, images(), id="batch_size"),
        pytest.param({"criterion": WEIGHTED}, images(), id="a weighted loss"),
        pytest.param({"criterion": SMOOTHED}, images(), id="a smoothed loss"),
        pytest.param({"epochs": 3}, images(), id="epochs"),
        pytest.param({"learning_rate": 1e-3}, images(), id="learning_rate"),
        pytest.param({"optimizer": "AdamW"}, images(), id="optimizer"),
        pytest.param({"seed": 4}, images(), id="seed"),
        pytest.param({"warmup": 0.2}, images(), id="warmup"),
        pytest.param({"max_grad_norm": 2.0}, images(), id="max_grad_norm"),
        pytest.param({"ema_decay": 0.8}, images(), id="ema_decay"),
        pytest.param({"augment": None}, images(), id="augment"),
        pytest.param({"transform": None}, images(), id="transform"),
    ],
)
def test_no_other_training_has_the_same_identity(make_trainer, changes, data):
    usual = make_trainer().identity(images())
    assert make_trainer(start=1).identity(images()) == usual
    assert make_trainer(**changes).identity(data) != usual


def lighten(images, generator, factor):
    return images * factor


class Darken:
    """An augmentation that says nothing of itself but its address."""

    def __call__(self, images, generator):
        return images / 2


def test_an_identity_holds_no_address(make_trainer):
    for make in (Darken, functools.partial(functools.partial, lighten, factor=1.5)):
        one = make_trainer(augment=make()).identity(images())
        another = make_trainer(augment=make()).identity(images())
        assert one == another
        assert "0x" not in one


def test_a_loaded_trainer_is_on_the_cpu_and_keeps_nothing_for_training(make_trainer):
    trained = make_trainer()
    trained.train(images(), "", images(1))
    stored = trained.model.half().state_dict()
    loaded = make_trainer(start=1)
    loaded.train(images(), "")
    loaded.load(stored, trained.validation)
    assert loaded.device.type == "cpu"
    assert loaded.validation == trained.validation
    assert not loaded.optimizer.state
    for name, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[name].float())
    assert all(weight.grad is None for weight in loaded.model.parameters())


# --- A training that breaks off -------------------------------------------------------


def infinite_gradient(scores, labels):
    return (scores - scores.detach()).abs().sqrt().sum()


@pytest.mark.parametrize(
    "changes, words",
    [
        pytest.param(
            {"criterion": infinite_gradient}, "its gradient nan long", id="gradient"
        ),
        pytest.param(
            {"learning_rate": 1e38}, "lower learning_rate (now 1e+38)", id="loss"
        ),
    ],
)
def test_a_failing_training_says_what_to_do_and_leaves_finite_weights(changes, words):
    cfg = {**PLAIN, "epochs": 20, "ema_decay": 0.9, **changes}
    trained = Trainer(network(), cfg, "cpu")
    with refused(FloatingPointError, words, "or max_grad_norm (now "):
        trained.train(images(), label="")
    assert weights(trained).isfinite().all()


class Interrupted(Dataset):
    """Forty images; a key is pressed while the last of them is read."""

    def __len__(self):
        return 40

    def __getitem__(self, place):
        if place == 39:
            raise KeyboardInterrupt
        return images()[place]


def test_an_interrupt_during_validation_leaves_the_averaged_weights(make_trainer):
    averaged = make_trainer(epochs=1, warmup=0)
    averaged.train(images(), "")
    raw = make_trainer(epochs=1, warmup=0, ema_decay=0)
    raw.train(images(), "")
    interrupted = make_trainer(epochs=2, warmup=0)
    with pytest.raises(KeyboardInterrupt):
        interrupted.train(images(), "", validation=Interrupted())
    assert torch.equal(weights(interrupted), weights(averaged))
    assert not torch.equal(weights(raw), weights(averaged))


def test_an_interrupted_training_leaves_the_averages_and_the_random_state():
    trained = Trainer(network(), {**PLAIN, "epochs": 9, "ema_decay": 0.9}, "cpu")
    iter_step = trained.iter_step
    after_each_step = []

    def interrupted(X, Y):
        after_each_step.append(weights(trained))
        if len(after_each_step) == 25:
            raise KeyboardInterrupt
        return iter_step(X, Y)

    trained.iter_step = interrupted
    before = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        trained.train(images(), "")
    assert torch.equal(torch.random.get_rng_state(), before)
    _, average, *others = after_each_step
    for step, values in enumerate(others, 1):
        decay = min(0.9, (1 + step) / (10 + step))  # the first steps are forgotten
        average = decay * average + (1 - decay) * values
    assert torch.allclose(weights(trained), average, atol=1e-6)
    assert not torch.allclose(weights(trained), others[-1], atol=1e-4)


# --- Other machines -------------------------------------------------------------------


class NoDouble(TorchFunctionMode):
    """As on a device without float64: only what was brought to the CPU becomes it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            parents = [value for value in args if isinstance(value, torch.Tensor)]
            if function is torch.Tensor.cpu:
                result.on_cpu = True
            elif any(hasattr(parent, "on_cpu") for parent in parents):
                result.on_cpu = True
            elif result.dtype == torch.float64:
                raise TypeError(f"{function.__name__} gives float64 on the device")
        return result


def test_a_device_without_float64_will_do(make_trainer):
    with NoDouble():
        with pytest.raises(TypeError):
            torch.ones(2).double()
        trained = make_trainer()
        trained.train(images(), "", images(1))
        trained.predict(images(), "", symmetries)


def test_bfloat16_is_used_in_training_alone(make_trainer):
    tested = make_trainer()
    X, _ = images().tensors
    kinds = []

    def keep_kind(layer, inputs, output):
        kinds.append(output.dtype)

    tested.model[-1].register_forward_hook(keep_kind)
    tested.model.train()
    scores = tested.scores(X)
    tested.model.eval()
    assert scores.dtype == tested.scores(X).dtype == torch.float32
    expected = torch.float32
    if has_bfloat16(torch.device("cpu")):
        expected = torch.bfloat16
    assert kinds == [expected, torch.float32]
