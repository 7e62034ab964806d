"""The ledger of trials: what a trial changes is what it trains with, and is on record."""

import json
from pathlib import Path

import pytest
import torch

import utils
from tests.helpers import refused
from tests.test_part2 import tiny
from tools import trials

IMAGES = tiny([*range(10)] * 2, side=32)


@pytest.mark.parametrize("name", trials.TRIALS)
def test_each_trial_trains_with_what_its_row_says(part2, name, monkeypatch):
    trained = []

    def train(trainer, dataset, label):
        trained.append((trainer.cfg, len(dataset), trainer.model[0].weight[32:].clone()))

    monkeypatch.setattr(utils.Trainer, "train", train)
    monkeypatch.setattr(utils.Trainer, "test", lambda *_: ([1.0], [len(trained) / 10]))
    row = trials.trial(name, part2, IMAGES, IMAGES)
    expected = [0.1, 0.2, 0.3][: len(row["seeds"])]
    assert row["validation_accuracy"] == expected and row["name"] == name
    for seed, (cfg, number, weights) in zip(row["seeds"], trained, strict=True):
        changes = {k: part2.get(v, v) for k, v in row["changes"].items()}
        assert changes.items() <= cfg.items()
        assert cfg["seed"] == seed and number == row["images"] == 20
        start = part2["new_model"](seed)[0].weight[32:]
        assert torch.equal(weights, start) == (row["model"] == "own, not whitened")


def test_trials_need_the_published_lists_and_a_known_name(monkeypatch, capsys):
    monkeypatch.setattr(utils, "load_eurosat", lambda: IMAGES)
    monkeypatch.setattr("sys.argv", ["trials", "short"])
    with refused(SystemExit, "Trials need the images"):
        trials.main()
    monkeypatch.setattr("sys.argv", ["trials", "long"])
    with pytest.raises(SystemExit):
        trials.main()
    assert "invalid choice: 'long'" in capsys.readouterr().err


def test_the_ledger_holds_fractions_of_the_validation_list_with_their_commit():
    ledger = json.loads(Path("report/trials.json").read_text("utf-8"))
    for row in ledger["trials"]:
        assert len(row["validation_accuracy"]) == len(row["seeds"]) and len(row["commit"]) == 7
        for accuracy in row["validation_accuracy"]:
            assert accuracy * 5400 == pytest.approx(round(accuracy * 5400), abs=1e-6)
