"""What several test files use."""

import contextlib
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

FOREIGN = "PS2_CHILD" in os.environ  # in the process that tests another notebook


@contextlib.contextmanager
def refused(kind, *words):
    """The block raises an error of this kind, in one line that holds all the words."""
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


class TinyData(torch.utils.data.Dataset):
    """Uneven classes of random images (64, 64), as EuroSAT gives them: (PIL image, label)."""

    def __init__(self, sizes=(9, 6, 5), change=None):
        self.classes = [f"Class{letter}" for letter in "CABDEFGHIJ"[: len(sizes)]]
        self.targets = [label for label, size in enumerate(sizes) for _ in range(size)]
        self.pixels = np.random.default_rng(0).integers(0, 256, (len(self), 64, 64, 3), np.uint8)
        self.change = change

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.fromarray(self.pixels[index])
        return self.change(image) if self.change else image, self.targets[index]


def random_data(number, side, classes, seed=0):
    """A TensorDataset of random images (number, 3, side, side) in [0, 1], with random labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (number,), generator=generator)
    images = torch.rand(number, 3, side, side, generator=generator)
    return torch.utils.data.TensorDataset(images, labels)


class Harm:  # unpickled, it makes a folder
    def __reduce__(self):
        return os.mkdir, ("harm",)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


class Names:
    """The names that a notebook defines, as attributes; says why one of them is missing."""

    def __init__(self, path, space, problems):
        self.path, self.space, self.problems = path, space, problems

    def __getattr__(self, name):
        return self.space[name] if name in self.space else pytest.fail(self.why(name), False)

    def why(self, name):
        return f"{name} is not defined ({self.space['__left_out__'].get(name, 'nowhere')})"


@contextlib.contextmanager
def within(seconds):
    """TimeoutError if the block takes longer, unless it is stuck where signals do not reach."""

    def stop(*_):
        raise TimeoutError(f"stopped after {seconds:g} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
