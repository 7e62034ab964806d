"""Measure what this repository's code costs beside what one would use instead.

python -m tools.bench    writes report/benchmark.md

Two things that are compared run alternately in one process, and their medians are compared. Judges
on the validation list; needs the images (EUROSAT_ROOT).
"""

import argparse
import os
import platform
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from scipy.signal import correlate2d
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, Subset

import utils
from tools.definitions import load_definitions
from tools.files import command


def seconds(*functions, rounds=7, least=0.3):
    """Median seconds of a call of each function; the rounds alternate between them."""
    threads = torch.get_num_threads()
    timers = [Timer("f()", globals={"f": f}, num_threads=threads) for f in functions]
    calls = [max(1, int(least / timer.timeit(1).median)) for timer in timers]
    pairs = list(zip(timers, calls, strict=True))
    times = [[timer.timeit(number).median for timer, number in pairs] for _ in range(rounds)]
    return np.median(times, axis=0)


def row(what, value, unit, sign, aim):
    """A row of the table: what was measured, the aim, and whether it was met."""
    met = value >= aim if sign == ">=" else value <= aim
    text = f"| {what} | {value:.3g} {unit} | {sign} {aim:g} {unit} | "
    text += "met |" if met else "**missed** |"
    print(text, flush=True)
    return text


def loading(part2, data):
    """Images into training: from the tensor, against the usual DataLoader."""
    folder, _ = utils.find_eurosat()
    usual = torchvision.datasets.ImageFolder(folder, torchvision.transforms.ToTensor())
    some = torch.randperm(len(data))[:2048]

    def ours():
        for index in some.split(64):
            utils.get_batch(data, index)[0].div(255)

    def theirs(workers):
        for _ in DataLoader(Subset(usual, some.tolist()), batch_size=64, num_workers=workers):
            pass

    mine, *others = seconds(ours, partial(theirs, 0), partial(theirs, 2))
    for workers, other in zip((0, 2), others, strict=True):
        what = f"loading, as fast as a DataLoader with {workers} workers"
        yield row(what, other / mine, "x", ">=", 30)


def step(part2, data):
    """A whole training step of the own CNN against its bare passes."""
    some = Subset(data, torch.arange(0, len(data), len(data) // 1024)[:1024])
    cfg = part2["recipe"](some, augment=None)
    trainer = part2["tuned_trainer"](some, cfg)
    X, Y = utils.get_batch(some, torch.arange(64))

    def bare():
        trainer.model.train().zero_grad()
        trainer.iter_step(X, Y)[0].backward()

    passes, epoch = seconds(bare, partial(trainer.train, some, label=""), rounds=5, least=1)
    yield row("training step, in bare passes", epoch / 16 / passes, "x", "<=", 1.05)


def pooling(part2, data):
    """MyMaxPool against nn.MaxPool2d, forward and backward."""
    for arguments, aim in [((2, 2, 0), 1.5), ((3, 2, 1), 3), ((3, 1, 1), 3)]:
        x = torch.randn(32, 64, 32, 32).to(utils.DEVICE, memory_format=torch.channels_last)
        pools = part2["MyMaxPool"](*arguments), nn.MaxPool2d(*arguments)
        g = torch.ones_like(pools[1](x.requires_grad_()))
        runs = [lambda p=pool, x=x, g=g: torch.autograd.grad(p(x), x, g) for pool in pools]
        ours, theirs = seconds(*runs, least=0.1)
        yield row(f"MyMaxPool{arguments}, in nn.MaxPool2d", ours / theirs, "x", "<=", aim)


def convolution(part2, data):
    """The vectorised slide of part 1 against scipy."""
    part1, _ = load_definitions("ps2_theory.ipynb")
    rng = np.random.default_rng(0)
    for n, k in [(64, 3), (512, 3), (512, 5)]:
        pair = rng.random((n, n)), rng.random((k, k))
        runs = partial(part1["cross_correlate2d"], *pair), partial(correlate2d, *pair, mode="valid")
        ours, theirs = seconds(*runs, least=0.1)
        yield row(f"{k}×{k} over {n}×{n}, as fast as scipy", theirs / ours, "x", ">=", 1)


def accuracy(part2, data):
    """Seconds of training until the own CNN is right on 90, 95 and 97 % of the validation list."""
    train, val = (Subset(data, utils.split_eurosat(data)[part]) for part in ("train", "val"))
    found = []
    for epochs in (1, 3, 6):
        trainer = part2["tuned_trainer"](train, part2["recipe"](train, epochs=epochs))
        start = time.monotonic()
        trainer.train(part2["rotated_copy"](train), f"own CNN, {epochs} epochs")
        found.append((time.monotonic() - start, trainer.test(val, label="")[1][-1]))
    for goal, aim in ((0.9, 40), (0.95, 80), (0.97, 120)):
        least = min([taken for taken, reached in found if reached >= goal], default=np.inf)
        yield row(f"own CNN to {goal:.0%} on the validation list", least, "s", "<=", aim)


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    os.environ["EUROSAT_REQUIRED"] = "1"
    part2, data = load_definitions("ps2_eurosat.ipynb")[0], utils.load_eurosat()
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {utils.DEVICE}"
    machine += f", Python {platform.python_version()}, torch {torch.__version__}"
    lines = ["# Benchmark", "", f"One run of `make bench` with two threads: {machine}.", ""]
    lines += ["| what | measured | aim | |", "|---|---|---|---|"]
    for section in (loading, step, pooling, convolution, accuracy):
        lines += section(part2, data)
    Path("report/benchmark.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    command(main)
