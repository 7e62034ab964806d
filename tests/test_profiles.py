"""The three profiles: which is chosen, and that replay ends as the full run did."""

import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

import utils
from eurosat import ImageDataset
from tests.helpers import random_data, refused
from trainer import Trainer

LISTS = {"train": ["a"], "val": ["b"], "test": ["c"]}
NOTE = "Drawn stand-in"
STORED = Path("report/weights/net.pt")
NOTEBOOK = Path(__file__).resolve().parent.parent / "ps2_eurosat.ipynb"


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """An empty folder in the place of the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def record():
    """A record with one file, which is not read."""
    STORED.parent.mkdir(parents=True)
    STORED.touch()


# --- Which profile --------------------------------------------------------------------


@pytest.mark.parametrize(
    "note, lists, profile",
    [
        pytest.param("", LISTS, "replay", id="EuroSAT"),
        pytest.param("", {}, "quick", id="EuroSAT without lists"),
        pytest.param(NOTE, {}, "quick", id="the stand-in"),
    ],
)
def test_unasked_replay_runs_where_it_can_and_else_quick(record, note, lists, profile):
    assert utils.choose_profile("", note, lists) == profile


@pytest.mark.parametrize(
    "note, lists",
    [
        pytest.param("", LISTS, id="EuroSAT"),
        pytest.param("", {}, id="EuroSAT without lists"),
        pytest.param(NOTE, {}, id="the stand-in"),
    ],
)
def test_without_a_record_unasked_quick_runs(note, lists):
    assert utils.choose_profile("", note, lists) == "quick"


@pytest.mark.parametrize(
    "asked, note, lists",
    [
        pytest.param("replay", "", LISTS, id="replay"),
        pytest.param("full", "", LISTS, id="full"),
        pytest.param("full", "", {}, id="full without lists"),
        pytest.param("quick", "", LISTS, id="quick"),
        pytest.param("quick", NOTE, {}, id="quick on the stand-in"),
    ],
)
def test_the_profile_that_is_asked_for_runs(record, asked, note, lists):
    assert utils.choose_profile(asked, note, lists) == asked


@pytest.mark.parametrize(
    "asked, note, lists, words",
    [
        pytest.param(
            "fast", "", LISTS, "choose from quick, full, replay", id="a wrong name"
        ),
        pytest.param("full", NOTE, {}, NOTE, id="full on the stand-in"),
        pytest.param("replay", NOTE, {}, NOTE, id="replay on the stand-in"),
        pytest.param("replay", "", {}, "lists of the split are missing", id="no lists"),
    ],
)
def test_a_profile_that_cannot_run_is_refused(record, asked, note, lists, words):
    with refused(ValueError, repr(asked), words):
        utils.choose_profile(asked, note, lists)


def test_replay_without_a_record_is_refused():
    with refused(ValueError, "'replay'", "report/weights/ is empty", "choose quick"):
        utils.choose_profile("replay", "", LISTS)


def test_a_full_run_writes_to_the_repository_and_the_others_to_build():
    for profile in ("", "quick", "replay"):
        assert utils.output_folder(profile) == Path("build")
    assert sorted(path.name for path in Path("build").iterdir()) == [
        "figures",
        "report",
    ]
    assert not Path("figures").exists()
    assert utils.output_folder("full") == Path(".")
    assert Path("figures").is_dir()


# --- Something computed or loaded -----------------------------------------------------


def compute():
    return {"answer": 42}


def never():
    pytest.fail("it is computed again")


def test_a_full_run_goes_on_from_what_it_has_finished():
    state = utils.compute_or_load("full", "grid/point", "some", compute)
    assert state["answer"] == 42
    assert Path("build/work-full/grid/point.pt").exists()
    again = utils.compute_or_load("full", "grid/point", "some", never)
    assert again == state
    with refused(ValueError, "grid/point.pt does not fit", "of other settings"):
        utils.compute_or_load("full", "grid/point", "other", never)


def test_a_quick_run_computes_anew():
    utils.compute_or_load("quick", "net", "some", compute)
    state = utils.compute_or_load("quick", "net", "other", lambda: {"answer": 43})
    assert state["answer"] == 43
    assert not Path("build/work-full").exists()
    assert not Path("report").exists()


def test_replay_reads_the_record_alone():
    with refused(ValueError, f"{STORED} does not fit", "committed file"):
        utils.compute_or_load("replay", "net", "some", never)
    utils.save_state(STORED, "some", compute())
    state = utils.compute_or_load("replay", "net", "some", never)
    assert state["answer"] == 42
    assert not Path("build").exists()


def test_what_fails_leaves_no_file():
    with pytest.raises(ZeroDivisionError):
        utils.compute_or_load("full", "net", "some", lambda: 1 / 0)
    assert not Path("build").exists()


# --- A network trained or loaded ------------------------------------------------------


def dataset(seed=0):
    return random_data(24, 4, 3, seed)


def make_trainer(start=0, **changes):
    """A Trainer of a small network with BatchNorm, whose buffers are stored, too."""
    torch.manual_seed(start)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    cfg = {"batch_size": 8, "epochs": 2, "learning_rate": 0.01, **changes}
    return Trainer(model, cfg, "cpu")


def views(images):
    """An image and its mirror image."""
    return [images, images.flip(-1)]


def train_or_load(profile, trained, data=None):
    """The curves, then the scores, of the trained or loaded network."""
    if data is None:
        data = dataset()
    avg_loss, avg_acc = utils.train_or_load(profile, "net", trained, data, dataset(1))
    scores, _ = trained.predict(dataset(), "", views)
    return avg_loss, avg_acc, scores


@pytest.fixture
def full_run():
    """What a full run got, after its network was moved to the record."""
    found = train_or_load("full", make_trainer())
    STORED.parent.mkdir(parents=True)
    shutil.move("build/work-full/net.pt", STORED)
    return found


@pytest.fixture
def untrained(monkeypatch):
    """In this test a training fails."""
    monkeypatch.setattr(Trainer, "optimise", lambda *_: pytest.fail("it trains"))


@pytest.mark.parametrize("profile", ["full", "quick"])
def test_what_is_scored_is_rounded_as_it_is_stored(profile):
    trained = make_trainer()
    train_or_load(profile, trained)
    rounded = 0
    for value in trained.model.state_dict().values():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert torch.equal(value, value.half().float())
            rounded += 1
    assert rounded == 8
    assert Path("build/work-full/net.pt").exists() == (profile == "full")


def test_a_full_run_goes_on_from_the_networks_it_has_finished(monkeypatch):
    trained = make_trainer()
    avg_loss, avg_acc, scores = train_or_load("full", trained)
    monkeypatch.setattr(Trainer, "optimise", never)
    loaded = make_trainer(start=1)
    same_loss, same_acc, same_scores = train_or_load("full", loaded)
    assert (same_loss, same_acc) == (avg_loss, avg_acc)
    assert torch.equal(same_scores, scores)
    assert loaded.validation == trained.validation
    assert len(loaded.validation) == 2
    assert loaded.cost == trained.cost > 0
    assert loaded.trained_in_bfloat16 == trained.trains_in_bfloat16()
    with refused(ValueError, "of other settings"):
        train_or_load("full", make_trainer(epochs=3))


def test_replay_trains_nothing_and_ends_with_the_numbers_of_the_full_run(
    full_run, untrained
):
    avg_loss, avg_acc, scores = full_run
    other_start = make_trainer(start=1)  # nothing of it may be left
    same_loss, same_acc, same_scores = train_or_load("replay", other_start)
    assert (same_loss, same_acc) == (avg_loss, avg_acc)
    assert torch.equal(same_scores, scores)
    assert not Path("build/weights").exists()
    assert list(Path("build/work-full").iterdir()) == []


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def replace(path):
    torch.save({"a": 1}, path)


@pytest.mark.parametrize("harm", [cut, replace, Path.unlink])
def test_a_damaged_record_is_one_sentence_and_no_other_numbers(
    full_run, untrained, harm
):
    harm(STORED)
    with refused(ValueError, f"{STORED} does not fit", "committed file"):
        train_or_load("replay", make_trainer())


@pytest.mark.parametrize(
    "changes, seed",
    [
        pytest.param({"epochs": 3}, 0, id="epochs"),
        pytest.param({"seed": 1}, 0, id="seed"),
        pytest.param({}, 1, id="data"),
    ],
)
def test_a_record_of_other_settings_is_refused(full_run, untrained, changes, seed):
    words = [f"{STORED} does not fit", "of other settings", "committed file"]
    with refused(ValueError, *words):
        train_or_load("replay", make_trainer(**changes), dataset(seed))


# --- The cell of part 2 that compares a replay with the full run ----------------------


def compare_answers(profile, scores):
    """Run the cell on three test images with the scores of one network."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    sources = {cell.id: cell.source for cell in cells}
    no_images = torch.zeros(3, 3, 1, 1)
    data = ImageDataset(no_images, torch.zeros(3), ["A"], names=["a", "b", "c"])
    names = {
        "utils": utils,
        "profile": profile,
        "data": data,
        "test_part": Subset(data, torch.arange(3)),
        "networks": ["net"],
        "answers": {"net": scores.argmax(1)},
    }
    exec(sources["same-answers"], names)


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_a_replay_names_the_images_with_another_answer_and_fails_at_three(
    capsys, moved
):
    scores = torch.eye(3)
    compare_answers("full", scores)
    STORED.parent.mkdir(parents=True)
    shutil.move("build/work-full/answers.pt", STORED.parent)
    other = scores.clone()
    other[:moved] = scores[:moved].roll(1, 1)
    if moved == 3:
        with refused(RuntimeError, "net has 3 other answers"):
            compare_answers("replay", other)
    else:
        compare_answers("replay", other)
    *earlier, last = capsys.readouterr().out.splitlines()
    files = ", ".join(["a", "b", "c"][:moved])
    named = f"net: another answer than in the full run for {files}"
    everything = "The same answers as in the full run: 1 of 1 networks."
    assert earlier[0] == everything  # in the full run itself
    if moved == 0:
        assert last == everything
    elif moved == 3:
        assert last == named
    else:
        assert earlier[1:] == [named]
        assert last == "The same answers as in the full run: 0 of 1 networks."
