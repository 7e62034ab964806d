"""The course's template as a contract, for this repository's notebook or `--notebook FILE`.

Points are those that a program can give. `ours` asks for more than the template does. A `fault` of
the template itself costs another notebook nothing: it is named "course template".
"""

import ast
import inspect
import re

import numpy as np
import pytest
import torch
from sklearn.utils import Bunch
from torch import nn
from torch.autograd.profiler import profile
from torch.utils.data import TensorDataset, random_split

from tests.helpers import FOREIGN, TinyData, to_tensor
from tools.definitions import codes, parse

points = pytest.mark.points
ours = pytest.mark.skipif(FOREIGN, reason="the template does not ask for it")
CFG = {"batch_size": 64, "criterion": "CrossEntropyLoss", "epochs": 1}
CFG |= {"learning_rate": 0.001, "optimizer": "Adam", "seed": 42}
SHARES = [0.5, 0.25, 0.25]  # adds up to 1 in every version of Python
ANGLES, RATES, SIZES = (90, 180, 270, 360), [1e-3, 1e-2], [8, 16]


def fault(text):
    reason, kinds = f"course template, costs nothing: {text}", (AssertionError, ValueError)
    return pytest.mark.xfail(FOREIGN, reason=reason, raises=kinds)


def with_one_of(kinds, check):
    """check(kind) for the first kind of image with which it holds: one of them is enough."""
    errors = []
    for kind in kinds:
        try:
            return check(kind)
        except Exception as error:
            errors.append(error)
    raise min(errors, key=lambda error: not isinstance(error, AssertionError))


def as_rows(image):
    """An image of any kind as a tensor (3, H, W), so that products of two are correlations."""
    assert image is not None, "None in place of an image"
    image = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.array(image))
    image = image.float() if len(image) == 3 else image.float().movedim(-1, 0)
    return nn.functional.normalize(image - image.mean((1, 2), keepdim=True), dim=(1, 2)) / 3**0.5


@points("1", 2)
def test_rotate_picture_turns_always_the_same_way_round(notebook):
    def check(image):
        turned = {angle: as_rows(notebook.rotate_picture(image, angle)) for angle in ANGLES}
        wrong = []
        for way in (1, -1):
            right = {angle: as_rows(image).rot90(way * angle // 90, (1, 2)) for angle in ANGLES}
            close = {k: torch.allclose(turned[k], right[k], atol=0.01) for k in ANGLES}
            wrong.append([str(angle) for angle in ANGLES if not close[angle]])
        assert [] in wrong, f"wrong for {' and '.join(min(wrong, key=len))} degrees"

    image = TinyData()[3][0]
    with_one_of((image, to_tensor(image), np.asarray(image)), check)


@points("1", 2)
def test_plot_histogram_has_a_bar_for_each_class_of_its_data(notebook):
    data = TinyData()
    fig, ax = notebook.plot_histogram(data)
    fig.canvas.draw()
    heights = np.array([bar.get_height() for bar in ax.patches if bar.get_height()])
    expected = np.bincount(data.targets) / len(data)
    same = len(heights) == 3 and np.allclose(heights / heights.sum(), expected)
    assert same, f"bars of {heights.tolist()} for shares of {expected.tolist()}"
    ticks = [tick.get_text().replace(" ", "") for tick in ax.get_xticklabels()]
    missing = {f"{name}:{label}" for label, name in enumerate(data.classes)} - set(ticks)
    assert not missing, f"no bar is named {min(missing)}, but {', '.join(ticks[:3])}"


def rotate(notebook, length=16, shares=SHARES, seed=42, sizes=(9, 6, 5)):
    """A RotateEuroSAT of PIL images or, where it takes none, of tensors: data, images, labels."""

    def check(data):
        made = notebook.RotateEuroSAT(data, length, shares, seed=seed)
        assert len(made) == length, f"its length is {len(made)} in place of {length}"
        images, labels = zip(*(made[index] for index in range(length)), strict=True)
        return data, torch.stack([*map(as_rows, images)]), torch.tensor([*map(int, labels)])

    return with_one_of((TinyData(sizes), TinyData(sizes, to_tensor)), check)


def sources(images):
    """Index in TinyData and quarter turns of each rotated image; fails where there is none."""
    originals = torch.stack([as_rows(image) for image, _ in TinyData()])
    turned = torch.cat([originals.rot90(turn, (2, 3)) for turn in range(4)]).flatten(1)
    best, place = (images.flatten(1) @ turned.T).max(1)
    assert best.min() > 0.98, f"{(best <= 0.98).sum()} of {len(best)} are no rotated originals"
    return place % len(originals), place // len(originals)


@points("1", 2)
def test_rotated_items_are_originals_with_their_labels_in_the_shares_asked_for(notebook):
    _, images, labels = rotate(notebook)
    counts, (source, turn) = torch.bincount(labels).tolist(), sources(images)
    assert counts == [8, 4, 4], f"{counts} images of the classes in place of [8, 4, 4]"
    assert torch.equal(torch.tensor(TinyData().targets)[source], labels), "other labels"
    assert len(turn.unique()) > 1, "no image is turned"


@points("1", 1)
def test_the_same_seed_gives_the_same_images(notebook):
    one, two, other = (rotate(notebook, seed=seed)[1] for seed in (7, 7, 8))
    assert torch.equal(one, two), "the same seed gives other images"
    assert not torch.equal(one, other), "another seed gives the same images"


@points("1", 1)
def test_rotated_data_answers_the_call_of_the_template(notebook):
    data = rotate(notebook)[0]
    shares = [1 / len(data.classes) for _ in data.classes]
    rotated = notebook.RotateEuroSAT(data, length=12, shares=shares, seed=42)
    for name in ("original_data", "length", "shares", "seed", "device", "dataset"):
        assert hasattr(rotated, name), f"no attribute {name}"
    X, _ = random_split(rotated, [0.8, 0.2])[0][0]
    assert X[None, :].shape == (1, 3, 64, 64), f"an item has the shape {tuple(X.shape)}"


@fault("sum(shares) == 1 fails on ten times 0.1 in Python up to 3.11")
def test_ten_tenths(notebook):
    rotate(notebook, 20, [0.1] * 10, sizes=[3] * 10)


@fault("a random split after drawing puts copies of one image on both sides")
def test_no_image_twice(notebook):
    assert len(sources(rotate(notebook)[1])[0].unique()) == 16


def pools_like_torch(pool, *arguments):
    values = -torch.randperm(486, generator=torch.Generator().manual_seed(4)).float()
    x = values.reshape(2, 3, 9, 9).requires_grad_()
    found, expected = pool(x), nn.functional.max_pool2d(x, *arguments)
    wrong = f"for kernel, stride, padding = {arguments}"
    assert found.shape == expected.shape, f"shape {tuple(found.shape)} {wrong}"
    assert torch.equal(found, expected), f"other values {wrong}"
    gradients = [torch.autograd.grad(out.sum(), x)[0] for out in (found, expected)]
    assert torch.allclose(*gradients), f"another gradient {wrong}"


@points("2", 3)
def test_pooling_without_padding_equals_torch(notebook):
    pools_like_torch(notebook.MyMaxPool(2), 2, 1)
    for arguments in ((2, 2), (3, 1), (3, 2), (2, 3)):
        pools_like_torch(notebook.MyMaxPool(*arguments), *arguments)


@points("2", 1)
def test_pooling_with_padding_equals_torch(notebook):
    for k, s, p in ((3, 2, 1), (2, 2, 1), (3, 1, 1)):
        pools_like_torch(notebook.MyMaxPool(kernel_size=k, stride=s, padding=p), k, s, p)


def operations(module, x, shape):
    """Names of the operations that torch carries out, whichever way they are called."""
    with profile() as found:
        assert module(x).shape == shape, "its output has another shape"
    return {event.name.removeprefix("aten::") for event in found.function_events}


@points("2", 1)
def test_pooling_is_own(notebook):
    found = operations(notebook.MyMaxPool(2, 2), torch.rand(1, 2, 6, 6), (1, 2, 3, 3))
    used = [name for name in found if "max_pool" in name]
    assert not used, f"it calls torch's {min(used)}"


def network(notebook, n_classes=3):
    """A MyCNNModel that has seen a batch, so that lazy layers know their sizes; its leaves."""
    model = notebook.MyCNNModel(n_classes)
    shape = tuple(model(torch.rand(2, 3, 64, 64)).shape)
    assert shape == (2, n_classes), f"its output has the shape {shape} for {n_classes} classes"
    return model, [layer for layer in model.modules() if not list(layer.children())]


@points("2", 1)
def test_model_gives_one_score_for_each_class(notebook):
    for n_classes in (10, 3, 17):
        network(notebook, n_classes)


@points("2", 1)
def test_one_iteration_as_the_template_calls_it(notebook):
    X = to_tensor(TinyData()[0][0])
    assert notebook.MyCNNModel(n_classes=3)(X[None, :]).shape == (1, 3), "another shape"


@points("2", 2)
def test_model_has_convolutional_linear_and_pooling_layers_only(notebook):
    model, leaves = network(notebook)
    found = operations(model, torch.rand(4, 3, 64, 64), (4, 3))
    wrong = {name for name in found if re.fullmatch("(batch|layer|group)_norm|.*dropout", name)}
    allowed = nn.modules.conv._ConvNd, nn.Linear, notebook.MyMaxPool
    other = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase
    for layer in leaves:  # an activation, or another step without weights, counts as no layer
        if not isinstance(layer, allowed) and (layer.state_dict() or isinstance(layer, other)):
            wrong.add(type(layer).__name__)
    assert not wrong, f"it has {', '.join(sorted(wrong))}"


@points("2", 1)
def test_model_has_three_convolutions_of_two_kernel_sizes(notebook):
    sizes = [layer.kernel_size for layer in network(notebook)[1] if isinstance(layer, nn.Conv2d)]
    found = f"{len(sizes)} convolutions, {len(set(sizes))} kernel sizes"
    assert len(sizes) >= 3 and len(set(sizes)) >= 2, found


@points("2", 1)
def test_an_image_passes_through_the_own_pooling(notebook):
    seen = []
    with nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: seen.append(type(module))
    ):
        network(notebook)
    assert notebook.MyMaxPool in seen, "MyMaxPool is not used"


def linear():
    """A small model that gives class 0 the highest score, whatever the image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([2.0, 0, 0, 0])
    return model


def labelled(*labels):
    images = torch.rand(len(labels), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return TensorDataset(images, torch.tensor(labels))


@points("2", 1)
def test_trainer_takes_the_dictionary_of_the_template(notebook):
    model, _ = network(notebook)
    before, dataset = [*map(torch.clone, model.parameters())], labelled(*[0, 1, 2, 2] * 2)
    losses, accuracies = notebook.Trainer(model, dict(CFG)).train(dataset)
    assert len(losses) == len(accuracies) == 1, f"{len(losses)} values for one iteration"
    assert np.isfinite(losses[0]), f"the loss is {losses[0]}"
    assert not all(map(torch.equal, before, model.parameters())), "no weight changes"


@fault("averages divide by the number of earlier entries")
def test_averages(notebook):
    cfg = CFG | {"epochs": 2, "batch_size": 16, "learning_rate": 1e-12}
    trainer = notebook.Trainer(linear(), cfg)
    losses, accuracies = trainer.train(labelled(*[0] * 48))
    expected = [float(losses[0])] * 6 + [1] * 6
    assert [*map(float, losses + accuracies)] == pytest.approx(expected, abs=1e-3)
    assert float(trainer.test(labelled(*[0] * 30, *[1] * 10))[1][-1]) == pytest.approx(0.75)


@fault("test runs with gradients, and shuffles")
def test_testing(notebook):
    model, dataset, seen = linear(), labelled(*[0] * 20), []
    hook = model[1].register_forward_pre_hook
    hook(lambda layer, x: seen.append((layer.training, torch.is_grad_enabled(), *x)))
    notebook.Trainer(model, CFG | {"batch_size": 8}).test(dataset)
    training, gradients, images = zip(*seen, strict=True)
    assert not any(training + gradients)
    assert torch.allclose(torch.cat(images), dataset.tensors[0].flatten(1))


@fault("torch.manual_seed inside train sets the global generator")
def test_random_state(notebook):
    trainer, before = notebook.Trainer(linear(), dict(CFG)), torch.get_rng_state()
    trainer.train(labelled(0, 1, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def search(notebook, *grid, **named_grid):
    """What grid_search returns; its cfg is read as cfg["epochs"] and as cfg.epochs."""
    own = notebook.space.get("cfg")  # with keys that only the notebook's own Trainer may ask for
    cfg = Bunch(**CFG | (own if isinstance(own, dict) else {}) | {"epochs": 1})
    train_data, _ = random_split(labelled(*[0, 1, 2] * 8), [20, 4])
    return notebook.grid_search(train_data, cfg, *grid, **named_grid)


@points("3", 2)
def test_grid_search_returns_a_model_and_its_cfg(notebook):
    model, cfg, _, _ = search(notebook, learning_rates=RATES, batch_sizes=SIZES)
    assert isinstance(model, notebook.MyCNNModel), f"the model is a {type(model).__name__}"
    assert cfg["learning_rate"] in RATES and cfg["batch_size"] in SIZES, f"not of the grid: {cfg}"


@points("3", 1)
def test_line_of_the_template_prints_loss_and_accuracy(notebook):
    _, _, best_avg_loss, best_avg_acc = search(notebook, RATES, SIZES)
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
def test_grid_search_tries_every_pair(notebook, scripted):
    search(notebook, RATES, SIZES)
    missing = {(rate, size) for rate in RATES for size in SIZES} - set(scripted)
    assert not missing, f"not tried: {sorted(missing)}"


@points("3", 1)
def test_grid_search_returns_the_best_pair(notebook, scripted):
    if not hasattr(notebook.Trainer.__base__, "train"):
        pytest.skip("Trainer has no method train")
    cfg = search(notebook, RATES, SIZES)[1]
    pair = cfg["learning_rate"], cfg["batch_size"]
    assert pair == (1e-3, 16), f"{pair}, though (0.001, 16) has the better results"


@fault("the line that prints the result of the search ends in a full stop")
def test_cell_of_the_search(notebook):
    assert not [problem for problem in notebook.problems if "Best model achieves" in problem]


@points("4", 2)
def test_a_cell_loads_a_network_with_pretrained_weights(notebook):
    nodes = [part for code in codes(notebook.path) for n in parse(code)[0] for part in ast.walk(n)]
    words = [word for node in nodes if isinstance(node, ast.Call) for word in node.keywords]
    given = [f"{word.arg}={ast.unparse(word.value)}" for word in words]
    found = [text for text in given if re.match("pretrained=True|weights=(?!None)", text)]
    assert found, "no call with weights=... or pretrained=True"


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
