"""Loading, drawing, splitting; faults of the data end in one sentence or in a drawn stand-in."""

import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import utils
from tests.helpers import refused

DOWNLOAD = "torchvision.datasets.eurosat.download_and_extract_archive"
FOREST = "eurosat/2750/Forest/Forest_1.jpg"


@pytest.fixture(scope="session")
def drawn():
    return {path: file.getvalue() for path, file in utils.draw_stand_in(100).items()}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No images on disk, and a download that fails at once."""

    def refuse(*args, **kwargs):
        raise OSError("no network")

    for name in (DOWNLOAD, "torchvision.datasets.utils.download_url"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr(utils.draw_stand_in, "__defaults__", (100,))
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path / "data"))
    monkeypatch.delenv("EUROSAT_REQUIRED", raising=False)


@pytest.fixture
def root(drawn, tmp_path, monkeypatch, offline):
    """A EuroSAT that is complete with nine images of each class, where it is looked for."""
    monkeypatch.setattr(utils, "COUNTS", [9] * 10)
    for path in (path for path in drawn if path.stem[-2] == "_"):
        (file := tmp_path / "data/eurosat/2750" / path).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn[path])
    return tmp_path / "data"


@pytest.mark.parametrize("place", ["eurosat/2750", "EuroSAT_RGB", "2750"])
def test_the_images_are_found_and_foreign_entries_ignored(root, place):
    theirs = torchvision.datasets.EuroSAT(root)
    names, folder = [Path(path).name for path, _ in theirs.samples], root / place
    pixels = np.asarray(theirs[50][0])
    if place != "eurosat/2750":
        shutil.move(root / "eurosat/2750", folder)
    (folder / "__MACOSX/Forest").mkdir(parents=True)
    (folder / "Forest/._Forest_1.jpg").write_bytes(b"\0")
    data = utils.load_eurosat()
    assert not data.note and data.classes == theirs.classes and data.names == names
    assert data.labels.tolist() == theirs.targets
    assert np.array_equal(data.images[50].permute(1, 2, 0), pixels)


@pytest.mark.parametrize("value", ["", "0", "false", "1", "true"])
def test_without_images_a_stand_in_and_a_sentence_or_an_error(offline, monkeypatch, capsys, value):
    monkeypatch.setenv("EUROSAT_REQUIRED", value)
    words = "looked in", "EuroSAT_RGB", "failed: no network"
    if value in ("1", "true"):
        with refused(FileNotFoundError, *words, "set EUROSAT_ROOT"):
            utils.load_eurosat()
    else:
        data, told = utils.load_eurosat(), capsys.readouterr().out
        assert data.note == "Drawn stand-in, not EuroSAT" and data.images.shape == (1000, 3, 64, 64)
        assert all(word in told for word in words)


def test_home_and_an_empty_root(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root.parent)
    assert utils.find_eurosat("~/data")[0] == root / "eurosat/2750"
    monkeypatch.setenv("EUROSAT_ROOT", "")
    assert utils.find_eurosat()[0] == Path("data/eurosat/2750")


@pytest.mark.parametrize("remove", ["Forest/Forest_1.jpg", "River/*", "*/*"])
def test_what_is_half_there_is_named_and_never_replaced(root, remove):
    folder = root / "eurosat/2750"
    for file in folder.glob(remove):
        file.unlink()
    with refused(ValueError, str(folder), "move that folder away"):
        utils.load_eurosat()
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    with refused(FileNotFoundError, str(folder), "Move away what is there"):
        utils.load_eurosat()


def saved(image, form="JPEG", **options):
    image.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


SMALL = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
SMOOTH = PIL.Image.fromarray(SMALL).resize((64, 64))
BAD = [b"text\n" * 99, b"", bytes(2000), saved(SMOOTH, "PNG"), saved(SMOOTH.crop((0, 0, 64, 63)))]
BAD += [saved(SMOOTH.convert("L")), saved(SMOOTH.convert("CMYK")), saved(SMOOTH)[:-300]]


@pytest.mark.parametrize("content", BAD)
def test_an_image_that_is_not_as_published_is_named(root, content):
    (root / FOREST).write_bytes(content)
    with refused(ValueError, str(root / FOREST), "no image as published"):
        utils.load_eurosat()


@pytest.mark.parametrize("end", [None, 5000])
def test_a_download_is_enough_and_a_broken_one_is_a_sentence(root, monkeypatch, end):
    """The archive arrives, whole or cut, and is checked as torchvision does."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as file:
        for path in sorted((root / "eurosat").rglob("*.jpg")):
            file.write(path, path.relative_to(root / "eurosat"))
    shutil.rmtree(root / "eurosat/2750")
    whole, real = packed.getvalue(), torchvision.datasets.utils

    def fetch(url, download_root, md5):
        archive = Path(download_root, "EuroSAT.zip")
        archive.write_bytes(whole[:end])
        if not real.check_integrity(archive, hashlib.md5(whole).hexdigest()):
            raise RuntimeError("File not found or corrupted.")
        real.extract_archive(archive, download_root)

    monkeypatch.setattr(DOWNLOAD, fetch)
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    if end is None:
        data = utils.load_eurosat()
        assert len(data) == 90 and not data.lists
    else:
        with refused(FileNotFoundError, "download failed: File not found or corrupted"):
            utils.load_eurosat()


def test_the_stand_in_has_five_per_cent_wrong_labels_in_every_part(drawn, monkeypatch):
    names, draw = [], utils.draw_scene
    monkeypatch.setattr(utils, "draw_scene", lambda *args: names.append(args[0]) or draw(*args))
    assert {path: file.getvalue() for path, file in utils.draw_stand_in(100).items()} == drawn
    wrong = (np.array(names) != [path.parent.name for path in drawn]).reshape(10, 100)
    fifth = np.arange(1, 101) % 5
    for take in utils.FIFTHS.values():
        assert (wrong[:, np.isin(fifth, take)].mean(1) == utils.WRONG_LABELS).all()


WRONG = [("val", text) for text in ("Nowhere_1.jpg", "\0\xff", "River_1.jpg River_1.jpg", None)]
WRONG += [("train", " \n"), ("test", "AnnualCrop_1.jpg")]


@pytest.mark.parametrize("part, text", [(None, None), *WRONG])
def test_published_lists_make_the_split_or_are_refused(root, part, text):
    names = utils.load_eurosat().names
    lists = {"train": names[:60], "val": names[60:61], "test": names[61:]}
    texts = {name: "\n".join(some) for name, some in lists.items()} | {part: text}
    for name in {name for name in texts if texts[name]}:
        (root / f"eurosat/eurosat-{name}.txt").write_text(texts[name], encoding="latin-1")
    if part:
        with refused(ValueError, "eurosat-*.txt do not part the images", "move all three away"):
            utils.split_eurosat(utils.load_eurosat())
    else:
        split = utils.split_eurosat(utils.load_eurosat())
        assert [len(index) for index in split.values()] == [60, 1, 29] and split["val"] == 60


@given(numbers=st.lists(st.integers(1, 3000), min_size=15, unique=True))
def test_without_lists_the_numbers_make_three_parts_that_share_no_image(numbers):
    names = [f"River_{number}.jpg" for number in [*numbers, *range(3001, 3006)]]
    data = utils.ImageDataset(torch.zeros(len(names), 1), torch.zeros(len(names)), names, ["River"])
    parts = utils.split_eurosat(data)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(names)))
    assert all(int(names[i].partition("_")[2][:-4]) % 5 == 0 for i in parts["test"])
