"""Machinery of the two notebooks: figures and progress, EuroSAT and its stand-in, training."""

import contextlib
import hashlib
import io
import math
import os
import socket
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import current_process
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from IPython import get_ipython
from IPython.display import Image, clear_output, display
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, Subset

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
BFLOAT16 = ["cuda"] + ["cpu"] * torch.cpu.get_capabilities().get("avx512_bf16", False)
# sums are taken in the same order on every machine; of several processes each has one thread
torch.set_num_threads(2 if current_process().name == "MainProcess" else 1)
BUILD = Path("build") if os.access(".", os.W_OK) else Path(tempfile.mkdtemp())
WORK = BUILD / "work-full"  # what a full run needs to go on

# --- Figures, progress, files ---------------------------------------------------------------------

FIGURES = {}  # name of each figure shown so far -> its number
plt.rcdefaults()  # a reader's own matplotlibrc would change the figures


def output_folder(profile):
    """The folder that takes figures/ and report/: the repository in a full run, else build/."""
    folder = Path(".") if profile == "full" else BUILD
    for name in ("figures", "report"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def show_figure(fig, path, caption, alt, note=""):
    """Save a figure at `path` (PNG, 200 dpi), show it (110 dpi) with its number and caption.

    `alt` says in words what it shows, for the output's metadata; `note` is printed in the figure.
    """
    if note:
        fig.supxlabel(note, color="firebrick", fontsize=9)
    options = {"format": "png", "bbox_inches": "tight", "metadata": {"Software": None}}
    fig.savefig(path, dpi=200, **options)
    fig.savefig(png := io.BytesIO(), dpi=110, **options)
    plt.close(fig)
    source = {"figure": hashlib.sha256(Path(path).read_bytes()).hexdigest()}  # for tools/pdf.py
    display(Image(png.getvalue(), format="png", alt=alt), metadata=source)
    print(f"Figure {FIGURES.setdefault(Path(path).stem, len(FIGURES) + 1)}: {caption}")


def progress(items, label, note=str):
    """Yield from the sequence `items`; show how many are done, the time left and `note()`.

    One line, rewritten in place; silent without a label. What is saved at its end holds no time.
    """
    start, shown = time.monotonic(), 0.0
    line = label and get_ipython() and display({"text/plain": label}, raw=True, display_id=True)

    def show(text):
        if line:
            line.update({"text/plain": text}, raw=True)
        elif label and sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr)

    for done, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - shown > 0.5:
            left, shown = (now - start) / done * (len(items) - done), now
            show(f"{label}: {done} of {len(items)}, {left:.0f} s left {note()}")
    show(f"{label}: {len(items)} of {len(items)} {note()}".strip() + ".")


def save_state(path, identity, state):
    """Write `state`, tensors and plain values, to `path`, whole or not at all."""
    torch.save({"identity": identity, **state}, content := io.BytesIO())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}-{os.getpid()}.part")
    try:
        part.write_bytes(content.getbuffer())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_state(path, identity):
    """What save_state wrote; ValueError if it is missing, damaged, foreign or not of `identity`."""
    try:
        if zipfile.ZipFile(path).testzip():  # torch.load ignores the checksums
            raise ValueError("it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            raise ValueError(f"of other settings: {state['identity']}, not {identity}")
        return state
    except Exception as error:  # whatever the bytes are, the advice is the same
        advice = "remove it, or get the committed file back, and run again"
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} does not fit ({reason}): {advice}.") from error


def digest(*parts):
    """16 hex digits of the SHA-256 of tensors (all their values) and of the text of the rest."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.cpu().numpy().tobytes() if torch.is_tensor(part) else repr(part).encode())
    return total.hexdigest()[:16]


# --- EuroSAT and its stand-in ---------------------------------------------------------------------

WRONG_LABELS = 0.05  # of the drawn labels, on purpose: images 100 k to 100 k + 4 of each class
# Each class: weights of cells, patches and grain in the ground, and colours (RGB) of dark ground,
# light ground and what lies on it
SCENES = {
    "AnnualCrop": [(1, 0, 0), (62, 90, 86), (190, 150, 132), (112, 112, 104)],
    "Forest": [(0, 0.15, 0.2), (28, 50, 62), (50, 76, 82), (75, 90, 92)],
    "HerbaceousVegetation": [(0, 0.2, 0.1), (58, 80, 84), (140, 124, 116), (48, 70, 74)],
    "Highway": [(1, 0, 0), (52, 76, 81), (130, 120, 114), (114, 120, 130)],
    "Industrial": [(1, 0, 0), (82, 89, 98), (204, 180, 173), (66, 83, 88)],
    "Pasture": [(0.4, 0.15, 0), (48, 78, 80), (92, 112, 104), (42, 66, 72)],
    "PermanentCrop": [(0.9, 0, 0), (80, 95, 92), (175, 142, 126), (60, 84, 80)],
    "Residential": [(1, 0, 0), (76, 84, 92), (192, 156, 146), (62, 80, 84)],
    "River": [(0.7, 0.1, 0), (48, 78, 79), (120, 118, 108), (48, 78, 102)],
    "SeaLake": [(0, 0.06, 0), (32, 56, 78), (58, 90, 104), (80, 98, 94)],
}
CLASSES = list(SCENES)
COUNTS = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]  # images of each class
LISTS = {  # the published split of Neumann et al., arXiv 1911.06721: part -> MD5 of its list
    "train": "908f142e73d6acdf3f482c5e80d851b1",
    "val": "95de90f2aa998f70a3b2416bfe0687b4",
    "test": "7ae5ab94471417b6e315763121e67c5f",
}
FIFTHS = {"train": (2, 3, 4), "val": (1,), "test": (0,)}  # without lists: file number modulo 5


@dataclass
class ImageDataset(Dataset):
    """Images (N, 3, H, W), uint8 or in [0, 1], with labels (N,), file names and class names.

    An item is (image in [0, 1] as float32 (3, H, W), label). `note` says if it is no EuroSAT,
    `lists` {part: file names} is the published split where it lies beside the images.
    """

    images: torch.Tensor
    labels: torch.Tensor
    names: list
    classes: list
    note: str = ""
    lists: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index].float()
        return image / 255 if self.images.dtype == torch.uint8 else image, int(self.labels[index])


def find_eurosat(root=None):
    """(folder of the ten class folders, ""), or (None, a sentence that says why there is none).

    Looks below `root` (default: the environment variable EUROSAT_ROOT, else data/), then downloads.
    FileNotFoundError if that fails and EUROSAT_REQUIRED is set, or part of the images is there.
    """
    root = Path(root or os.environ.get("EUROSAT_ROOT") or "data").expanduser()
    places = [root / name for name in ("eurosat/2750", "EuroSAT_RGB", "2750")]
    if found := [folder for folder in places if folder.is_dir()]:
        return found[0], ""
    try:
        download_eurosat(root)
        return places[0], ""
    except Exception as error:  # network, archive, disk: whatever it is, the advice is the same
        looked, reason = ", ".join(map(str, places)), str(error).partition("\n")[0]
        trouble = f"EuroSAT: looked in {looked}, found no images; download failed: {reason}."
    required = os.environ.get("EUROSAT_REQUIRED", "").lower() not in ("", "0", "false", "no")
    if required or places[0].exists():
        advice = "Move away what is there, and put the images there or set EUROSAT_ROOT."
        raise FileNotFoundError(f"{trouble} {advice}")
    return None, f"{trouble} Going on with a drawn stand-in."


def download_eurosat(root):
    """Download the images, and beside them the published lists, which may be missing."""
    from torchvision.datasets import EuroSAT
    from torchvision.datasets.utils import download_url

    socket.setdefaulttimeout(20)  # seconds: a network that never answers is none
    EuroSAT(root, download=True)
    with contextlib.suppress(OSError, RuntimeError):
        for part, md5 in LISTS.items():
            source = f"https://hf.co/datasets/torchgeo/eurosat/resolve/main/eurosat-{part}.txt"
            download_url(source, root / "eurosat", md5=md5)


def draw_scene(name, rng):
    """A new image (64, 64, 3) of the class `name`, floats around 0 to 255."""
    (y, x), turn = np.mgrid[:64, :64] - rng.uniform(16, 48, (2, 1, 1)), rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    low, high = {"Industrial": (6, 18), "Residential": (4, 10)}.get(name, (12, 40))
    (width, height), row = rng.uniform(low, high, 2), rng.uniform(0.9, 1.6)
    cells = rng.random((64, 64))[(u // width).astype(int), (v // height).astype(int)]
    border = np.minimum(u % width, v % height)
    noise = (gaussian_filter(rng.normal(size=(64, 64)), size, mode="wrap") for size in (6, 1))
    patches, grain = (layer / layer.std() + 2 for layer in noise)
    bend = abs(v + rng.uniform(0, 8) * np.sin(u / rng.uniform(8, 20)))
    on_top = {
        "AnnualCrop": (border < 1) | (np.sin(u * row) > 0.3),  # furrows
        "Forest": patches > 4.5,  # clearings
        "HerbaceousVegetation": grain > rng.uniform(2.8, 4),  # shrubs
        "Highway": bend < rng.uniform(1.5, 5),
        "Pasture": (border < 1.5) & (grain > rng.uniform(1, 3)),  # hedges
        "PermanentCrop": np.sin(u * row) * np.sin(v * row) > rng.uniform(0.1, 0.7),  # trees
        "River": bend < rng.uniform(2, 11),
        "SeaLake": bend > rng.uniform(22, 60),  # shores
    }.get(name, (border < (width + height) / 8) | (cells < 0.2))  # between buildings
    weights, *colours = SCENES[name]
    dark, light, top = colours + rng.normal(0, 5, (3, 3)) + rng.normal(0, 12)
    level = np.stack([cells, patches, grain], axis=-1) @ weights
    pixels = dark + level[..., None] * (light - dark)
    pixels += on_top[..., None] * rng.uniform(0.25, 1) * (top - pixels)
    return gaussian_filter(pixels, (0.6, 0.6, 0)) + rng.normal(0, 3, (64, 64, 3))


def draw_stand_in(per_class=200):
    """JPEG files {class/name: bytes in memory}; `per_class` is a multiple of 100."""
    files = {}
    for place in progress(range(len(CLASSES) * per_class), "drawing images"):
        label, n = place // per_class, place % per_class + 1
        drawn = CLASSES[(label + 1 + n % 9) % 10] if n // 5 % 20 == 0 else CLASSES[label]
        pixels = draw_scene(drawn, np.random.default_rng([label, n])).clip(0, 255)
        image = PIL.Image.fromarray(pixels.astype(np.uint8))
        image.save(file := io.BytesIO(), "JPEG", quality=90)
        files[Path(CLASSES[label], f"{CLASSES[label]}_{n}.jpg")] = file
    return files


def load_eurosat(root=None):
    """All images, decoded, as an ImageDataset: EuroSAT, or the stand-in where there is none.

    FileNotFoundError as in find_eurosat; ValueError if EuroSAT or an image is not as published.
    """
    folder, trouble = find_eurosat(root)
    files, lists = draw_stand_in() if not folder else {}, {}
    if folder:
        paths = [path for name in CLASSES for path in sorted((folder / name).glob("[!.]*.jpg"))]
        files, counts = dict(zip(paths, paths, strict=True)), Counter(p.parent.name for p in paths)
        if [counts[name] for name in CLASSES] != COUNTS:
            advice = "move that folder away and run again to download it afresh"
            raise ValueError(f"{folder} holds {dict(counts)} images, not {COUNTS}: {advice}.")
        texts = {part: folder.parent / f"eurosat-{part}.txt" for part in LISTS}
        lists = {p: f.read_text(errors="replace").split() for p, f in texts.items() if f.exists()}
    images = np.stack([decode(file) for file in progress(files.values(), "decoding images")])
    images = torch.from_numpy(images).movedim(-1, 1)
    if get_ipython():
        clear_output()
    print(trouble, end="\n" if trouble else "")
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in files])
    names, note = [path.name for path in files], "" if folder else "Drawn stand-in, not EuroSAT"
    return ImageDataset(images, labels, names, CLASSES, note, lists)


def decode(file):
    """Pixels (64, 64, 3) of a JPEG; ValueError if it cannot be read or is not 64x64 RGB."""
    try:
        with PIL.Image.open(file, formats=["JPEG"]) as image:
            pixels = np.asarray(image)
        if pixels.shape != (64, 64, 3) or image.mode != "RGB":
            raise ValueError(f"{image.mode} of {image.width}x{image.height}, not RGB of 64x64")
    except Exception as error:  # whatever the bytes are, the advice is the same
        raise ValueError(f"{file} is no image as published ({error}): replace it.") from error
    return pixels


def split_eurosat(data):
    """Indices {"train", "val", "test"} of an ImageDataset, by its published lists, else FIFTHS.

    ValueError if the lists are no split of the images.
    """
    names = data.lists
    if not names:
        fifth = {name: int("".join(filter(str.isdigit, name))) % 5 for name in data.names}
        names = {part: [n for n in fifth if fifth[n] in take] for part, take in FIFTHS.items()}
    where = {name: place for place, name in enumerate(data.names)}
    listed = [name for part in LISTS for name in names.get(part, [])]
    if sorted(listed) != sorted(where) or not all(names.get(part) for part in LISTS):
        advice = "put the published lists beside the images' folder, or move all three away"
        raise ValueError(f"the lists eurosat-*.txt do not part the images in three: {advice}.")
    return {part: torch.tensor([where[name] for name in names[part]]) for part in LISTS}


def number(name, value, low=1, high=math.inf):
    """`value` as a number of the type of `low`; ValueError unless it is one in [low, high]."""
    kind, word = (int, "whole ") if isinstance(low, int) else (float, "")
    fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        raise ValueError(f"{name} must be a {word}number from {low} to {high}, not {value!r}")
    return kind(value)


def whole_numbers(name, values):
    """N whole numbers from 0, whatever holds them, as an int64 tensor (N,); else ValueError."""
    given = values if isinstance(values, torch.Tensor) else torch.as_tensor(np.array(values))
    whole, flat = given.long().flatten(), given.flatten()
    if len(given) != len(flat) or given.dtype == torch.bool or ((whole != flat) | (flat < 0)).any():
        found = f"{given.dtype} of shape {tuple(given.shape)}: {flat.tolist()[:3]}"
        raise ValueError(f"{name} must be whole numbers from 0, one for each item, not {found}")
    return whole


def get_labels(dataset):
    """Labels (N,) of any dataset of (image, label), without its images where it stores them."""
    if isinstance(dataset, Subset):
        return get_labels(dataset.dataset)[whole_numbers("indices", dataset.indices)]
    if isinstance(dataset, ImageDataset):
        return dataset.labels
    stored = getattr(dataset, "targets", None)  # as in torchvision
    if stored is None or getattr(dataset, "target_transform", None):
        stored = [dataset[index][1] for index in range(len(dataset))]
    return whole_numbers("labels", stored)


def get_batch(dataset, index):
    """Images (B, 3, H, W) and labels (B,) of the items `index` (B,) of a dataset of (image, label).

    One step where the dataset is an ImageDataset. Tensors keep their type, PIL images become uint8.
    """
    if isinstance(dataset, Subset):
        return get_batch(dataset.dataset, whole_numbers("indices", dataset.indices)[index])
    if isinstance(dataset, ImageDataset):
        index, images = index.to(dataset.images.device), dataset.images.movedim(1, -1)
        # whole images lie together then: many times as fast as images[index]
        return images.index_select(0, index).movedim(-1, 1), dataset.labels[index]
    from torchvision.transforms.v2.functional import to_image

    images, labels = zip(*(dataset[int(i)] for i in index), strict=True)
    return torch.stack([to_image(image) for image in images]), whole_numbers("labels", labels)


# --- Trainer --------------------------------------------------------------------------------------

PARTS = ("model", "optimizer", "schedule")  # of a Trainer that is training, in a checkpoint
DEFAULTS = {
    "batch_size": 64,  # these six are the course's template
    "criterion": "CrossEntropyLoss",  # a name of torch.nn, or a loss
    "epochs": 1,
    "learning_rate": 0.001,
    "optimizer": "Adam",  # a name of torch.optim, or called as optimizer(parameters, lr=...)
    "seed": 42,
    "warmup": 0.0,  # rising share of a one-cycle schedule; 0 keeps the rate constant
    "max_grad_norm": math.inf,
    "ema_decay": 0.0,  # of the moving average of the weights, which predicts
    "augment": None,  # augment(images, generator) changes training batches only
    "transform": None,  # transform(images) changes every batch, after scaling to [0, 1]
    "tta": None,  # tta(images) gives the views over which predictions are averaged
}
RANGES = {"batch_size": (1, math.inf), "epochs": (1, math.inf), "seed": (0, 2**32)}
RANGES |= {"learning_rate": (0.0, math.inf), "max_grad_norm": (0.0, math.inf)}
RANGES |= {"warmup": (0.0, 1.0), "ema_decay": (0.0, 1.0)}
NAMES = {  # what the two settings may name
    "criterion": {name: kind for name, kind in vars(nn).items() if name.endswith("Loss")},
    "optimizer": {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)},
}


def settings(cfg):
    """All settings of a Trainer: those of `cfg`, a dictionary or an object, over DEFAULTS.

    ValueError that names the setting and says what is allowed.
    """
    if not hasattr(cfg, "keys"):
        cfg = {name: getattr(cfg, name) for name in dir(cfg) if not name.startswith("_")}
    if unknown := [name for name in cfg if name not in DEFAULTS]:
        raise ValueError(f"cfg has the unknown keys {unknown}; allowed: {', '.join(DEFAULTS)}")
    cfg = {**DEFAULTS, **cfg}
    for name, allowed in NAMES.items():
        value = allowed.get(cfg[name], cfg[name]) if isinstance(cfg[name], str) else cfg[name]
        if not callable(value) or getattr(value, "reduction", "mean") != "mean":
            choice = f"{', '.join(allowed)}, or an object that works like them"
            raise ValueError(f"{name} is {value!r}; allowed: {choice}")
    return cfg | {name: number(name, cfg[name], *limits) for name, limits in RANGES.items()}


class Trainer:
    """Train and test a classifier, with the calls of the course's template.

    Each of DEFAULTS, changed by `cfg`, becomes an attribute. The global random state is left alone.
    """

    def __init__(self, model, cfg, device=DEVICE):
        self.cfg, self.device = settings(cfg), torch.device(device)
        vars(self).update(self.cfg)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        loss, optimizer = (NAMES[n].get(self.cfg[n], self.cfg[n]) for n in NAMES)
        self.criterion = loss() if isinstance(loss, type) else loss
        self.optimizer = optimizer(self.model.parameters(), lr=self.learning_rate)
        self.generator = torch.Generator()

    def prepare(self, X):
        """Images (B, 3, H, W), uint8 or in [0, 1], transformed, as float32: the model's input."""
        scale, X = 255 if X.dtype == torch.uint8 else 1, X.to(self.device)
        X = X.to(torch.float32, memory_format=torch.channels_last) / scale
        return self.transform(X) if self.transform else X

    def iter_step(self, X, Y):
        """Loss and accuracy of images X (B, 3, H, W), labels Y (B,), as tensors; takes no step."""
        return self._measure(self.scores(X), Y)

    def _measure(self, scores, Y):
        Y = whole_numbers("labels", Y).to(self.device)
        if isinstance(self.criterion, nn.NLLLoss):
            scores = scores.log_softmax(1)  # changes nothing where the model ends on it
        return self.criterion(scores, Y), (scores.argmax(1) == Y).double().mean()

    def scores(self, X):
        """Scores (B, n_classes), as float32, of images X (B, 3, H, W), uint8 or in [0, 1].

        Training computes in bfloat16 where the processor does. Evaluation computes in float32 and
        with tta gives the logarithm of the mean probability over the views.
        """
        X, training, kind = self.prepare(X), self.model.training, self.device.type
        with torch.autocast(kind, torch.bfloat16, training and kind in BFLOAT16):
            if training or not self.tta:
                return self.model(X).float()
            views = [self.model(view).log_softmax(1) for view in self.tta(X)]
        return torch.stack(views).logsumexp(0) - math.log(len(views))

    def train(self, dataset, label="training", checkpoint=None, validation=None):
        """(avg_loss, avg_acc): lists of the means over the samples so far in each epoch.

        With a folder `checkpoint` the state is kept there after each epoch: the same call on a new
        Trainer goes on from it and ends bit-identically. self.validation lists loss and accuracy on
        a dataset `validation` after each epoch.
        """
        number("the number of images", len(dataset))
        batches, path = math.ceil(len(dataset) / self.batch_size), self._path(checkpoint, dataset)
        with torch.random.fork_rng(devices=[]), self._training_state(self.epochs * batches):
            if path and path.exists():
                self._load(path)
            steps = range(len(self.history), self.epochs * batches)
            for step in progress(steps, label, lambda: f"steps, loss {self.history[-1][0]:.3f}"):
                epoch, place = divmod(step, batches)
                if place == 0:  # so that an epoch can be trained alone
                    torch.manual_seed(self.seed + 1000 * epoch)  # for dropout
                    self.generator.manual_seed(self.seed + 1000 * epoch)
                    order = torch.randperm(len(dataset), generator=self.generator)
                self._optimise(*get_batch(dataset, order.split(self.batch_size)[place]))
                if validation and place == batches - 1:
                    self._swap()
                    self.validation.append([x[-1] for x in self.test(validation, label="")])
                    self._swap()
                if path and place == batches - 1:
                    state = {name: getattr(self, name).state_dict() for name in PARTS}
                    state |= {name: vars(self)[name] for name in ("ema", "history", "validation")}
                    save_state(path, "checkpoint", state)
        return running_means(self.history, batches)

    @contextlib.contextmanager
    def _training_state(self, steps):
        """What training needs beside the model, which in the end gets the averaged weights."""
        rise = max(1, self.warmup * steps)

        def factor(step):  # of the learning rate: one cycle, a linear rise, then half a cosine
            fall = max(0, step - rise) / max(1, steps - rise)
            return min(1, (step + 1) / (rise + 1)) * (1 + math.cos(math.pi * fall)) / 2

        self.schedule = LambdaLR(self.optimizer, factor if self.warmup else lambda step: 1.0)
        self.ema = [weight.detach().clone() for weight in self.model.parameters()]
        self.history, self.validation = [], []
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        """Exchange the weights and their averages."""
        for weight, average in zip(self.model.parameters(), self.ema, strict=True):
            weight.data, average.data = average.data, weight.data

    def _optimise(self, X, Y):
        """One optimisation step. FloatingPointError leaves the weights of the step before."""
        self.model.train()
        X = self.augment(X.to(self.device), self.generator) if self.augment else X
        loss, accuracy = self.iter_step(X, Y)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if not (loss + norm).isfinite():
            advice = f"lower learning_rate (now {self.learning_rate}) or set max_grad_norm"
            raise FloatingPointError(f"the loss is {loss}, its gradient {norm} long: {advice}")
        self.optimizer.step()
        self.schedule.step()
        step = len(self.history)  # the first steps are forgotten faster
        decay = min(self.ema_decay, (1 + step) / (10 + step)) * (step > 0)
        torch._foreach_lerp_(self.ema, [w.detach() for w in self.model.parameters()], 1 - decay)
        self.history.append((loss.item(), accuracy.item(), len(Y)))

    def predict(self, dataset, label="predicting"):
        """Scores (N, n_classes) as in `scores`, and labels (N,), of the whole dataset in order."""
        number("the number of images", len(dataset))
        self.model.eval()
        with torch.inference_mode():
            places = progress(torch.arange(len(dataset)).split(self.batch_size), label)
            batches = (get_batch(dataset, index) for index in places)
            found = [(self.scores(X).cpu(), Y.cpu()) for X, Y in batches]
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def test(self, dataset, label="testing"):
        """(avg_loss, avg_acc) without training, lists of the means over the samples so far."""
        each = zip(*(x.split(self.batch_size) for x in self.predict(dataset, label)), strict=True)
        rows = [(*self._measure(scores.to(self.device), Y), len(Y)) for scores, Y in each]
        return running_means(rows, len(rows))

    def identity(self, dataset):
        """What training on `dataset` depends on, as a text that is the same on every machine."""

        def text(value):  # a loss hides two numbers in its own text, a function has an address
            hidden = [getattr(value, name, None) for name in ("label_smoothing", "weight")]
            return getattr(value, "__qualname__", f"{value} {[x for x in hidden if x is not None]}")

        cfg = ", ".join(f"{name} {text(value)}" for name, value in self.cfg.items())
        return f"{cfg}; {len(dataset)} images with labels {digest(get_labels(dataset))}"

    def _path(self, folder, dataset):
        """The checkpoint in `folder`, named after settings, data and the weights at the start."""
        some = torch.linspace(0, len(dataset) - 1, 256).long()  # hashing every image takes long
        start = self.identity(dataset), str(self.model), *self.model.state_dict().values()
        return folder and Path(folder) / f"{digest(*start, *get_batch(dataset, some))}.pt"

    def _load(self, path):
        state = load_state(path, "checkpoint")
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.ema = [average.to(self.device) for average in state["ema"]]
        self.history, self.validation = state["history"], state["validation"]


def running_means(history, batches):
    """(losses, accuracies): means over the samples so far in each epoch of `batches` rows.

    Each row of `history` is (loss, accuracy, samples) of a batch.
    """
    rows = np.array(history, dtype=float).reshape(-1, batches, 3)
    means = (rows[..., :2] * rows[..., 2:]).cumsum(axis=1) / rows[..., 2:].cumsum(axis=1)
    return tuple(means.reshape(-1, 2).T.tolist())


# --- A run: its profile, and what it trains or loads ----------------------------------------------


def choose_profile(asked, data):
    """The profile `asked`, by default replay, else quick; ValueError if it cannot run on `data`."""
    lists = "" if data.lists else "the published lists of the split are missing"
    weights = "" if any(Path("report/weights").glob("*.pt")) else "report/weights/ is empty"
    lacks = {"quick": "", "full": data.note, "replay": data.note or weights or lists}
    profile = asked or ("quick" if lacks["replay"] else "replay")
    if trouble := lacks.get(profile, "it does not exist"):
        raise ValueError(f"profile {profile!r}: {trouble}; choose from {', '.join(lacks)}")
    return profile


def train_or_load(profile, name, trainer, dataset, validation=None):
    """The curves (avg_loss, avg_acc) of trainer.train(dataset), trained now or loaded.

    The trainer ends on the CPU, its weights rounded to half precision as they are stored, so that
    the profiles full and replay score the same network.
    """

    def train():
        curves = trainer.train(dataset, name, WORK if profile == "full" else None, validation)
        state = {"weights": trainer.model.cpu().half().state_dict(), "curves": torch.tensor(curves)}
        return state | {"validation": trainer.validation}

    stored = compute_or_load(profile, name, trainer.identity(dataset), train)
    trainer.device, trainer.validation = torch.device("cpu"), stored["validation"]
    trainer.model.cpu().float().load_state_dict(stored["weights"])
    return stored["curves"].tolist()


def compute_or_load(profile, name, identity, compute):
    """compute(), kept in a file; replay, and a full run that goes on, read it. See load_state."""
    folders = {"full": WORK / "weights", "quick": BUILD / "weights"}
    path = folders.get(profile, Path("report/weights")) / f"{name}.pt"
    if profile == "quick" or profile == "full" and not path.exists():
        save_state(path, identity, compute())
    return load_state(path, identity)
