"""The ladder: its rungs lead to the recipe, and each training stands on record."""

import json
import shutil

import pytest

import discussion
from results import LEDGER, ladder_table
from tests.helpers import refused
from tests.test_trials import TRAIN, VALIDATION, tiny_eurosat
from tools import ladder, trials
from trainer import settings


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Rungs of one epoch, in a folder with the notebook and an empty ladder."""
    monkeypatch.setattr(ladder, "EPOCHS", 1)
    monkeypatch.setattr(trials, "load_eurosat", tiny_eurosat)
    shutil.copy("ps2_eurosat.ipynb", tmp_path)
    monkeypatch.chdir(tmp_path)
    LEDGER.parent.mkdir()
    LEDGER.write_text('{"trials": [], "ladder": [], "test": []}', "utf-8")


def climb(monkeypatch, *words):
    """Run a command line; the rows of the ladder that are there then."""
    monkeypatch.setattr("sys.argv", ["ladder", *words])
    ladder.main()
    return json.loads(LEDGER.read_text("utf-8"))["ladder"]


def used(cfg):
    """All settings of a Trainer with `cfg`, as texts."""
    return trials.as_texts(settings(cfg))


@pytest.fixture(scope="module")
def rungs(part2):
    return ladder.make_rungs(part2, TRAIN)


def test_the_first_rung_has_the_templates_settings(rungs):
    template = {
        "batch_size": 64,
        "criterion": "CrossEntropyLoss",
        "epochs": 8,
        "learning_rate": 0.001,
        "optimizer": "Adam",
    }
    assert used(rungs[0].cfg) == used(template)


def test_the_last_step_has_the_recipe_of_part_2(part2, rungs):
    last = next(rung for rung in rungs if rung.name == "Muon, its rate and decay")
    assert used(last.cfg) == used(part2["recipe"](TRAIN, epochs=8))


def test_each_rung_changes_the_one_that_it_names(rungs):
    texts = {}
    for rung in rungs:
        texts[rung.name] = used(rung.cfg)
        if rung.below:
            assert texts[rung.name] != texts[rung.below]


def test_the_plain_network_starts_whitened(part2, rungs):
    trainer = ladder.make_trainer(rungs[-1], part2, TRAIN, 7)
    assert trainer.seed == 7
    first = trainer.model[0]
    assert (first.weight[:32] == -first.weight[32:]).all()
    maps = first(trainer.prepare(TRAIN.dataset.images[:20])).detach()
    maps = maps[:, :32, 2:-2, 2:-2]  # the others are their negatives; no padding
    covariance = maps.movedim(1, 0).flatten(1).cov()
    variances = covariance.diagonal()
    assert variances.max() < 1.3
    assert (covariance - variances.diag()).abs().max() < 0.3


def test_all_rungs_stand_on_record_once(short, monkeypatch):
    rows = climb(monkeypatch)
    assert [row["rung"] for row in rows] == [
        "template's settings, 8 epochs",
        "inputs standardised",
        "random windows",
        "one cycle, clipped gradients",
        "smoothed labels",
        "Muon, its rate and decay",
        "averaged weights",
        "plain network, whitened, averaged, eight views",
    ]
    for row in rows:
        assert row["seeds"] == [42]
        assert row["images"] == len(TRAIN)
        assert row["judged images"] == len(VALIDATION)
    monkeypatch.setattr(ladder, "climb", None)  # to train anything again would fail
    assert climb(monkeypatch) == rows


def test_another_seed_joins_its_row(short, monkeypatch):
    climb(monkeypatch, "template's settings, 8 epochs", "inputs standardised")
    rows = climb(monkeypatch, "template's settings, 8 epochs", "--seed", "43")
    assert [row["seeds"] for row in rows] == [[42, 43], [42]]
    assert len(rows[0]["validation_accuracy"]) == 2


def test_a_rung_of_other_settings_is_trained_anew(short, monkeypatch):
    climb(monkeypatch, "template's settings, 8 epochs")
    monkeypatch.setattr(ladder, "EPOCHS", 2)
    (row,) = climb(monkeypatch, "template's settings, 8 epochs")
    assert row["seeds"] == [42]
    assert row["settings"]["epochs"] == "2"


def test_a_rung_needs_the_one_below_it(short, monkeypatch):
    with refused(ValueError, "'smoothed labels' is not on record: train it first"):
        climb(monkeypatch, "Muon, its rate and decay")


def test_another_seed_needs_the_first_one(short, monkeypatch):
    with refused(ValueError, '"template\'s settings, 8 epochs" takes seed 42 first'):
        climb(monkeypatch, "template's settings, 8 epochs", "--seed", "43")


def test_a_rung_that_is_none_is_refused(short, monkeypatch):
    with refused(ValueError, "no rung 'Moun'", "averaged weights"):
        climb(monkeypatch, "Moun")


def test_a_foreign_rung_of_the_ledger_is_refused_at_once(short, monkeypatch):
    climb(monkeypatch, "template's settings, 8 epochs")
    ledger = trials.read_ledger()
    ledger["ladder"][0]["rung"] = "renamed"
    LEDGER.write_text(json.dumps(ledger), "utf-8")
    monkeypatch.setattr(ladder, "climb", None)  # to train anything would fail
    with refused(ValueError, "has a rung 'renamed'", "take its row out"):
        climb(monkeypatch, "inputs standardised")


def test_the_rung_that_our_models_share_is_on_the_ladder():
    assert discussion.IN_BOTH in ladder.STEPS


def test_the_committed_ladder_is_that_of_todays_rungs(rungs):
    rows = json.loads(LEDGER.read_text("utf-8"))["ladder"]
    assert len(ladder_table({"ladder": rows}).rows) == len(rungs)
    for row, rung in zip(rows, rungs, strict=True):
        assert row["rung"] == rung.name
        assert row["below"] == rung.below
        assert row["seeds"][0] == 42
        assert row["settings"]["epochs"] == "8"
