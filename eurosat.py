"""EuroSAT: find, download, read and split it; batches and labels of any dataset.

Used by ps2_eurosat.ipynb, trainer.py, tools/ and tests/. Part 1 needs none of it.
"""

import os
import reprlib
import socket
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from IPython import get_ipython
from IPython.display import clear_output
from torch.utils.data import Dataset, Subset
from torchvision.datasets import EuroSAT
from torchvision.datasets.utils import download_url
from torchvision.transforms.v2.functional import to_image

import standin
from standin import CLASSES
from utils import progress

COUNTS = {  # published images of each class
    "AnnualCrop": 3000,
    "Forest": 3000,
    "HerbaceousVegetation": 3000,
    "Highway": 2500,
    "Industrial": 2500,
    "Pasture": 2000,
    "PermanentCrop": 2500,
    "Residential": 3000,
    "River": 2500,
    "SeaLake": 3000,
}
LISTS = {  # the published split of Neumann et al., arXiv 1911.06721: MD5 of each list
    "train": "908f142e73d6acdf3f482c5e80d851b1",
    "val": "95de90f2aa998f70a3b2416bfe0687b4",
    "test": "7ae5ab94471417b6e315763121e67c5f",
}
LISTS_URL = "https://hf.co/datasets/torchgeo/eurosat/resolve/main"
FIFTHS = {  # without the lists: the number in a file's name, modulo 5
    "train": (2, 3, 4),
    "val": (1,),
    "test": (0,),
}
LARGEST_FLOAT = 32  # far above normalised images, far below most of 0 to 255
DOWNLOAD_TIMEOUT = 20  # seconds: a network that never answers is none


class ImageDataset(Dataset):
    """Images (N, 3, H, W), uint8 or floats in [0, 1], with labels (N,) and class names.

    An item is (image in [0, 1] as float32 (3, H, W), label). `names` are the images'
    file names. `note` says that this is no EuroSAT, and is "" for EuroSAT. `lists`
    {part: file names} is the published split, empty where it is missing. ValueError if
    a label is no whole number from 0.
    """

    def __init__(self, images, labels, classes, names=(), note="", lists=None):
        self.images = images
        self.labels = as_whole_numbers("labels", labels)
        self.classes = list(classes)
        self.names = list(names)
        self.note = note
        self.lists = {} if lists is None else lists

    def __repr__(self):
        size = "×".join(str(side) for side in self.images.shape[1:])
        kind = type(self).__name__
        return f"{kind} of {len(self):,} images {size} in {len(self.classes)} classes"

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return scale(self.images[index]), int(self.labels[index])


def scale(images):
    """Images as float32: whole numbers are divided by 255, floats stay.

    Floats may be normalised, so that some are below 0 or above 1. ValueError if they
    are from 0 to 255, which no network here is trained for.
    """
    if not images.is_floating_point():
        return images.float() / 255
    if images.numel() > 0 and images.max() > LARGEST_FLOAT:
        found = f"images of {images.dtype} are up to {images.max():.4g}"
        raise ValueError(f"{found}: divide them by 255, or give them as bytes")
    return images.float()


# --- Finding and reading --------------------------------------------------------------


def find_eurosat(root=None):
    """(folder of the ten class folders, ""), or (None, why there is none).

    That folder is root/eurosat/2750, root/EuroSAT_RGB, root/2750 or `root` itself
    (default: the environment variable EUROSAT_ROOT, else data/). Where there is none,
    the images are downloaded to the first of these places. FileNotFoundError if that
    fails and either EUROSAT_REQUIRED is set or something else stands at that place.
    """
    if root is None:
        root = os.environ.get("EUROSAT_ROOT", "")
        if root == "":
            root = "data"
    root = Path(root).expanduser()
    places = [root / "eurosat/2750", root / "EuroSAT_RGB", root / "2750"]
    for folder in places:
        if folder.is_dir():
            return folder, ""
    # some of the ten are enough: a download inside them would hide what is missing
    if any((root / name).is_dir() for name in CLASSES):
        return root, ""
    try:
        download_eurosat(root)
        return places[0], ""
    except Exception as error:  # network, archive, disk: the advice is the same
        reason = str(error).partition("\n")[0]
    looked = ", ".join(str(folder) for folder in places)
    trouble = f"EuroSAT: looked in {looked}, found no images"
    trouble += f"; download failed: {reason}."
    if places[0].exists():
        advice = "Move away what is there, and run again"
        raise FileNotFoundError(f"{trouble} {advice}.")
    if is_required():
        advice = "Put the images there, or set EUROSAT_ROOT to where they are"
        raise FileNotFoundError(f"{trouble} {advice} (EUROSAT_REQUIRED is set).")
    return None, f"{trouble} Going on with a drawn stand-in."


def is_required():
    """Does the environment variable EUROSAT_REQUIRED say that no images is an error?"""
    value = os.environ.get("EUROSAT_REQUIRED", "")
    return value.lower() not in ("", "0", "false", "no")


def download_eurosat(root):
    """Download the images to root/eurosat/2750, and the published lists beside them.

    Nothing is made at `root` before all images are here; the lists may stay missing.
    """
    target = root / "eurosat"
    images = target / "2750"
    if images.exists():
        raise FileExistsError(f"{images} is no folder")
    nearest = target.absolute()  # a folder on the same disk, so that files can move
    while not nearest.is_dir():
        nearest = nearest.parent
    with tempfile.TemporaryDirectory(prefix="eurosat-download-", dir=nearest) as spare:
        fetch_eurosat(spare)
        arrived = Path(spare, "eurosat")
        target.mkdir(parents=True, exist_ok=True)
        for path in arrived.glob("eurosat-*.txt"):
            path.replace(target / path.name)
        # the images last: once they are there, nobody looks for the lists
        (arrived / "2750").replace(images)


def fetch_eurosat(folder):
    """Download images and lists into folder/eurosat, from a network that answers."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        EuroSAT(folder, download=True)
        fetch_lists(Path(folder, "eurosat"))
    finally:
        socket.setdefaulttimeout(usual)


def fetch_lists(folder):
    """Download the three published lists into `folder`: all of them, or none."""
    try:
        for part, md5 in LISTS.items():
            download_url(f"{LISTS_URL}/{list_name(part)}", folder, md5=md5)
    except Exception:  # whatever it is, the images are of use without the lists
        for part in LISTS:
            (folder / list_name(part)).unlink(missing_ok=True)


def list_name(part):
    """File name of the published list of a part: train, val or test."""
    return f"eurosat-{part}.txt"


def read_lists(folder):
    """{part: file names} of the published lists beside the images' `folder`."""
    lists = {}
    for part in LISTS:
        path = folder.parent / list_name(part)
        if path.exists():
            lists[part] = path.read_text("utf-8-sig", errors="replace").split()
    return lists


def load_eurosat(root=None):
    """All images as an ImageDataset: EuroSAT, or the stand-in where there is none.

    FileNotFoundError as in find_eurosat; ValueError if the folder or an image is not as
    published.
    """
    folder, trouble = find_eurosat(root)
    if folder is None:
        files = standin.draw_stand_in()
        data = read_images(files, note=standin.NOTE)
    else:
        files = {path: path for path in list_images(folder)}
        data = read_images(files, lists=read_lists(folder))
    if get_ipython():
        clear_output()  # of the progress
    if trouble:
        print(trouble)
    return data


def list_images(folder):
    """Paths of the published images, class by class; ValueError if some are missing."""
    paths = []
    wrong = []
    for name in CLASSES:
        found = sorted((folder / name).glob("[!.]*.jpg"))
        if len(found) != COUNTS[name]:
            wrong.append(f"{name} {len(found)} of {COUNTS[name]}")
        paths += found
    if wrong:
        what = f"{folder} does not hold the published images ({', '.join(wrong)})"
        advice = "move that folder away and run again to download it afresh"
        raise ValueError(f"{what}: {advice}.")
    return paths


def read_images(files, note="", lists=None):
    """An ImageDataset of {path: file of a JPEG}; a path's folder names the class."""
    pixels = np.empty((len(files), 64, 64, 3), np.uint8)
    with progress(files.values(), "decoding images") as images:
        for place, file in enumerate(images):
            pixels[place] = decode(file)
    images = torch.from_numpy(pixels).movedim(-1, 1)
    labels = torch.tensor([CLASSES.index(path.parent.name) for path in files])
    names = [path.name for path in files]
    return ImageDataset(images, labels, CLASSES, names, note, lists)


def decode(file):
    """Pixels (64, 64, 3) of a JPEG; ValueError if it is damaged or no 64×64 RGB."""
    try:
        with PIL.Image.open(file, formats=["JPEG"]) as image:
            pixels = np.asarray(image)
        if pixels.shape != (64, 64, 3) or image.mode != "RGB":
            found = f"{image.mode} of {image.width}×{image.height}"
            raise ValueError(f"{found}, not RGB of 64×64")
    except Exception as error:  # whatever the bytes are, the advice is the same
        what = f"{file} is no image as published"
        raise ValueError(f"{what} ({error}): replace it.") from error
    return pixels


# --- Splitting ------------------------------------------------------------------------


def split_eurosat(data):
    """Indices {"train", "val", "test"} of an ImageDataset, by its lists or FIFTHS.

    ValueError if the lists are no split of the images.
    """
    if data.lists:
        lists = data.lists
        check_lists(lists, data.names)
    else:
        lists = split_by_number(data.names)
    index_of = {name: index for index, name in enumerate(data.names)}
    split = {}
    for part in LISTS:
        indices = [index_of[name] for name in lists[part]]
        split[part] = torch.tensor(indices, dtype=torch.int64)
    return split


def split_by_number(names):
    """{part: file names}, by the number in each name, modulo 5."""
    lists = {part: [] for part in FIFTHS}
    for name in names:
        number = int("".join(filter(str.isdigit, name)))
        for part, remainders in FIFTHS.items():
            if number % 5 in remainders:
                lists[part].append(name)
    return lists


def check_lists(lists, names):
    """ValueError, with list and image, unless each image is in one list, once."""
    advice = "put the published lists beside the images' folder, or move all three away"
    known = set(names)
    seen = {}  # image -> the list that holds it
    for part in LISTS:
        file = list_name(part)
        if not lists.get(part):
            raise ValueError(f"{file} is missing or empty: {advice}.")
        for name in lists[part]:
            if name not in known:
                raise ValueError(f"{file} names {name!r}, which is no image: {advice}.")
            if name in seen:
                other = f"which stands in {seen[name]} already"
                raise ValueError(f"{file} names {name!r}, {other}: {advice}.")
            seen[name] = file
    for name in names:
        if name not in seen:
            raise ValueError(f"{name!r} is in none of eurosat-*.txt: {advice}.")


# --- Batches and labels of any dataset ------------------------------------------------


def unwrap(dataset):
    """(base, indices): the dataset below all Subsets, and each item's place in it (N,).

    A loop over batches calls it once, and get_batch(base, ...) for each batch.
    """
    indices = torch.arange(len(dataset))
    # a class derived from Subset may change its items, so it is a base
    while type(dataset) is Subset:
        chosen = as_whole_numbers("indices of a Subset", dataset.indices)
        indices = chosen.cpu()[indices]
        dataset = dataset.dataset
    return dataset, indices


def get_labels(dataset):
    """Labels (N,), int64, of any dataset of (image, label).

    The images are read only where the dataset stores no labels.
    """
    base, indices = unwrap(dataset)
    if isinstance(base, ImageDataset):
        return base.labels[indices]
    stored = getattr(base, "targets", None)  # as in torchvision
    if stored is not None and getattr(base, "target_transform", None) is None:
        return as_whole_numbers("labels", stored)[indices]
    labels = []
    for place in indices.tolist():
        _, label = base[place]
        labels.append(label)
    return as_whole_numbers("labels", labels)


def get_batch(dataset, index):
    """Images (B, 3, H, W) and labels (B,) of the items `index` (B,) of any dataset.

    One step where the dataset is an ImageDataset. Tensors keep their type, PIL images
    become uint8.
    """
    base, indices = unwrap(dataset)
    index = indices[index.cpu()]
    if isinstance(base, ImageDataset):
        index = index.to(base.images.device)
        # read_images stores channels last, so that the values of an image lie together:
        # many times as fast as images[index]
        rows = base.images.movedim(1, -1)
        return rows.index_select(0, index).movedim(-1, 1), base.labels[index]
    images = []
    labels = []
    for place in index.tolist():
        image, label = base[place]
        images.append(to_image(image))
        labels.append(label)
    return torch.stack(images), as_whole_numbers("labels", labels)


def as_whole_numbers(name, values):
    """N whole numbers from 0, whatever holds them, as int64 (N,); else ValueError."""
    rule = f"{name} must be whole numbers from 0, one an item"
    try:
        given = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:  # texts, or uneven rows
        raise ValueError(f"{rule}, not {reprlib.repr(values)}: {error}") from error
    flat = given.flatten()
    whole = flat.long()
    is_one_each = given.ndim > 0 and len(given) == len(flat)
    is_number = given.dtype != torch.bool
    is_whole = whole.to(flat.dtype) == flat
    if is_one_each and is_number and is_whole.all() and (whole >= 0).all():
        return whole
    found = f"{given.dtype} of shape {tuple(given.shape)}: {flat[:3].tolist()}"
    raise ValueError(f"{rule}, not {found}")


def get_classes(dataset):
    """Class names of a dataset or of Subsets of one; its labels where it names none."""
    base, _ = unwrap(dataset)
    if hasattr(base, "classes"):
        return list(base.classes)
    if len(dataset) == 0:
        return []
    return [str(label) for label in range(int(get_labels(dataset).max()) + 1)]


def in_memory(dataset):
    """The images and labels of any dataset as plain tensors, in an ImageDataset."""
    images, labels = get_batch(dataset, torch.arange(len(dataset)))
    return ImageDataset(images, labels, get_classes(dataset))
