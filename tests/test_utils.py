"""utils.py: figures, progress, and files that are whole or not there."""

import contextlib
import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

import utils
from tests.helpers import Harm, refused

ROOT = Path(__file__).resolve().parent.parent


# --- In a notebook --------------------------------------------------------------------

PREPARE = f"""\
import sys
import time

sys.path.insert(0, {str(ROOT)!r})
import matplotlib.pyplot as plt

from utils import progress, show_figure
"""
LOOP = """\
with progress(range(4), "work") as items:
    for item in items:
        time.sleep(0.6)
        {}
"""
FIGURE = """\
fig, ax = plt.subplots(figsize=(3, 2))
ax.plot([1, 2])
show_figure(fig, "{}.png", "A line.", "A line that rises.", note="{}")
"""
CELLS = {
    "finished": LOOP.format("pass"),
    "interrupted": LOOP.format("if item == 2: raise KeyboardInterrupt"),
    "failed": LOOP.format("if item == 2: 1 / 0"),
    "left": LOOP.format("if item == 2: break"),
    "silent": LOOP.replace('"work"', '""').format("pass"),
    "line": FIGURE.format("line", ""),
    "other": FIGURE.format("other", "Drawn stand-in"),
    "line-again": FIGURE.format("line", ""),
}


class Watcher(NotebookClient):
    """Keeps the texts that a line of progress shows, also those written over."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] in ("display_data", "update_display_data"):
            text = msg["content"]["data"]["text/plain"]
            self.shown.setdefault(cell.id, []).append(text)
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """CELLS in a real kernel: their folder, {id: outputs}, {id: texts shown}."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook()
    notebook.cells.append(nbformat.v4.new_code_cell(PREPARE, id="prepare"))
    for name, source in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(source, id=name))
    client = Watcher(notebook, timeout=120, resources={"metadata": {"path": folder}})
    client.shown = {}
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            with contextlib.suppress(CellExecutionError):
                client.execute_cell(cell, number)
    outputs = {cell.id: cell.outputs for cell in notebook.cells}
    assert outputs["prepare"] == []
    return folder, outputs, client.shown


@pytest.mark.parametrize(
    "cell, last, error",
    [
        pytest.param("finished", "work: 4 of 4.", None, id="finished"),
        pytest.param("interrupted", "work: 2 of 4.", "KeyboardInterrupt", id="Ctrl-C"),
        pytest.param("failed", "work: 2 of 4.", "ZeroDivisionError", id="an error"),
        pytest.param("left", "work: 2 of 4.", None, id="break"),
    ],
)
def test_the_line_of_progress_that_is_saved_holds_no_time(executed, cell, last, error):
    _, outputs, shown = executed
    assert any("s left" in text for text in shown[cell])
    line, *others = outputs[cell]
    assert line.data == {"text/plain": last}
    assert [output.get("ename") for output in others] == [error] * (error is not None)


def test_progress_without_a_label_is_silent(executed):
    _, outputs, _ = executed
    assert outputs["silent"] == []


def test_a_figure_is_shown_with_alt_text_number_and_the_digest_of_its_file(executed):
    folder, outputs, _ = executed
    image, caption = outputs["line"]
    content = (folder / "line.png").read_bytes()
    assert image.metadata.figure == hashlib.sha256(content).hexdigest()
    assert image.metadata["image/png"]["alt"] == "A line that rises."
    assert caption.data == {
        "text/markdown": "*Figure 1: A line.*",
        "text/plain": "Figure 1: A line.",
    }


def test_a_figure_keeps_its_number_and_its_bytes(executed):
    _, outputs, _ = executed
    _, other_caption = outputs["other"]
    assert other_caption.data["text/plain"].startswith("Figure 2: ")
    first = outputs["line"]
    again = outputs["line-again"]
    assert again == first


def test_a_figures_file_has_200_dpi_and_says_nothing_of_its_program(executed):
    folder, _, _ = executed
    with Image.open(folder / "line.png") as image:
        assert image.info.keys() == {"dpi"}
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)


@pytest.mark.parametrize("name, has_note", [("line", False), ("other", True)])
def test_a_note_is_printed_in_the_figure(executed, name, has_note):
    folder, _, _ = executed
    firebrick = (178, 34, 34)
    with Image.open(folder / f"{name}.png") as image:
        colours = image.convert("RGB").getcolors(maxcolors=10**6)
    assert (firebrick in [colour for _, colour in colours]) == has_note


# --- Progress in a terminal -----------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_in_a_terminal_one_line_is_written_over_and_ends(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(KeyboardInterrupt), utils.progress("abc", "letters") as letters:
        for letter in letters:
            if letter == "c":
                raise KeyboardInterrupt
    assert terminal.getvalue() == "\r\033[Kletters: 2 of 3.\n"


def test_progress_gives_each_item_once_and_its_note_last(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    seen = []
    with utils.progress([1, 2, 3], "sums", lambda: f"sum {sum(seen)}") as items:
        for item in items:
            seen.append(item)
    assert seen == [1, 2, 3]
    assert terminal.getvalue() == "\r\033[Ksums: 3 of 3 sum 6.\n"


# --- Files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [pytest.param(b"\r\n\0", id="bytes"), pytest.param("ü\r\n", id="text")]
)
def test_a_file_is_written_as_it_is(tmp_path, content):
    path = tmp_path / "file"
    utils.write_whole(path, content)
    expected = content
    if isinstance(content, str):
        expected = content.encode("utf-8")
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("before")
    link = tmp_path / "link"
    link.symlink_to(target)
    utils.write_whole(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_a_file_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "file"
    path.touch(mode)
    path.chmod(mode)
    utils.write_whole(path, "text")
    assert path.stat().st_mode & 0o777 == mode


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with refused(OSError, f"{path} could not be written: it is no regular file"):
        utils.write_whole(path, "text")
    assert path.is_fifo()


@pytest.mark.parametrize("place", ["missing/file", "file/file"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    path = tmp_path / place
    with refused(OSError, f"{path} could not be written"):
        utils.write_whole(path, "text")


# --- States ---------------------------------------------------------------------------

STATE = {
    "weights": {"layer": torch.arange(600) / 7},
    "curves": torch.rand(2, 3),
    "validation": [[0.5, 0.25]],
    "nothing": None,
}


@pytest.fixture
def stored(tmp_path):
    """A path at which STATE is stored as the state of "net"."""
    path = tmp_path / "weights/net.pt"
    utils.save_state(path, "net", STATE)
    return path


def test_a_state_comes_back_as_it_was(stored):
    state = utils.load_state(stored, "net")
    assert state["validation"] == STATE["validation"]
    assert state["nothing"] is None
    assert torch.equal(state["curves"], STATE["curves"])
    assert torch.equal(state["weights"]["layer"], STATE["weights"]["layer"])


def test_a_state_of_something_else_is_refused(stored):
    with refused(ValueError, f"{stored} does not fit", "of other settings: net, not x"):
        utils.load_state(stored, "x")


def torch_bytes(value):
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zip_bytes():
    """An archive, but none of torch's."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Harm()))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"text", id="a text"),
        pytest.param(pickle.dumps(Harm()), id="a pickle that does harm"),
        pytest.param(zip_bytes(), id="an archive that does harm"),
        pytest.param(torch_bytes(Harm()), id="a file of torch that does harm"),
        pytest.param(torch_bytes({"identity": Harm()}), id="an identity with harm"),
        pytest.param(torch_bytes([1]), id="a list"),
        pytest.param(torch_bytes({"weights": 1}), id="no identity"),
    ],
)
def test_a_foreign_file_is_refused_and_nothing_in_it_runs(
    tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    path = Path("net.pt")
    path.write_bytes(content)
    with refused(ValueError, "net.pt does not fit", "remove it", "committed file"):
        utils.load_state(path, "net")
    assert path.read_bytes() == content
    assert os.listdir() == ["net.pt"]


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "net.pt"
    with refused(ValueError, f"{path} does not fit", "committed file"):
        utils.load_state(path, "net")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_is_refused(stored, share):
    content = stored.read_bytes()
    stored.write_bytes(content[: int(share * len(content))])
    with refused(ValueError, f"{stored} does not fit"):
        utils.load_state(stored, "net")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The path and the bytes of a state, for damage."""
    path = tmp_path_factory.mktemp("damaged") / "net.pt"
    utils.save_state(path, "net", STATE)
    return path, path.read_bytes()


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused_or_changes_nothing(damaged, share, bit):
    path, whole = damaged
    content = bytearray(whole)
    content[int(share * len(whole))] ^= 1 << bit
    path.write_bytes(content)
    try:
        state = utils.load_state(path, "net")
    except ValueError as error:
        assert str(error).startswith(f"{path} does not fit")
        assert "\n" not in str(error)
    else:
        assert torch.equal(state["weights"]["layer"], STATE["weights"]["layer"])
        assert torch.equal(state["curves"], STATE["curves"])
        assert state["validation"] == STATE["validation"]


# --- Imports --------------------------------------------------------------------------

IMPORT_ALL = """\
import socket
import sys

import matplotlib
import torch

matplotlib.rcParams["lines.linewidth"] = 7
torch.set_num_threads(3)
random_state = torch.random.get_rng_state()

import eurosat, results, standin, trainer, utils

assert matplotlib.rcParams["lines.linewidth"] == 7
assert torch.get_num_threads() == 3
assert torch.equal(torch.random.get_rng_state(), random_state)
assert socket.getdefaulttimeout() is None
assert None not in sys.modules.values()

utils.set_up()
assert matplotlib.rcParams["lines.linewidth"] == 1.5
assert torch.get_num_threads() == 2
"""


def test_an_import_changes_nothing_but_set_up_does(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", IMPORT_ALL]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    assert not list(tmp_path.glob("tmp*"))  # torch makes a folder of another name
