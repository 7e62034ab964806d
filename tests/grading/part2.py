"""Part 2: what a notebook with the template's names defines, against oracles and the problem set's rules."""
import ast
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset, random_split

from tests.grading.isolated import cells

EQUAL = [0.1] * 10
NORMALISATION = re.compile("(batch|layer|group|instance)_norm")


class Settings(dict):
    """The template's cfg, read as cfg.epochs or as cfg["epochs"]."""

    def __init__(self, **fields):
        super().__init__(fields)
        self.__dict__ = self


def settings(**more):
    return Settings(**{**dict(batch_size=16, criterion=nn.CrossEntropyLoss(), epochs=1, learning_rate=1e-3,
                              optimizer=torch.optim.SGD, seed=1), **more})


class Operations(TorchDispatchMode):
    """Notes the names of the operations that torch carries out, whichever way they were called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


# Task 1

def passes_for_a_kind(data, check):
    """Teams take a picture as a tensor, a PIL picture or an array: `check(picture)` must return "" for one of them."""
    array = np.asarray(data[3][0])
    reasons = []
    for picture in (torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255, data[3][0], array):
        try:
            reason = check(picture)
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        if not reason:
            return
        reasons.insert(0, reason)
    pytest.fail(reasons[0], pytrace=False)


def rows_first(picture):
    """A picture of any kind as an array (H, W, 3)."""
    return picture.permute(1, 2, 0).numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)


@pytest.mark.points("2.1", 2)
def test_rotation(notebook, data):
    """rotate_picture turns by 90, 180, 270 and 360 degrees, always the same way round"""
    def check(picture):
        turned = {angle: rows_first(notebook.rotate_picture(picture, angle)) for angle in (90, 180, 270, 360)}
        wrong = [[angle for angle, result in turned.items()
                  if not np.array_equal(result, np.rot90(rows_first(picture), way * angle // 90))] for way in (1, -1)]
        return f"wrong for {', '.join(map(str, min(wrong, key=len)))} degrees" if all(wrong) else ""
    passes_for_a_kind(data, check)


@pytest.mark.points("2.1", 1)
def test_other_angles(notebook, data):
    """rotate_picture refuses other angles with a ValueError"""
    def check(picture):
        for angle in (45, -90, 450):
            try:
                notebook.rotate_picture(picture, angle)
            except ValueError:
                continue
            return f"{angle} degrees are accepted"
    passes_for_a_kind(data, check)


@pytest.mark.points("2.1", 1)
def test_histogram(notebook, data):
    """plot_histogram returns fig, ax with the class frequencies and ticks like AnnualCrop:0"""
    fig, ax = notebook.plot_histogram(data)
    fig.canvas.draw()
    heights, counts = np.array([bar.get_height() for bar in ax.patches]), np.bincount(data.targets)
    assert heights.shape == counts.shape and np.allclose(heights / heights.sum(), counts / counts.sum()), "wrong bars"
    ticks = [tick.get_text().replace(" ", "") for tick in ax.get_xticklabels()]
    assert "AnnualCrop:0" in ticks, f"ticks: {ticks[:2]}"
    plt.close(fig)


@pytest.fixture
def rotated(notebook, data, tensor_data):
    """A function that makes a RotateEuroSAT; returns it, its pictures (N, 3, 64, 64) and its labels (N,)."""
    def make(source, length, shares, seed):
        dataset = notebook.RotateEuroSAT(source, length=length, shares=shares, seed=seed)
        assert len(dataset) == length, f"its length is {len(dataset)} in place of {length}"
        pictures, labels = zip(*(dataset[index] for index in range(length)))
        assert all(isinstance(picture, torch.Tensor) and picture.shape == (3, 64, 64) for picture in pictures), (
            "its pictures are no tensors of shape (3, 64, 64)")
        return dataset, torch.stack(pictures).float(), torch.tensor([int(label) for label in labels])

    def either(length, shares=EQUAL, seed=42):
        try:
            return make(data, length, shares, seed)
        except Exception as error:
            try:
                return make(tensor_data, length, shares, seed)
            except Exception:
                raise error
    return either


def standardised(pictures):
    """Rows (N, 12288) of mean 0 and length 1, so that a product of two rows is a correlation, whatever the scale."""
    rows = pictures.flatten(2)
    rows = (rows - rows.mean(2, keepdim=True)) / rows.std(2, keepdim=True).clamp(min=1e-6)
    return nn.functional.normalize(rows.flatten(1))


@pytest.fixture
def sources(tensor_data):
    """A function that finds the picture behind each of some rotated ones, and its turn in quarters; fails if there is none."""
    originals = torch.stack([picture for picture, _ in tensor_data])
    turned = torch.cat([standardised(originals.rot90(turn, (2, 3))) for turn in range(4)])

    def find(pictures):
        best, place = (standardised(pictures) @ turned.T).max(1)
        assert best.min() > 0.99, f"{(best <= 0.99).sum()} of {len(best)} pictures are no rotated originals"
        return place % len(originals), place // len(originals)
    return find


@pytest.mark.points("2.1", 1)
def test_shares(rotated):
    """RotateEuroSAT has the length and the shares of labels asked for"""
    for length, shares in ((50, EQUAL), (20, [0.5, 0.3, 0.2] + [0] * 7), (7, [1 / 3] * 3 + [0] * 7)):
        counts = torch.bincount(rotated(length, shares)[2], minlength=10).tolist()
        assert all(abs(count - share * length) < 1 for count, share in zip(counts, shares)), (
            f"labels {counts[:4]}... in place of {[round(share * length, 1) for share in shares[:4]]}...")


@pytest.mark.points("2.1", 1)
def test_items(rotated, sources, tensor_data):
    """its pictures are rotated originals with their labels"""
    _, pictures, labels = rotated(40)
    source, turn = sources(pictures)
    assert torch.equal(torch.tensor(tensor_data.targets)[source], labels), "labels of other pictures"
    assert len(turn.unique()) > 1, "no picture is turned"


@pytest.mark.points("2.1", 2)
def test_leakage(rotated, sources):
    """no picture comes twice while there are enough, so a random split puts no copy on both sides"""
    source, _ = sources(rotated(40)[1])
    assert len(source.unique()) == 40, f"{40 - len(source.unique())} of 40 pictures are copies of others"


@pytest.mark.points("2.1", 1)
def test_seed(rotated):
    """the same seed gives the same pictures, another seed gives others"""
    first, second, other = (rotated(20, seed=seed)[1] for seed in (7, 7, 8))
    assert torch.equal(first, second), "the same seed gives other pictures"
    assert not torch.equal(first, other), "another seed gives the same pictures"


# Task 2

def pools_like_torch(notebook, *arguments):
    x = torch.randint(-99, 0, (2, 3, 9, 9), generator=torch.Generator().manual_seed(4)).float()
    ours, expected = notebook.MyMaxPool(*arguments)(x), nn.functional.max_pool2d(x, *arguments)
    assert ours.shape == expected.shape, f"shape {tuple(ours.shape)} in place of {tuple(expected.shape)} for {arguments}"
    assert torch.equal(ours, expected), f"other values for kernel size, stride, padding = {arguments}"


@pytest.mark.points("2.2", 2)
def test_pooling(notebook):
    """MyMaxPool equals torch's pooling without padding, on negative numbers"""
    for arguments in ((2, 2, 0), (3, 1, 0), (3, 2, 0), (2, 3, 0)):
        pools_like_torch(notebook, *arguments)
    assert notebook.MyMaxPool(2)(torch.zeros(1, 1, 5, 5)).shape == (1, 1, 4, 4), "the default stride is not 1"


@pytest.mark.points("2.2", 2)
def test_pooling_with_padding(notebook):
    """MyMaxPool equals torch's pooling with padding, on negative numbers"""
    for arguments in ((3, 2, 1), (2, 2, 1), (3, 1, 1)):
        pools_like_torch(notebook, *arguments)


@pytest.mark.points("2.2", 1)
def test_pooling_is_own(notebook):
    """MyMaxPool does without torch's max pooling"""
    with Operations() as operations:
        notebook.MyMaxPool(2, 2, 0)(torch.rand(1, 2, 6, 6))
    used = [name for name in operations.names if "max_pool" in name]
    assert not used, f"it calls {', '.join(used)}"


@pytest.mark.points("2.2", 1)
def test_pooling_gradient(notebook):
    """its gradient goes to the maxima"""
    x = torch.randperm(128, generator=torch.Generator().manual_seed(2)).float().reshape(2, 1, 8, 8).requires_grad_()
    gradients = [torch.autograd.grad(pool(x).sum(), x)[0] for pool in (notebook.MyMaxPool(3, 2, 0), nn.MaxPool2d(3, 2, 0))]
    assert torch.allclose(*gradients), "another gradient"


def leaves(model):
    return [layer for layer in model.modules() if not list(layer.children())]


def is_allowed(layer, pool):
    """Convolution, linear, pooling; an activation or another step without weights and statistics counts as no layer."""
    if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear, pool)):
        return True
    return not layer.state_dict() and not isinstance(layer, (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase))


@pytest.mark.points("2.2", 2)
def test_layer_rule(notebook):
    """MyCNNModel has convolutional, linear and pooling layers only"""
    model = notebook.MyCNNModel(n_classes=10)
    wrong = {type(layer).__name__ for layer in leaves(model) if not is_allowed(layer, notebook.MyMaxPool)}
    with Operations() as operations:
        model(torch.rand(4, 3, 64, 64))
    wrong |= {name for name in operations.names if NORMALISATION.search(name)}
    assert not wrong, f"it has {', '.join(sorted(wrong))}"


@pytest.mark.points("2.2", 1)
def test_convolutions(notebook):
    """it has at least three convolutions with at least two kernel sizes"""
    sizes = [layer.kernel_size for layer in leaves(notebook.MyCNNModel(n_classes=10)) if isinstance(layer, nn.Conv2d)]
    assert len(sizes) >= 3 and len(set(sizes)) >= 2, f"{len(sizes)} convolutions with {len(set(sizes))} kernel sizes"


@pytest.mark.points("2.2", 1)
def test_pooling_is_used(notebook, monkeypatch):
    """a picture passes through MyMaxPool at least once"""
    calls, forward = [], notebook.MyMaxPool.forward
    monkeypatch.setattr(notebook.MyMaxPool, "forward", lambda self, x: calls.append(1) or forward(self, x))
    notebook.MyCNNModel(n_classes=10)(torch.rand(2, 3, 64, 64))
    assert calls, "MyMaxPool is not used"


@pytest.mark.points("2.2", 2)
def test_output_size(notebook):
    """it gives one score for each of n_classes"""
    for n_classes in (10, 3, 17):
        shape = tuple(notebook.MyCNNModel(n_classes=n_classes)(torch.rand(2, 3, 64, 64)).shape)
        assert shape == (2, n_classes), f"shape {shape} for n_classes = {n_classes}"


class AlwaysClass0(nn.Module):
    """Gives the same scores to every picture, and cannot learn; notes how it was called."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.zeros(4)), []

    def forward(self, x):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return 0 * self.weight + torch.tensor([2.0, 0, 0, 0]).expand(len(x), 4)


def labelled(*labels):
    return TensorDataset(torch.rand(len(labels), 3, 8, 8), torch.tensor(labels))


def is_share(value, share):
    return any(math.isclose(value, share * scale, rel_tol=1e-4) for scale in (1, 100))  # a share, or in per cent


@pytest.mark.points("2.2", 2)
def test_training_averages(notebook):
    """Trainer.train returns true averages of loss and accuracy, one value for each iteration"""
    means = notebook.Trainer(AlwaysClass0(), settings(epochs=2)).train(labelled(*[0] * 48))
    losses, accuracies = ([float(value) for value in values] for values in means)
    assert len(losses) == len(accuracies) == 6, f"{len(losses)} values in place of 6"
    assert max(losses) - min(losses) < 1e-4, f"a constant loss of {losses[0]:.2f} becomes {max(losses):.2f}"
    assert all(is_share(value, 1) for value in accuracies), f"an accuracy of 1 becomes {max(accuracies):.2f}"
    mixed = notebook.Trainer(AlwaysClass0(), settings()).train(labelled(*[0] * 36 + [1] * 12))[1][-1]
    assert is_share(float(mixed), 0.75), f"an accuracy of 0.75 becomes {float(mixed):.2f}"


# Task 3

@pytest.fixture
def search(notebook, rotated):
    """A function that runs grid_search on two rates and two sizes; returns its result."""
    def run():
        grid_search = notebook.grid_search  # if it is missing, that is the reason to give
        train_data, _ = random_split(rotated(40)[0], [0.8, 0.2])
        return grid_search(train_data, settings(), learning_rates=[1e-3, 1e-2], batch_sizes=[8, 16])
    return run


def value_of(cfg, name):
    return cfg[name] if isinstance(cfg, dict) else getattr(cfg, name)


@pytest.mark.points("2.3", 3)
def test_grid_search(notebook, search):
    """grid_search returns a MyCNNModel, its settings from the grid, and its finite losses and accuracies"""
    model, cfg, losses, accuracies = search()
    assert isinstance(model, notebook.MyCNNModel), f"the model is a {type(model).__name__}"
    pair = value_of(cfg, "learning_rate"), value_of(cfg, "batch_size")
    assert pair[0] in (1e-3, 1e-2) and pair[1] in (8, 16), f"settings {pair} are not from the grid"
    values = np.concatenate([np.ravel(losses), np.ravel(accuracies)]).astype(float)
    assert len(values) and np.isfinite(values).all(), "no finite losses and accuracies"


@pytest.mark.points("2.3", 2)
def test_every_pair(notebook, search):
    """every pair of learning rate and batch size is trained once"""
    seen, original = [], notebook.Trainer

    class Seen(original):
        def __init__(self, model, cfg, *args, **kwargs):
            seen.append((value_of(cfg, "learning_rate"), value_of(cfg, "batch_size")))
            super().__init__(model, cfg, *args, **kwargs)
    notebook.space["Trainer"] = Seen
    search()
    missing = {(rate, size) for rate in (1e-3, 1e-2) for size in (8, 16)} - set(seen)
    assert not missing, f"not tried: {sorted(missing)}"


# Tasks 4 and 5

@pytest.mark.points("2.4", 2)
def test_pretrained_weights(notebook):
    """a cell loads a network by name with pretrained weights"""
    trees = [tree for _, tree in cells(notebook.path) if isinstance(tree, ast.AST)]
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if given.get("pretrained") == "True" or re.search("weights|default|imagenet", given.get("weights", ""), re.IGNORECASE):
            return
    pytest.fail("no call with weights=... or pretrained=True", pytrace=False)


@pytest.mark.points("2.5", 1)
def test_accuracy_counts_every_picture(notebook):
    """the last accuracy of Trainer.test is that of all pictures, not of a batch"""
    result = notebook.Trainer(AlwaysClass0(), settings()).test(labelled(*[0] * 30 + [1] * 10))[1][-1]
    assert is_share(float(result), 0.75), f"an accuracy of 0.75 becomes {float(result):.2f}"


@pytest.mark.points("2.5", 1)
def test_testing_does_not_train(notebook):
    """Trainer.test runs the model in eval mode and without gradients"""
    model = AlwaysClass0()
    notebook.Trainer(model, settings()).test(labelled(*[0] * 20))
    assert set(model.calls) == {(False, False)}, f"(training mode, gradients) are {sorted(set(model.calls))}"
