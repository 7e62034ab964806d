"""Faults of the data, each caused for real: it ends in one sentence that says what, where and what to do, or in recovery."""
import contextlib
import functools
import hashlib
import http.server
import io
import multiprocessing
import os
import pathlib
import pickle
import resource
import shutil
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import PIL
import pytest
import torch
import torchvision
from PIL import Image

import utils

EACH = 2  # pictures of each class
FOREST = "eurosat/2750/Forest/Forest_1.jpg"
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["utils"])


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return utils.make_stand_in(tmp_path_factory.mktemp("small"), per_class=EACH)


@pytest.fixture
def root(small, tmp_path, monkeypatch, offline):
    """A copy of a EuroSAT that is whole with two pictures a class; the cache lies in tmp_path/build."""
    monkeypatch.setattr(utils, "EUROSAT", dict.fromkeys(utils.CLASSES, EACH))
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    return pathlib.Path(shutil.copytree(small, tmp_path / "data"))


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, in order."""
    files, decode = [], utils._decode
    monkeypatch.setattr(utils, "_decode", lambda file: files.append(file) or decode(file))
    return files


def files_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def refused(folder, *words, error=ValueError):
    """The error is one line with all the words, and every file below the folder stays as it is."""
    before = files_below(folder)
    with pytest.raises(error) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and all(str(word) in text for word in words), text
    assert files_below(folder) == before


@contextlib.contextmanager
def disk(folder, options):
    """A file system of its own on the folder; where the user may not mount, the test is skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a file system needs more rights; the same fault by a limit on files is tested beside it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# Folders

def test_whole_folder_is_accepted_in_the_order_of_torchvision(root):
    data, theirs = utils.load_eurosat(root), torchvision.datasets.EuroSAT(root)
    assert data.real and data.names == [pathlib.Path(path).name for path, _ in theirs.samples]
    assert data.labels.tolist() == theirs.targets and data.classes == theirs.classes


@pytest.mark.parametrize("remove, words", [
    ("Forest/Forest_1.jpg", ["19 pictures instead of 20", "(Forest 1 of 2)"]),
    ("Forest/*", ["18 pictures", "(Forest 0 of 2)"]), ("R*/*", ["Residential 0 of 2, River 0 of 2"]),
    ("*/*_1.jpg", ["10 pictures", "AnnualCrop 1 of 2, Forest 1 of 2"]), ("*/*", ["0 pictures"])])
def test_half_extracted_folder_names_what_is_missing(root, remove, words):
    for file in (root / "eurosat/2750").glob(remove):
        file.unlink()
    with refused(root, root / "eurosat/2750", "move that folder away", *words):
        utils.load_eurosat()


@pytest.mark.parametrize("left", [9, 0])
def test_missing_class_is_named(root, left):
    for name in utils.CLASSES[left:]:
        shutil.rmtree(root / "eurosat/2750" / name)
    with refused(root, f"{utils.CLASSES[-1]} 0 of 2", f"{2 * left} pictures"):
        utils.load_eurosat()


def test_extra_folder_is_named_and_a_hidden_one_ignored(root):
    (root / "eurosat/2750/.ipynb_checkpoints").mkdir()
    assert len(utils.load_eurosat()) == 20
    shutil.copytree(root / "eurosat/2750/River", root / "eurosat/2750/Copy of River")
    with refused(root, "Copy of River 2 of 0"):
        utils.load_eurosat()


def test_file_in_the_place_of_the_folder(root):
    shutil.rmtree(root / "eurosat/2750")
    (root / "eurosat/2750").write_text("not a folder")
    with refused(root, root / "eurosat", "EUROSAT_ROOT", error=FileNotFoundError):
        utils.load_eurosat()


# Pictures

def saved(pixels, form="JPEG", **options):
    file = io.BytesIO()
    pixels.save(file, form, **options)
    return file.getvalue()


BAD = {"text": b"this is a text\n" * 50, "empty": b"", "zeros": bytes(2000), "start only": b"\xff\xd8\xff\xe0",
       "grayscale": saved(Image.new("L", (64, 64))), "CMYK": saved(Image.new("CMYK", (64, 64))),
       "32 x 32": saved(Image.new("RGB", (32, 32))), "64 x 63": saved(Image.new("RGB", (64, 63))),
       "PNG": saved(Image.new("RGB", (64, 64)), "PNG"), "palette": saved(Image.new("P", (64, 64)), "GIF")}


@pytest.mark.parametrize("kind", BAD)
def test_picture_that_is_not_as_published_is_named(root, kind):
    (root / FOREST).write_bytes(BAD[kind])
    with refused(root, root / FOREST, "put the published picture in its place"):
        utils.load_eurosat()
    assert not list(utils.CACHE.glob("eurosat*"))


def test_jpeg_cut_off_anywhere_is_refused_or_has_every_pixel(root):
    file = root / FOREST
    whole, pixels = file.read_bytes(), utils._decode(file)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        try:
            got = utils._decode(file)
        except ValueError as error:
            assert str(file) in str(error)
        else:
            assert length >= len(whole) - 2 and np.array_equal(got, pixels)  # only the end marker is missing


def test_unreadable_picture_is_named(root):
    (root / FOREST).unlink()
    (root / FOREST).symlink_to("nowhere.jpg")
    with pytest.raises((ValueError, FileNotFoundError), match="Forest_1.jpg"):
        utils.load_eurosat()


# Archives and downloads

@pytest.fixture
def archive(root):
    """The pictures as the published zip file holds them; the folder itself is gone."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted((root / "eurosat").rglob("*.jpg")):
            file.write(path, path.relative_to(root / "eurosat"))
    shutil.rmtree(root / "eurosat/2750")
    return packed.getvalue()


@pytest.fixture
def served(monkeypatch):
    """serve(body, whole): torchvision's own download runs against a server that sends `body`, and says it is `whole`."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", len(self.server.whole))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(self.server.body)

        def log_message(self, *_):
            """Nothing: the server is silent."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    download = torchvision.datasets.utils.download_and_extract_archive

    def serve(body, whole):
        server.body, server.whole = body, whole
        real = functools.partial(download, f"http://127.0.0.1:{server.server_port}/EuroSAT.zip")
        checksum = hashlib.md5(whole).hexdigest()
        monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive",
                            lambda url, download_root, md5: real(download_root=download_root, md5=checksum))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield serve
    server.shutdown()
    server.server_close()


def test_archive_that_is_there_is_extracted(root, archive, served):
    served(b"", archive)
    (root / "eurosat/EuroSAT.zip").write_bytes(archive)
    assert len(utils.load_eurosat()) == 20


def test_archive_cut_off_on_disk_is_downloaded_again(root, archive, served):
    served(archive, archive)
    (root / "eurosat/EuroSAT.zip").write_bytes(archive[:5000])
    assert len(utils.load_eurosat()) == 20


def test_archive_cut_off_on_disk_without_a_network_is_an_error_and_stays(root, archive, monkeypatch):
    (root / "eurosat/EuroSAT.zip").write_bytes(archive[:5000])
    with refused(root, root / "eurosat", "could not be downloaded", "Move away what is there", error=FileNotFoundError):
        utils.load_eurosat()
    monkeypatch.delenv("EUROSAT_REQUIRED")
    assert not utils.load_eurosat().real


@pytest.mark.parametrize("damage", ["cut off", "wrong checksum", "not a zip", "nothing"])
def test_broken_download_is_one_sentence_or_a_stand_in(root, archive, served, damage, monkeypatch):
    wrong = archive[:3000] + bytes([archive[3000] ^ 1]) + archive[3001:]
    served(*{"cut off": (archive[:5000], archive), "wrong checksum": (wrong, archive),
             "not a zip": (b"page", b"page"), "nothing": (b"", archive)}[damage])
    with pytest.raises(FileNotFoundError, match="could not be downloaded .*connect to the network") as caught:
        utils.load_eurosat()
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("EUROSAT_REQUIRED")
    assert not utils.load_eurosat().real


def test_disk_full_while_extracting_is_no_stand_in(root, archive, served, monkeypatch, tmp_path):
    monkeypatch.delenv("EUROSAT_REQUIRED")
    served(archive, archive)
    with disk(tmp_path / "full", f"size={len(archive) + 20_000}") as folder:
        with pytest.raises(FileNotFoundError, match="No space left on device.*Move away"):
            utils.load_eurosat(folder)
        with pytest.raises(ValueError, match="instead of 20"):  # and the next start says what is missing
            utils.load_eurosat(folder)


# Cache

def test_read_only_root_is_enough(root, tmp_path):
    with disk(tmp_path / "locked", "size=4m") as folder:
        shutil.copytree(root, folder, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(OSError):
            (folder / "file").write_text("")
        assert len(utils.load_eurosat(folder)) == 20


def test_read_only_root_without_pictures(offline, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", lambda *_, **__: None)
    with disk(tmp_path / "locked", "ro") as folder:
        assert not utils.load_eurosat(folder).real
        monkeypatch.setenv("EUROSAT_REQUIRED", "1")
        with refused(folder, folder, "Read-only file system", "EUROSAT_ROOT", error=FileNotFoundError):
            utils.load_eurosat(folder)


@pytest.mark.parametrize("options, reason", [("size=16k", "No space left on device"), ("ro", "Read-only file system")])
def test_no_room_for_the_cache_costs_only_the_cache(root, tmp_path, capsys, options, reason):
    with disk(utils.CACHE, options) as folder:
        data = utils.load_eurosat()
        assert not list(folder.iterdir())
    assert len(data) == 20 and data.real
    text = capsys.readouterr().out
    assert reason in text and text.count("\n") == 1 and str(tmp_path) not in text  # a notebook keeps it: no path


def test_file_in_the_place_of_the_cache_folder(root, capsys):
    utils.CACHE.write_text("mine")
    assert len(utils.load_eurosat()) == 20 and "could not be cached" in capsys.readouterr().out
    assert utils.CACHE.read_text() == "mine"


def load_apart(root, cache, start, limit):
    """In a process of its own: (fingerprint, what it printed)."""
    utils.CACHE, utils.EUROSAT = cache, dict.fromkeys(utils.CLASSES, EACH)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    time.sleep(max(0, start - time.time()))
    with contextlib.redirect_stdout(io.StringIO()) as text:
        return utils.load_eurosat(root).fingerprint(), text.getvalue()


def test_limit_on_files_while_caching(root):
    with ProcessPoolExecutor(1, APART) as pool:
        fingerprint, text = pool.submit(load_apart, root, utils.CACHE, 0, 50_000).result(60)
    assert "File too large" in text and not list(utils.CACHE.iterdir())
    assert fingerprint == utils.load_eurosat().fingerprint()


def test_processes_that_build_the_cache_at_once_agree(root):
    with ProcessPoolExecutor(4, APART) as pool:
        start = time.time() + 1
        works = [pool.submit(load_apart, root, utils.CACHE, start, resource.RLIM_INFINITY) for _ in range(4)]
        results = {work.result(60) for work in works}
    assert results == {(utils.load_eurosat().fingerprint(), "")}
    assert len(list(utils.CACHE.iterdir())) == 1


def draw_apart(cache, start):
    utils.CACHE = cache
    os.environ.pop("EUROSAT_REQUIRED", None)
    time.sleep(max(0, start - time.time()))
    return utils.load_eurosat(cache / "nothing").fingerprint()


def test_processes_that_draw_the_stand_in_at_once_agree(offline, monkeypatch):
    utils.CACHE.mkdir()
    (utils.CACHE / "nothing").write_text("so that no process starts a download")
    with ProcessPoolExecutor(2, APART) as pool:
        works = [pool.submit(draw_apart, utils.CACHE, time.time() + 1) for _ in range(2)]
        assert len({work.result(60) for work in works}) == 1
    assert len(list((utils.CACHE / "stand-in").rglob("*.jpg"))) == 1200
    assert len(list(utils.CACHE.iterdir())) == 3  # the stand-in, its cache, and the file of this test


@pytest.fixture
def cache(root):
    utils.load_eurosat()
    file, = utils.CACHE.iterdir()
    return file


@pytest.mark.parametrize("place", [0, 10, 70, 200, 5_000, 100_000, -1_000, -100, -30, -3])
def test_cache_with_a_wrong_bit_is_never_believed(root, cache, place, decoded):
    right, content = utils.load_eurosat().images, bytearray(cache.read_bytes())
    content[place] ^= 4
    cache.write_bytes(content)
    assert torch.equal(utils.load_eurosat().images, right)
    decoded.clear()
    assert torch.equal(utils.load_eurosat().images, right) and not decoded  # it was written afresh


class Harm:
    """Unpickled, it leaves a file in the folder `build`."""

    def __reduce__(self):
        return pathlib.Path.touch, (utils.CACHE / "harm",)


@pytest.mark.parametrize("write", [
    lambda file: file.write_bytes(b""), lambda file: file.write_bytes(file.read_bytes()[:-1]),
    lambda file: file.write_bytes(pickle.dumps(Harm())), lambda file: np.savez(file, images=np.array(Harm(), dtype=object)),
    lambda file: np.savez(file, images=np.zeros((20, 3, 64, 64))), lambda file: np.savez(file, other=np.zeros(3)),
    lambda file: np.savez(file, images=np.zeros((19, 3, 64, 64), np.uint8)), lambda file: np.save(open(file, "wb"), np.zeros(3))],
    ids=["empty", "cut off", "pickle", "object", "type", "name", "number", "npy"])
def test_cache_of_another_kind_is_written_afresh(root, cache, write, decoded):
    right = utils.load_eurosat().images
    write(cache)
    assert torch.equal(utils.load_eurosat().images, right) and len(decoded) == 20
    decoded.clear()
    utils.load_eurosat()
    assert not decoded and not (utils.CACHE / "harm").exists()


def test_cache_of_a_changed_picture_or_another_version_is_stale(root, cache, decoded, monkeypatch):
    file, other = root / FOREST, (root / FOREST).with_name("Forest_2.jpg")
    stat, size = file.stat(), max(file.stat().st_size, other.stat().st_size)
    file.write_bytes(other.read_bytes().ljust(size, b"\0"))  # and the time of the change is hidden
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    data = utils.load_eurosat()
    assert len(decoded) == 20 and np.array_equal(data.images[2].permute(1, 2, 0), np.asarray(Image.open(other)))
    monkeypatch.setattr(PIL, "__version__", "0")
    utils.load_eurosat()
    assert len(decoded) == 40


# Lists of the split

@pytest.fixture
def lists(root):
    """Published lists of three, one and one pictures, and the pictures."""
    data = utils.load_eurosat()
    for part, names in (("train", data.names[:3]), ("val", data.names[3:4]), ("test", data.names[4:5])):
        (root / f"eurosat/eurosat-{part}.txt").write_text("\n".join(names))
    assert [len(part) for part in utils.split_eurosat(data).values()] == [3, 1, 1]
    return data


@pytest.mark.parametrize("part, text, words", [
    ("val", "Nowhere_1.jpg", ["names Nowhere_1.jpg, which is none"]), ("val", "\0\xff", ["none of the pictures"]),
    ("val", "River_1.jpg River_1.jpg", ["names River_1.jpg", "eurosat-val.txt has named before"]),
    ("test", "AnnualCrop_1.jpg", ["names AnnualCrop_1.jpg", "eurosat-train.txt has named before"]),
    ("train", " \n", ["names no picture"])])
def test_list_that_makes_no_split_is_named(root, lists, part, text, words):
    (root / f"eurosat/eurosat-{part}.txt").write_text(text, encoding="latin-1")
    with refused(root, root / f"eurosat/eurosat-{part}.txt", "put the published list in its place", *words):
        utils.split_eurosat(lists)


def test_two_lists_of_three_are_not_taken_for_none(root, lists):
    (root / "eurosat/eurosat-val.txt").unlink()
    with refused(root, "eurosat-val.txt is missing", "move all three away"):
        utils.split_eurosat(lists)
