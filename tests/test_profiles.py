"""The three profiles: which is chosen, and that replay ends with the numbers of the full run."""

import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

import utils
from tests.helpers import random_data, refused

LISTS = {"train": ["a"], "val": ["b"], "test": ["c"]}
PARTS = torch.zeros(3), torch.zeros(3), ["a", "b", "c"], ["A"]
REAL, UNLISTED = utils.ImageDataset(*PARTS, lists=LISTS), utils.ImageDataset(*PARTS)
DRAWN = utils.ImageDataset(*PARTS, "Drawn stand-in")
STORED = Path("report/weights/net.pt")
(COMPARED,) = [c for c in nbformat.read("ps2_eurosat.ipynb", 4).cells if c.id == "same-answers"]


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """An empty folder in the place of the repository."""
    monkeypatch.chdir(tmp_path)
    for name, folder in {"BUILD": Path("build"), "WORK": Path("build/work-full")}.items():
        monkeypatch.setattr(utils, name, folder)


def dataset(seed=0):
    return random_data(24, 4, 3, seed)


def views(images):
    """An image and its mirror image."""
    return [images, images.flip(-1)]


def trainer(start=0, **changes):
    torch.manual_seed(start)
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    cfg = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "tta": views} | changes
    return utils.Trainer(nn.Sequential(*layers, nn.Linear(5, 3)), cfg, "cpu")


def train_or_load(profile, trained, data=None):
    """The curves and then the scores of the trained or loaded network."""
    curves = utils.train_or_load(profile, "net", trained, data or dataset())
    if profile == "full":
        shutil.copytree(utils.WORK / "weights", STORED.parent, dirs_exist_ok=True)
    return curves, trained.predict(dataset(), label="")[0]


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_what_is_scored_is_rounded_as_it_is_stored(profile):
    trained = trainer()
    train_or_load(profile, trained)
    weights = [v for v in trained.model.state_dict().values() if v.is_floating_point()]
    assert weights and all(torch.equal(value, value.half().float()) for value in weights)
    assert trained.model[0].weight.dtype == torch.float32
    assert STORED.exists() == (profile == "full")


def test_a_full_run_goes_on_from_the_networks_it_has_finished(monkeypatch):
    curves, scores = train_or_load("full", trainer())
    monkeypatch.setattr(utils.Trainer, "iter_step", lambda *_: pytest.fail("it trains"))
    again, same = train_or_load("full", trainer())
    assert again == curves and torch.equal(same, scores)
    with refused(ValueError, "of other settings"):
        train_or_load("full", trainer(epochs=3))


def test_replay_trains_nothing_and_ends_with_the_numbers_of_the_full_run(monkeypatch):
    curves, scores = train_or_load("full", trainer())
    monkeypatch.setattr(utils.Trainer, "iter_step", lambda *_: pytest.fail("it trains"))
    again, same = train_or_load("replay", trainer(start=1))  # nothing of another start may be left
    assert again == curves and torch.equal(same, scores) and not Path("build", STORED).exists()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FOREIGN = [flip_a_bit, Path.unlink, lambda path: torch.save({"a": 1}, path)]
CASES = [({}, 0, harm) for harm in FOREIGN]
CASES += [({"epochs": 3}, 0, None), ({"seed": 1}, 0, None), ({}, 1, None)]


@pytest.mark.parametrize("changes, seed, harm", CASES)
def test_weights_that_do_not_fit_are_one_sentence_and_no_other_numbers(changes, seed, harm):
    train_or_load("full", trainer())
    if harm:
        harm(STORED)
    words = f"{STORED} does not fit", "" if harm else "of other settings", "committed file"
    with refused(ValueError, *words):
        train_or_load("replay", trainer(**changes), dataset(seed))


def test_the_profile_follows_from_what_is_there():
    assert [utils.choose_profile("", data) for data in (REAL, UNLISTED, DRAWN)] == ["quick"] * 3
    for asked, data, word in (("replay", REAL, "is empty"), ("fast", REAL, "does not exist")):
        with refused(ValueError, repr(asked), word, "choose from quick, full, replay"):
            utils.choose_profile(asked, data)
    train_or_load("full", trainer())
    expected = ["replay", "quick", "quick"]
    assert [utils.choose_profile("", data) for data in (REAL, UNLISTED, DRAWN)] == expected
    for asked in ("full", "replay"):
        with refused(ValueError, repr(asked), "Drawn stand-in"):
            utils.choose_profile(asked, DRAWN)


@pytest.mark.parametrize("moved", [0, 2, 3])
def test_a_replay_names_the_images_with_another_answer_and_fails_at_three(capsys, moved):
    scores = torch.eye(3)
    names = {"utils": utils, "data": REAL, "test": Subset(REAL, torch.arange(3))}
    exec(COMPARED.source, names | {"profile": "full", "scores": {"net": [None, scores]}})
    shutil.copytree(utils.WORK / "weights", STORED.parent)
    other = torch.cat([scores[:moved].roll(1, 1), scores[moved:]])
    again = names | {"profile": "replay", "scores": {"net": [None, other]}}
    if moved == 3:
        with refused(RuntimeError, "net has 3 other answers"):
            exec(COMPARED.source, again)
    else:
        exec(COMPARED.source, again)
    listed = "net: another answer than in the full run for " + ", ".join("abc"[:moved])
    assert capsys.readouterr().out.strip() == (listed if moved else "")
