"""The course's template as a contract, for this repository's notebook or `--notebook FILE`.

Points are those that a program can give. Checks marked `ours` ask for more than the template
does. The template's own faults cost another notebook nothing: they are named "course template".
"""

import ast
import inspect
import math
import re
import sys

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, TensorDataset, random_split
from torchvision.transforms.v2.functional import pil_to_tensor

from tests.helpers import refused
from tools.definitions import parse

points, ours, table = pytest.mark.points, pytest.mark.ours, pytest.mark.parametrize
CFG = {"batch_size": 64, "criterion": "CrossEntropyLoss", "epochs": 1}
CFG |= {"learning_rate": 0.001, "optimizer": "Adam", "seed": 42}
SHARES = [0.5, 0.25, 0.25]  # adds up to 1 in every version of Python
RATES, SIZES = [1e-3, 1e-2], [8, 16]


class TinyData(Dataset):
    """Uneven classes of random images (64, 64), as EuroSAT gives them: (PIL image, label)."""

    def __init__(self, change=None, sizes=(9, 6, 5)):
        self.classes = [f"Class{letter}" for letter in "CABDEFGHIJ"[: len(sizes)]]
        self.targets = [label for label, size in enumerate(sizes) for _ in range(size)]
        shape = (len(self.targets), 64, 64, 3)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.change = change

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.fromarray(self.pixels[index])
        return self.change(image) if self.change else image, self.targets[index]


def given():
    """Names that a notebook sets in cells that are not executed, whatever it sets them to."""
    return {"device": torch.device("cpu"), "data": TinyData()}


def to_tensor(image):
    return pil_to_tensor(image).float() / 255


def call(function, *args, **named):
    """By name, or by position where the names are others: one check of its own asks for them."""
    try:
        inspect.signature(function).bind(*args, **named)
    except TypeError:
        return function(*args, *named.values())
    return function(*args, **named)


def as_rows(image):
    """An image of any kind as a tensor (3, H, W), so that products of two are correlations."""
    assert image is not None, "None in place of an image"
    image = torch.as_tensor(np.array(image)).float().squeeze()
    image = image if len(image) == 3 else image.movedim(-1, 0)
    return F.normalize(image - image.mean((1, 2), keepdim=True), dim=(1, 2)) / 3**0.5


# Task 1


@points("1", 2)
def test_rotation(notebook):
    """rotate_picture turns by 90, 180, 270 and 360 degrees, always the same way round"""

    def wrong(image, way):
        angles = []
        for angle in (90, 180, 270, 360):
            turned = as_rows(notebook.rotate_picture(image, angle))
            expected = as_rows(image).rot90(way * angle // 90, (1, 2))
            if turned.shape != expected.shape or (turned * expected).sum() < 0.98:
                angles.append(f"{angle}")
        return angles and f"wrong for {' and '.join(angles)} degrees"

    of_any_kind(lambda image: wrong(image, 1) and wrong(image, -1))


def of_any_kind(check):
    """Notebooks take a PIL image, a tensor or an array: `check` finds nothing for one of them."""
    image, reasons = TinyData()[3][0], []
    for kind in (image, to_tensor(image), np.asarray(image)):
        try:
            reasons.append(check(kind))
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
    assert not all(reasons), min(reasons, key=len)


@points("1", 2)
def test_histogram(notebook):
    """plot_histogram returns fig, ax: a bar for each class of the data, named like Forest:0"""
    data = TinyData()
    fig, ax = notebook.plot_histogram(data)
    fig.canvas.draw()
    heights = np.array([bar.get_height() for bar in ax.patches if bar.get_height()])
    counts = np.bincount(data.targets)
    same = len(heights) == 3 and np.allclose(heights / heights.sum(), counts / len(data))
    assert same, f"bars of {heights.tolist()} for {counts.tolist()} images"
    ticks = [tick.get_text().replace(" ", "") for tick in ax.get_xticklabels()]
    missing = {f"{name}:{label}" for label, name in enumerate(data.classes)} - set(ticks)
    assert not missing, f"no bar is named {min(missing)}, but {', '.join(ticks[:3])}"


def rotate(notebook, length=16, shares=SHARES, seed=42, data=TinyData):
    """A RotateEuroSAT of PIL images or, where it takes none, of tensors; its images and labels."""
    errors = []
    for source in (data(), data(to_tensor)):
        try:
            named = dict(length=length, shares=shares, device=None, seed=seed)
            made = call(notebook.RotateEuroSAT, source, **named)
            assert len(made) == length, f"its length is {len(made)} in place of {length}"
            images, labels = zip(*(made[index] for index in range(length)), strict=True)
            labels = torch.tensor([int(label) for label in labels])
            return source, torch.stack([as_rows(image) for image in images]), labels
        except Exception as error:
            errors.append(error)
    raise errors[0]


def sources(images):
    """Index in TinyData and quarter turns of each rotated image; fails where there is none."""
    originals = torch.stack([as_rows(image) for image, _ in TinyData()])
    turned = torch.cat([originals.rot90(turn, (2, 3)) for turn in range(4)]).flatten(1)
    best, place = (images.flatten(1) @ turned.T).max(1)
    assert best.min() > 0.98, f"{(best <= 0.98).sum()} of {len(best)} are no rotated originals"
    return place % len(originals), place // len(originals)


@points("1", 1)
def test_shares(notebook):
    """RotateEuroSAT has the length and the shares of labels asked for"""
    counts = torch.bincount(rotate(notebook)[2]).tolist()
    assert counts == [8, 4, 4], f"{counts} images of the classes in place of [8, 4, 4]"


@points("1", 1)
def test_items(notebook):
    """the items of RotateEuroSAT are originals with their labels, turned by several angles"""
    _, images, labels = rotate(notebook)
    source, turn = sources(images)
    assert torch.equal(torch.tensor(TinyData().targets)[source], labels), "other labels"
    assert len(turn.unique()) > 1, "no image is turned"


@points("1", 1)
def test_seed(notebook):
    """the same seed gives the same images, another seed gives others"""
    one, two, other = (rotate(notebook, seed=seed)[1] for seed in (7, 7, 8))
    assert torch.equal(one, two), "the same seed gives other images"
    assert not torch.equal(one, other), "another seed gives the same images"


@points("1", 1)
def test_call_of_the_template(notebook):
    """RotateEuroSAT answers the template's call and keeps its attributes; random_split works"""
    data = rotate(notebook)[0]
    shares = [1 / len(data.classes) for _ in data.classes]
    rotated = notebook.RotateEuroSAT(data, length=12, shares=shares, seed=42)
    for name in ("original_data", "length", "shares", "seed", "device", "dataset"):
        assert hasattr(rotated, name), f"no attribute {name}"
    train_data, _ = random_split(rotated, [0.8, 0.2])
    X, _ = train_data[0]
    assert X[None, :].shape == (1, 3, 64, 64), f"an item has the shape {tuple(X.shape)}"


def test_ten_tenths(notebook, template_fault):
    with template_fault("sum(shares) == 1 fails on ten times 0.1 in Python up to 3.11"):
        rotate(notebook, 20, [0.1] * 10, data=lambda change=None: TinyData(change, [3] * 10))


def test_no_image_twice(notebook, template_fault):
    with template_fault("a random split after drawing puts copies of one image on both sides"):
        assert len(sources(rotate(notebook)[1])[0].unique()) == 16


# Task 2: MyMaxPool and MyCNNModel


class Operations(TorchDispatchMode):
    """Notes the operations that torch carries out, whichever way they were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


def pools_like_torch(pool, *arguments):
    x = torch.randint(-99, 0, (2, 3, 9, 9), generator=torch.Generator().manual_seed(4)).float()
    found, expected = pool(x), F.max_pool2d(x, *arguments)
    wrong = f"for kernel, stride, padding = {arguments}"
    assert found.shape == expected.shape, f"shape {tuple(found.shape)} {wrong}"
    assert torch.equal(found, expected), f"other values {wrong}"


@points("2", 2)
def test_pooling(notebook):
    """MyMaxPool without padding equals torch's, on negative numbers; its stride is 1 by default"""
    pools_like_torch(notebook.MyMaxPool(2), 2, 1)
    for arguments in ((2, 2), (3, 1), (3, 2), (2, 3)):
        pools_like_torch(notebook.MyMaxPool(*arguments), *arguments)


@points("2", 1)
def test_pooling_with_padding(notebook):
    """MyMaxPool(kernel_size, stride, padding) equals torch's, by position and by name"""
    for k, s, p in ((3, 2, 1), (2, 2, 1), (3, 1, 1)):
        pools_like_torch(notebook.MyMaxPool(k, s, p), k, s, p)
        pools_like_torch(notebook.MyMaxPool(kernel_size=k, stride=s, padding=p), k, s, p)


@points("2", 1)
def test_pooling_is_own(notebook):
    """MyMaxPool does without torch's max pooling"""
    with Operations() as operations:
        assert notebook.MyMaxPool(2, 2)(torch.rand(1, 2, 6, 6)) is not None, "it returns None"
    used = [name for name in operations.names if "max_pool" in name]
    assert not used, f"it calls torch's {used[0]}"


@points("2", 1)
def test_pooling_gradient(notebook):
    """the gradient of MyMaxPool goes to the maxima"""
    values = torch.randperm(128, generator=torch.Generator().manual_seed(2)).float()
    x = values.reshape(2, 1, 8, 8).requires_grad_()
    pools = notebook.MyMaxPool(3, 2), nn.MaxPool2d(3, 2)
    found, expected = (torch.autograd.grad(pool(x).sum(), x)[0] for pool in pools)
    assert torch.allclose(found, expected), "another gradient"


def network(notebook, n_classes=3):
    """A MyCNNModel that has seen a batch, so that lazy layers know their sizes; its leaves."""
    model = call(notebook.MyCNNModel, n_classes=n_classes)
    shape = tuple(model(torch.rand(2, 3, 64, 64)).shape)
    assert shape == (2, n_classes), f"its output has the shape {shape} for {n_classes} classes"
    return model, [layer for layer in model.modules() if not list(layer.children())]


@points("2", 1)
def test_scores(notebook):
    """MyCNNModel gives one score for each class"""
    for n_classes in (10, 3, 17):
        network(notebook, n_classes)


@points("2", 1)
def test_one_iteration(notebook):
    """MyCNNModel(n_classes=3)(X[None, :]) works, with this name of the argument"""
    X = to_tensor(TinyData()[0][0])
    assert notebook.MyCNNModel(n_classes=3)(X[None, :]).shape == (1, 3), "another shape"


@points("2", 2)
def test_layer_rule(notebook):
    """MyCNNModel has convolutional, linear and pooling layers only"""
    model, leaves = network(notebook)
    allowed = nn.modules.conv._ConvNd, nn.Linear, notebook.MyMaxPool
    other = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase
    with Operations() as operations:
        model(torch.rand(4, 3, 64, 64))
    wrong = {name for name in operations.names if re.search("(batch|layer|group)_norm", name)}
    for layer in leaves:  # an activation, or another step without weights, counts as no layer
        if not isinstance(layer, allowed) and (layer.state_dict() or isinstance(layer, other)):
            wrong.add(type(layer).__name__)
    assert not wrong, f"it has {', '.join(sorted(wrong))}"


@points("2", 1)
def test_convolutions(notebook):
    """MyCNNModel has at least three convolutions with at least two kernel sizes"""
    sizes = [layer.kernel_size for layer in network(notebook)[1] if isinstance(layer, nn.Conv2d)]
    found = f"{len(sizes)} convolutions, {len(set(sizes))} kernel sizes"
    assert len(sizes) >= 3 and len(set(sizes)) >= 2, found


@points("2", 1)
def test_pooling_is_used(notebook, monkeypatch):
    """an image passes through MyMaxPool at least once"""
    calls, forward = [], notebook.MyMaxPool.forward
    counted = lambda self, x: calls.append(1) or forward(self, x)  # noqa: E731
    monkeypatch.setattr(notebook.MyMaxPool, "forward", counted)
    network(notebook)
    assert calls, "MyMaxPool is not used"


# Task 2: Trainer


class Constant(nn.Module):
    """Gives every image the same scores; notes its inputs, and (training, gradients)."""

    def __init__(self):
        super().__init__()
        self.weight, self.modes, self.images = nn.Parameter(torch.zeros(4)), set(), []

    def forward(self, x):
        self.modes.add((self.training, torch.is_grad_enabled()))
        self.images.append(x.detach())
        return 0 * self.weight + torch.tensor([2.0, 0, 0, 0]).expand(len(x), 4)


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))


def labelled(*labels):
    images = torch.rand(len(labels), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return TensorDataset(images, torch.tensor(labels))


def state(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@points("2", 1)
def test_training(notebook):
    """Trainer(model, cfg), with the template's dictionary, trains MyCNNModel"""
    model, _ = network(notebook)
    before, dataset = state(model), labelled(0, 1, 2, 2, 1, 0, 0, 1)
    losses, accuracies = notebook.Trainer(model, dict(CFG)).train(dataset)
    assert len(losses) == len(accuracies) == 1, f"{len(losses)} values for one iteration"
    assert math.isfinite(losses[0]), f"the loss is {losses[0]}"
    assert not torch.equal(before, state(model)), "no weight changes"


OBJECTS = {"optimizer": torch.optim.SGD, "criterion": nn.NLLLoss()}


@ours
@table("change", [{}, {"criterion": "NLLLoss"}, {"criterion": nn.CrossEntropyLoss()}, OBJECTS])
def test_names_or_objects_and_a_value_for_each_iteration(notebook, change):
    trainer = notebook.Trainer(linear(), CFG | {"batch_size": 4, "epochs": 3} | change)
    dataset = labelled(*[0, 1, 2, 3] * 2, 0, 1)
    for curves, iterations in ((trainer.train(dataset), 9), (trainer.test(dataset), 3)):
        assert [len(curve) for curve in curves] == [iterations, iterations]


@ours
def test_class_level_fields_are_read_or_refused(notebook):
    fields = CFG | {"batch_size": 4, "epochs": 2}
    try:
        trainer = notebook.Trainer(linear(), type("Settings", (), fields)())
    except (TypeError, ValueError):
        return
    assert len(trainer.train(labelled(*[0, 1, 2, 3] * 2))[0]) == 4


@ours
def test_iter_step_returns_tensors_and_takes_no_step(notebook):
    model, (X, Y) = linear(), labelled(0, 1, 2, 3, 0, 1).tensors
    before, scores = state(model), model(X)
    loss, accuracy = notebook.Trainer(model, dict(CFG)).iter_step(X, Y)
    assert torch.equal(before, state(model)) and loss.requires_grad
    assert loss.item() == pytest.approx(F.cross_entropy(scores, Y).item(), rel=1e-2)
    assert accuracy.item() == pytest.approx((scores.argmax(1) == Y).float().mean().item())


def test_averages(notebook, template_fault):
    with template_fault("averages divide by the number of earlier entries"):
        trainer = notebook.Trainer(Constant(), CFG | {"epochs": 2, "batch_size": 16})
        losses, accuracies = trainer.train(labelled(*[0] * 48))
        assert [float(loss) for loss in losses] == pytest.approx([float(losses[0])] * 6, abs=1e-3)
        assert [float(value) for value in accuracies] == pytest.approx([1] * 6)
        tested = trainer.test(labelled(*[0] * 30, *[1] * 10))[1][-1]
        assert float(tested) == pytest.approx(0.75)


def test_testing_does_not_train(notebook, template_fault):
    with template_fault("test runs with gradients, and shuffles"):
        model, dataset = Constant(), labelled(*[0] * 20)
        notebook.Trainer(model, CFG | {"batch_size": 8}).test(dataset)
        assert model.modes == {(False, False)}
        assert torch.allclose(torch.cat(model.images), dataset.tensors[0])


def test_random_state(notebook, template_fault):
    with template_fault("torch.manual_seed inside train sets the global generator"):
        trainer, before = notebook.Trainer(linear(), dict(CFG)), torch.get_rng_state()
        trainer.train(labelled(0, 1, 2, 3))
        assert torch.equal(torch.get_rng_state(), before)


# Task 3


class Settings(dict):
    """A dictionary that is read as cfg.epochs, too."""

    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__

    def copy(self):
        return Settings(self)


def search(notebook, run=call):
    """What grid_search returns for two rates and two sizes."""
    own = notebook.space.get("cfg")  # with keys that only the notebook's own Trainer may ask for
    cfg = Settings(CFG | (dict(own) if isinstance(own, dict) else {}) | {"epochs": 1})
    train_data, _ = random_split(labelled(*[0, 1, 2] * 8), [20, 4])
    return run(notebook.grid_search, train_data, cfg, learning_rates=RATES, batch_sizes=SIZES)


@points("3", 2)
def test_search(notebook):
    """grid_search(train_data, cfg, learning_rates, batch_sizes) returns a MyCNNModel and its cfg"""
    model, cfg, _, _ = search(notebook, lambda function, *args, **named: function(*args, **named))
    assert isinstance(model, notebook.MyCNNModel), f"the model is a {type(model).__name__}"
    assert cfg["learning_rate"] in RATES and cfg["batch_size"] in SIZES, f"not of the grid: {cfg}"


@points("3", 1)
def test_line_of_the_search(notebook):
    """the template's line prints the loss and the accuracy that grid_search returns"""
    _, _, best_avg_loss, best_avg_acc = search(notebook)
    line = f"Best model achieves {best_avg_loss:.2f} loss and {best_avg_acc:.1%} accuracy"
    assert "nan" not in line, line


@pytest.fixture
def scripted(notebook, monkeypatch):
    """Pairs of rate and size that a Trainer sees; nothing is trained, and (0.001, 16) is best."""
    seen = []

    class Scripted(notebook.Trainer):
        def __init__(self, model, cfg, *args, **named):
            super().__init__(model, cfg, *args, **named)
            self.pair = cfg["learning_rate"], cfg["batch_size"]
            seen.append(self.pair)

        def train(self, *args, **named):
            loss, accuracy = (0.5, 0.75) if self.pair == (1e-3, 16) else (1.5, 0.25)
            return [loss] * 3, [accuracy] * 3

        test = train

    monkeypatch.setitem(notebook.space, "Trainer", Scripted)
    return seen


@points("3", 2)
def test_every_pair(notebook, scripted):
    """every pair of learning rate and batch size gets a Trainer"""
    search(notebook)
    missing = {(rate, size) for rate in RATES for size in SIZES} - set(scripted)
    assert not missing, f"not tried: {sorted(missing)}"


@points("3", 1)
def test_best_of_the_search(notebook, scripted):
    """grid_search returns the pair with the best result"""
    _, cfg, _, _ = search(notebook)
    pair = cfg["learning_rate"], cfg["batch_size"]
    assert pair == (1e-3, 16), f"{pair}, though (0.001, 16) has the better results"


def test_cell_of_the_search(notebook, template_fault):
    with template_fault("the line that prints the result of the search ends in a full stop"):
        assert not [problem for problem in notebook.problems if "Best model achieves" in problem]


# Task 4


@points("4", 2)
def test_pretrained_weights(notebook):
    """a cell loads a network with pretrained weights"""
    cells = nbformat.read(notebook.path, as_version=4).cells
    nodes = [node for cell in cells if cell.cell_type == "code" for node in parse(cell.source)[0]]
    for part in (part for node in nodes for part in ast.walk(node)):
        for named in part.keywords if isinstance(part, ast.Call) else []:
            value = ast.unparse(named.value)
            if (named.arg, value) == ("pretrained", "True") or named.arg == "weights" != value:
                return
    pytest.fail("no call with weights=... or pretrained=True", pytrace=False)


# What the template leaves open


WRONG_CALLS = {  # what is refused, and words of the error
    "angle 45": (lambda n: n.rotate_picture(TinyData()[0][0], 45), ["rotation", "90"]),
    "angle -90": (lambda n: n.rotate_picture(TinyData()[0][0], -90), ["rotation", "90"]),
    "two shares": (lambda n: n.RotateEuroSAT(TinyData(), 16, [0.5, 0.5]), ["shares"]),
    "four shares": (lambda n: n.RotateEuroSAT(TinyData(), 16, [*SHARES, 0]), ["shares"]),
    "sum of shares": (lambda n: n.RotateEuroSAT(TinyData(), 16, [0.5, 0.2, 0.2]), ["shares"]),
    "criterion": (
        lambda n: n.Trainer(linear(), CFG | {"criterion": "Cross"}),
        ["CrossEntropyLoss"],
    ),
    "optimizer": (lambda n: n.Trainer(linear(), CFG | {"optimizer": "Adamm"}), ["AdamW"]),
    "key": (lambda n: n.Trainer(linear(), CFG | {"momentum": 0.9}), ["momentum", "learning_rate"]),
}


@ours
@table("name", WRONG_CALLS)
def test_refused(notebook, name):
    wrong, words = WRONG_CALLS[name]
    with refused(ValueError, *words):
        wrong(notebook)


@ours
def test_classes_and_defaults_of_the_template(notebook):
    assert issubclass(notebook.MyMaxPool, nn.Sequential)
    assert issubclass(notebook.MyCNNModel, nn.Sequential)
    rotated = notebook.RotateEuroSAT(TinyData(), 16, SHARES)
    assert notebook.MyCNNModel(n_classes=3)(rotated[0][0][None, :]).shape == (1, 3)
    parameters = inspect.signature(notebook.grid_search).parameters
    rates, sizes = (list(parameters[n].default) for n in ("learning_rates", "batch_sizes"))
    assert (rates, sizes) == ([10**-1, 10**-2, 10**-3], [2**5, 2**6, 2**7])
    _, cfg, loss, accuracy = notebook.grid_search(rotated, dict(CFG))
    assert cfg["learning_rate"] in rates and cfg["batch_size"] in sizes
    assert isinstance(loss + accuracy, float)


@ours
@table("name", ["ps2_eurosat.ipynb", "ps2_theory.ipynb"])
def test_opened_alone_the_first_cell_says_what_is_missing(name, tmp_path, monkeypatch):
    cells = nbformat.read(name, as_version=4).cells
    codes = [cell.source for cell in cells if cell.cell_type == "code"]
    if not any(re.search(r"^(from|import) utils", code, re.MULTILINE) for code in codes):
        return  # it needs nothing beside it
    names = {alias.name for node in parse(codes[0])[0] for alias in getattr(node, "names", [])}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "utils", None)
    for other in ("numpy", "torch", "matplotlib"):  # it speaks before another import can fail
        monkeypatch.setitem(sys.modules, other, None)
    with refused((ImportError, FileNotFoundError), "utils.py", "download"):
        exec(codes[0], {"__name__": "__main__"})
