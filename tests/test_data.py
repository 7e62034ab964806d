"""Loading, drawing, caching, splitting; faults of the data end in one sentence or in recovery."""

import hashlib
import io
import multiprocessing
import os
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torchvision.io import decode_jpeg

import utils
from tests.helpers import refused

DOWNLOAD = "torchvision.datasets.eurosat.download_and_extract_archive"
FOREST = "eurosat/2750/Forest/Forest_1.jpg"
NINE = dict.fromkeys(utils.CLASSES, 9)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A EuroSAT that is complete with nine images of each class."""
    root = utils.draw_stand_in(tmp_path_factory.mktemp("drawn"), 100)
    for path in root.rglob("*_??*.jpg"):
        path.unlink()
    return root


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No images on disk, a download that fails at once, a cache in an empty folder."""

    def refuse(*args, **kwargs):
        raise OSError("no network")

    for name in (DOWNLOAD, "torchvision.datasets.utils.download_url"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr(utils.draw_stand_in, "__defaults__", (100,))
    monkeypatch.setattr(utils, "CACHE", tmp_path / "build")
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path / "data"))
    monkeypatch.delenv("EUROSAT_REQUIRED", raising=False)


@pytest.fixture
def root(small, tmp_path, monkeypatch, offline):
    """A copy of the small EuroSAT, where the images are looked for."""
    monkeypatch.setattr(utils, "EUROSAT", NINE)
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    return Path(shutil.copytree(small, tmp_path / "data"))


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, in order."""
    files, decode = [], utils.decode
    monkeypatch.setattr(utils, "decode", lambda file: files.append(file) or decode(file))
    return files


# Finding and decoding


@pytest.mark.parametrize("place", ["eurosat/2750", "EuroSAT_RGB", "2750"])
def test_the_images_are_found_and_foreign_entries_ignored(root, place):
    theirs = torchvision.datasets.EuroSAT(root)
    names, folder = [Path(path).name for path, _ in theirs.samples], root / place
    if place != "eurosat/2750":
        shutil.move(root / "eurosat/2750", folder)
    (folder / "__MACOSX/Forest").mkdir(parents=True)
    (folder / "Forest/._Forest_1.jpg").write_bytes(b"\0")
    data = utils.load_eurosat()
    assert not data.note and data.classes == theirs.classes
    assert data.names == names and data.labels.tolist() == theirs.targets


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_without_images_a_stand_in_and_a_sentence(offline, monkeypatch, capsys, value):
    monkeypatch.setenv("EUROSAT_REQUIRED", value)
    data, told = utils.load_eurosat(), capsys.readouterr().out
    assert data.note == "Drawn stand-in, not EuroSAT" and data.images.shape == (1000, 3, 64, 64)
    assert all(word in told for word in ("looked in", "EuroSAT_RGB", "failed: no network"))


@pytest.mark.parametrize("value", ["1", "true"])
def test_required_images_that_are_missing_are_an_error(offline, monkeypatch, value):
    monkeypatch.setenv("EUROSAT_REQUIRED", value)
    with refused(FileNotFoundError, "eurosat/2750", "failed: no network", "set EUROSAT_ROOT"):
        utils.load_eurosat()


def test_home_and_an_empty_root(offline, monkeypatch, tmp_path, small):
    for name in ("home/x", "data"):
        shutil.copytree(small, tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EUROSAT_ROOT", "")
    monkeypatch.chdir(tmp_path)
    assert utils.find_eurosat("~/x")[0] == tmp_path / "home/x/eurosat/2750"
    assert utils.find_eurosat()[0] == Path("data/eurosat/2750")


HALVES = [("Forest/Forest_1.jpg", "Forest 8 of 9"), ("R*/*", "River 0 of 9"), ("*/*", "0 images")]


@pytest.mark.parametrize("remove, word", HALVES)
def test_a_half_extracted_folder_names_what_is_missing(root, remove, word):
    for file in (root / "eurosat/2750").glob(remove):
        file.unlink()
    with refused(ValueError, str(root / "eurosat/2750"), "move that folder away", word):
        utils.load_eurosat()


def test_a_file_in_the_place_of_the_folder_is_no_reason_for_a_stand_in(root, monkeypatch):
    monkeypatch.delenv("EUROSAT_REQUIRED")
    shutil.rmtree(root / "eurosat/2750")
    (root / "eurosat/2750").write_text("not a folder")
    with refused(FileNotFoundError, "eurosat/2750", "Move away what is there"):
        utils.load_eurosat()


def saved(image, form="JPEG", **options):
    image.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


PLAIN = [PIL.Image.new(mode, (64, size)) for mode, size in (("L", 64), ("CMYK", 64), ("RGB", 63))]
BAD = [b"text\n" * 99, b"", bytes(2000), saved(PIL.Image.new("RGB", (64, 64)), "PNG")]
SMALL = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
SMOOTH = PIL.Image.fromarray(SMALL).resize((64, 64))
JPEGS = [saved(SMOOTH), saved(SMOOTH, quality=30, progressive=True), saved(SMOOTH, subsampling=0)]


@pytest.mark.parametrize("content", BAD + [saved(image) for image in PLAIN])
def test_an_image_that_is_not_as_published_is_named(root, content):
    (root / FOREST).write_bytes(content)
    with refused(ValueError, str(root / FOREST), "put the published image in its place"):
        utils.load_eurosat()
    assert not list(utils.CACHE.glob("images*"))


@pytest.mark.filterwarnings("ignore:The image decoding")
@given(st.sampled_from(JPEGS), st.floats(0, 1), st.integers(0, 200), st.binary(max_size=20))
def test_a_changed_jpeg_is_named_or_two_decoders_agree(tmp_path_factory, whole, start, cut, new):
    file, place = tmp_path_factory.getbasetemp() / "Forest_1.jpg", int(start * len(whole))
    file.write_bytes(content := whole[:place] + new + whole[place + cut :])
    try:
        pixels = utils.decode(file)
    except ValueError as error:
        assert str(file) in str(error) and "\n" not in str(error)
        return
    try:
        other = decode_jpeg(torch.tensor(list(content), dtype=torch.uint8)).permute(1, 2, 0)
    except RuntimeError:
        return  # the other decoder is stricter
    assert np.array_equal(pixels, other)


# Downloads


@pytest.fixture
def served(root, monkeypatch):
    """served(change): the archive arrives as change(bytes) and is checked as torchvision does."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as file:
        for path in sorted((root / "eurosat").rglob("*.jpg")):
            file.write(path, path.relative_to(root / "eurosat"))
    shutil.rmtree(root / "eurosat/2750")
    whole, real = packed.getvalue(), torchvision.datasets.utils

    def serve(change):
        def fetch(url, download_root, md5):
            archive = Path(download_root, "EuroSAT.zip")
            archive.write_bytes(change(whole))
            if not real.check_integrity(archive, hashlib.md5(whole).hexdigest()):
                raise RuntimeError("File not found or corrupted.")
            real.extract_archive(archive, download_root)

        monkeypatch.setattr(DOWNLOAD, fetch)

    return serve


def test_a_download_is_enough_even_without_the_lists(served):
    served(lambda whole: whole)
    data = utils.load_eurosat()
    assert len(data) == 90 and not data.lists


@pytest.mark.parametrize("change", [lambda b: b[:5000], lambda b: b"", lambda b: b[:-1] + b"x"])
def test_a_broken_download_is_one_sentence_or_a_stand_in(served, change, monkeypatch):
    served(change)
    with refused(FileNotFoundError, "download failed: File not found or corrupted"):
        utils.load_eurosat()
    monkeypatch.delenv("EUROSAT_REQUIRED")
    assert utils.load_eurosat().note


# Stand-in and cache


def test_the_stand_in_has_five_per_cent_wrong_labels_in_every_part(tmp_path, monkeypatch):
    drawn, draw = [], utils.draw_scene
    monkeypatch.setattr(utils, "draw_scene", lambda *args: drawn.append(args[0]) or draw(*args))
    first, again = (utils.draw_stand_in(tmp_path / name, 100).rglob("*.jpg") for name in "ab")
    assert [p.read_bytes() for p in sorted(first)] == [p.read_bytes() for p in sorted(again)]
    wrong = (np.array(drawn[:1000]) != np.repeat(utils.CLASSES, 100)).reshape(10, 100)
    fifth = np.arange(1, 101) % 5
    for take in utils.FIFTHS.values():
        assert (wrong[:, np.isin(fifth, take)].mean(1) == utils.WRONG_LABELS).all()


def load_apart(root, cache, required):
    utils.CACHE, utils.EUROSAT, os.environ["EUROSAT_REQUIRED"] = cache, NINE, required
    utils.draw_stand_in.__defaults__ = (100,)
    return utils.digest(utils.load_eurosat(root).images)


@pytest.mark.parametrize("required", ["1", "0"])
def test_processes_that_start_at_once_agree(root, required):
    if required == "0":  # no images, and no process can download: each draws the stand-in
        shutil.rmtree(root / "eurosat")
        (root / "eurosat").write_text("a file")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        works = [pool.submit(load_apart, root, utils.CACHE, required) for _ in range(2)]
        assert len({work.result(120) for work in works}) == 1
    assert not list(utils.CACHE.glob("*.part"))


@pytest.mark.parametrize("place", [0, 200, 100_000, -1_000, -30, None])
def test_a_damaged_cache_is_never_believed_and_written_afresh(root, place, decoded):
    right, (cache,) = utils.load_eurosat().images, utils.CACHE.iterdir()
    content = bytearray(cache.read_bytes())
    content[place or 0] ^= 4
    cache.write_bytes(content if place is not None else b"text")
    for _ in range(2):
        assert torch.equal(utils.load_eurosat().images, right)
    assert len(decoded) in (90, 180)  # a bit may lie where nothing is stored


def test_the_cache_of_a_changed_image_or_another_decoder_is_stale(root, decoded, monkeypatch):
    utils.load_eurosat()
    stat = (root / FOREST).stat()
    (root / FOREST).write_bytes((root / FOREST).with_name("Forest_2.jpg").read_bytes())
    os.utime(root / FOREST, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the change is hidden
    utils.load_eurosat()
    monkeypatch.setattr(PIL, "__version__", "0")
    utils.load_eurosat()
    assert len(decoded) == 270


def test_no_room_for_the_cache_costs_only_the_cache(root):
    utils.CACHE.write_text("a file in the place of the folder")
    assert len(utils.load_eurosat()) == 90 and utils.CACHE.is_file()


# Lists of the split


@pytest.fixture
def lists(root):
    """Published lists of three, one and one images."""
    names = utils.load_eurosat().names
    for part, some in {"train": names[:3], "val": names[3:4], "test": names[4:5]}.items():
        (root / f"eurosat/eurosat-{part}.txt").write_text("\n".join(some))


def test_published_lists_make_the_split(lists):
    split = utils.split_eurosat(utils.load_eurosat())
    assert [index.tolist() for index in split.values()] == [[0, 1, 2], [3], [4]]


WRONG = [("val", "Nowhere_1.jpg", "Nowhere_1.jpg"), ("val", "\0\xff", "no image")]
WRONG += [("val", "River_1.jpg River_1.jpg", "River_1.jpg"), ("train", " \n", "empty")]
WRONG += [("test", "AnnualCrop_1.jpg", "AnnualCrop_1.jpg"), ("val", None, "missing")]


@pytest.mark.parametrize("part, text, word", WRONG)
def test_lists_that_make_no_split_are_refused(root, lists, part, text, word):
    path = root / f"eurosat/eurosat-{part}.txt"
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    with refused(ValueError, "eurosat-*.txt", word, "move all three away"):
        utils.split_eurosat(utils.load_eurosat())


@given(numbers=st.lists(st.integers(1, 3000), min_size=15, unique=True))
def test_without_lists_the_numbers_make_three_parts_that_share_no_image(numbers):
    names = [f"River_{number}.jpg" for number in [*numbers, *range(3001, 3006)]]
    data = utils.ImageDataset(torch.zeros(len(names), 1), torch.zeros(len(names)), names, ["River"])
    parts = utils.split_eurosat(data)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(names)))
    assert all(int(names[i].partition("_")[2][:-4]) % 5 == 0 for i in parts["test"])
