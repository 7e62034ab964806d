"""Measure what this repository's code costs beside what one would use instead.

python -m tools.bench [SECTION ...]    without a section all of them, into report/benchmark.md

Two things that are compared run alternately in one process, and their medians are compared. Judges
on the validation list; needs the images (EUROSAT_ROOT).
"""

import argparse
import functools
import os
import platform
import time
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


def seconds(*functions, rounds=7, least=0.3):
    """Median seconds of a call of each function; the rounds alternate between them."""
    threads = torch.get_num_threads()
    timers = [Timer("f()", globals={"f": f}, num_threads=threads) for f in functions]
    calls = [max(1, int(least / timer.timeit(1).median)) for timer in timers]
    pairs = list(zip(timers, calls, strict=True))
    times = [[timer.timeit(number).median for timer, number in pairs] for _ in range(rounds)]
    return np.median(times, axis=0)


class Report:
    """One row for each ratio: what, measured, aim, and whether it was met."""

    def __init__(self):
        self.rows = []

    def add(self, what, value, aim, unit="x"):
        """`aim` is a pair such as (">=", 30) or None."""
        met = aim is None or (value >= aim[1] if aim[0] == ">=" else value <= aim[1])
        goal = f"{aim[0]} {aim[1]:g} {unit}" if aim else ""
        self.rows.append(
            f"| {what} | {value:.3g} {unit} | {goal} | {'met' if met else '**missed**'} |"
        )
        print(self.rows[-1], flush=True)

    def text(self):
        head = ["# Benchmark", "", f"One run of `make bench` on {machine()}.", ""]
        return "\n".join(
            [*head, "| what | measured | aim | |", "|---|---|---|---|", *self.rows, ""]
        )


def machine():
    """Processor, threads, device and versions."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = f"{torch.get_num_threads()} threads, device {utils.DEVICE}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    return f"{[*names, platform.machine()][0]}, {threads}, {versions}"


def loading(report, part2, data):
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

    mine, *others = seconds(ours, lambda: theirs(0), lambda: theirs(2))
    for workers, other in zip((0, 2), others, strict=True):
        report.add(
            f"loading, as fast as a DataLoader with {workers} workers", other / mine, (">=", 30)
        )


def step(report, part2, data):
    """A whole training step of the own CNN against its bare passes."""
    some = Subset(data, torch.arange(0, len(data), len(data) // 1024)[:1024])
    for size in (64, 128):
        trainer = utils.Trainer(part2["new_model"](0), part2["recipe"](some, batch_size=size))
        X, Y = utils.get_batch(some, torch.arange(size))

        def bare(trainer=trainer, X=X, Y=Y):
            trainer.model.train().zero_grad()
            trainer.iter_step(X, Y)[0].backward()

        passes, epoch = seconds(bare, lambda t=trainer: t.train(some, label=""), rounds=5, least=1)
        report.add(
            f"training step, batch {size}, in bare passes",
            epoch * size / 1024 / passes,
            ("<=", 1.05),
        )


def pooling(report, part2, data):
    """MyMaxPool against nn.MaxPool2d, forward and backward."""
    for arguments, aim in [((2, 2, 0), 1.5), ((3, 2, 1), 3), ((3, 1, 1), 3)]:
        x = torch.randn(32, 64, 32, 32).to(utils.DEVICE, memory_format=torch.channels_last)
        pools = part2["MyMaxPool"](*arguments), nn.MaxPool2d(*arguments)
        g = torch.ones_like(pools[1](x.requires_grad_()))
        runs = [lambda p=pool, x=x, g=g: torch.autograd.grad(p(x), x, g) for pool in pools]
        ours, theirs = seconds(*runs, least=0.1)
        report.add(f"MyMaxPool{arguments}, in times of nn.MaxPool2d", ours / theirs, ("<=", aim))


def convolution(report, part2, data):
    """numpy convolution of part 1 against scipy."""
    part1, _ = load_definitions("ps2_theory.ipynb")
    rng = np.random.default_rng(0)
    for n, k in [(64, 3), (512, 3), (512, 5)]:
        pair = rng.random((n, n)), rng.random((k, k))
        ours, theirs = seconds(
            functools.partial(part1["cross_correlate2d"], *pair),
            functools.partial(correlate2d, *pair, mode="valid"),
            least=0.1,
        )
        report.add(
            f"convolution of {n}×{n} with {k}×{k}, as fast as scipy", theirs / ours, (">=", 1)
        )


def accuracy(report, part2, data):
    """Seconds of training until the own CNN is right on 90, 95 and 97 % of the validation list."""
    train, val = (Subset(data, utils.split_eurosat(data)[part]) for part in ("train", "val"))
    found = []
    for epochs in (1, 4, 6):
        cfg = part2["recipe"](train, epochs=epochs, tta=8)
        trainer, start = utils.Trainer(part2["new_model"](42), cfg), time.monotonic()
        trainer.train(part2["rotated_copy"](train), f"own CNN, {epochs} epochs")
        taken = time.monotonic() - start
        found.append((taken, trainer.test(val, label="")[1][-1]))
    for goal, aim in ((0.9, 90), (0.95, None), (0.97, 120)):
        least = min([taken for taken, reached in found if reached >= goal], default=float("inf"))
        report.add(f"own CNN to {goal:.0%} on the validation list", least, aim and ("<=", aim), "s")


SECTIONS = {f.__name__: f for f in (loading, step, pooling, convolution, accuracy)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args().section or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"{sorted(unknown)} is no section; there are {', '.join(SECTIONS)}")
    os.environ["EUROSAT_REQUIRED"] = "1"
    part2, data, report = load_definitions("ps2_eurosat.ipynb")[0], utils.load_eurosat(), Report()
    for name in chosen:
        SECTIONS[name](report, part2, data)
    if len(chosen) == len(SECTIONS):
        Path("report/benchmark.md").write_text(report.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
