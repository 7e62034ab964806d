"""The three profiles: which is chosen, and that replay ends with the numbers of the full run."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import utils
from tests.helpers import refused

LISTS = {"train": ["a"], "val": ["b"], "test": ["c"]}
REAL = utils.ImageDataset(torch.zeros(3), torch.zeros(3), ["a", "b", "c"], ["A"], lists=LISTS)
UNLISTED = utils.ImageDataset(torch.zeros(3), torch.zeros(3), ["a", "b", "c"], ["A"])
DRAWN = utils.ImageDataset(torch.zeros(3), torch.zeros(3), ["a", "b", "c"], ["A"], "Drawn stand-in")
STORED = Path("report/weights/net.pt")


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """An empty folder in the place of the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(utils, "CACHE", tmp_path / "build")


def dataset(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (24,), generator=generator)
    return TensorDataset(torch.rand(24, 3, 4, 4, generator=generator), labels)


def trainer(start=0, **changes):
    torch.manual_seed(start)
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    cfg = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, "tta": 8} | changes
    return utils.Trainer(nn.Sequential(*layers, nn.Linear(5, 3)), cfg, "cpu")


def train_or_load(profile, trained, data=None):
    """The curves and then the scores of the trained or loaded network."""
    curves = utils.Run.of(profile, REAL).train_or_load("net", trained, data or dataset())
    return curves, trained.predict(dataset(), label="")[0]


def test_replay_ends_with_the_numbers_of_the_full_run(monkeypatch):
    curves, scores = train_or_load("full", trainer())
    monkeypatch.setattr(utils.Trainer, "_optimise", lambda *_: pytest.fail("replay trains nothing"))
    again, same = train_or_load("replay", trainer(start=1))  # nothing of another start may be left
    assert again == curves and torch.equal(same, scores)
    assert STORED.is_file() and not Path("build", STORED).exists()


@pytest.mark.parametrize("profile, folder", [("full", "."), ("quick", "build")])
def test_what_is_scored_is_rounded_as_it_is_stored(profile, folder):
    trained = trainer()
    train_or_load(profile, trained)
    weights = [v for v in trained.model.state_dict().values() if v.is_floating_point()]
    assert weights and all(torch.equal(value, value.half().float()) for value in weights)
    assert trained.model[0].weight.dtype == torch.float32 and Path(folder, STORED).is_file()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS = [
    flip_a_bit,
    lambda path: path.write_bytes(b"text"),
    lambda path: torch.save({"a": 1}, path),
]
HARMS += [lambda path: torch.save([1], path), lambda path: path.write_bytes(b"")]
CASES = [({}, 0, harm) for harm in HARMS] + [
    ({"epochs": 3}, 0, None),
    ({"seed": 1}, 0, None),
    ({}, 1, None),
]


@pytest.mark.parametrize("changes, seed, harm", CASES)
def test_weights_that_do_not_fit_are_one_sentence_and_no_other_numbers(changes, seed, harm):
    train_or_load("full", trainer())
    if harm:
        harm(STORED)
    before = STORED.read_bytes()
    with refused(
        ValueError, f"{STORED} does not fit", "" if harm else "of other settings", "committed file"
    ):
        train_or_load("replay", trainer(**changes), dataset(seed))
    assert STORED.read_bytes() == before


def test_the_profile_follows_from_what_is_there():
    assert [utils.Run.of("", data).profile for data in (REAL, UNLISTED, DRAWN)] == ["quick"] * 3
    train_or_load("full", trainer())
    expected = ["replay", "quick", "quick"]
    assert [utils.Run.of("", data).profile for data in (REAL, UNLISTED, DRAWN)] == expected
    outs = {profile: utils.Run.of(profile, REAL).out for profile in ("quick", "replay", "full")}
    assert outs == {"quick": Path("build"), "replay": Path("build"), "full": Path(".")}


@pytest.mark.parametrize(
    "asked, data, word",
    [
        ("full", DRAWN, "Drawn stand-in"),
        ("replay", DRAWN, "Drawn stand-in"),
        ("replay", REAL, "report/weights/ is empty"),
        ("fast", REAL, "does not exist"),
    ],
)
def test_a_profile_that_cannot_run_is_refused(asked, data, word):
    with refused(ValueError, repr(asked), word, "choose from quick, full, replay"):
        utils.Run.of(asked, data)
