"""The ledger of trials: what a command line says is trained, and stands on record."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import Subset

from eurosat import ImageDataset
from results import trials_tables
from tests.helpers import refused
from tools import trials
from trainer import SETTINGS

LEDGER = Path("report/trials.json")
CLASSES = [f"Class{label}" for label in range(10)]


def tiny_eurosat():
    """Images 32×32 of ten shades: 20 on the train list, 10 on each of the others.

    The labels of the test list are 99: who trains or scores with them fails.
    """
    labels = torch.arange(10).repeat(4)
    shades = labels.view(-1, 1, 1, 1).expand(-1, 3, 32, 32) * 25
    noise = torch.randint(30, shades.shape, generator=torch.Generator().manual_seed(0))
    images = (shades + noise).to(torch.uint8)
    labels[30:] = 99
    names = [f"image_{number}.jpg" for number in range(40)]
    lists = {"train": names[:20], "val": names[20:30], "test": names[30:]}
    return ImageDataset(images, labels, CLASSES, names, lists=lists)


TINY = tiny_eurosat()
TRAIN = Subset(TINY, range(20))
VALIDATION = Subset(TINY, range(20, 30))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory becomes a folder with the notebook and the ledger."""
    (tmp_path / "report").mkdir()
    shutil.copy("ps2_eurosat.ipynb", tmp_path)
    shutil.copy(LEDGER, tmp_path / LEDGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "load_eurosat", tiny_eurosat)
    return tmp_path


def run_command(monkeypatch, line):
    """Run a command line; the ledger that is there then."""
    monkeypatch.setattr("sys.argv", ["trials", *line.split()])
    trials.main()
    return json.loads(LEDGER.read_text("utf-8"))


def run_here(part2, network, **given):
    """The row of a trial on the tiny images, with settings as texts."""
    trial = trials.read_trial(network, given, part2)
    return trials.run_trial(trial, part2, TRAIN, VALIDATION)


# --- A row ----------------------------------------------------------------------------


def test_a_row_holds_what_was_typed_and_what_was_used(folder, monkeypatch):
    before = json.loads(LEDGER.read_text("utf-8"))
    line = "own epochs=2 images=15 optimizer=AdamW learning_rate=0.002 seeds=42,7"
    after = run_command(monkeypatch, line)
    row = after["trials"].pop()
    assert after == before  # the old rows stay
    assert row["model"] == "own"
    assert row["images"] == 15
    assert row["seeds"] == [42, 7]
    assert row["changes"] == {
        "epochs": "2",
        "optimizer": "AdamW",
        "learning_rate": "0.002",
    }
    assert len(row["validation_accuracy"]) == 2
    assert row["commit"] == "unknown"  # this folder is no clone
    used = row["settings"]
    assert set(used) == set(SETTINGS) - {"seed"}
    assert used["epochs"] == "2"
    assert used["optimizer"] == "AdamW"
    assert used["learning_rate"] == "0.002"
    assert used["augment"] == "random_window"
    assert "Normalize" in used["transform"]


def test_the_table_of_trials_shows_a_new_row(folder, monkeypatch):
    ledger = run_command(monkeypatch, "own epochs=3 images=20 augment=None")
    today, _ = trials_tables(ledger)
    *_, row = today.rows
    number, network, settings, images, accuracy, *compared = row
    assert number == str(len(today.rows))
    assert network == "own"
    assert settings == "epochs 3, augment None"
    assert images == "20"
    assert float(accuracy) >= 10
    assert compared == ["", "", ""]  # it is the first of its kind


def test_equal_lines_give_equal_rows(folder, monkeypatch):
    line = "own epochs=2 seeds=1,2"
    run_command(monkeypatch, line)
    *_, first, second = run_command(monkeypatch, line)["trials"]
    assert first == second


def test_names_of_the_notebook_come_before_those_of_torch(part2):
    value = trials.read_setting("optimizer", "Muon", part2)
    assert value is part2["Muon"]
    value = trials.read_setting("augment", "random_window", part2)
    assert value is part2["random_window"]
    assert trials.read_setting("optimizer", "SGD", part2) == "SGD"
    assert trials.read_setting("criterion", "NLLLoss", part2) == "NLLLoss"
    assert trials.read_setting("max_grad_norm", "inf", part2) == torch.inf


# --- Networks -------------------------------------------------------------------------


def test_the_own_network_starts_from_its_seed(part2):
    make = trials.NETWORKS["own"].make
    one, same, other = [make(part2, TRAIN, seed, {}) for seed in (7, 7, 8)]
    assert one.seed == 7
    assert torch.equal(one.model[3].weight, same.model[3].weight)
    assert not torch.equal(one.model[3].weight, other.model[3].weight)


def test_the_pretrained_network_is_named(part2):
    row = run_here(part2, "pretrained", epochs="1", images="12")
    assert row["model"] == "pretrained tf_efficientnet_lite2"
    assert row["images"] == 12
    assert row["seeds"] == [42]
    assert row["settings"]["epochs"] == "1"
    assert "weight_decay=0.05" in row["settings"]["optimizer"]
    assert "Resize(size=[96, 96]" in row["settings"]["transform"]


def test_images_for_the_pretrained_network_are_resized(part2):
    row = run_here(part2, "pretrained", epochs="1", images="12", pixels="32")
    assert row["changes"] == {"epochs": "1", "pixels": "32"}
    assert "Resize(size=[32, 32]" in row["settings"]["transform"]


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, words",
    [
        pytest.param("", ["NETWORK"], id="nothing"),
        pytest.param("owm", ["'owm'", "own", "pretrained"], id="network"),
        pytest.param("epochs=5", ["'epochs=5'", "pretrained"], id="no network"),
        pytest.param("own epoch=5", ["'epoch'", "epochs", "images"], id="name"),
        pytest.param("own epochs", ["'epochs'", "NAME=VALUE"], id="no value"),
        pytest.param("own seed=5", ["seeds=5"], id="seed"),
        pytest.param("own epochs=5 epochs=6", ["epochs is given twice"], id="twice"),
    ],
)
def test_a_line_that_names_nothing_is_refused(line, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["trials", *line.split()])
    with pytest.raises((SystemExit, ValueError)) as caught:
        trials.main()
    told = str(caught.value) + capsys.readouterr().err
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    "name, text, words",
    [
        pytest.param("epochs", "0", "epochs must be a whole number", id="no epochs"),
        pytest.param("epochs", "1.5", "epochs must be a whole number", id="fraction"),
        pytest.param("epochs", "many", "not 'many'", id="word"),
        pytest.param("epochs", "None", "not None", id="None"),
        pytest.param("learning_rate", "nan", "not nan", id="nan"),
        pytest.param("learning_rate", "-1", "at least 0", id="negative rate"),
        pytest.param("images", "0", "images must be a whole number", id="no images"),
        pytest.param("images", "21", "from 1 to 20", id="more than there are"),
        pytest.param("seeds", "42,x", "not 'x'", id="seed"),
        pytest.param("seeds", "42,42", "42 stands there twice", id="equal seeds"),
        pytest.param("seeds", "", "seed must be a whole number", id="no seed"),
        pytest.param("optimizer", "Adma", "such as Adam, AdamW or SGD", id="optimizer"),
        pytest.param("optimizer", "LBFGS", "such as Adam", id="another kind"),
        pytest.param("optimizer", "None", "such as Adam", id="no optimizer"),
        pytest.param("criterion", "CTCLoss", "CrossEntropyLoss", id="loss"),
        pytest.param("augment", "5", "augment(images, generator)", id="number"),
        pytest.param("augment", "crop", "a function of ps2_eurosat", id="function"),
        pytest.param("transform", "Path", "transform(images)", id="what it imports"),
        pytest.param("pixels", "64", "for pretrained alone", id="pixels of another"),
    ],
)
def test_a_value_that_cannot_be_is_refused(part2, name, text, words):
    with refused(ValueError, name.removesuffix("s"), words):
        run_here(part2, "own", **{name: text})


@pytest.mark.parametrize(
    "name, text, words",
    [
        pytest.param("learning_rate", "1e30", "lower learning_rate", id="diverging"),
        pytest.param("augment", "plot_histogram", "TypeError", id="not made for it"),
        pytest.param("optimizer", "MyMaxPool", "TypeError", id="no optimizer"),
    ],
)
def test_a_training_that_fails_ends_in_a_sentence(part2, name, text, words):
    given = {"epochs": "3", "optimizer": "SGD", name: text}
    with refused(RuntimeError, "own, seed 42", words):
        run_here(part2, "own", **given)


def test_trials_need_the_published_lists(folder, monkeypatch):
    without_lists = ImageDataset(TINY.images, TINY.labels, CLASSES, TINY.names)
    monkeypatch.setattr(trials, "load_eurosat", lambda: without_lists)
    with refused(ValueError, "published lists", "EUROSAT_ROOT"):
        run_command(monkeypatch, "own epochs=1")


@pytest.mark.parametrize(
    "content, words",
    [
        pytest.param("{", "report/trials.json is no JSON", id="broken off"),
        pytest.param("[]", "report/trials.json has no list 'trials'", id="other"),
    ],
)
def test_a_ledger_of_no_use_is_found_before_training(
    folder, monkeypatch, content, words
):
    LEDGER.write_text(content, "utf-8")
    with refused(ValueError, words):
        run_command(monkeypatch, "own learning_rate=1e30")  # which would fail


# --- The committed ledger -------------------------------------------------------------


def test_the_ledger_holds_fractions_of_the_validation_list_with_their_commit():
    ledger = json.loads(LEDGER.read_text("utf-8"))
    for row in ledger["trials"]:
        assert len(row["validation_accuracy"]) == len(row["seeds"])
        assert len(row["commit"]) == 7
        for accuracy in row["validation_accuracy"]:
            right = accuracy * 5400
            assert right == pytest.approx(round(right), abs=1e-6)
