"""Measure what this repository's code costs beside what one would use instead.

python -m tools.bench    writes report/benchmark.md

Two things that are compared run alternately in one process, and their medians are
compared. Judges on the validation list; needs the images of EuroSAT (EUROSAT_ROOT).
"""

import argparse
import math
import platform
import time
from functools import partial

import numpy as np
import torch
import torchvision
from scipy.signal import correlate2d
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, Subset

import utils
from eurosat import find_eurosat, get_batch, scale, split_eurosat
from tools.definitions import load_definitions
from tools.files import command
from tools.trials import load_published
from trainer import Trainer, default_device, has_bfloat16

REPORT = "report/benchmark.md"
BATCH = 64
LOADED = 2048  # images that are loaded
TRAINED = 1024  # images of a training step's epoch
SAMPLE = 256  # of an epoch with each pooling


# --- Measuring ------------------------------------------------------------------------


def seconds(*functions, rounds=7, least=0.3):
    """Median seconds of a call of each function; the rounds alternate between them.

    In each round a function is called until `least` seconds are over, as it is
    estimated.
    """
    threads = torch.get_num_threads()
    timers = []
    calls = []
    for function in functions:
        timer = Timer("f()", globals={"f": function}, num_threads=threads)
        once = timer.timeit(1).median
        timers.append(timer)
        calls.append(max(1, int(least / once)))
    times = np.empty((rounds, len(timers)))
    for turn in range(rounds):
        for place, timer in enumerate(timers):
            times[turn, place] = timer.timeit(calls[place]).median
    return np.median(times, axis=0)


def at_least(what, value, unit, aim):
    """A row of the table: what was measured, the aim, and whether it was met."""
    return row(what, f"{value:.3g} {unit}", f">= {aim:g} {unit}", value >= aim)


def at_most(what, value, unit, aim):
    """The same where less is better."""
    return row(what, f"{value:.3g} {unit}", f"<= {aim:g} {unit}", value <= aim)


def row(what, measured, aim, is_met):
    """A row of the table, which is printed, too."""
    verdict = "met" if is_met else "**missed**"
    text = f"| {what} | {measured} | {aim} | {verdict} |"
    print(text, flush=True)
    return text


# --- What is measured -----------------------------------------------------------------


def loading(part2, data):
    """Images into training: from the tensor, against the usual DataLoader."""
    folder, _ = find_eurosat()
    usual = torchvision.datasets.ImageFolder(folder, torchvision.transforms.ToTensor())
    some = torch.randperm(len(data))[:LOADED]
    same = Subset(usual, some.tolist())

    def ours():
        for index in some.split(BATCH):
            images, _ = get_batch(data, index)
            scale(images)

    def theirs(workers):
        for _ in DataLoader(same, batch_size=BATCH, num_workers=workers):
            pass

    mine, none, two = seconds(ours, partial(theirs, 0), partial(theirs, 2))
    what = "loading, as fast as a DataLoader with"
    return [
        at_least(f"{what} 0 workers", none / mine, "x", 30),
        at_least(f"{what} 2 workers", two / mine, "x", 30),
    ]


def training_step(part2, data):
    """A whole training step of the own CNN against its bare passes."""
    some = evenly(data, TRAINED)
    cfg = part2["recipe"](some, augment=None)
    trainer = Trainer(part2["new_model"](part2["SEED"]), cfg)
    X, Y = get_batch(some, torch.arange(BATCH))

    def passes():
        trainer.model.train()
        trainer.model.zero_grad()
        loss, _ = trainer.iter_step(X, Y)
        loss.backward()

    epoch = partial(trainer.train, some, label="")
    bare, whole = seconds(passes, epoch, rounds=5, least=1)
    steps = math.ceil(len(some) / BATCH)
    return [at_most("training step, in bare passes", whole / steps / bare, "x", 1.05)]


def evenly(data, count):
    """`count` images from all over the dataset; all of a smaller one."""
    apart = max(1, len(data) // count)
    return Subset(data, torch.arange(0, len(data), apart)[:count])


def pooling(part2, data):
    """MyMaxPool against nn.MaxPool2d, forward and backward."""
    rows = []
    for arguments, aim in [((2, 2, 0), 1.5), ((3, 2, 1), 3), ((3, 1, 1), 3)]:
        x = torch.randn(32, 64, 32, 32, device=default_device())
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        runs = []
        for kind in (part2["MyMaxPool"], nn.MaxPool2d):
            pool = kind(*arguments)
            gradient = torch.ones_like(pool(x))
            runs.append(partial(forward_and_backward, pool, x, gradient))
        ours, theirs = seconds(*runs, least=0.1)
        what = f"MyMaxPool{arguments}, in nn.MaxPool2d"
        rows.append(at_most(what, ours / theirs, "x", aim))
    return rows


def forward_and_backward(pool, x, gradient):
    """One pass through a pooling in each direction."""
    torch.autograd.grad(pool(x), x, gradient)


class InFloat32(Trainer):
    """A Trainer that trains in float32 on processors with bfloat16, too."""

    bfloat16 = False


def pooling_in_training(part2, data):
    """A training step of the own CNN with MyMaxPool against one with nn.MaxPool2d."""
    some = evenly(data, SAMPLE)
    kinds = {"float32": InFloat32}
    if has_bfloat16(default_device()):
        kinds["bfloat16"] = Trainer
    rows = []
    for precision, kind in kinds.items():
        epochs = []
        for replaced in (False, True):
            model = part2["new_model"](part2["SEED"])
            if replaced:
                replace_pooling(model, part2["MyMaxPool"])
            trainer = kind(model, part2["recipe"](some))
            epochs.append(partial(trainer.train, some, label=""))
        ours, theirs = seconds(*epochs)
        what = f"training step in {precision}, in the same with nn.MaxPool2d"
        rows.append(at_most(f"{what} (must: 1.3)", ours / theirs, "x", 1.15))
    return rows


def replace_pooling(model, kind):
    """Put an nn.MaxPool2d in the place of each layer of the class `kind`."""
    for place, layer in enumerate(model):
        if isinstance(layer, kind):
            sizes = (layer.kernel_size, layer.stride, layer.padding)
            model[place] = nn.MaxPool2d(*sizes)


def convolution(part2, data):
    """The vectorised slide of part 1 against scipy."""
    part1, _ = load_definitions("ps2_theory.ipynb")
    rng = np.random.default_rng(0)
    rows = []
    for size, k in [(64, 3), (512, 3), (512, 5)]:
        image = rng.random((size, size))
        kernel = rng.random((k, k))
        our_run = partial(part1["cross_correlate2d"], image, kernel)
        their_run = partial(correlate2d, image, kernel, mode="valid")
        ours, theirs = seconds(our_run, their_run, least=0.1)
        what = f"{k}×{k} over {size}×{size}, as fast as scipy"
        rows.append(at_least(what, theirs / ours, "x", 1))
    return rows


def accuracy(part2, data):
    """Seconds of training until the own CNN reaches 90, 95 and 97 %."""
    split = split_eurosat(data)
    train = Subset(data, split["train"])
    validation = Subset(data, split["val"])
    tried = []
    for epochs in (1, 3, 6):
        cfg = part2["recipe"](train, epochs=epochs)
        trainer = Trainer(part2["new_model"](part2["SEED"]), cfg)
        images = part2["rotated_copy"](train)
        start = time.monotonic()
        trainer.train(images, f"own CNN, {epochs} epochs")
        taken = time.monotonic() - start
        _, reached = trainer.test(validation, label="")
        tried.append((taken, reached[-1]))
    rows = []
    for goal, aim in ((0.9, 40), (0.95, 80), (0.97, 120)):
        enough = [taken for taken, reached in tried if reached >= goal]
        what = f"own CNN to {goal:.0%} on the validation list"
        rows.append(at_most(what, min(enough, default=math.inf), "s", aim))
    return rows


# --- The report -----------------------------------------------------------------------


SECTIONS = [
    loading,
    training_step,
    pooling,
    pooling_in_training,
    convolution,
    accuracy,
]


def machine():
    """What the numbers depend on, in a line."""
    words = [
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        str(default_device()),
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
    ]
    return ", ".join(words)


def main():
    argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    utils.set_up()
    data = load_published()
    part2, _ = load_definitions("ps2_eurosat.ipynb")
    lines = ["# Benchmark", ""]
    lines += [f"One run of `make bench` with two threads: {machine()}.", ""]
    lines += ["| what | measured | aim | |", "|---|---|---|---|"]
    for section in SECTIONS:
        lines += section(part2, data)
    utils.write_whole(REPORT, "\n".join(lines) + "\n")
    print(f"wrote {REPORT}")


if __name__ == "__main__":
    command(main)
