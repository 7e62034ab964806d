"""Measure what this repository's code costs, beside what one would use instead, and write report/benchmark.md.

python tools/bench.py [SECTION ...]    without a section: all of them, about 25 minutes on two cores

Two things that are compared run alternately in one process, and medians are compared. Needs the pictures (EUROSAT_ROOT).
"""
import argparse
import dataclasses
import inspect
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

import nbformat
import numpy as np
import torch
import torchvision
from scipy.signal import correlate2d
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)
import utils  # noqa: E402
from tools.notebook import definitions  # noqa: E402

P1, P2 = definitions("ps2_theory.ipynb"), definitions("ps2_eurosat.ipynb")


@dataclasses.dataclass
class Report:
    """The text of benchmark.md: ratios first, then a section of details for each measurement."""
    ratios: list = dataclasses.field(default_factory=list)
    details: list = dataclasses.field(default_factory=list)

    def ratio(self, what, value, aim, met):
        self.ratios.append((what, value, aim, "met" if met else "**missed**"))
        print(*self.ratios[-1], sep=" | ", flush=True)

    def section(self, title, *lines):
        self.details += ["", f"## {title}", "", *lines]
        print(*self.details[-len(lines):], sep="\n", flush=True)

    def text(self):
        head = ["# Benchmark", "", f"One run of `make bench` on {machine()}.", "", *table(("what", "measured", "aim", ""), self.ratios)]
        return "\n".join(head + self.details) + "\n"


def machine():
    """Processor, number of threads, device and versions."""
    cpu = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    return (f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, device {utils.DEVICE}, "
            f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}")


def table(head, rows):
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def seconds(*functions, rounds=7, least=0.3):
    """Median seconds of a call of each function; the rounds alternate between them."""
    timers = [Timer("f()", globals={"f": f}, num_threads=torch.get_num_threads()) for f in functions]
    calls = [max(1, int(least / timer.timeit(1).median)) for timer in timers]
    times = [[timer.timeit(n).median for timer, n in zip(timers, calls)] for _ in range(rounds)]
    return np.median(times, axis=0)


def apart(code):
    """Run Python code in a process of its own: what it printed and its seconds."""
    start = time.perf_counter()
    text = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    return text, time.perf_counter() - start


def peak():
    """Peak memory of this process in GiB; Linux alone tells it (ru_maxrss would begin with that of the parent)."""
    found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())
    return int(found[1]) / 2**20


def config(**changes):
    """The configuration of the final own network, with the rate and the batch size that the full run chose."""
    images, chosen = P2["data"].images, json.loads((ROOT / "report/results.json").read_text())
    recipe = dict(batch_size=chosen["batch_size"], criterion=nn.CrossEntropyLoss(label_smoothing=0.1), epochs=1,
                  learning_rate=chosen["learning_rate"], optimizer=P2["Muon"], warm_up=0.1, clip=1.0, average=0.998,
                  augment=P2["random_views_and_shift"], views=8, transform=P2["v2"].Normalize(*P2["channel_statistics"](images[::10])))
    return utils.Config(**{**recipe, **changes})


# Sections

def loading(report):
    """Pictures into training: from the tensor, against the usual DataLoader."""
    root = utils.find_eurosat()[0]
    data, usual = P2["data"], torchvision.datasets.EuroSAT(root, transform=torchvision.transforms.ToTensor())
    trainer, some = utils.Trainer(nn.Linear(1, 1), utils.Config()), torch.randperm(len(data))[:2048]

    def as_to_tensor():
        for index in some.split(64):
            utils.batch_of(data, index)[0].div(255)

    def as_trainer():
        for index in some.split(64):
            trainer._prepare(utils.batch_of(data, index)[0])

    def theirs(workers):
        for _ in DataLoader(Subset(usual, some.tolist()), batch_size=64, shuffle=True, num_workers=workers):
            pass

    times = seconds(as_to_tensor, as_trainer, lambda: theirs(0), lambda: theirs(2))
    names = "tensor, as ToTensor gives it", "tensor, as Trainer takes it", "DataLoader, 0 workers", "DataLoader, 2 workers"
    report.section("Pictures a second into training", *table(
        ("source", "pictures a second"), [(name, f"{len(some) / t:,.0f}") for name, t in zip(names, times)]), "",
        "Trainer takes pictures in the order channels_last, which the convolutions want and ToTensor does not give.")
    for (name, t), (workers, usual_time) in itertools.product(zip(names[:2], times), zip((0, 2), times[2:])):
        ratio = usual_time / t
        report.ratio(f"loading: {name}, against DataLoader with {workers} workers", f"{ratio:.0f} x as fast", "30 x", ratio >= 30)


def step(report):
    """A whole training step against the bare passes, and the arithmetic against a matrix product."""
    some, rows = P2["data"].part(slice(0, 1024)), []
    for size, optimizer in itertools.product((64, 128), (P2["Muon"], torch.optim.AdamW)):
        trainer = utils.Trainer(P2["new_model"](0), config(batch_size=size, optimizer=optimizer))
        X, Y = trainer._prepare(some.images[:size]), some.labels[:size].to(trainer.device)

        def bare():
            trainer.model.zero_grad()
            trainer.cfg.criterion(trainer._forward(trainer.model, X), Y).backward()

        def whole():
            trainer.train(some, label="")

        with FlopCounterMode(display=False) as counter:
            bare()
        passes, epoch, ahead, update = seconds(bare, whole, lambda: trainer._prepare(some.images[:size], trainer.cfg.augment),
                                               trainer.optimizer.step, rounds=5, least=1)
        rows.append((size, optimizer.__name__, passes, epoch * size / len(some), ahead, update, counter.get_total_flops()))
    precision = torch.bfloat16 if utils._has_bfloat16(trainer.device) else torch.float32
    a = torch.randn(2048, 2048, device=trainer.device).to(precision)
    rate = 2 * 2048**3 / seconds(lambda: a @ a)[0]
    report.section("Training step of the own CNN, in milliseconds", *table(
        ("batch", "optimiser", "forward and backward", "whole step", "of it augmentation and scaling", "of it optimiser"),
        [(*row[:2], *(f"{1e3 * t:.1f}" for t in row[2:6])) for row in rows]), "",
        f"A product of two 2048 x 2048 matrices in {str(precision).removeprefix('torch.')} runs at {rate / 1e9:.0f} Gflop/s.")
    for size, name, passes, whole_step, _, _, flops in rows:
        report.ratio(f"training step above the bare passes, batch {size}, {name}", f"{whole_step / passes - 1:.0%}", "5 %",
                     whole_step / passes <= 1.05)
        if name == "Muon":  # the notebook's choice
            report.ratio(f"arithmetic of the step against a matrix product, batch {size}", f"{flops / whole_step / rate:.0%}", "50 %",
                         flops / whole_step / rate >= 0.5)
    most_expensive(report, utils.Trainer(P2["new_model"](0), config()), some)


def most_expensive(report, trainer, some):
    """The operations that take most of the time of training steps, by the profiler."""
    trainer.train(some.part(slice(0, 128)), label="")
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        trainer.train(some.part(slice(0, 640)), label="")
    events = sorted(prof.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    report.section(f"What costs most in a step (profiler, batch {trainer.cfg.batch_size})", *table(
        ("operation", "share"), [(f"`{event.key}`", f"{event.self_cpu_time_total / total:.0%}") for event in events[:8]]), "", REMAINS)


REMAINS = ("What remains are the convolutions and their gradients. Above them stand the optimiser, the augmentation and the two pooling "
           "layers. Muon multiplies each kernel, as a matrix, with itself in five rounds: its cost does not depend on the batch. It is kept, "
           "because in the trials of task 3 it reached more in 6 epochs than AdamW in 10. With AdamW the rest of the overhead is that of "
           "augmentation, clipping and the moving average; each is a pass over memory that the bare passes do not have. The profiler led to "
           "what is gone: memory fetched anew from the system in each step, a picture at a time through the index, the change to "
           "channels_last of each batch (the pictures are now kept so), augmentation in floats instead of bytes, convolutions before pooling "
           "instead of after it, and padding and bool masks in MyMaxPool.")


def pooling(report):
    """MyMaxPool against nn.MaxPool2d, forward and backward."""
    rows, worst = [], 0.0
    cases = itertools.product([(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (5, 2, 2)], [torch.float32, torch.bfloat16],
                              [torch.contiguous_format, torch.channels_last])
    for (k, s, p), precision, layout in cases:
        x = torch.randn(32, 64, 32, 32).to(utils.DEVICE, precision).to(memory_format=layout).requires_grad_()
        pools = P2["MyMaxPool"](k, s, p), nn.MaxPool2d(k, s, p)
        g = torch.ones_like(pools[1](x))
        ours, theirs = seconds(*[lambda pool=pool: torch.autograd.grad(pool(x), x, g) for pool in pools], least=0.1)
        ratio = ours / theirs
        worst = max(worst, ratio)
        rows.append((k, s, p, str(precision).removeprefix("torch."), str(layout).removeprefix("torch."), f"{ratio:.2f}"))
        if (k, s) == (2, 2) and layout == torch.channels_last:
            report.ratio(f"MyMaxPool as the own CNN uses it, {rows[-1][3]}, in times of nn.MaxPool2d", f"{ratio:.2f} x", "1.5 x", ratio <= 1.5)
    report.section("MyMaxPool, forward and backward, in times of nn.MaxPool2d",
                   *table(("kernel", "stride", "padding", "type", "layout", "ratio"), rows))
    report.ratio("MyMaxPool at worst, in times of nn.MaxPool2d", f"{worst:.2f} x", "3 x", worst <= 3)


def convolution(report):
    """numpy convolution of part 1 against scipy and against loops."""
    rng, rows = np.random.default_rng(0), []
    for n, k, kind in itertools.product((64, 512), (3, 5), ("float32", "float64")):
        x, kernel = rng.random((n, n)).astype(kind), rng.random((k, k)).astype(kind)
        functions = [lambda: P1["cross_correlate2d"](x, kernel), lambda: correlate2d(x, kernel, mode="valid")]
        if n == 64:
            functions.append(lambda: P1["slide"](x, kernel.shape, lambda patch: (patch * kernel).sum()))
        times = seconds(*functions, least=0.1)
        rows.append((n, k, kind, *(f"{t / times[0]:.1f}" for t in times[1:]), *[""] * (3 - len(times))))
        report.ratio(f"numpy convolution, {n} x {n} with {k} x {k}, {kind}, against scipy", f"{times[1] / times[0]:.1f} x as fast", "1 x",
                     times[1] >= times[0])
    report.section("Convolution of part 1: times as fast", *table(("picture", "kernel", "type", "as scipy", "as loops"), rows))


def accuracy(report):
    """Seconds of training until the network is right on 90, 95 and 97 % of the test pictures, evaluation not counted."""
    split = utils.split_eurosat(P2["data"])
    train, test = (P2["data"].part(index) for index in (torch.cat([split["train"], split["val"]]), split["test"]))
    for kind, lengths in (("own CNN", (1, 4)), ("pretrained", (1, 2))):
        rows = []
        for epochs in lengths:
            if kind == "own CNN":
                trainer = utils.Trainer(P2["new_model"](42), config(epochs=epochs))
            else:
                torch.manual_seed(42)
                network, _ = P2["pretrained_model"](P2["PRETRAINED"], 10, os.environ.get("PRETRAINED_WEIGHTS"))
                trainer = utils.Trainer(network, config(epochs=epochs, batch_size=64, learning_rate=5e-3, transform=P2["ENLARGED"]))
            trainer.train(P2["rotated_copy"](train), f"{kind}, {epochs} epochs")
            rows.append((epochs, trainer.seconds, trainer.test(test, kind)[1][-1]))
        report.section(f"Training of the {kind}: one schedule a row", *table(
            ("epochs", "seconds of training", "test accuracy"), [(e, f"{s:.0f}", f"{100 * a:.2f} %") for e, s, a in rows]))
        for goal in (0.9, 0.95, 0.97):
            least = min([s for _, s, a in rows if a >= goal], default=float("inf"))
            aim = 90 if (kind, goal) == ("own CNN", 0.9) else float("inf")
            report.ratio(f"{kind}: training to {100 * goal:.0f} % on the test part", f"{least:.0f} s", f"{aim} s" if aim == 90 else "none set",
                         least <= aim and least < float("inf"))


GROWTH = """
import sys; sys.argv = ["bench"]
from tools.bench import P2, config, peak, torch, utils
part = P2["data"] = utils.Pictures(**torch.load({path!r}, weights_only=True))
trainer = utils.Trainer(P2["new_model"](0), config())
trainer.train(part, label="")
print(len(part), trainer.seconds, peak())
"""


def full_profile_peak():
    """Peak memory in GiB of the kernel that runs part 2 up to task 4 on all pictures; one grid point, one seed and one epoch each."""
    book = nbformat.read("ps2_eurosat.ipynb", as_version=4)
    names = [cell.id for cell in book.cells]
    sizes = book.cells[names.index("parameters")]
    sizes.source = re.sub(r"(tune|own|pretrained)=\d+", r"\1=1", sizes.source)
    sizes.source = re.sub(r"(seeds|rates|batches)=\[([^],]+)[^]]*\]", r"\1=[\2]", sizes.source)
    ask = nbformat.v4.new_code_cell(f"{inspect.getsource(peak)}\n\nimport re\nprint(peak())")
    book.cells[names.index("fine-tune") + 1:] = [ask]
    with tempfile.TemporaryDirectory() as folder:  # it writes figures and a cache of its own
        shutil.copy("utils.py", folder)
        nbformat.write(book, f"{folder}/part2.ipynb")
        subprocess.run([sys.executable, "tools/notebook.py", f"{folder}/part2.ipynb"], check=True, stdout=sys.stderr,
                       env={**os.environ, "EUROSAT_ROOT": str(pathlib.Path(utils.find_eurosat()[0]).resolve()), "PS2_PROFILE": "full"})
        return float(nbformat.read(f"{folder}/part2.ipynb", as_version=4).cells[-1].outputs[0].text)


def growth(report):
    """Epoch time and peak memory against the number of pictures."""
    data, found = P2["data"], []
    for size in (1, 2, 4, 8):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/part.pt"  # the process that is measured must not hold the other pictures
            torch.save(vars(data.part(torch.arange(len(data)).reshape(-1, 8)[:, :size].flatten())), path)
            found.append(apart(GROWTH.format(path=path))[0].split())
    n, times, memory = np.array(found, dtype=float).T
    slope, offset = np.polyfit(n, times, 1)
    left = 1 - ((times - slope * n - offset)**2).sum() / ((times - times.mean())**2).sum()
    grown = np.polyfit(n, memory, 1)[0]
    rows = [(f"{a:.0f}", f"{b:.1f}", f"{1e3 * b / a:.2f}", f"{c:.2f}") for a, b, c in zip(n, times, memory)]
    report.section("An epoch of the own CNN by number of pictures", *table(
        ("pictures", "seconds", "milliseconds a picture", "peak memory, GiB"), rows), "",
        f"Fit: {1e3 * slope:.2f} ms a picture and {offset:.1f} s, R2 = {left:.4f}. Memory grows by "
        f"{2**20 * grown:.0f} KiB a picture; its pixels are {data.images[0].numel() / 2**10:.0f} KiB.")
    report.ratio("epoch time is linear in the number of pictures: R2 of the fit", f"{left:.4f}", "0.99", left >= 0.99)


def start_up(report):
    """Import, second load, memory."""
    bare, imported = (min(apart(code)[1] for _ in range(3)) for code in ("import torch, torchvision, matplotlib.pyplot", "import utils"))
    (again,) = seconds(utils.load_eurosat, rounds=3, least=0.01)
    full = full_profile_peak()
    report.section("Start-up and memory", *table(("what", "measured"), [
        ("`import utils`, a new process", f"{imported:.1f} s"), ("of that torch, torchvision and matplotlib alone", f"{bare:.1f} s"),
        ("second load of the pictures", f"{again:.1f} s"), ("peak memory of part 2 up to task 4, all pictures, one epoch for each network", f"{full:.2f} GiB")]))
    report.ratio("peak memory of the full profile", f"{full:.2f} GiB", "2.5 GiB", full <= 2.5)


SECTIONS = {f.__name__: f for f in (loading, step, pooling, convolution, accuracy, growth, start_up)}


def load():
    P2["data"] = utils.load_eurosat()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", help=", ".join(SECTIONS))
    chosen = parser.parse_args().section or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"{sorted(unknown)} is no section; there are {list(SECTIONS)}")
    load()
    report = Report()
    for name in chosen:
        SECTIONS[name](report)
    path = ROOT / ("report" if P2["data"].real and len(chosen) == len(SECTIONS) else "build") / "benchmark.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(report.text())
    print(f"wrote {path.relative_to(ROOT)}")
