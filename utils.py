"""Shared machinery of the two notebooks: data, Trainer, progress, plots and results."""
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from IPython import get_ipython
from IPython.display import clear_output, display
from PIL import Image
from scipy.stats import binomtest
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

DEVICE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
CACHE = pathlib.Path(__file__).parent / "build"
EUROSAT_SIZE = 27_000
CLASSES = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
           "Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]


# Output: folders, figures, one line of progress

def output_folder(profile):
    """The folder that takes figures/ and report/: the repository for a full run, build/ for a quick one."""
    folder = pathlib.Path("." if profile == "full" else "build")
    for name in ("figures", "report"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def save_figure(fig, path, note=""):
    """Write a figure as PNG, the same bytes for the same figure; `note` warns in the title."""
    if note:
        fig.suptitle(note, color="firebrick", fontsize=10)
    fig.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


class Line:
    """One line of output that is rewritten in place: a display in a notebook, standard error elsewhere."""

    def __init__(self, text):
        self.handle = display({"text/plain": text}, raw=True, display_id=True) if get_ipython() else None
        self.write(text)

    def write(self, text):
        if self.handle:
            self.handle.update({"text/plain": text.strip()}, raw=True)
        elif sys.__stderr__.isatty():  # sys.stderr may be this Line
            sys.__stderr__.write(f"\r\033[K{text.strip()}")

    def flush(self):
        """Nothing to do: a Line can stand in for a text stream."""


def progress(items, label, note=str):
    """Yield from the sequence `items`, showing how many are done, the time left and `note()`.

    The line ends on a text without times, so that a saved notebook does not depend on the speed of the machine.
    """
    line, start, shown = Line(f"{label}: 0 of {len(items)}"), time.monotonic(), 0.0
    end = f"{label}: stopped early."
    try:
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - shown > 0.5:
                left = (now - start) / done * (len(items) - done)
                line.write(f"{label}: {done} of {len(items)}, {left:.0f} s left {note()}")
                shown = now
        end = f"{label}: {len(items)} of {len(items)} {note()}".strip() + "."
    finally:
        line.write(end)


@contextlib.contextmanager
def downloading(label):
    """Show the progress that a download writes to standard error as one line; it ends on a fixed text."""
    line, outcome = Line(f"{label}: looking for a download"), "no download possible."
    try:
        with contextlib.redirect_stderr(line):
            yield
        outcome = "ready."
    finally:
        line.write(f"{label}: {outcome}")


# Data: EuroSAT as one tensor, decoded once

@dataclasses.dataclass
class Pictures(Dataset):
    """Pictures as one uint8 tensor (N, 3, H, W) with labels (N,), file names and class names.

    An item is (picture in [0, 1] as float32 (3, H, W), label). `real` is False for the generated stand-in.
    """
    images: torch.Tensor
    labels: torch.Tensor
    names: list
    classes: list
    real: bool = True

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index].float() / 255, int(self.labels[index])

    @property
    def note(self):
        return "" if self.real else "Generated stand-in pictures, not EuroSAT"

    def part(self, index):
        """The pictures `index` (a tensor of indices or a slice) as Pictures of their own."""
        index = torch.arange(len(self))[index]
        return Pictures(self.images[index], self.labels[index], [self.names[i] for i in index], self.classes, self.real)

    def fingerprint(self):
        """First 16 hex digits of the SHA-256 of all pixels and labels."""
        digest = hashlib.sha256(self.images.numpy())
        digest.update(self.labels.numpy())
        return digest.hexdigest()[:16]


def find_eurosat(root=None):
    """Return (root for torchvision's EuroSAT, True), or (root of a generated stand-in, False) without a network.

    `root` defaults to the environment variable EUROSAT_ROOT, then to data/. Missing pictures are downloaded by
    torchvision. With EUROSAT_REQUIRED=1 a failed download is a FileNotFoundError instead of a stand-in.
    """
    root = pathlib.Path(root or os.environ.get("EUROSAT_ROOT", "data"))
    if (root / "eurosat" / "2750").is_dir():
        return root, True
    try:
        with downloading("EuroSAT"):
            torchvision.datasets.EuroSAT(root, download=True)
        return root, True
    except (OSError, RuntimeError) as error:
        if os.environ.get("EUROSAT_REQUIRED") == "1":
            raise FileNotFoundError(f"EuroSAT is not in {root / 'eurosat' / '2750'} and could not be downloaded ({error}). "
                                    "Set EUROSAT_ROOT to a folder that has it, or connect to the network.") from error
        return make_stand_in(CACHE / "stand-in"), False


def make_stand_in(root, per_class=120, seed=0):
    """Draw `per_class` JPEGs of waves for each class in EuroSAT's folder layout below `root`; return `root`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 64
    for label, name in enumerate(CLASSES):
        folder = pathlib.Path(root) / "eurosat" / "2750" / name
        folder.mkdir(parents=True, exist_ok=True)
        colour = np.array([label % 3, label // 3 % 3, label // 9]) * 30 + 70
        for number in range(1, per_class + 1):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            wave = np.sin(2 * np.pi * (2 + label) * (x * np.cos(angle) + y * np.sin(angle)) + phase)
            pixels = colour + 30 * wave[..., None] + rng.normal(0, 15, (64, 64, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}_{number}.jpg", quality=90)
    return pathlib.Path(root)


def load_eurosat(root=None):
    """All pictures as `Pictures`, decoded once and then read from a cache in build/.

    ValueError if a folder that should be EuroSAT is not complete.
    """
    root, real = find_eurosat(root)
    dataset = torchvision.datasets.EuroSAT(root)
    files = [pathlib.Path(path) for path, _ in dataset.samples]
    if real and (len(files) != EUROSAT_SIZE or dataset.classes != CLASSES):
        raise ValueError(f"{root / 'eurosat' / '2750'} holds {len(files)} pictures in {len(dataset.classes)} classes instead "
                         f"of {EUROSAT_SIZE} in {len(CLASSES)}: remove that folder and run again to download it afresh.")
    listing = "".join(f"{file} {(stat := file.stat()).st_size} {stat.st_mtime_ns}\n" for file in files)
    cache = CACHE / f"eurosat-{hashlib.sha256(listing.encode()).hexdigest()[:16]}.npy"
    if cache.is_file():
        images = np.load(cache, allow_pickle=False)
    else:
        images = np.stack([np.asarray(Image.open(file)) for file in progress(files, "decoding pictures")])
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        _save_array(images, cache)
    if get_ipython():
        clear_output()  # a saved notebook is the same whether there was a cache or not
    return Pictures(torch.from_numpy(images), torch.tensor(dataset.targets), [file.name for file in files],
                    dataset.classes, real)


def _save_array(array, path):
    """Write next to `path`, then rename: another process never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}-{os.getpid()}.part.npy")
    np.save(part, array)
    part.replace(path)


def split_eurosat(data, root=None, seed=42):
    """Indices {"train", "val", "test"} of three parts that share no picture.

    The published lists eurosat-{train,val,test}.txt where they lie beside the pictures, else a 60/20/20 split,
    stratified by class, from `seed`.
    """
    folder = pathlib.Path(root or os.environ.get("EUROSAT_ROOT", "data")) / "eurosat"
    lists = {part: folder / f"eurosat-{part}.txt" for part in ("train", "val", "test")}
    if data.real and all(path.is_file() for path in lists.values()):
        where = {name: index for index, name in enumerate(data.names)}
        return {part: torch.tensor([where[name] for name in path.read_text().split()]) for part, path in lists.items()}
    order = np.argsort(data.names)
    rest, test = train_test_split(order, test_size=0.2, random_state=seed, stratify=data.labels[order])
    train, val = train_test_split(rest, test_size=0.25, random_state=seed, stratify=data.labels[rest])
    return {part: torch.from_numpy(index) for part, index in (("train", train), ("val", val), ("test", test))}


def labels_of(dataset):
    """Labels (N,) of a dataset or of nested Subsets, read without decoding a picture."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices)]
    return torch.as_tensor(dataset.labels if hasattr(dataset, "labels") else dataset.targets)


def batch_of(dataset, index):
    """Pictures (B, 3, H, W) and labels (B,) of the items `index` (B,), in one step where the dataset holds tensors."""
    if isinstance(dataset, Subset):
        return batch_of(dataset.dataset, torch.as_tensor(dataset.indices)[index])
    if hasattr(dataset, "images"):
        return dataset.images[index], dataset.labels[index]
    pictures, labels = zip(*(dataset[int(i)] for i in index))
    return torch.stack([v2.functional.to_image(picture) for picture in pictures]), torch.tensor(labels)


# Augmentation on whole batches

def view(images, k):
    """View k (0 to 7) of the pictures (..., H, W): the four rotations, then the four rotations of the mirror image."""
    return torch.rot90(images if k < 4 else images.flip(-1), k % 4, dims=(-2, -1))


def random_views(images, generator):
    """Each picture of the batch (B, C, H, H) in one of its eight views, drawn at random."""
    flip = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images.device) < 0.5
    images = torch.where(flip[0], images.flip(-1), images)
    images = torch.where(flip[1], images.flip(-2), images)
    return torch.where(flip[2], images.transpose(-1, -2), images)


def random_shift(images, generator, by=4):
    """Each picture of the batch (B, C, H, W) moved by up to `by` pixels each way; the border is mirrored."""
    size, height, width = len(images), images.shape[-2], images.shape[-1]
    padded = nn.functional.pad(images.float(), (by,) * 4, mode="reflect").permute(0, 2, 3, 1)
    down, right = torch.randint(0, 2 * by + 1, (2, size, 1), generator=generator).to(images.device)
    rows = (torch.arange(height, device=images.device) + down)[:, :, None]
    columns = (torch.arange(width, device=images.device) + right)[:, None, :]
    return padded[torch.arange(size, device=images.device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def random_views_and_shift(images, generator):
    """`random_views`, then `random_shift`."""
    return random_shift(random_views(images, generator), generator)


# Training

@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a Trainer; the first six are those of the course's template.

    `optimizer` is called as optimizer(parameters, lr=learning_rate). `warm_up` > 0 is the rising share of a one-cycle
    schedule; 0 keeps the rate constant. `average` is the decay of the moving average of the weights. `augment(images,
    generator)` changes training batches only, `transform(images)` every batch, after scaling to [0, 1]. `views` is the
    number of rotations and mirror images (1 or 8) over which predictions are averaged.
    """
    batch_size: int = 64
    criterion: Callable = nn.CrossEntropyLoss()
    epochs: int = 10
    learning_rate: float = 1e-3
    optimizer: Callable = torch.optim.AdamW
    seed: int = 42
    warm_up: float = 0.0
    clip: float = math.inf
    average: float = 0.0
    augment: Callable | None = None
    transform: Callable | None = None
    views: int = 1

    @classmethod
    def of(cls, cfg):
        """A Config from a Config, a dictionary, or any object with (some of) its fields."""
        fields = cfg if isinstance(cfg, dict) else {k: v for k, v in vars(cfg).items() if not k.startswith("_")}
        return cls(**fields)


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of convolutions, seen as matrices (O, h * w * I), and AdamW at a tenth of its rate for the rest.

    torch.optim.Muon takes matrices only; it gets views of the kernels, which must be channels_last, as in Trainer.
    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(self, parameters, lr, weight_decay=0.05):
        parameters = list(parameters)
        self.kernels = [p for p in parameters if p.ndim == 4]
        self.matrices = [nn.Parameter(_matrix(p.data)) for p in self.kernels]
        self.muon = torch.optim.Muon(self.matrices, lr=lr, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW([p for p in parameters if p.ndim != 4], lr=lr / 10, weight_decay=weight_decay)
        super().__init__(parameters, dict(lr=lr))
        self.param_groups = self.muon.param_groups + self.adamw.param_groups

    def step(self):
        for kernel, matrix in zip(self.kernels, self.matrices):
            matrix.grad = _matrix(kernel.grad)
        self.muon.step()
        self.adamw.step()

    def zero_grad(self):
        for kernel in self.kernels:
            kernel.grad = None
        self.adamw.zero_grad()


def _matrix(kernel):
    return kernel.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(len(kernel), -1)


class Trainer:
    """Train and test a classifier.

    `cfg` is a Config, or a dictionary or object with (some of) its fields. The global random state is left as it was.
    """

    def __init__(self, model, cfg, device=DEVICE):
        self.cfg, self.device, self.seconds = Config.of(cfg), device, 0.0
        self.model = model.to(device, memory_format=torch.channels_last)
        self.optimizer = self.cfg.optimizer(self.model.parameters(), lr=self.cfg.learning_rate)
        self.generator = torch.Generator().manual_seed(self.cfg.seed)

    def iter_step(self, X, Y):
        """One optimisation step on pictures X (B, 3, H, W) and labels Y (B,); returns (loss, accuracy) of the batch.

        FloatingPointError if the loss is not finite; the weights are then those of the step before.
        """
        self.model.train()
        Y = Y.to(self.device)
        scores = self._forward(self._prepare(X, augment=self.cfg.augment))
        loss = self.cfg.criterion(scores, Y)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}: lower learning_rate (now {self.cfg.learning_rate}) or set clip")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.optimizer.step()
        return loss.item(), (scores.argmax(1) == Y).sum().item() / len(Y)

    def train(self, dataset, label="training", after_epoch=None):
        """Train for cfg.epochs; returns (avg_loss, avg_acc), lists with one value per iteration.

        Each value is the mean over all samples seen so far in its epoch. `after_epoch(epoch)` is called after each.
        """
        cfg, means, start = self.cfg, RunningMean(), time.monotonic()
        batches = math.ceil(len(dataset) / cfg.batch_size)
        schedule = cfg.warm_up and LambdaLR(self.optimizer, functools.partial(one_cycle, cfg.epochs * batches, cfg.warm_up))
        averaged = cfg.average and AveragedModel(self.model, multi_avg_fn=_moving_average(cfg.average))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)  # for dropout
            for step in progress(range(cfg.epochs * batches), label, means.describe):
                if step % batches == 0:
                    means.restart()
                    order = torch.randperm(len(dataset), generator=self.generator).split(cfg.batch_size)
                X, Y = batch_of(dataset, order[step % batches])
                means.add(*self.iter_step(X, Y), len(Y))
                if schedule:
                    schedule.step()
                if averaged:
                    averaged.update_parameters(self.model)
                if after_epoch and (step + 1) % batches == 0:
                    after_epoch(step // batches)
        if averaged:
            self.model.load_state_dict(averaged.module.state_dict())
        self.seconds = time.monotonic() - start
        return means.losses, means.accuracies

    def predict(self, dataset, label="predicting", batch_size=256):
        """Logarithms of the class probabilities (N, n_classes), averaged over cfg.views, and labels (N,)."""
        self.model.eval()
        scores, labels = [], []
        with torch.inference_mode():
            for index in progress(torch.arange(len(dataset)).split(batch_size), label):
                X, Y = batch_of(dataset, index)
                X = self._prepare(X)
                probabilities = sum(self._forward(view(X, k)).softmax(1) for k in range(self.cfg.views)) / self.cfg.views
                scores.append(probabilities.log().cpu())
                labels.append(Y.cpu())
        return torch.cat(scores), torch.cat(labels)

    def test(self, dataset, label="testing"):
        """Loss and accuracy without training; returns (avg_loss, avg_acc), lists with one value per iteration.

        Each value is the mean over all samples so far; the last one is the mean over the dataset.
        """
        scores, labels = self.predict(dataset, label)
        means = RunningMean()
        for score, Y in zip(scores.split(self.cfg.batch_size), labels.split(self.cfg.batch_size)):
            means.add(self.cfg.criterion(score, Y).item(), (score.argmax(1) == Y).sum().item() / len(Y), len(Y))
        return means.losses, means.accuracies

    def _prepare(self, X, augment=None):
        """Pictures, uint8 or in [0, 1], as the float batch that the model takes."""
        scale = 255 if X.dtype == torch.uint8 else 1
        X = X.to(self.device)
        X = (augment(X, self.generator) if augment else X).float() / scale
        X = self.cfg.transform(X) if self.cfg.transform else X
        return X.contiguous(memory_format=torch.channels_last)

    def _forward(self, X):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_has_bfloat16(self.device)):
            return self.model(X).float()


def one_cycle(steps, warm_up, step):
    """Factor of the learning rate at `step` of `steps`: a straight rise over the share `warm_up`, then half a cosine."""
    rise = max(1, warm_up * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _has_bfloat16(device):
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)


def _moving_average(decay):
    """An update for AveragedModel: an exponential moving average that forgets the first steps faster."""
    def update(averaged, current, steps):
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + float(steps)) / (10 + float(steps))))
    return update


class RunningMean:
    """Means of loss and accuracy over samples; `losses` and `accuracies` keep every value."""

    def __init__(self):
        self.losses, self.accuracies = [], []
        self.restart()

    def restart(self):
        """Start a new epoch."""
        self.loss = self.correct = self.samples = 0

    def add(self, loss, accuracy, samples):
        self.loss, self.correct = self.loss + loss * samples, self.correct + accuracy * samples
        self.samples += samples
        self.losses.append(self.loss / self.samples)
        self.accuracies.append(self.correct / self.samples)

    def describe(self):
        return f"steps, loss {self.losses[-1]:.3f}, accuracy {self.accuracies[-1]:.2%}" if self.losses else "steps"


# Results

@dataclasses.dataclass(frozen=True)
class Result:
    """What one model reached; losses are mean cross-entropies, `correct` and `total` count test pictures."""
    model: str
    parameters: int
    epochs: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    correct: int
    total: int

    @classmethod
    def of(cls, name, model, epochs, scores, labels):
        """From log-probabilities (N, n_classes) and labels (N,), each a pair: training sample, test part."""
        losses = [nn.functional.nll_loss(score, truth).item() for score, truth in zip(scores, labels)]
        right = [(score.argmax(1) == truth).sum().item() for score, truth in zip(scores, labels)]
        return cls(name, sum(p.numel() for p in model.parameters()), epochs, losses[0], right[0] / len(labels[0]),
                   losses[1], right[1], len(labels[1]))

    @property
    def accuracy(self):
        return self.correct / self.total

    def interval(self):
        """95 % confidence interval of the test accuracy (Wilson)."""
        bounds = binomtest(self.correct, self.total).proportion_ci(0.95, method="wilson")
        return bounds.low, bounds.high


def print_table(results):
    """One line for each Result."""
    print(f"{'model':16}{'parameters':>10}{'epochs':>7}{'train loss':>11}{'accuracy':>9}{'test loss':>10}{'accuracy':>9}  95 % interval")
    for r in results:
        low, high = r.interval()
        print(f"{r.model:16}{r.parameters:10,}{r.epochs:7}{r.train_loss:11.3f}{r.train_accuracy:9.2%}{r.test_loss:10.3f}"
              f"{r.accuracy:9.2%}  {100 * low:.2f} to {100 * high:.2f}")
    print("test pictures right:", ", ".join(f"{r.model} {r.correct} of {r.total}" for r in results))


def write_results(path, data, results, **more):
    """Write every number that the text quotes as JSON."""
    content = {"data": data.note or "EuroSAT", "fingerprint": data.fingerprint(), **more,
               "results": [{**dataclasses.asdict(r), "accuracy": r.accuracy, "interval": r.interval()} for r in results]}
    path.write_text(json.dumps(content, indent=1) + "\n")
