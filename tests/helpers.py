"""What several test files share.

Made-up data, refusals, what a notebook holds, and what README.md says to type.
"""

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = "PS2_CHILD" in os.environ  # in the process that tests another notebook


@contextlib.contextmanager
def refused(kind, *words):
    """The block raises an error of this kind, in one line that holds all the words."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text, text
    for word in words:
        assert word in text, text


class TinyData(torch.utils.data.Dataset):
    """Uneven classes of random images (64, 64), as EuroSAT's: (PIL image, label).

    It has what torchvision's EuroSAT has of an ImageFolder.

    `sizes` are the numbers of images of the classes; `change` is applied to each image.
    """

    def __init__(self, sizes=(9, 6, 5), change=None):
        self.classes = [f"Class{letter}" for letter in "CABDEFGHIJ"[: len(sizes)]]
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.targets = np.repeat(np.arange(len(sizes)), sizes).tolist()
        self.samples = []  # as of torchvision's ImageFolder
        for number, label in enumerate(self.targets):
            self.samples.append((f"{self.classes[label]}_{number}.jpg", label))
        self.imgs = self.samples
        shape = (len(self), 64, 64, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.change = change

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.fromarray(self.pixels[index])
        if self.change is not None:
            image = self.change(image)
        return image, self.targets[index]


def random_data(number, side, classes, seed=0):
    """A TensorDataset: images (number, 3, side, side) in [0, 1] with random labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (number,), generator=generator)
    images = torch.rand(number, 3, side, side, generator=generator)
    return torch.utils.data.TensorDataset(images, labels)


class Harm:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def to_tensor(image):
    """A PIL image as a tensor (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def code_cells(path):
    """The code cells of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def shown_text(cells):
    """All that the outputs of the cells print or show as text or as Markdown."""
    texts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts.append(output.get("text", ""))
            texts.append(data.get("text/plain", ""))
            texts.append(data.get("text/markdown", ""))
    return "\n".join(texts)


def list_in_first_cell(path, name):
    """The list that the first code cell of a notebook calls `name`."""
    for statement in ast.parse(code_cells(path)[0].source).body:
        if isinstance(statement, ast.Assign):
            if ast.unparse(statement.targets[0]) == name:
                return ast.literal_eval(statement.value)
    raise LookupError(f"the first code cell of {path} has no list {name}")


def copy_notebook(path, folder):
    """Copy a notebook with what it says must lie beside it, and nothing else."""
    shutil.copy(path, folder)
    for name in list_in_first_cell(path, "FILES"):
        shutil.copy(Path(path).with_name(name), folder)


# --- What README.md says to type, and a copy to type it in ---------------------------

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(make|git|pip|jupyter|py|python3?|\.venv/bin/\w+)( .+)?")


def readme_commands():
    """All that README.md says to type: lines of code blocks, and commands in its text.

    Without their comments, each once, in the order of the page.
    """
    text = (ROOT / "README.md").read_text("utf-8")
    found = []
    for kind, lines in BLOCK.findall(text):
        if kind == "text":
            continue
        for line in lines.splitlines():
            typed, _, _comment = line.partition("  #")
            found.append(typed.rstrip())
    for quoted in re.findall("`([^`]+)`", BLOCK.sub("", text)):
        typed = " ".join(quoted.split())  # it may go over two lines
        if COMMAND.fullmatch(typed):
            found.append(typed)
    return list(dict.fromkeys(found))


def readme_command(word):
    """The one command of README.md that holds this word."""
    (found,) = [typed for typed in readme_commands() if word in typed]
    return found


def copy_repository(folder):
    """Copy the files of git into a folder, and nothing else."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in listed.split("\0")[:-1]:
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)


def copy_with_commands(folder):
    """A copy of the repository in which the commands of README.md run; the folder.

    Its .venv holds what starts this Python's programs. They ask for the profile quick:
    without a network there is but the stand-in, on which no full run is possible.
    """
    copy_repository(folder)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "jupyter"):
        program = programs / name
        ours = Path(sys.executable).with_name(name)
        program.write_text(f'#!/bin/sh\nPS2_PROFILE=quick exec "{ours}" "$@"\n')
        program.chmod(0o755)
    (folder / ".venv/installed").touch()
    return folder


def outside_make():
    """Environment variables without those with which make tells make what to do."""
    variables = dict(os.environ)
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        variables.pop(name, None)
    return variables


def offline(folder):
    """Environment variables with which `folder` has neither images nor a network."""
    variables = outside_make()
    variables.pop("EUROSAT_REQUIRED", None)
    variables["EUROSAT_ROOT"] = str(folder / "data")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        variables[name] = "http://127.0.0.1:9"
    return variables


# --- Names and limits -----------------------------------------------------------------


class Names:
    """The names that a notebook defines, as attributes; the test fails on others."""

    def __init__(self, path, space, problems):
        self.path = path
        self.space = space
        self.problems = problems

    def __getattr__(self, name):
        try:
            return self.space[name]
        except (KeyError, NameError):
            pytest.fail(self.why(name), pytrace=False)

    def why(self, name):
        """The sentence that says why a name is missing."""
        reason = self.space["__left_out__"].get(name, "no cell sets it")
        return f"{name} is not defined ({reason})"


def at_most(kind, most):
    """`most`, or the hard limit in force if it is lower: no limit is ever raised.

    `kind` is one of the module resource, such as resource.RLIMIT_DATA.
    """
    import resource  # not on Windows

    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        return most
    return min(most, hard)


def lower_limit(kind, most):
    """Set both limits of a resource to `most`; lower ones in force stay."""
    import resource  # not on Windows

    limit = at_most(kind, most)
    resource.setrlimit(kind, (limit, limit))


@contextlib.contextmanager
def within(seconds):
    """TimeoutError if the block takes longer, unless no signal reaches what it does."""

    def stop(*_):
        raise TimeoutError(f"stopped after {seconds:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
