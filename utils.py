"""Shared machinery of the two notebooks: progress, data, training, tuning by several processes."""
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import math
import numbers
import os
import pathlib
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import optuna
import PIL
import torch
import torchvision
from IPython import get_ipython
from IPython.display import clear_output, display
from optuna.storages import GrpcStorageProxy, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

DEVICE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
CACHE = pathlib.Path(__file__).parent / "build"
EUROSAT = {"AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500,
           "Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000}
CLASSES = list(EUROSAT)

try:  # freed memory stays with the process: to fetch it anew from the system in each step costs a tenth of training
    GLIBC = ctypes.CDLL("libc.so.6")
    GLIBC.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
    GLIBC.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
except (OSError, AttributeError):  # another system
    GLIBC = None


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
    """Yield from the sequence `items`, showing how many are done, the time left and `note()`; silent without a label.

    The line ends on a text without times, so that a saved notebook does not depend on the speed of the machine.
    """
    if not label:
        yield from items
        return
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

    load_eurosat keeps the tensor channels_last, the order in memory that convolutions want.
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
        return Pictures(batch_of(self, index)[0], self.labels[index], [self.names[i] for i in index], self.classes, self.real)

    def fingerprint(self):
        """First 16 hex digits of the SHA-256 of all pixels (picture by picture, row by row) and labels."""
        digest = hashlib.sha256(self.images.movedim(1, -1).contiguous().numpy())
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
    except Exception as error:  # network, archive, disk: whatever it is, the advice is the same
        if os.environ.get("EUROSAT_REQUIRED") == "1" or (root / "eurosat" / "2750").exists():
            raise FileNotFoundError(f"EuroSAT is not whole in {root / 'eurosat'} and could not be downloaded ({error}). Move away "
                                    "what is there, and connect to the network or set EUROSAT_ROOT to a folder that has it.") from error
    if not (stand_in := CACHE / "stand-in").is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            try:  # moved when whole: no other process sees half of it
                make_stand_in(f"{folder}/new").rename(stand_in)
            except OSError:
                if not stand_in.is_dir():  # no other process was faster
                    raise
    return stand_in, False


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

    ValueError if a folder that should be EuroSAT is not complete, or a picture is not as published.
    """
    root, real = find_eurosat(root)
    folder = root / "eurosat" / "2750"
    found = {path.name: sorted(path.glob("*.jpg")) for path in sorted(folder.glob("[!.]*/"))}
    counts = {name: len(files) for name, files in found.items()}
    if real and counts != EUROSAT:
        wrong = [f"{name} {counts.get(name, 0)} of {EUROSAT.get(name, 0)}" for name in {**EUROSAT, **counts}
                 if counts.get(name) != EUROSAT.get(name)]
        raise ValueError(f"{folder} holds {sum(counts.values())} pictures instead of {sum(EUROSAT.values())} ({', '.join(wrong)}): "
                         "move that folder away and run again to download it afresh.")
    files = [file for name in CLASSES for file in found.get(name, [])]
    labels = torch.tensor([label for label, name in enumerate(CLASSES) for _ in found.get(name, [])])
    stats = "".join(f"{file} {(stat := file.stat()).st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n" for file in files)
    cache = CACHE / f"eurosat-{hashlib.sha256((PIL.__version__ + stats).encode()).hexdigest()[:16]}.npz"
    images, trouble = _read_cache(cache, (len(files), 64, 64, 3)), ""
    if images is None:
        images = np.stack([_decode(file) for file in progress(files, "decoding pictures")])
        try:
            with _whole_or_nothing(cache) as part:
                np.savez(part, images=images)
        except OSError as error:
            trouble = f"The pictures could not be cached ({error.strerror or error}): the next start decodes them again."
    if get_ipython():
        clear_output()  # a saved notebook is the same whether there was a cache or not
    if trouble:
        print(trouble)
    return Pictures(torch.from_numpy(images).movedim(-1, 1), labels, [file.name for file in files], list(CLASSES), real)


def _decode(file):
    """Pixels (64, 64, 3) of a JPEG; ValueError if it cannot be read or is not an RGB picture of 64 x 64."""
    try:
        with Image.open(file, formats=["JPEG"]) as picture:
            found = f"{picture.mode} of {picture.width} x {picture.height}"
            pixels = np.asarray(picture)
    except Exception as error:  # whatever the bytes are, the advice is the same
        raise ValueError(f"{file} cannot be read ({error}): put the published picture in its place.") from error
    if found != "RGB of 64 x 64":
        raise ValueError(f"{file} is {found} instead of RGB of 64 x 64: put the published picture in its place.")
    return pixels


def _read_cache(cache, shape):
    """The pictures in the file `cache`, or None unless it is whole, which the checksum in a zip file tells."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            images = file["images"]
    except Exception:  # not there, cut off, damaged: it is written afresh
        return None
    return images if (images.shape, images.dtype) == (shape, np.uint8) else None


@contextlib.contextmanager
def _whole_or_nothing(path):
    """A file beside `path` to write to, which then takes its place: no other process ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def split_eurosat(data, root=None, seed=42):
    """Indices {"train", "val", "test"} of three parts that share no picture.

    The published lists eurosat-{train,val,test}.txt where they lie beside the pictures, else a 60/20/20 split,
    stratified by class, from `seed`.
    """
    folder = pathlib.Path(root or os.environ.get("EUROSAT_ROOT", "data")) / "eurosat"
    lists = {part: folder / f"eurosat-{part}.txt" for part in ("train", "val", "test")}
    if data.real and any(path.exists() for path in lists.values()):
        return _read_lists(lists, {name: index for index, name in enumerate(data.names)})
    order = np.argsort(data.names)
    rest, test = train_test_split(order, test_size=0.2, random_state=seed, stratify=data.labels[order])
    train, val = train_test_split(rest, test_size=0.25, random_state=seed, stratify=data.labels[rest])
    return {part: torch.from_numpy(index) for part, index in (("train", train), ("val", val), ("test", test))}


def _read_lists(lists, where):
    """The indices `where` of the names in the `lists` {part: path}; ValueError if they make no split."""
    advice, parts, taken = "put the published list in its place, or move all three away.", {}, {}
    for part, path in lists.items():
        if not path.is_file():
            raise ValueError(f"{path} is missing, but another list of the split is there: {advice}")
        names = path.read_text(errors="replace").split()
        for name in names:
            if name not in where:
                raise ValueError(f"{path} names {name}, which is none of the pictures: {advice}")
            if name in taken:
                raise ValueError(f"{path} names {name}, which {taken[name]} has named before: {advice}")
            taken[name] = path.name
        if not names:
            raise ValueError(f"{path} names no picture: {advice}")
        parts[part] = torch.tensor([where[name] for name in names])
    return parts


def labels_of(dataset):
    """Labels (N,) of a dataset or of nested Subsets, read without decoding a picture."""
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.long)]
    return torch.as_tensor(dataset.labels if hasattr(dataset, "labels") else dataset.targets)


def batch_of(dataset, index):
    """Pictures (B, 3, H, W) and labels (B,) of the items `index` (B,), in one step where the dataset holds tensors."""
    if isinstance(dataset, Subset):
        return batch_of(dataset.dataset, torch.as_tensor(dataset.indices, dtype=torch.long)[index])
    if hasattr(dataset, "images"):
        index = index.to(dataset.images.device)
        images = dataset.images.movedim(1, -1)  # whole pictures lie together then: many times as fast as images[index]
        return images.index_select(0, index).movedim(-1, 1), dataset.labels[index]
    pictures, labels = zip(*(dataset[int(i)] for i in index))
    return torch.stack([v2.functional.to_image(picture) for picture in pictures]), torch.tensor(labels)


# Training

def view(images, k):
    """View k (0 to 7) of the pictures (..., H, W): the four rotations, then the four rotations of the mirror image."""
    return torch.rot90(images if k < 4 else images.flip(-1), k % 4, dims=(-2, -1))


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

    def __post_init__(self):
        for name, (fits, allowed) in ALLOWED.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"{name} is {' '.join(repr(getattr(self, name)).split())}; allowed: {allowed}")

    @classmethod
    def of(cls, cfg):
        """A Config from a Config, a dictionary, or any object with (some of) its fields; ValueError for other fields."""
        fields = cfg if isinstance(cfg, dict) else {k: v for k, v in vars(cfg).items() if not k.startswith("_")}
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(fields) - set(known)):
            raise ValueError(f"cfg has the unknown fields {unknown}; it takes {known}")
        return cls(**fields)

    def described(self):
        """The settings as texts that are the same in every process."""
        return {field.name: _described(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _described(value):
    if isinstance(value, nn.Module):  # the text of a loss leaves out its numbers
        plain = [(k, v) for k, v in vars(value).items() if isinstance(v, (int, float, str))]
        return f"{value} {plain} {_digest(value.state_dict().values())}"
    return getattr(value, "__qualname__", str(value))


def _number(low, high):
    return lambda value: isinstance(value, numbers.Real) and low <= value <= high


def _whole(value):
    return isinstance(value, numbers.Integral) and value > 0


TINY = 1e-30
ALLOWED = {"batch_size": (_whole, "a whole number above 0"), "epochs": (_whole, "a whole number above 0"),
           "criterion": (lambda v: callable(v) and not isinstance(v, type) and getattr(v, "reduction", "mean") == "mean",
                         "a loss such as nn.CrossEntropyLoss() that gives the mean over a batch"),
           "optimizer": (lambda v: issubclass(v, torch.optim.Optimizer) if isinstance(v, type) else callable(v),
                         "a class such as torch.optim.AdamW"),
           "seed": (lambda v: isinstance(v, numbers.Integral) and 0 <= v < 2**32, "a whole number from 0 to 2**32 - 1"),
           "learning_rate": (_number(TINY, 1e30), "a number above 0"), "clip": (_number(TINY, math.inf), "a number above 0"),
           "warm_up": (_number(0, 1), "0 to 1"), "average": (_number(0, 1 - 1e-9), "0 to below 1"),
           "views": (lambda v: v in (1, 8), "1 or 8")}


class Trainer:
    """Train and test a classifier.

    `cfg` is a Config, or a dictionary or object with (some of) its fields. The global random state is left as it was.
    """

    def __init__(self, model, cfg, device=DEVICE):
        self.cfg, self.device, self.seconds, self.averaged = Config.of(cfg), check_device(device), 0.0, None
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.optimizer = self.cfg.optimizer(self.model.parameters(), lr=self.cfg.learning_rate)
        self.generator = torch.Generator().manual_seed(self.cfg.seed)

    def iter_step(self, X, Y):
        """One optimisation step on pictures X (B, 3, H, W) and labels Y (B,); returns (loss, accuracy) of the batch.

        FloatingPointError if the loss or the gradient is not finite; the weights are then those of the step before.
        """
        self.model.train()
        Y = Y.to(self.device)
        with _advice_on_memory(len(Y)):
            scores = self._forward(self.model, self._prepare(X, augment=self.cfg.augment))
            _check_labels(Y, scores.shape[1])
            loss = self.cfg.criterion(scores, Y)
            self._check_finite("loss", loss)
            self.optimizer.zero_grad()
            loss.backward()
        self._check_finite("gradient", nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip))
        self.optimizer.step()
        return loss.item(), (scores.argmax(1) == Y).sum().item() / len(Y)

    def _check_finite(self, name, value):
        if not torch.isfinite(value):
            raise FloatingPointError(f"the {name} is {value.item()}: lower learning_rate (now {self.cfg.learning_rate}) or set clip")

    def train(self, dataset, label="training", after_epoch=None, checkpoint=None):
        """Train for cfg.epochs; returns (avg_loss, avg_acc), lists with one value per iteration.

        Each value is the mean over all samples seen so far in its epoch. `checkpoint` names a file that keeps the state
        after each epoch: the same call goes on from there and ends with the same numbers as an uninterrupted one.
        `after_epoch(epoch)` is called after each epoch and on going on.
        """
        if not len(dataset):
            raise ValueError("dataset is empty: nothing to train on")
        cfg, means, start = self.cfg, RunningMean(), time.monotonic()
        batches = math.ceil(len(dataset) / cfg.batch_size)
        schedule = LambdaLR(self.optimizer, functools.partial(one_cycle, cfg.epochs * batches, cfg.warm_up))
        self.averaged = AveragedModel(self.model, multi_avg_fn=_moving_average(cfg.average))
        keeper = checkpoint and Checkpoint(checkpoint, self, schedule, means, dataset)
        with torch.random.fork_rng(devices=[]), self._averaged_at_the_end():
            torch.manual_seed(cfg.seed)  # for dropout
            done = keeper.load() if keeper else 0
            if done and after_epoch:
                after_epoch(done - 1)
            for step in progress(range(cfg.epochs * batches), label, means.describe):
                epoch = step // batches
                if epoch < done:
                    continue
                if step % batches == 0:
                    means.restart()
                    order = torch.randperm(len(dataset), generator=self.generator).split(cfg.batch_size)
                X, Y = batch_of(dataset, order[step % batches])
                means.add(*self.iter_step(X, Y), len(Y))
                schedule.step()
                self.averaged.update_parameters(self.model)
                if (step + 1) % batches == 0:
                    self.seconds += time.monotonic() - start
                    start = time.monotonic()
                    if keeper:
                        keeper.save(epoch + 1)
                    if after_epoch:
                        after_epoch(epoch)
        return means.losses, means.accuracies

    @contextlib.contextmanager
    def _averaged_at_the_end(self):
        """However training ends, the model gets the averaged weights."""
        try:
            yield
        finally:
            self.model.load_state_dict(self.averaged.module.state_dict())
            self.averaged = None
            _give_back_memory()

    def predict(self, dataset, label="predicting", batch_size=128):
        """Logarithms of the class probabilities (N, n_classes), averaged over cfg.views, and labels (N,)."""
        if not len(dataset):
            raise ValueError("dataset is empty: nothing to predict")
        check_whole("batch_size", batch_size)
        model = self.averaged.module if self.averaged else self.model  # in the middle of a training: the averaged weights
        model.eval()
        scores, labels = [], []
        with torch.inference_mode():
            for index in progress(torch.arange(len(dataset)).split(batch_size), label):
                X, Y = batch_of(dataset, index)
                X = self._prepare(X)
                probabilities = sum(self._forward(model, view(X, k)).softmax(1) for k in range(self.cfg.views)) / self.cfg.views
                scores.append(probabilities.log().cpu())
                labels.append(Y.cpu())
        _give_back_memory()
        return torch.cat(scores), torch.cat(labels)

    def test(self, dataset, label="testing"):
        """Loss and accuracy without training; returns (avg_loss, avg_acc), lists with one value per iteration.

        Each value is the mean over all samples so far; the last one is the mean over the dataset.
        """
        scores, labels = self.predict(dataset, label)
        _check_labels(labels, scores.shape[1])
        means = RunningMean()
        for score, Y in zip(scores.split(self.cfg.batch_size), labels.split(self.cfg.batch_size)):
            means.add(self.cfg.criterion(score, Y).item(), (score.argmax(1) == Y).sum().item() / len(Y), len(Y))
        return means.losses, means.accuracies

    def _prepare(self, X, augment=None):
        """Pictures, uint8 or in [0, 1], as the float batch that the model takes."""
        are_bytes, X = X.dtype == torch.uint8, X.to(self.device)
        X = augment(X, self.generator) if augment else X
        X = X.to(torch.float32, memory_format=torch.channels_last)  # both at once: memory costs more than arithmetic
        X = X.div_(255) if are_bytes else X
        X = self.cfg.transform(X) if self.cfg.transform else X
        return X.contiguous(memory_format=torch.channels_last)

    def _forward(self, model, X):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_has_bfloat16(self.device)):
            return model(X).float()


def check_whole(name, value, low=1):
    """ValueError that names the argument unless `value` is a whole number of at least `low`."""
    if not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, not {value!r}")


def _give_back_memory():
    """What lies free after a long work goes back to the system."""
    if GLIBC:
        GLIBC.malloc_trim(0)


def _check_labels(labels, classes):
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}; the model has the classes 0 to {classes - 1}")


def check_device(name):
    """The torch.device of that name, the CPU for None; ValueError if this machine does not have it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device is {name!r}; allowed here: cpu or {DEVICE} ({str(error).splitlines()[0]})") from error


@contextlib.contextmanager
def _advice_on_memory(size):
    try:
        yield
    except RuntimeError as error:
        if "tried to allocate" not in str(error).lower():
            raise
        raise MemoryError(f"no memory for a batch of {size} pictures: set batch_size to {max(1, size // 2)} or less") from error


class Checkpoint:
    """The state of a training in a file, from which it goes on bit by bit as if it had not stopped."""

    def __init__(self, path, trainer, schedule, means, dataset):
        self.path, self.trainer, self.means = pathlib.Path(path), trainer, means
        self.parts = {"model": trainer.model, "averaged": trainer.averaged, "optimizer": trainer.optimizer, "schedule": schedule}
        some = batch_of(dataset, torch.linspace(0, len(dataset) - 1, 256).long())  # of all: hashing every picture takes long
        self.of = {**trainer.cfg.described(), "pictures": f"{len(dataset)}, {_digest(some)}",
                   "first weights": _digest(trainer.model.parameters())}

    def _state(self, epochs):
        state = {name: part.state_dict() for name, part in self.parts.items()}
        return state | {"of": self.of, "epochs": epochs, "order": self.trainer.generator.get_state(), "random": torch.get_rng_state(),
                        "losses": self.means.losses, "accuracies": self.means.accuracies, "seconds": self.trainer.seconds}

    def save(self, epochs):
        """Write the state after `epochs` epochs; a reader sees the old file or the new one, nothing between."""
        try:
            with _whole_or_nothing(self.path) as part:
                torch.save(self._state(epochs), part)
        except (OSError, RuntimeError) as error:
            raise OSError(f"{self.path} could not be written ({str(error).splitlines()[0]}): free some space or choose another "
                          "folder; the checkpoint before it is whole.") from error

    def load(self):
        """Number of finished epochs, 0 without a file. ValueError if it is damaged or belongs to another training."""
        if not self.path.is_file():
            return 0
        try:
            with zipfile.ZipFile(self.path) as file:  # torch.load does not look at the checksums
                wrong = file.testzip()
            state = torch.load(self.path, map_location=self.trainer.device, weights_only=True)
            found = {name: state["of"].get(name) for name in self.of}
            if wrong or (wrong := self._state(0).keys() - state.keys()):
                raise ValueError(f"damaged or missing: {wrong}")
        except Exception as error:  # whatever the bytes are, the advice is the same
            raise ValueError(f"{self.path} is no readable checkpoint: remove it to start this training afresh") from error
        for name in self.of:
            if found[name] != self.of[name]:
                raise ValueError(f"{self.path} is of another training: {name} was {found[name]}, is {self.of[name]}. "
                                 "Remove it to start this training afresh.")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.trainer.generator.set_state(state["order"].cpu())
        torch.set_rng_state(state["random"].cpu())
        self.means.losses[:], self.means.accuracies[:] = state["losses"], state["accuracies"]
        self.trainer.seconds = state["seconds"]
        return state["epochs"]


def _digest(tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:16]


def one_cycle(steps, warm_up, step):
    """Factor of the learning rate at `step` of `steps`: a straight rise over the share `warm_up`, then half a cosine.

    Always 1 if `warm_up` is 0.
    """
    if not warm_up:
        return 1.0
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


# Tuning: a grid that any number of processes share

class SharedGrid:
    """A grid of settings that processes work through together; Optuna keeps the trials.

    `points` is a list of parameter dictionaries, `cfg` keeps different searches in one storage apart. `storage` is a
    folder that the processes share, grpc://host:port for a server of Optuna's, or None for this process alone.
    A trial gives a sign of life now and then; without one for `patience` seconds its process counts as dead, and its
    point is free again. Trials stay in `study`; trial.user_attrs["point"] is a place in `points`.
    """

    def __init__(self, storage, points, cfg, patience=60.0):
        self.points, self.patience, self.signs = points, patience, {}
        name = hashlib.sha256(repr((cfg.described(), points)).encode()).hexdigest()[:8]
        storage, self.folder = open_storage(storage)
        self.checkpoints = self.folder and str(self.folder / f"{name}-{{}}.pt")
        self.study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True, direction="maximize",
                                         pruner=optuna.pruners.MedianPruner(n_startup_trials=2))

    def run(self, train):
        """Call train(point, report) for every free point, until all points of the grid are finished.

        `train` calls report(epoch, value) after each epoch, which may stop it; the last value counts. A run whose loss
        is not finite counts as stopped.
        """
        for trial in self._free_trials():
            point, values = trial.user_attrs["point"], []
            for name in self.points[point]:
                trial.suggest_categorical(name, sorted({other[name] for other in self.points}))

            def report(epoch, value):
                values.append(value)
                trial.report(value, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            try:
                train(point, report)
                self.study.tell(trial, values[-1])
            except (optuna.TrialPruned, FloatingPointError):
                self.study.tell(trial, state=TrialState.PRUNED)

    def checkpoint(self, point):
        """The file for the weights of a point, or None if `storage` is no folder."""
        return self.checkpoints and self.checkpoints.format(point)

    def best(self):
        """Place in `points` of the best finished trial; the same in every process."""
        if not self.study.get_trials(states=[TrialState.COMPLETE]):
            raise RuntimeError("no point of the grid was trained to its end: lower the learning rates")
        return self.study.best_trial.user_attrs["point"]

    def _free_trials(self):
        """Yield trials of free points; wait for points in the hands of others, and take over from the dead."""
        while not all(owner and owner.state.is_finished() for owner in self._owners()):
            owners = self._owners()
            for point, owner in enumerate(owners):
                if owner is None:
                    self.study.enqueue_trial(self.points[point], user_attrs={"point": point})
                elif owner.state == TrialState.RUNNING and self._silence(owner) > self.patience:
                    self.study.tell(owner.number, state=TrialState.FAIL, skip_if_finished=True)
            if not any(owner is None or owner.state == TrialState.WAITING for owner in owners):
                time.sleep(min(1.0, self.patience / 6))
                continue
            trial = self.study.ask()
            try:
                if trial.number in [owner.number for owner in self._owners() if owner]:
                    with _signs_of_life(trial, self.patience / 6):
                        yield trial
            finally:  # a second trial of one point, or a trial that its process leaves unfinished
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _owners(self):
        """For each point its first trial that has not failed, or None: a rule on which all processes agree."""
        owners = [None] * len(self.points)
        for trial in self.study.get_trials(deepcopy=False):
            point = trial.user_attrs.get("point")
            if point is not None and trial.state != TrialState.FAIL and owners[point] is None:
                owners[point] = trial
        return owners

    def _silence(self, trial):
        """Seconds since this process saw the last sign of life of the trial; the clocks of others do not matter."""
        sign = trial.user_attrs.get("sign")
        if self.signs.get(trial.number, (None,))[0] != (sign,):
            self.signs[trial.number] = (sign,), time.monotonic()
        return time.monotonic() - self.signs[trial.number][1]


def open_storage(address):
    """Storage for Optuna, and the folder that it lies in or None."""
    if address is None:
        return None, None
    if str(address).startswith("grpc://"):
        host, _, port = str(address).removeprefix("grpc://").rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"storage is {address!r}; allowed: a folder, or grpc://host:port")
        return GrpcStorageProxy(host=host, port=int(port)), None
    folder = pathlib.Path(address)
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / "journal.log"))), folder


@contextlib.contextmanager
def _signs_of_life(trial, every):
    done = threading.Event()

    def sign():
        count = 0
        while not done.wait(every):
            count += 1
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr("sign", count)

    thread = threading.Thread(target=sign, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
