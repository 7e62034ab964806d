"""What several test files use."""

import contextlib
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset


@contextlib.contextmanager
def refused(kind, *words):
    """The block raises an error of this kind, in one line that holds all the words."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


class TinyData(Dataset):
    """Uneven classes of random images (64, 64), as EuroSAT gives them: (PIL image, label)."""

    def __init__(self, sizes=(9, 6, 5), change=None):
        self.classes = [f"Class{letter}" for letter in "CABDEFGHIJ"[: len(sizes)]]
        self.targets = [label for label, size in enumerate(sizes) for _ in range(size)]
        shape = (len(self.targets), 64, 64, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.change = change

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.fromarray(self.pixels[index])
        return self.change(image) if self.change else image, self.targets[index]


def to_tensor(image):
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def given():
    """Names that a notebook sets in cells that are not executed, whatever it sets them to."""
    return {"device": torch.device("cpu"), "data": TinyData()}


class Names:
    """The names that a notebook defines, as attributes; says why one of them is missing."""

    def __init__(self, path, space, problems):
        self.path, self.space, self.problems = path, space, problems

    def __getattr__(self, name):
        if name not in self.space:
            why = self.space["__left_out__"].get(name, "nowhere in the notebook")
            pytest.fail(f"{name} is not defined ({why})", pytrace=False)
        return self.space[name]


@contextlib.contextmanager
def within(seconds):
    """TimeoutError if the block takes longer, unless it is stuck where signals do not reach."""

    def stop(*_):
        raise TimeoutError(f"stopped after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
