"""EuroSAT found, downloaded, read and split; faults of the data end in one sentence."""

import functools
import hashlib
import io
import shutil
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets.utils import download_and_extract_archive

import eurosat
import standin
from tests.helpers import refused

EACH = 9  # images of each class in the small EuroSAT of these tests


@pytest.fixture(scope="session")
def jpegs():
    """{class/name: bytes of a JPEG}: nine images of each class."""
    files = {}
    for label, name in enumerate(eurosat.CLASSES):
        for number in range(1, EACH + 1):
            file = standin.draw_file(label, number)
            files[Path(name, f"{name}_{number}.jpg")] = file.getvalue()
    return files


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """EuroSAT has nine images a class, and tmp_path/data is where it is looked for."""
    monkeypatch.setattr(eurosat, "COUNTS", dict.fromkeys(eurosat.CLASSES, EACH))
    monkeypatch.setenv("EUROSAT_ROOT", str(tmp_path / "data"))
    monkeypatch.delenv("EUROSAT_REQUIRED", raising=False)
    monkeypatch.setenv("no_proxy", "*")


class Handler(SimpleHTTPRequestHandler):
    """Sends the files of a folder, and writes no log."""

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path, jpegs):
    """The folder of a web server that the download comes from: EuroSAT.zip, lists."""
    folder = tmp_path / "server"
    for path, content in jpegs.items():
        write(folder / "2750" / path, content)
    archive = Path(shutil.make_archive(folder / "EuroSAT", "zip", folder, "2750"))
    shutil.rmtree(folder / "2750")
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()

    sums = {}
    for part, names in three_lists(jpegs).items():
        text = "\n".join(names)
        write(folder / f"eurosat-{part}.txt", text.encode())
        sums[part] = hashlib.md5(text.encode()).hexdigest()
    monkeypatch.setattr(eurosat, "LISTS", sums)
    handler = functools.partial(Handler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=[0.01], daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}"

        def from_here(url, download_root, md5):
            archive_url = f"{address}/{archive.name}"
            download_and_extract_archive(archive_url, download_root, md5=checksum)

        replace_download(monkeypatch, from_here)
        monkeypatch.setattr(eurosat, "LISTS_URL", address)
        yield folder
        web.shutdown()


@pytest.fixture
def offline(monkeypatch):
    """A download that fails at once."""

    def refuse(*args, **kwargs):
        raise OSError("no network")

    replace_download(monkeypatch, refuse)
    monkeypatch.setattr(eurosat, "download_url", refuse)


@pytest.fixture
def root(jpegs, tmp_path, offline):
    """A complete EuroSAT where it is looked for, and no network."""
    folder = tmp_path / "data"
    for path, content in jpegs.items():
        write(folder / "eurosat/2750" / path, content)
    return folder


def replace_download(monkeypatch, function):
    name = "torchvision.datasets.eurosat.download_and_extract_archive"
    monkeypatch.setattr(name, function)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def three_lists(jpegs):
    """Lists that differ from the split by number."""
    names = [path.name for path in jpegs]
    return {"train": names[:60], "val": names[60:61], "test": names[61:]}


def everything_in(folder):
    """All files and folders below a folder."""
    return sorted(str(path) for path in folder.rglob("*"))


# --- Finding --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["eurosat/2750", "EuroSAT_RGB", "2750"])
def test_the_images_are_found_and_foreign_entries_ignored(root, place):
    theirs = torchvision.datasets.EuroSAT(root)
    names = [Path(path).name for path, _ in theirs.samples]
    image, _ = theirs[50]
    pixels = np.asarray(image)
    folder = root / place
    if place != "eurosat/2750":
        shutil.move(root / "eurosat/2750", folder)
    (folder / "__MACOSX/Forest").mkdir(parents=True)
    (folder / "Forest/._Forest_1.jpg").write_bytes(b"\0")
    data = eurosat.load_eurosat()
    assert data.note == ""
    assert data.classes == theirs.classes
    assert data.names == names
    assert data.labels.tolist() == theirs.targets
    assert np.array_equal(data.images[50].permute(1, 2, 0), pixels)


@pytest.mark.parametrize("above", ["eurosat/2750", "eurosat"])
def test_a_root_one_or_two_levels_too_deep_is_found(root, monkeypatch, above):
    write(root / "eurosat/eurosat-val.txt", b"Forest_1.jpg")
    before = everything_in(root)
    monkeypatch.setenv("EUROSAT_ROOT", str(root / above))
    assert eurosat.find_eurosat() == (root / "eurosat/2750", "")
    assert eurosat.load_eurosat().lists == {"val": ["Forest_1.jpg"]}
    assert everything_in(root) == before


def test_home_and_an_empty_root(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root.parent)
    assert eurosat.find_eurosat("~/data") == (root / "eurosat/2750", "")
    monkeypatch.setenv("EUROSAT_ROOT", "")
    assert eurosat.find_eurosat() == (Path("data/eurosat/2750"), "")


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no"])
def test_without_images_a_sentence(offline, monkeypatch, value):
    monkeypatch.setenv("EUROSAT_REQUIRED", value)
    folder, trouble = eurosat.find_eurosat()
    assert folder is None
    for word in ("looked in", "EuroSAT_RGB", "failed: no network", "drawn stand-in"):
        assert word in trouble


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_without_images_an_error_where_they_are_required(offline, monkeypatch, value):
    monkeypatch.setenv("EUROSAT_REQUIRED", value)
    words = ("looked in", "EuroSAT_RGB", "failed: no network", "set EUROSAT_ROOT")
    with refused(FileNotFoundError, *words, "EUROSAT_REQUIRED is set"):
        eurosat.load_eurosat()


def test_without_images_a_stand_in_that_says_so(offline, capsys):
    _, trouble = eurosat.find_eurosat()
    data = eurosat.load_eurosat()
    assert capsys.readouterr().out == f"{trouble}\n"
    assert data.note == "Drawn stand-in, not EuroSAT"
    assert data.images.shape == (2000, 3, 64, 64)
    assert data.labels.bincount().tolist() == [200] * 10
    assert data.classes == eurosat.CLASSES
    assert data.lists == {}


@pytest.mark.parametrize("remove", ["Forest/Forest_1.jpg", "River/*", "*/*"])
def test_what_is_half_there_is_named_and_never_replaced(root, remove):
    folder = root / "eurosat/2750"
    for file in folder.glob(remove):
        file.unlink()
    before = everything_in(root)
    with refused(ValueError, str(folder), "move that folder away"):
        eurosat.load_eurosat()
    assert everything_in(root) == before


def test_the_classes_with_too_few_images_are_named(root):
    (root / "eurosat/2750/Forest/Forest_1.jpg").unlink()
    shutil.rmtree(root / "eurosat/2750/River")
    with refused(ValueError, "(Forest 8 of 9, River 0 of 9)"):
        eurosat.load_eurosat()


def test_a_folder_of_some_classes_gets_no_download_inside(root, monkeypatch, server):
    folder = root / "eurosat/2750"
    shutil.rmtree(folder / "River")
    before = everything_in(root)
    monkeypatch.setenv("EUROSAT_ROOT", str(folder))
    with refused(ValueError, str(folder), "River 0 of 9"):
        eurosat.load_eurosat()
    assert everything_in(root) == before


def test_a_file_in_the_place_of_the_folder_is_named(root, server):
    folder = root / "eurosat/2750"
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    with refused(
        FileNotFoundError, f"{folder} is no folder", "Move away what is there"
    ):
        eurosat.load_eurosat()
    assert folder.read_text() == "not a folder"


# --- Downloading ----------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "data", "data/eurosat"])
def test_a_download_is_enough(tmp_path, server, jpegs, above):
    """Whichever of the folders above the images are there already."""
    (tmp_path / above).mkdir(parents=True, exist_ok=True)
    data = eurosat.load_eurosat()
    assert data.names == [path.name for path in jpegs]
    assert data.lists == three_lists(jpegs)
    found = [path.name for path in (tmp_path / "data/eurosat").iterdir()]
    lists = ["eurosat-test.txt", "eurosat-train.txt", "eurosat-val.txt"]
    assert sorted(found) == ["2750", *lists]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["eurosat"]


def test_what_has_been_downloaded_is_found_without_a_network(server, monkeypatch):
    first = eurosat.load_eurosat()
    shutil.rmtree(server)
    second = eurosat.load_eurosat()
    assert torch.equal(first.images, second.images)


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_without_one_of_its_lists_a_download_brings_none(server, part, fault):
    path = server / f"eurosat-{part}.txt"
    path.unlink()
    if fault == "damaged":
        path.write_text("River_1.jpg")
    data = eurosat.load_eurosat()
    assert data.lists == {}
    split = eurosat.split_eurosat(data)
    assert [len(indices) for indices in split.values()] == [60, 20, 10]


def cut_archive(folder):
    path = folder / "EuroSAT.zip"
    path.write_bytes(path.read_bytes()[:5000])


def remove_archive(folder):
    (folder / "EuroSAT.zip").unlink()


FAULTS = [
    pytest.param(cut_archive, "File not found or corrupted", id="cut archive"),
    pytest.param(remove_archive, "HTTP Error 404: File not found", id="no archive"),
]
ROOTS = [
    pytest.param("data", id="root is the user's data"),
    pytest.param("dta", id="root with a typing error"),
    pytest.param("data/more/eurosat", id="root deep below what is there"),
]


@pytest.mark.parametrize("fault, words", FAULTS)
@pytest.mark.parametrize("name", ROOTS)
def test_a_failing_download_leaves_nothing(
    tmp_path, server, monkeypatch, fault, words, name
):
    write(tmp_path / "data/thesis.txt", b"the user's own")
    fault(server)
    before = everything_in(tmp_path)
    folder, trouble = eurosat.find_eurosat(tmp_path / name)
    assert folder is None
    assert f"download failed: {words}" in trouble
    assert everything_in(tmp_path) == before
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    with refused(FileNotFoundError, "download failed", words):
        eurosat.load_eurosat(tmp_path / name)
    assert everything_in(tmp_path) == before


def test_an_interrupted_download_leaves_nothing(tmp_path, server, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(eurosat, "download_url", stop)  # after the images
    before = everything_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        eurosat.load_eurosat()
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("usual", [None, 7.0])
@pytest.mark.parametrize("network", ["server", "offline"])
def test_the_timeout_belongs_to_the_download(request, monkeypatch, usual, network):
    request.getfixturevalue(network)
    during = []
    fetch_lists = eurosat.fetch_lists
    load = eurosat.EuroSAT

    def note_and_load(*args, **kwargs):
        during.append(socket.getdefaulttimeout())
        return load(*args, **kwargs)

    def note_and_fetch(folder):
        during.append(socket.getdefaulttimeout())
        fetch_lists(folder)

    monkeypatch.setattr(eurosat, "EuroSAT", note_and_load)
    monkeypatch.setattr(eurosat, "fetch_lists", note_and_fetch)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(usual)
    try:
        eurosat.find_eurosat()
        assert socket.getdefaulttimeout() == usual
    finally:
        socket.setdefaulttimeout(before)
    assert set(during) == {eurosat.DOWNLOAD_TIMEOUT}


def test_a_network_that_never_answers_is_none(monkeypatch):
    monkeypatch.setattr(eurosat, "DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _, port = silent.getsockname()
        address = f"http://127.0.0.1:{port}/EuroSAT.zip"

        def from_there(url, download_root, md5):
            download_and_extract_archive(address, download_root, md5=md5)

        replace_download(monkeypatch, from_there)
        folder, trouble = eurosat.find_eurosat()
    assert folder is None
    assert "timed out" in trouble


# --- Reading --------------------------------------------------------------------------


def saved(image, form="JPEG"):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


SMALL = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
SMOOTH = PIL.Image.fromarray(SMALL).resize((64, 64))
BAD = [
    pytest.param(b"text\n" * 99, id="text"),
    pytest.param(b"", id="empty"),
    pytest.param(bytes(2000), id="zeros"),
    pytest.param(saved(SMOOTH, "PNG"), id="PNG"),
    pytest.param(saved(SMOOTH.crop((0, 0, 64, 63))), id="too small"),
    pytest.param(saved(SMOOTH.convert("L")), id="grey"),
    pytest.param(saved(SMOOTH.convert("CMYK")), id="four colours"),
    pytest.param(saved(SMOOTH)[:-300], id="cut"),
]


@pytest.mark.parametrize("content", BAD)
def test_an_image_that_is_not_as_published_is_named(root, content):
    path = root / "eurosat/2750/Forest/Forest_1.jpg"
    path.write_bytes(content)
    with refused(ValueError, str(path), "no image as published"):
        eurosat.load_eurosat()


# --- Splitting ------------------------------------------------------------------------


def write_lists(root, lists, encoding="utf-8"):
    for part, text in lists.items():
        path = root / f"eurosat/eurosat-{part}.txt"
        path.write_bytes(text.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_published_lists_make_the_split(root, jpegs, encoding, newline):
    lists = three_lists(jpegs)
    texts = {part: newline.join(names) + newline for part, names in lists.items()}
    write_lists(root, texts, encoding)
    data = eurosat.load_eurosat()
    split = eurosat.split_eurosat(data)
    assert data.lists == lists
    assert split["train"].tolist() == list(range(60))
    assert split["val"].tolist() == [60]
    assert split["test"].tolist() == list(range(61, 90))


VAL = "eurosat-val.txt"
UNKNOWN = f"{VAL} names 'Nowhere_1.jpg', which is no image"
ODD = f"{VAL} names '\\x00\ufffd', which is no image"
TWICE = f"{VAL} names 'River_1.jpg', which stands in {VAL} already"
IN_TWO = "names 'AnnualCrop_1.jpg', which stands in eurosat-train.txt already"
MISSING = f"{VAL} is missing or empty"
IN_NONE = "'PermanentCrop_8.jpg' is in none of eurosat-*.txt"
WRONG = [
    pytest.param("val", "Nowhere_1.jpg", UNKNOWN, id="no image"),
    pytest.param("val", "\0\xff", ODD, id="no text"),
    pytest.param(
        "val", "River_1.jpg River_1.jpg", TWICE, id="an image twice in a list"
    ),
    pytest.param("test", "AnnualCrop_1.jpg", IN_TWO, id="an image in two lists"),
    pytest.param("test", "River_1.jpg", IN_NONE, id="an image in none"),
    pytest.param("val", None, MISSING, id="no file"),
    pytest.param("val", "", MISSING, id="an empty file"),
    pytest.param("train", " \n", "eurosat-train.txt is missing or empty", id="a blank"),
]


@pytest.mark.parametrize("part, text, words", WRONG)
def test_lists_that_are_no_split_are_refused(root, jpegs, part, text, words):
    texts = {}
    for name, names in three_lists(jpegs).items():
        texts[name] = "\n".join(names)
    texts[part] = text
    if text is None:
        del texts[part]
    write_lists(root, texts, encoding="latin-1")
    data = eurosat.load_eurosat()
    with refused(ValueError, words, "move all three away"):
        eurosat.split_eurosat(data)


@given(numbers=st.lists(st.integers(1, 3000), min_size=15, unique=True))
def test_without_lists_the_numbers_make_three_parts_that_share_no_image(numbers):
    names = [f"River_{number}.jpg" for number in [*numbers, *range(3001, 3006)]]
    images = torch.zeros(len(names), 1)
    labels = torch.zeros(len(names))
    data = eurosat.ImageDataset(images, labels, ["River"], names)
    split = eurosat.split_eurosat(data)
    everything = torch.cat(list(split.values())).tolist()
    assert sorted(everything) == list(range(len(names)))
    for index in split["test"]:
        number = names[index].removeprefix("River_").removesuffix(".jpg")
        assert int(number) % 5 == 0


def test_a_part_without_images_is_an_empty_index():
    data = eurosat.ImageDataset(
        torch.zeros(1, 3, 2, 2), [0], ["River"], ["River_5.jpg"]
    )
    split = eurosat.split_eurosat(data)
    assert split["test"].tolist() == [0]
    assert split["train"].shape == (0,)
    assert split["train"].dtype == torch.int64
