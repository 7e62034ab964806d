"""What both notebooks share: figures, progress, files, and the folders of a profile.

Used by both notebooks, by the modules beside it, by tools/ and by tests/.
"""

import contextlib
import functools
import hashlib
import io
import math
import os
import stat
import statistics
import sys
import tempfile
import time
import zipfile
from numbers import Integral
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython import get_ipython
from IPython.display import Image, display


def set_up():
    """Start as every machine does: matplotlib's own settings, two threads.

    A reader's matplotlibrc would change the figures. Sums are taken in the same order
    wherever there are two threads.
    """
    plt.rcdefaults()
    torch.set_num_threads(2)


def whole_number(name, value, low=1, high=math.inf):
    """`value` as an int; ValueError unless it is a whole number within the limits."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and low <= value <= high:
        return int(value)
    limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    raise ValueError(f"{name} must be a whole number, {limits}, not {value!r}")


# --- Figures and progress -------------------------------------------------------------


FIGURES = {}  # number of each figure shown so far, by its name


def show_figure(fig, path, caption, alt, note=""):
    """Save a figure at `path` (PNG, 200 dpi) and show it (110 dpi) with its number.

    `alt` says in words what it shows, for the output's metadata; `note` is printed in
    the figure.
    """
    if note:
        fig.supxlabel(note, color="firebrick", fontsize=9)
    saved = png_bytes(fig, dpi=200)
    shown = png_bytes(fig, dpi=110)
    plt.close(fig)
    write_whole(path, saved)
    source = {"figure": hashlib.sha256(saved).hexdigest()}  # for tools/pdf.py
    display(Image(shown, format="png", alt=alt), metadata=source)
    name = Path(path).stem
    if name not in FIGURES:
        FIGURES[name] = len(FIGURES) + 1
    text = f"Figure {FIGURES[name]}: {caption}"
    display({"text/markdown": f"*{text}*", "text/plain": text}, raw=True)


def png_bytes(fig, dpi):
    """A figure as a PNG file that says nothing of the program that drew it."""
    file = io.BytesIO()
    no_program = {"Software": None}
    fig.savefig(file, dpi=dpi, format="png", bbox_inches="tight", metadata=no_program)
    return file.getvalue()


@contextlib.contextmanager
def progress(items, label, note=lambda: ""):
    """`with progress(items, label) as items:` shows how many of them a loop has done.

    `items` is a sequence; `note()` is shown behind their number. One line,
    rewritten in place; silent without a label. The line that stays, after an error or
    an interrupt too, holds no time.
    """
    show = progress_line(label)
    start = time.monotonic()
    done = 0

    def reached():
        return f"{label}: {done} of {len(items)} {note()}".rstrip()

    def counted():
        nonlocal done
        shown = start
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - shown > 0.5:
                shown = now
                left = (now - start) / done * (len(items) - done)
                show(f"{reached()}, {left:.0f} s left")

    try:
        yield counted()
    finally:
        show(f"{reached()}.")


def progress_line(label):
    """A function that rewrites one line: of a cell's output, or of a terminal."""
    if not label:
        return lambda text: None
    if get_ipython():
        line = display({"text/plain": label}, raw=True, display_id=True)
        return lambda text: line.update({"text/plain": text}, raw=True)
    if sys.stderr.isatty():
        return print_over
    return lambda text: None


def print_over(text):
    """Print over the line of a terminal; one that ends with a full stop stays."""
    end = "\n" if text.endswith(".") else ""
    print(f"\r\033[K{text}", end=end, file=sys.stderr, flush=True)


# --- Files ----------------------------------------------------------------------------


def write_whole(path, content):
    """Write bytes, or a text in UTF-8, to `path`, whole or not at all.

    An OSError, as of a full disk, leaves the file that was there. A file that is
    replaced keeps its permissions.
    """
    target = Path(path).resolve()  # a link stays a link
    if target.exists() and not target.is_file():  # a folder, or a device
        raise OSError(f"{path} could not be written: it is no regular file")
    if isinstance(content, str):
        content = content.encode("utf-8")
    part = target.with_name(f"{target.name}-{os.getpid()}.part")
    try:
        part.write_bytes(content)
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode))
        part.replace(target)
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # most often it is not there any more
            part.unlink()


def save_state(path, identity, state):
    """Write `state`, a dictionary of tensors and plain values, to `path`.

    `identity` is a text that says what the state belongs to; load_state compares it.
    """
    file = io.BytesIO()
    torch.save({"identity": identity, **state}, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())


def load_state(path, identity):
    """What save_state wrote; ValueError if it is missing, damaged or foreign."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load ignores the checksums
        if damaged:
            raise ValueError("it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            raise ValueError(f"of other settings: {state['identity']}, not {identity}")
        return state
    except Exception as error:  # whatever the bytes are, the advice is the same
        advice = "remove it, or get the committed file back, and run again"
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} does not fit ({reason}): {advice}.") from error


# --- Profiles -------------------------------------------------------------------------


RECORD = Path("report/weights")  # the networks of the last finished full run


def build_folder():
    """build/, or a temporary folder where nothing can be written here."""
    if os.access(".", os.W_OK):
        return Path("build")
    return temporary_folder()


@functools.cache
def temporary_folder():
    """The same new folder at every call."""
    return Path(tempfile.mkdtemp())


def work_folder():
    """What a full run has finished so far; a second start goes on from there."""
    return build_folder() / "work-full"


def output_folder(profile):
    """The folder of figures/ and report/: the repository in a full run, else build/."""
    folder = Path(".") if profile == "full" else build_folder()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "report").mkdir(parents=True, exist_ok=True)
    return folder


def choose_profile(asked, note, lists):
    """The profile `asked`, by default replay where it can run, else quick.

    `note` says that the images are no EuroSAT, and is "" for EuroSAT; `lists` is the
    published split, empty where it is missing. ValueError if the profile cannot run.
    """
    missing = ""
    if note:
        missing = note
    elif not any(RECORD.glob("*.pt")):
        missing = f"{RECORD}/ is empty"
    elif not lists:
        missing = "the published lists of the split are missing"
    troubles = {"quick": "", "full": note, "replay": missing}
    if not asked:
        return "quick" if missing else "replay"
    if asked not in troubles:
        names = ", ".join(troubles)
        raise ValueError(f"profile {asked!r} does not exist; choose from {names}")
    if troubles[asked]:
        advice = "choose quick, or see README.md"
        raise ValueError(f"profile {asked!r} cannot run: {troubles[asked]}; {advice}")
    return asked


def compute_or_load(profile, name, identity, compute):
    """The dictionary `compute()`, kept in the file `name`.pt of the profile.

    replay reads the record's file; full goes on from what it has finished; quick
    computes anew each time. ValueError if a file does not fit, see load_state.
    """
    if profile == "replay":
        return load_state(RECORD / f"{name}.pt", identity)
    folder = work_folder() if profile == "full" else build_folder() / "weights"
    path = folder / f"{name}.pt"
    if profile == "quick" or not path.exists():
        save_state(path, identity, compute())
    return load_state(path, identity)


def seconds_of_a_product(repeats=10):
    """The time of a product of two float32 matrices (1000, 1000) here, the median."""
    matrix = torch.ones(1000, 1000)
    times = []
    for _ in range(repeats):
        start = time.monotonic()
        matrix @ matrix
        times.append(time.monotonic() - start)
    return statistics.median(times)


def train_or_load(profile, name, trainer, dataset, validation=None):
    """The curves (avg_loss, avg_acc) of trainer.train(dataset), trained now or loaded.

    The trainer ends on the CPU, its weights rounded to half precision as they are
    stored, so that the profiles full and replay score the same network. trainer.cost is
    the time of its training, in products of two matrices; trainer.trained_in_bfloat16
    says whether it computed in bfloat16.
    """

    def train():
        in_bfloat16 = trainer.trains_in_bfloat16()
        start = time.monotonic()
        avg_loss, avg_acc = trainer.train(dataset, name, validation)
        seconds = time.monotonic() - start
        return {
            "weights": trainer.model.cpu().half().state_dict(),
            "curves": torch.tensor([avg_loss, avg_acc]),
            "validation": trainer.validation,
            "cost": seconds / seconds_of_a_product(),
            "bfloat16": in_bfloat16,
        }

    stored = compute_or_load(profile, name, trainer.identity(dataset), train)
    trainer.load(stored["weights"], stored["validation"])
    trainer.cost = stored["cost"]
    trainer.trained_in_bfloat16 = stored["bfloat16"]
    avg_loss, avg_acc = stored["curves"].tolist()
    return avg_loss, avg_acc
