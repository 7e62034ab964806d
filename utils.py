"""Machinery of the two notebooks: figures and progress, EuroSAT and its stand-in, training."""

import contextlib
import dataclasses
import hashlib
import io
import math
import os
import shutil
import sys
import time
import zipfile
from collections import Counter
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
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, Subset

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
CACHE = Path(__file__).parent / "build"
BFLOAT16 = ["cuda"] + ["cpu"] * torch.cpu.get_capabilities().get("avx512_bf16", False)
THREADS = 2  # of every evaluation, so that sums are taken in the same order on every machine

# --- Figures, progress, files ---------------------------------------------------------------------

FIGURES = {}  # name of each figure shown so far -> its number
plt.rcdefaults()  # a reader's own matplotlibrc would change the figures


def output_folder(profile):
    """The folder that takes figures/ and report/: the repository in a full run, else build/."""
    folder = Path("." if profile == "full" else "build")
    for name in ("figures", "report"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def show_figure(fig, path, caption, alt, note=""):
    """Save a figure at `path` (PNG, 200 dpi), show it (110 dpi) with its number and caption.

    The same figure gives the same bytes. `alt` says in words what the figure shows; it goes into
    the metadata of the output. `note` is a warning that is printed in the figure itself.
    """
    if note:
        fig.supxlabel(note, color="firebrick", fontsize=9)
    number = FIGURES.setdefault(Path(path).stem, len(FIGURES) + 1)
    options = {"format": "png", "bbox_inches": "tight", "metadata": {"Software": None}}
    fig.savefig(path, dpi=200, **options)
    fig.savefig(png := io.BytesIO(), dpi=110, **options)
    plt.close(fig)
    display(Image(png.getvalue(), format="png", alt=alt))
    print(f"Figure {number}: {caption}")


def progress(items, label, note=str):
    """Yield from the sequence `items` and show how many are done, the time left and `note()`.

    One line, rewritten in place in a notebook or a terminal; silent without a label. It ends on a
    text without times, so that a saved notebook does not depend on the speed of the machine.
    """
    in_notebook = label and get_ipython()
    line = in_notebook and display({"text/plain": label}, raw=True, display_id=True)

    def show(text):
        if line:
            line.update({"text/plain": text}, raw=True)
        elif label and sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr)

    start, shown, end = time.monotonic(), 0.0, f"{label}: stopped early."
    try:
        for done, item in enumerate(items, 1):
            yield item
            if (now := time.monotonic()) - shown > 0.5:
                left, shown = (now - start) / done * (len(items) - done), now
                show(f"{label}: {done} of {len(items)}, {left:.0f} s left {note()}")
        end = f"{label}: {len(items)} of {len(items)} {note()}".strip() + "."
    finally:
        show(end)


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
    """What save_state wrote; ValueError if it is damaged, foreign or not of this `identity`."""
    try:
        if zipfile.ZipFile(path).testzip():  # torch.load ignores the checksums
            raise ValueError("it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            raise ValueError(f"of other settings: {state['identity']}, not {identity}")
        return state
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the bytes are, the advice is the same
        advice = "remove it, or get the committed file back, and run again"
        raise ValueError(
            f"{path} does not fit ({str(error).splitlines()[0]}): {advice}."
        ) from error


def digest(*parts):
    """16 hex digits of the SHA-256 of tensors (all their values) and of the text of the rest."""
    total = hashlib.sha256()
    for part in parts:
        is_tensor = isinstance(part, torch.Tensor)
        total.update(part.detach().cpu().contiguous().numpy() if is_tensor else repr(part).encode())
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
COUNTS = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
EUROSAT = dict(zip(CLASSES, COUNTS, strict=True))  # class -> number of images
LISTS = {  # the published split of Neumann et al., arXiv 1911.06721: part -> MD5 of its list
    "train": "908f142e73d6acdf3f482c5e80d851b1",
    "val": "95de90f2aa998f70a3b2416bfe0687b4",
    "test": "7ae5ab94471417b6e315763121e67c5f",
}
FIFTHS = {"train": (2, 3, 4), "val": (1,), "test": (0,)}  # without lists: file number modulo 5
LISTS_FROM = (
    "https://hf.co/datasets/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c"
)


@dataclasses.dataclass
class ImageDataset(Dataset):
    """Images as one uint8 tensor (N, 3, H, W) with labels (N,), file names and class names.

    An item is (image in [0, 1] as float32 (3, H, W), label). load_eurosat keeps the tensor
    channels_last, the order in memory that convolutions want. `note` says if it is no EuroSAT;
    `lists` {part: file names} is the published split where it lies beside the images.
    """

    images: torch.Tensor
    labels: torch.Tensor
    names: list
    classes: list
    note: str = ""
    lists: dict = dataclasses.field(default_factory=dict)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index].float()
        return image / 255 if self.images.dtype == torch.uint8 else image, int(self.labels[index])


def find_eurosat(root=None):
    """The folder of the ten class folders, and "" or the sentence that says why it is a stand-in.

    Looks below `root` (default: the environment variable EUROSAT_ROOT, else data/), then lets
    torchvision download. Without images a stand-in is drawn, unless EUROSAT_REQUIRED is set or
    half of the images are there: FileNotFoundError.
    """
    root = Path(root or os.environ.get("EUROSAT_ROOT") or "data").expanduser()
    places = [root / name for name in ("eurosat/2750", "EuroSAT_RGB", "2750")]
    for folder in places:
        if folder.is_dir():
            return folder, ""
    try:
        download_eurosat(root)
        return places[0], ""
    except Exception as error:  # network, archive, disk: whatever it is, the advice is the same
        looked = f"looked in {', '.join(map(str, places))}, found no images"
        trouble = f"EuroSAT: {looked}; download failed: {[*str(error).splitlines(), ''][0]}."
    required = os.environ.get("EUROSAT_REQUIRED", "").lower() not in ("", "0", "false", "no")
    if required or places[0].exists():
        advice = "Move away what is there, and put the images there or set EUROSAT_ROOT."
        raise FileNotFoundError(f"{trouble} {advice}")
    if not (stand_in := CACHE / "stand-in").is_dir():
        drawn = draw_stand_in(CACHE / f"stand-in-{os.getpid()}.part")
        with contextlib.suppress(OSError):  # another process was faster
            drawn.rename(stand_in)
        shutil.rmtree(drawn, ignore_errors=True)
    return stand_in / "eurosat" / "2750", f"{trouble} Going on with a drawn stand-in."


def download_eurosat(root):
    """Download the images, and beside them the published lists, which may be missing."""
    from torchvision.datasets import EuroSAT
    from torchvision.datasets.utils import download_url

    EuroSAT(root, download=True)
    with contextlib.suppress(OSError, RuntimeError):
        for part, md5 in LISTS.items():
            name = f"eurosat-{part}.txt"
            download_url(f"{LISTS_FROM}/{name}", root / "eurosat", name, md5)


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


def draw_stand_in(root, per_class=200):
    """Draw the stand-in in EuroSAT's layout below `root`; `per_class` is a multiple of 100."""
    for label, name in enumerate(CLASSES):
        folder = Path(root) / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for n in range(1, per_class + 1):
            drawn = CLASSES[(label + 1 + n % 9) % 10] if n // 5 % 20 == 0 else name
            pixels = draw_scene(drawn, np.random.default_rng([label, n])).clip(0, 255)
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(
                folder / f"{name}_{n}.jpg", quality=90
            )
    return Path(root)


def load_eurosat(root=None):
    """All images as an ImageDataset, decoded once and then read from a cache in build/.

    FileNotFoundError as in find_eurosat. ValueError if a folder that should be EuroSAT is not
    complete, or an image is not as published.
    """
    folder, trouble = find_eurosat(root)
    files = [file for name in CLASSES for file in sorted((folder / name).glob("[!.]*.jpg"))]
    counts = Counter(file.parent.name for file in files)
    if not trouble and counts != EUROSAT:
        wrong = [f"{k} {counts[k]} of {n}" for k, n in EUROSAT.items() if counts[k] != n]
        raise ValueError(
            f"{folder} holds {len(files)} images instead of {sum(COUNTS)} ({', '.join(wrong)}): "
            "move that folder away and run again to download it afresh."
        )
    stats = [(str(f), (s := f.stat()).st_size, s.st_mtime_ns, s.st_ctime_ns) for f in files]
    cache = CACHE / f"images-{digest(PIL.__version__, stats)}.pt"
    try:
        images = load_state(cache, "images")["images"]
    except (OSError, ValueError):  # not there or damaged
        images = np.stack([decode(file) for file in progress(files, "decoding images")])
        images = torch.from_numpy(images)
        with contextlib.suppress(OSError):  # no room: the next start decodes them again
            save_state(cache, "images", {"images": images})
    if get_ipython():
        clear_output()  # a saved notebook is the same whether there was a cache or not
    print(trouble, end="\n" if trouble else "")
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    names, note = [file.name for file in files], "Drawn stand-in, not EuroSAT" if trouble else ""
    paths = {part: folder.parent / f"eurosat-{part}.txt" for part in LISTS}
    lists = {p: f.read_text(errors="replace").split() for p, f in paths.items() if f.exists()}
    return ImageDataset(images.movedim(-1, 1), labels, names, CLASSES, note, lists)


def decode(file):
    """Pixels (64, 64, 3) of a JPEG; ValueError if it cannot be read or is not 64x64 RGB."""
    try:
        with PIL.Image.open(file, formats=["JPEG"]) as image:
            pixels = np.asarray(image)
        if pixels.shape != (64, 64, 3) or image.mode != "RGB":
            raise ValueError(f"{image.mode} of {image.width}x{image.height}, not RGB of 64x64")
    except Exception as error:  # whatever the bytes are, the advice is the same
        advice = "put the published image in its place."
        raise ValueError(f"{file} cannot be used ({error}): {advice}") from error
    return pixels


def split_eurosat(data):
    """Indices {"train", "val", "test"} of three parts of an ImageDataset that share no image.

    The published lists, else FIFTHS. ValueError if the lists are no split of the images.
    """
    names = data.lists
    if not names:
        fifth = {name: int("".join(filter(str.isdigit, name))) % 5 for name in data.names}
        names = {part: [n for n in fifth if fifth[n] in take] for part, take in FIFTHS.items()}
    where, listed = {name: i for i, name in enumerate(data.names)}, Counter(sum(names.values(), []))
    wrong = [name for name, times in listed.items() if times > 1 or name not in where]
    if wrong or set(names) != set(LISTS) or not all(names.values()):
        reason = f"{wrong[0]} is no image or twice there" if wrong else "one is missing or empty"
        advice = "put the published lists beside the images' folder, or move all three away"
        raise ValueError(f"the lists eurosat-*.txt make no split ({reason}): {advice}.")
    return {part: torch.tensor([where[name] for name in names[part]]) for part in LISTS}


def whole_number(name, value, low=1):
    """`value` as an int; ValueError that names the argument unless whole and at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, not {value!r}")
    return int(value)


def whole_numbers(values, name="labels"):
    """`values` as an int64 tensor; ValueError unless they are whole numbers (not truth values)."""
    given = torch.as_tensor(values if isinstance(values, torch.Tensor) else np.asarray(values))
    if given.dtype == torch.bool or not torch.equal(given.long().to(given.dtype), given):
        raise ValueError(f"{name} must be whole numbers, not {given.dtype}: {given.tolist()[:3]}")
    return given.long()


def get_labels(dataset):
    """Labels (N,) of any dataset of (image, label), without its images where it stores them."""
    if isinstance(dataset, Subset):
        return get_labels(dataset.dataset)[whole_numbers(dataset.indices, "indices")]
    stored = getattr(dataset, "labels", getattr(dataset, "targets", None))
    if stored is None:
        stored = [int(dataset[index][1]) for index in range(len(dataset))]
    return whole_numbers(stored)


def get_batch(dataset, index):
    """Images (B, 3, H, W) and labels (B,) of the items `index` (B,) of a dataset of (image, label).

    One step where the dataset holds one tensor of images. Tensors keep their type, PIL images
    become uint8.
    """
    if isinstance(dataset, Subset):
        return get_batch(dataset.dataset, whole_numbers(dataset.indices, "indices")[index])
    if isinstance(images := getattr(dataset, "images", None), torch.Tensor):
        index, images = index.to(images.device), images.movedim(1, -1)
        # whole images lie together then: many times as fast as images[index]
        return images.index_select(0, index).movedim(-1, 1), dataset.labels[index]
    from torchvision.transforms.v2.functional import to_image

    images, labels = zip(*(dataset[int(i)] for i in index), strict=True)
    return torch.stack([to_image(image) for image in images]), whole_numbers(labels)


# --- Trainer --------------------------------------------------------------------------------------

PARTS = ("model", "ema", "optimizer", "schedule")  # of a Trainer that is training, in a checkpoint
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
    "tta": 1,  # number of symmetries (1 or 8) over which predictions are averaged
}


def settings(cfg):
    """All settings of a Trainer as plain values: those of `cfg` over DEFAULTS.

    `cfg` is a dictionary, or an object that has them as attributes, those of its class included.
    ValueError that names the key and says what is allowed.
    """
    if not hasattr(cfg, "keys"):
        cfg = {name: getattr(cfg, name) for name in dir(cfg) if not name.startswith("_")}
    if unknown := [name for name in cfg if name not in DEFAULTS]:
        raise ValueError(f"cfg has the unknown keys {unknown}; allowed: {', '.join(DEFAULTS)}")
    cfg = {**DEFAULTS, **cfg}
    for name, low in {"batch_size": 1, "epochs": 1, "seed": 0, "tta": 1}.items():
        cfg[name] = whole_number(name, cfg[name], low)
    for name in ("criterion", "optimizer"):
        named(name, cfg[name])
    return {**cfg, "learning_rate": float(cfg["learning_rate"])}


def named(setting, value):
    """The loss or the optimiser class that `value` is, or names in torch.nn or torch.optim."""
    losses = {name: kind for name, kind in vars(nn).items() if name.endswith("Loss")}
    optimizers = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    allowed = losses if setting == "criterion" else optimizers
    found = allowed.get(value) if isinstance(value, str) else value
    if not callable(found) or getattr(found, "reduction", "mean") != "mean":
        choice = f"{', '.join(allowed)}, or an object that works like them"
        raise ValueError(f"{setting} is {value!r}; allowed: {choice}")
    return found() if found in losses.values() else found


def symmetry(images, k):
    """Symmetry k (0 to 7) of images (..., H, W): four rotations, then those of the mirror image."""
    return torch.rot90(images if k < 4 else images.flip(-1), k % 4, dims=(-2, -1))


class Trainer:
    """Train and test a classifier, with the calls of the course's template.

    `cfg` is the template's dictionary, with any of DEFAULTS; each setting becomes an attribute.
    The global random state is left as it was.
    """

    def __init__(self, model, cfg, device=DEVICE):
        self.cfg, self.device, self.ema = settings(cfg), torch.device(device), None
        vars(self).update(self.cfg)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.criterion, optimizer = (
            named(name, self.cfg[name]) for name in ("criterion", "optimizer")
        )
        self.optimizer = optimizer(self.model.parameters(), lr=self.learning_rate)
        self.generator = torch.Generator().manual_seed(self.seed)

    def iter_step(self, X, Y):
        """Loss and accuracy of one batch, as tensors; takes no optimisation step.

        X (B, 3, H, W) holds images, uint8 or in [0, 1], Y (B,) labels.
        """
        return self._measure(self.scores(X), Y)

    def _measure(self, scores, Y):
        Y = whole_numbers(Y).to(self.device)
        return self.criterion(scores, Y), (scores.argmax(1) == Y).float().mean()

    def scores(self, X):
        """Scores (B, n_classes) of images X (B, 3, H, W), as float32.

        Training computes in bfloat16 where the processor does. Evaluation computes in float32
        and, with tta > 1, gives the logarithm of the mean probability over the symmetries.
        """
        are_bytes, X = X.dtype == torch.uint8, X.to(self.device)
        # both at once: memory costs more than arithmetic
        X = X.to(torch.float32, memory_format=torch.channels_last)
        X = X.div_(255) if are_bytes else X
        X = self.transform(X) if self.transform else X
        X = X.contiguous(memory_format=torch.channels_last)
        if self.model.training:
            with torch.autocast(self.device.type, torch.bfloat16, self.device.type in BFLOAT16):
                return self.model(X).float()
        model = self.ema.module if self.ema else self.model
        if self.tta == 1:
            return model(X).float()
        views = [model(symmetry(X, k)).float().log_softmax(1) for k in range(self.tta)]
        return torch.stack(views).logsumexp(0) - math.log(self.tta)

    def train(self, dataset, label="training", checkpoint=None, after_epoch=None):
        """Train for `epochs`; returns (avg_loss, avg_acc), lists with one value per iteration.

        Each value is the mean over the samples seen so far in its epoch. With a folder
        `checkpoint` the state is kept there after each epoch: the same call on a new Trainer goes
        on from it and ends bit-identically. `after_epoch(epoch)` is called after each epoch.
        """
        if not len(dataset):
            raise ValueError("dataset is empty: nothing to train on")
        batches, path = math.ceil(len(dataset) / self.batch_size), self._path(checkpoint, dataset)
        with torch.random.fork_rng(devices=[]), self._training_state(self.epochs * batches):
            done = self._load(path) if path and path.exists() else 0
            for step in progress(range(self.epochs * batches), label, self.means.describe):
                epoch, place = divmod(step, batches)
                if epoch < done:
                    continue
                if place == 0:
                    self.means.restart()
                    order = torch.randperm(len(dataset), generator=self.generator)
                index = order[place * self.batch_size : (place + 1) * self.batch_size]
                self._optimise(*get_batch(dataset, index))
                if place == batches - 1:
                    if path:
                        self._save(path, epoch + 1)
                    if after_epoch:
                        after_epoch(epoch)
        return self.means.losses, self.means.accuracies

    @contextlib.contextmanager
    def _training_state(self, steps):
        """What training needs beside the model, which in the end gets the averaged weights."""
        torch.manual_seed(self.seed)  # for dropout

        def update(averaged, current, step):  # forgets the first steps faster
            weight = 1 - min(self.ema_decay, (1 + float(step)) / (10 + float(step)))
            torch._foreach_lerp_(averaged, current, weight)

        self.means, self.ema = RunningMean(), AveragedModel(self.model, multi_avg_fn=update)
        self.schedule = LambdaLR(self.optimizer, lambda step: one_cycle(steps, self.warmup, step))
        try:
            yield
        finally:
            self.model.load_state_dict(self.ema.module.state_dict())
            self.ema = None

    def _optimise(self, X, Y):
        """One optimisation step. FloatingPointError leaves the weights of the step before."""
        self.model.train()
        try:
            X = self.augment(X.to(self.device), self.generator) if self.augment else X
            loss, accuracy = self.iter_step(X, Y)
            self.optimizer.zero_grad()
            loss.backward()
        except RuntimeError as error:
            if "tried to allocate" not in str(error).lower():
                raise
            advice = f"set batch_size to {max(1, len(Y) // 2)} or less"
            raise MemoryError(f"no memory for a batch of {len(Y)} images: {advice}") from error
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        for name, value in {"loss": loss, "gradient": norm}.items():
            if not value.isfinite():
                advice = f"lower learning_rate (now {self.learning_rate}) or set max_grad_norm"
                raise FloatingPointError(f"the {name} is {value.item()}: {advice}")
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.model)
        self.means.add(loss.item(), accuracy.item(), len(Y))

    def predict(self, dataset, label="predicting"):
        """Scores (N, n_classes) as in `scores`, and labels (N,), of the whole dataset in order."""
        if not len(dataset):
            raise ValueError("dataset is empty: nothing to predict")
        for model in filter(None, (self.model, self.ema)):
            model.eval()
        threads, found = torch.get_num_threads(), []
        torch.set_num_threads(THREADS)
        try:
            with torch.inference_mode():
                for index in progress(torch.arange(len(dataset)).split(self.batch_size), label):
                    X, Y = get_batch(dataset, index)
                    found.append((self.scores(X).cpu(), Y.cpu()))
        finally:
            torch.set_num_threads(threads)
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def test(self, dataset, label="testing"):
        """Loss and accuracy without training; returns (avg_loss, avg_acc), one value per iteration.

        Each value is the mean over the samples so far; the last one is that of the dataset.
        """
        means, batches = (
            RunningMean(),
            (x.split(self.batch_size) for x in self.predict(dataset, label)),
        )
        for scores, Y in zip(*batches, strict=True):
            means.add(*self._measure(scores.to(self.device), Y), len(Y))
        return means.losses, means.accuracies

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

    def _save(self, path, epochs):
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        random = {"order": self.generator.get_state(), "random": torch.get_rng_state()}
        curves = self.means.losses, self.means.accuracies
        save_state(path, "checkpoint", {**state, **random, "curves": curves, "epochs": epochs})

    def _load(self, path):
        """Go on from a checkpoint; returns the number of finished epochs."""
        state = load_state(path, "checkpoint")
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["order"])
        torch.set_rng_state(state["random"])
        self.means.losses, self.means.accuracies = state["curves"]
        return state["epochs"]


class RunningMean:
    """Means of loss and accuracy over samples; `losses` and `accuracies` keep every value."""

    def __init__(self):
        self.losses, self.accuracies = [], []
        self.restart()

    def restart(self):
        """Start a new epoch."""
        self.loss = self.correct = self.samples = 0

    def add(self, loss, accuracy, samples):
        """Take in the mean loss and the accuracy of a batch of so many samples."""
        self.loss += float(loss) * samples
        self.correct += round(float(accuracy) * samples)
        self.samples += samples
        self.losses.append(self.loss / self.samples)
        self.accuracies.append(self.correct / self.samples)

    def describe(self):
        if not self.losses:
            return "steps"
        return f"steps, loss {self.losses[-1]:.3f}, accuracy {self.accuracies[-1]:.2%}"


def one_cycle(steps, warmup, step):
    """Factor of the learning rate: a rise over the share `warmup` of the steps, then half a cosine.

    Always 1 if `warmup` is 0.
    """
    rise = max(1, warmup * steps)
    if not warmup or step < rise:
        return (step + 1) / (rise + 1) if warmup else 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


# --- One run: a profile, and what it trains or loads ----------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """A profile (replay, quick or full), where its results go, and where a long run is kept."""

    profile: str
    out: Path
    work: Path | None

    @classmethod
    def of(cls, asked, data):
        """The Run of the profile `asked`, by default of what is there.

        `data` is an ImageDataset. ValueError if the profile is unknown or cannot run.
        """
        lists = "" if data.lists else "the published lists of the split are missing"
        weights = "" if any(Path("report/weights").glob("*.pt")) else "report/weights/ is empty"
        lacks = {"quick": "", "full": data.note, "replay": data.note or weights or lists}
        profile = asked or ("quick" if lacks["replay"] else "replay")
        if trouble := lacks.get(profile, "it does not exist"):
            raise ValueError(f"profile {profile!r}: {trouble}; choose from {', '.join(lacks)}")
        work = CACHE / "work-full" if profile == "full" else None
        return cls(profile, output_folder(profile), work)

    def train_or_load(self, name, trainer, dataset):
        """The curves (avg_loss, avg_acc) of trainer.train(dataset), trained now or loaded.

        The trainer ends on the CPU, its weights rounded to half precision as they are stored: so
        the profiles full and replay score the same network.
        """

        def train():
            curves = trainer.train(dataset, name, self.work)
            state = {key: value.cpu() for key, value in trainer.model.state_dict().items()}
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
            return {"weights": state, "curves": torch.tensor(curves)}

        stored = self.compute_or_load(name, trainer.identity(dataset), train)
        trainer.device = torch.device("cpu")
        trainer.model.to("cpu").load_state_dict(stored["weights"])
        return stored["curves"].tolist()

    def compute_or_load(self, name, identity, compute):
        """The dictionary compute(), by way of a file; in the profile replay what the file holds.

        ValueError in one sentence if the file is damaged or of another `identity`.
        """
        path = Path("report/weights", f"{name}.pt")
        if self.profile != "replay":
            path = self.out / path
            save_state(path, identity, compute())
        if get_ipython():
            clear_output()  # the same in each profile
        return load_state(path, identity)
