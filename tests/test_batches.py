"""Images and labels of any dataset: ImageDataset, Subsets, and what others bring."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder

from eurosat import (
    ImageDataset,
    as_whole_numbers,
    get_batch,
    get_classes,
    get_labels,
    in_memory,
    scale,
    unwrap,
)
from tests.helpers import TinyData, refused
from trainer import Trainer

LABELS = [0] * 9 + [1] * 6 + [2] * 5  # as TinyData's
SOME = torch.tensor([19, 3, 3, 0])


class NoLabels(Dataset):
    """TinyData without its `targets` and `classes`."""

    def __init__(self):
        self.data = TinyData()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def images():
    """TinyData's images (20, 3, 64, 64), uint8."""
    return torch.from_numpy(TinyData().pixels).movedim(-1, 1)


def image_dataset():
    return ImageDataset(images(), torch.tensor(LABELS), TinyData().classes)


def pil_list():
    return [PIL.Image.fromarray(pixels) for pixels in TinyData().pixels]


FORMS = [
    pytest.param(image_dataset(), id="ImageDataset"),
    pytest.param(TinyData(), id="PIL images with targets"),
    pytest.param(NoLabels(), id="PIL images without targets"),
    pytest.param(list(zip(pil_list(), LABELS, strict=True)), id="list of PIL images"),
    pytest.param(list(zip(images(), LABELS, strict=True)), id="list of tensors"),
    pytest.param(TensorDataset(images(), torch.tensor(LABELS)), id="TensorDataset"),
    pytest.param(
        ConcatDataset([image_dataset()]), id="ConcatDataset of items in [0, 1]"
    ),
]


# --- ImageDataset ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_an_item_is_an_image_in_0_to_1_and_a_label(kind):
    values = images().to(kind)
    if kind != torch.uint8:
        values = values / 255
    data = ImageDataset(values, torch.tensor(LABELS), ["A", "B", "C"])
    image, label = data[12]
    assert image.dtype == torch.float32
    assert torch.equal(image, images()[12] / 255)
    assert type(label) is int
    assert label == 1
    assert len(data) == 20


def test_an_image_dataset_is_shown_in_one_short_line():
    data = ImageDataset(torch.zeros(27000, 3, 2, 4), torch.zeros(27000), "ABC")
    assert repr(data) == "ImageDataset of 27,000 images 3×2×4 in 3 classes"


def test_the_repr_of_a_derived_class_has_its_own_name():
    class Turned(ImageDataset):
        pass

    data = Turned(torch.zeros(0, 3, 2, 2), torch.zeros(0), [])
    assert repr(data) == "Turned of 0 images 3×2×2 in 0 classes"


def test_what_is_not_given_is_empty_and_not_shared():
    data = image_dataset()
    other = image_dataset()
    assert data.names == []
    assert data.note == ""
    assert data.lists == {}
    data.lists["val"] = ["River_1.jpg"]
    assert other.lists == {}


# --- Subsets --------------------------------------------------------------------------

INDICES = [
    pytest.param([4, 2, 2, 0], id="list"),
    pytest.param((4, 2, 2, 0), id="tuple"),
    pytest.param(range(3, 0, -1), id="range"),
    pytest.param(torch.tensor([4, 2, 2, 0]), id="tensor"),
    pytest.param(torch.tensor([4.0, 2.0]), id="floats that are whole"),
    pytest.param(np.array([4, 2], np.uint16), id="numpy"),
    pytest.param(list(np.array([4, 2])), id="list of numpy's numbers"),
    pytest.param(list(torch.tensor([4, 2])), id="list of tensors"),
    pytest.param([], id="empty list"),
    pytest.param(torch.tensor([], dtype=torch.int64), id="empty tensor"),
]


@pytest.mark.parametrize("indices", INDICES)
def test_unwrap_finds_the_places_in_the_base(indices):
    base = TinyData()
    found, places = unwrap(Subset(base, indices))
    assert found is base
    assert places.dtype == torch.int64
    assert places.tolist() == [int(index) for index in indices]


def test_unwrap_goes_through_all_subsets():
    base = TinyData()
    inner = Subset(base, [10, 11, 12, 13])
    middle = Subset(inner, torch.tensor([3, 1, 0]))
    outer = Subset(middle, np.array([2, 0, 0]))
    found, places = unwrap(outer)
    assert found is base
    assert places.tolist() == [10, 13, 13]


def test_unwrap_of_no_subset_is_the_dataset_and_all_places():
    base = TinyData()
    found, places = unwrap(base)
    assert found is base
    assert places.tolist() == list(range(20))


def test_parts_of_random_split_are_unwrapped():
    base = image_dataset()
    one, other = random_split(base, [15, 5], torch.Generator().manual_seed(0))
    _, one_places = unwrap(one)
    _, other_places = unwrap(other)
    assert one_places.tolist() == list(one.indices)
    assert sorted([*one_places.tolist(), *other_places.tolist()]) == list(range(20))


def test_a_derived_subset_that_changes_its_items_is_believed():
    class Flipped(Subset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.flip(2), 2 - label

        def __getitems__(self, indices):  # torch wants both
            return [self[index] for index in indices]

    data = Flipped(image_dataset(), [0, 19])
    base, places = unwrap(Subset(data, [1]))
    assert base is data
    assert places.tolist() == [1]
    X, Y = get_batch(data, torch.tensor([1]))
    assert torch.equal(X[0], images()[19].flip(2) / 255)
    assert Y.tolist() == [0]
    assert get_labels(data).tolist() == [2, 0]


BAD_INDICES = [
    pytest.param(torch.ones(20, dtype=torch.bool), id="mask"),
    pytest.param([True] * 20, id="list of bools"),
    pytest.param(np.ones(20, bool), id="numpy mask"),
    pytest.param([0, -1], id="negative"),
    pytest.param([0.5], id="fraction"),
    pytest.param([[0, 1], [2, 3]], id="table"),
    pytest.param(["a"], id="text"),
]


@pytest.mark.parametrize("indices", BAD_INDICES)
def test_indices_that_are_no_places_are_refused(indices):
    data = Subset(TinyData(), indices)
    rule = "indices of a Subset must be whole numbers from 0"
    with refused(ValueError, rule):
        unwrap(data)
    with refused(ValueError, rule):
        get_labels(data)
    with refused(ValueError, rule):
        get_batch(data, torch.tensor([0]))


# --- Labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("data", FORMS)
def test_the_labels_are_the_same_in_every_form(data):
    labels = get_labels(data)
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS
    some = Subset(Subset(data, [19, 0, 9, 3]), [3, 1, 1])
    assert get_labels(some).tolist() == [0, 0, 0]
    assert get_labels(Subset(data, [19, 9])).tolist() == [2, 1]


@pytest.mark.parametrize("data", FORMS)
def test_an_empty_subset_has_no_labels(data):
    labels = get_labels(Subset(data, []))
    assert labels.dtype == torch.int64
    assert labels.shape == (0,)


@pytest.fixture
def folder(tmp_path):
    """A folder of images as torchvision's ImageFolder reads it: two classes."""
    for number, image in enumerate(pil_list()[:5]):
        name = "A" if number < 2 else "B"
        (tmp_path / name).mkdir(exist_ok=True)
        image.save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_stored_labels_are_taken_without_reading_an_image(folder):
    data = ImageFolder(folder)
    for path in folder.rglob("*.png"):
        path.unlink()
    assert get_labels(data).tolist() == [0, 0, 1, 1, 1]
    assert get_labels(Subset(data, [4, 0])).tolist() == [1, 0]


def test_a_target_transform_counts(folder):
    data = ImageFolder(folder, target_transform=lambda label: 5 - label)
    assert get_labels(data).tolist() == [5, 5, 4, 4, 4]
    assert get_labels(Subset(data, [4, 0])).tolist() == [4, 5]
    _, labels = get_batch(data, torch.tensor([4, 0]))
    assert labels.tolist() == [4, 5]


def check_labels(labels):
    """The labels 1, 0, 2 of another kind become int64, wherever they are stored."""
    stored = TinyData((1, 1, 1))
    stored.targets = labels
    pairs = list(zip(images()[:3], labels, strict=True))
    for data in (ImageDataset(images()[:3], labels, "ABC"), stored, pairs):
        found = get_labels(data)
        assert found.dtype == torch.int64
        assert found.tolist() == [1, 0, 2]
        _, batch = get_batch(data, torch.tensor([2, 0]))
        assert batch.dtype == torch.int64
        assert batch.tolist() == [2, 1]


TYPES = ["int16", "uint8", "uint16", "float32", "float64"]


@pytest.mark.parametrize("name", TYPES)
def test_labels_of_any_type_become_int64(name):
    numbers = np.array([1, 0, 2], name)
    check_labels(numbers)
    check_labels(list(numbers))
    check_labels(torch.from_numpy(numbers))


def test_labels_in_lists_and_rows_become_int64():
    check_labels([1, 0, 2])
    check_labels(list(torch.tensor([1, 0, 2])))
    check_labels(torch.tensor([[1], [0], [2]]))


BAD_LABELS = [
    pytest.param(["Forest", "River"], "['Forest', 'River']", id="texts"),
    pytest.param(np.array(["Forest", "River"]), "array(['Fores", id="numpy's texts"),
    pytest.param([0, None], "[0, None]", id="nothing"),
    pytest.param([0, -1], "[0, -1]", id="negative"),
    pytest.param([0.5, 1.0], "[0.5, 1.0]", id="fraction"),
    pytest.param([0.0, float("nan")], "[0.0, nan]", id="not a number"),
    pytest.param([True, False], "torch.bool", id="bools"),
    pytest.param([[0, 1], [1, 0]], "of shape (2, 2)", id="one-hot"),
    pytest.param([[0, 1], [1]], "[[0, 1], [1]]", id="uneven rows"),
]


@pytest.mark.parametrize("labels, found", BAD_LABELS)
def test_bad_labels_are_refused_by_a_sentence_that_says_labels(labels, found):
    words = ("labels must be whole numbers from 0", found)
    pairs = list(zip(images()[:2], labels, strict=True))
    stored = TinyData((1, 1))
    stored.targets = labels
    with refused(ValueError, "labels must be whole numbers from 0, one an item"):
        get_labels(pairs)
    with refused(ValueError, "labels must be whole numbers from 0, one an item"):
        get_batch(pairs, torch.arange(2))
    with refused(ValueError, *words):
        get_labels(stored)
    with refused(ValueError, *words):
        ImageDataset(images()[:2], labels, "AB")


def test_a_single_number_is_no_list_of_labels():
    with refused(ValueError, "labels must be whole numbers", "of shape ()"):
        as_whole_numbers("labels", torch.tensor(3))


# --- Batches --------------------------------------------------------------------------


@pytest.mark.parametrize("data", FORMS)
def test_a_batch_is_the_same_in_every_form(data):
    X, Y = get_batch(data, SOME)
    assert torch.equal(scale(X), images()[SOME] / 255)
    assert Y.dtype == torch.int64
    assert Y.tolist() == [2, 0, 0, 0]
    nested = Subset(Subset(data, list(range(19, -1, -1))), [0, 16])  # images 19 and 3
    X, Y = get_batch(nested, torch.tensor([1, 0]))
    assert torch.equal(scale(X), images()[[3, 19]] / 255)
    assert Y.tolist() == [0, 2]


WHOLE_NUMBERS = [torch.uint8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("kind", WHOLE_NUMBERS)
def test_whole_numbers_are_divided_by_255(kind):
    assert torch.equal(scale(images().to(kind)), images() / 255)


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_stay_and_those_up_to_255_are_refused(kind):
    normalised = (images() / 255 * 12 - 6).to(kind)
    assert torch.equal(scale(normalised), normalised.float())
    assert scale(normalised[:0]).shape == (0, *normalised.shape[1:])
    with refused(ValueError, "are up to 25", "divide them by 255", str(kind)):
        scale(images().to(kind))


def test_a_trainer_refuses_floats_up_to_255():
    data = TensorDataset(images().float(), torch.tensor(LABELS))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 3))
    trainer = Trainer(model, {"epochs": 1}, "cpu")
    with refused(ValueError, "divide them by 255"):
        trainer.train(data)
    with refused(ValueError, "divide them by 255"):
        trainer.predict(data)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_tensors_keep_their_type_in_a_batch(kind):
    values = images().to(kind)
    datasets = [
        ImageDataset(values, LABELS, "ABC"),
        TensorDataset(values, torch.tensor(LABELS)),
    ]
    for data in datasets:
        X, _ = get_batch(data, SOME)
        assert type(X) is torch.Tensor
        assert X.dtype == kind
        assert torch.equal(X, values[SOME])


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_pil_images_become_bytes(mode, channels):
    pairs = [(image.convert(mode), 0) for image in pil_list()]
    X, _ = get_batch(pairs, SOME)
    assert X.shape == (4, channels, 64, 64)
    assert X.dtype == torch.uint8


def test_a_batch_is_a_copy():
    data = image_dataset()
    X, Y = get_batch(data, torch.tensor([0]))
    X.zero_()
    Y.fill_(7)
    assert torch.equal(data.images, images())
    assert data.labels.tolist() == LABELS


def test_an_empty_batch_of_an_image_dataset_has_its_shape():
    X, Y = get_batch(image_dataset(), torch.tensor([], dtype=torch.int64))
    assert X.shape == (0, 3, 64, 64)
    assert Y.shape == (0,)


# --- Class names, and datasets in memory ----------------------------------------------


def test_class_names_are_the_datasets_own():
    assert get_classes(TinyData()) == ["ClassC", "ClassA", "ClassB"]
    some = Subset(Subset(image_dataset(), [0, 1]), [0])
    assert get_classes(some) == ["ClassC", "ClassA", "ClassB"]


def test_without_class_names_the_labels_stand_for_them():
    assert get_classes(NoLabels()) == ["0", "1", "2"]
    assert get_classes(Subset(NoLabels(), [0, 9])) == ["0", "1"]
    assert get_classes(Subset(NoLabels(), [])) == []


@pytest.mark.parametrize("data", FORMS)
def test_a_dataset_in_memory_has_the_same_items(data):
    some = Subset(data, [19, 0, 9])
    stored = in_memory(some)
    assert type(stored) is ImageDataset
    assert stored.classes == get_classes(data)
    assert stored.labels.tolist() == [2, 0, 1]
    for place, index in enumerate([19, 0, 9]):
        image, _ = stored[place]
        assert torch.equal(image, images()[index] / 255)
