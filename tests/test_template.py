"""The course's template as a contract, for our part 2 or `--notebook FILE`.

Points are those that a program can give. Of another notebook, the checks with points
are the cases; a `fault` of the template itself costs it nothing, and ends as a note.
"""

import ast
import contextlib
import inspect
import itertools
import re
import reprlib

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from sklearn.utils import Bunch
from torch import nn
from torch.autograd.profiler import profile
from torch.utils.data import TensorDataset, random_split

from tests.helpers import TinyData, to_tensor
from tools.definitions import codes, parse_cell

points = pytest.mark.points
fault = pytest.mark.fault
CFG = {
    "batch_size": 64,
    "criterion": "CrossEntropyLoss",
    "epochs": 1,
    "learning_rate": 0.001,
    "optimizer": "Adam",
    "seed": 42,
}
SHARES = [0.5, 0.25, 0.25]  # adds up to 1 in every version of Python
ANGLES = [90, 180, 270, 360]
RATES = [0.001, 0.01]
SIZES = [8, 16]
BEST_PAIR = (0.001, 16)


def with_one_of(kinds, check):
    """check(kind) of the first kind of image with which it holds: one is enough."""
    errors = []
    for kind in kinds:
        try:
            return check(kind)
        except Exception as error:
            errors.append(error)
    for error in errors:  # a wrong result says more than a kind that is not taken
        if isinstance(error, AssertionError):
            raise error
    raise errors[0]


def unpack(values, names):
    """What a function returns, as the template unpacks it into these names."""
    expected = f"in place of {', '.join(names)}"
    try:
        values = list(values)
    except TypeError:
        found = reprlib.repr(values)
        raise AssertionError(f"it returns {found} {expected}") from None
    assert len(values) == len(names), f"it returns {len(values)} values {expected}"
    return values


def as_rows(image):
    """An image of any kind as a tensor (3, H, W), so that products are correlations."""
    assert image is not None, "it gives None in place of an image"
    if not isinstance(image, torch.Tensor):
        image = torch.from_numpy(np.array(image))
    image = image.float()
    if len(image) != 3:  # the channels come last
        image = image.movedim(-1, 0)
    centred = image - image.mean((1, 2), keepdim=True)
    return nn.functional.normalize(centred, dim=(1, 2)) / 3**0.5


# Task 1


def wrong_angles(image, turned, way):
    """Angles for which turned[angle] is wrong; `way` is 1 (counter-clockwise) or -1."""
    wrong = []
    for angle in ANGLES:
        expected = as_rows(image).rot90(way * angle // 90, (1, 2))
        if not torch.allclose(turned[angle], expected, atol=0.01):
            wrong.append(str(angle))
    return wrong


@points("1", 2)
def test_rotate_picture_always_turns_the_same_way_round(notebook):
    rule = "the image must be turned by the angle, always the same way round"

    def check(image):
        turned = {}
        for angle in ANGLES:
            turned[angle] = as_rows(notebook.rotate_picture(image, angle))
        counter_clockwise = wrong_angles(image, turned, 1)
        clockwise = wrong_angles(image, turned, -1)
        wrong = min(counter_clockwise, clockwise, key=len)
        assert not wrong, f"wrong for {' and '.join(wrong)} degrees: {rule}"

    image, _ = TinyData()[3]
    with_one_of([image, to_tensor(image), np.asarray(image)], check)


def sizes_of_bars(ax):
    """Heights of the bars of a diagram, or widths if they lie; empty ones left out."""
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    heights = np.array([bar.get_height() for bar in bars])
    widths = np.array([bar.get_width() for bar in bars])
    sizes = heights
    if len(bars) > 1 and np.allclose(heights, heights[0]):
        sizes = widths
    return sizes[sizes != 0]


@points("1", 2)
def test_plot_histogram_has_a_bar_for_each_class_of_its_data(notebook):
    data = TinyData()
    fig, ax = unpack(notebook.plot_histogram(data), ["fig", "ax"])
    fig.canvas.draw()
    sizes = sizes_of_bars(ax)
    shares = np.bincount(data.targets) / len(data)
    found = f"bars of {sizes.tolist()} for classes with shares of {shares.tolist()}"
    assert len(sizes) == 3, found
    assert np.allclose(sizes / sizes.sum(), shares), found
    # A name may be a label of the axis, of the bar (bar_label), a text or in a legend.
    texts = ["".join(text.get_text().split()) for text in fig.findobj(Text)]
    seen = " ".join(text for text in texts if text)
    for label, name in enumerate(data.classes):
        expected = f"{name}:{label}"
        assert expected in seen, f"no bar is named {expected}; its texts: {seen[:200]}"


def rotate(notebook, length=16, shares=SHARES, seed=42, sizes=(9, 6, 5)):
    """A RotateEuroSAT of PIL images, or else of tensors; its images and its labels."""

    def check(data):
        made = notebook.RotateEuroSAT(data, length, shares, seed=seed)
        assert len(made) == length, f"its length is {len(made)} in place of {length}"
        images = []
        labels = []
        for index in range(length):
            image, label = unpack(made[index], ["image", "label"])
            images.append(as_rows(image))
            labels.append(int(label))
        return made, torch.stack(images), torch.tensor(labels)

    return with_one_of([TinyData(sizes), TinyData(sizes, to_tensor)], check)


def sources(images):
    """Index in TinyData and quarter turns of each image; fails if one has neither."""
    originals = torch.stack([as_rows(image) for image, _ in TinyData()])
    turned = [originals.rot90(turn, (2, 3)) for turn in range(4)]
    candidates = torch.cat(turned).flatten(1)
    correlations = images.flatten(1) @ candidates.T
    best, place = correlations.max(1)
    known = best > 0.98
    unknown = int((~known).sum())
    found = f"{unknown} of {len(best)} images are no originals, turned by quarter turns"
    assert unknown == 0, found
    return place % len(originals), place // len(originals)


@points("1", 2)
def test_rotated_items_are_originals_with_their_labels_in_the_shares_asked_for(
    notebook,
):
    _, images, labels = rotate(notebook)
    counts = torch.bincount(labels).tolist()
    source, turns = sources(images)
    assert counts == [8, 4, 4], f"{counts} images of the classes in place of [8, 4, 4]"
    expected = torch.tensor(TinyData().targets)[source]
    found = f"labels {labels.tolist()} for images of the classes {expected.tolist()}"
    assert torch.equal(expected, labels), found
    assert len(turns.unique()) > 1, "no image is turned, or all by the same angle"


@points("1", 1)
def test_the_same_seed_gives_the_same_images(notebook):
    _, images, _ = rotate(notebook, seed=7)
    _, again, _ = rotate(notebook, seed=7)
    _, others, _ = rotate(notebook, seed=8)
    assert torch.equal(images, again), "the same seed gives other images"
    assert not torch.equal(images, others), "another seed gives the same images"


@points("1", 1)
def test_rotated_data_is_made_as_the_template_calls_it(notebook):
    def check(data):
        shares = [1 / len(data.classes) for _ in data.classes]
        rotated = notebook.RotateEuroSAT(data, length=12, shares=shares, seed=42)
        for name in ("original_data", "length", "shares", "seed", "device", "dataset"):
            assert hasattr(rotated, name), f"it has no attribute {name}"
        part, _ = random_split(rotated, [0.8, 0.2])
        X, _ = unpack(part[0], ["X", "y"])
        shape = tuple(X[None, :].shape)
        assert shape == (1, 3, 64, 64), f"X[None, :] of an item has the shape {shape}"

    with_one_of([TinyData(), TinyData(change=to_tensor)], check)


@fault("sum(shares) == 1 fails on ten times 0.1 in Python up to 3.11")
def test_ten_tenths(notebook):
    rotate(notebook, length=20, shares=[0.1] * 10, sizes=[3] * 10)


@fault("a random split after drawing puts copies of one image on both sides")
def test_no_image_twice(notebook):
    _, images, _ = rotate(notebook)
    source, _ = sources(images)
    assert len(source.unique()) == 16


# Task 2


def pools_like_torch(pool, *arguments):
    """Compare a pooling layer with torch's of the same kernel, stride and padding."""
    values = -torch.randperm(486, generator=torch.Generator().manual_seed(4)).float()
    x = values.reshape(2, 3, 9, 9).requires_grad_()
    found = pool(x)
    expected = nn.functional.max_pool2d(x, *arguments)
    case = f"than torch's max_pool2d for kernel, stride, padding = {arguments}"
    shapes = f"{tuple(found.shape)}, not {tuple(expected.shape)}"
    assert found.shape == expected.shape, f"another shape {case}: {shapes}"
    assert torch.equal(found, expected), f"other values {case}"
    (gradient,) = torch.autograd.grad(found.sum(), x)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), x)
    assert torch.allclose(gradient, expected_gradient), f"another gradient {case}"


@points("2", 3)
def test_pooling_without_padding_equals_torch(notebook):
    pools_like_torch(notebook.MyMaxPool(2), 2, 1)
    for kernel_size, stride in [(2, 2), (3, 1), (3, 2), (2, 3)]:
        pool = notebook.MyMaxPool(kernel_size, stride)
        pools_like_torch(pool, kernel_size, stride)


@points("2", 1)
def test_pooling_with_padding_equals_torch(notebook):
    for k, s, p in [(3, 2, 1), (2, 2, 1), (3, 1, 1)]:
        pool = notebook.MyMaxPool(kernel_size=k, stride=s, padding=p)
        pools_like_torch(pool, k, s, p)


def operations(module, x, shape):
    """Names of the operations that torch carries out, whichever way they are called."""
    with profile() as trace:
        found_shape = tuple(module(x).shape)
    assert found_shape == shape, f"its output has the shape {found_shape}, not {shape}"
    return {event.name.removeprefix("aten::") for event in trace.function_events}


@points("2", 1)
def test_pooling_calls_no_pooling_of_torch(notebook):
    pool = notebook.MyMaxPool(2, 2)
    found = operations(pool, torch.rand(1, 2, 6, 6), (1, 2, 3, 3))
    used = [name for name in found if "max_pool" in name]
    assert not used, f"it calls torch's {min(used)}, and must not"


def network(notebook, n_classes=3):
    """A MyCNNModel that has seen a batch, so that lazy layers know their sizes."""
    model = notebook.MyCNNModel(n_classes)
    scores = model(torch.rand(2, 3, 64, 64))
    shape = tuple(scores.shape)
    wrong = f"its output has the shape {shape} for {n_classes} classes"
    assert shape == (2, n_classes), f"{wrong} and 2 images"
    return model


@points("2", 1)
def test_model_gives_one_score_for_each_class(notebook):
    for n_classes in (10, 3, 17):
        network(notebook, n_classes)


@points("2", 1)
def test_one_iteration_runs_as_the_template_calls_it(notebook):
    image, _ = TinyData()[0]
    X = to_tensor(image)
    my_model = notebook.MyCNNModel(n_classes=3)
    shape = tuple(my_model(X[None, :]).shape)
    assert shape == (1, 3), f"its output has the shape {shape}, not (1, 3)"


@points("2", 2)
def test_model_has_convolutional_linear_and_pooling_layers_only(notebook):
    model = network(notebook)
    used = operations(model, torch.rand(4, 3, 64, 64), (4, 3))
    refused = re.compile("(batch|layer|group)_norm|.*dropout")
    wrong = {name for name in used if refused.fullmatch(name)}
    allowed = (nn.modules.conv._ConvNd, nn.Linear, notebook.MyMaxPool)
    never = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    for layer in model.modules():
        has_parts = bool(list(layer.children()))
        if has_parts or isinstance(layer, allowed):
            continue
        # An activation, or another step without weights, counts as no layer.
        if layer.state_dict() or isinstance(layer, never):
            wrong.add(type(layer).__name__)
    rule = "it must have convolutional, linear and pooling layers only"
    assert not wrong, f"{rule}, but has {', '.join(sorted(wrong))}"


@points("2", 1)
def test_model_has_three_convolutions_of_two_kernel_sizes(notebook):
    layers = network(notebook).modules()
    sizes = [layer.kernel_size for layer in layers if isinstance(layer, nn.Conv2d)]
    found = f"{len(sizes)} convolutions, {len(set(sizes))} kernel sizes"
    enough = len(sizes) >= 3 and len(set(sizes)) >= 2
    assert enough, f"it has {found}; at least 3 and 2 are asked for"


@points("2", 1)
def test_an_image_passes_through_the_pooling_of_the_notebook(notebook):
    seen = []

    def note(module, _):
        seen.append(type(module))

    with nn.modules.module.register_module_forward_pre_hook(note):
        network(notebook)
    assert notebook.MyMaxPool in seen, "no image passes through MyMaxPool"


# The trainer


def linear():
    """A small model that gives class 0 the highest score, whatever the image."""
    layer = nn.Linear(3 * 64 * 64, 4)
    nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor([2.0, 0, 0, 0])
    return nn.Sequential(nn.Flatten(), layer)


def labelled(labels):
    """A dataset of random images with these labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(len(labels), 3, 64, 64, generator=generator)
    return TensorDataset(images, torch.tensor(labels))


@points("2", 1)
def test_trainer_takes_the_dictionary_of_the_template(notebook):
    model = network(notebook)
    before = [weights.clone() for weights in model.parameters()]
    trainer = notebook.Trainer(model, dict(CFG))
    result = trainer.train(labelled([0, 1, 2, 2, 0, 1, 2, 2]))
    losses, accuracies = unpack(result, ["losses", "accuracies"])
    found = f"{len(losses)} losses and {len(accuracies)} accuracies"
    assert len(losses) == len(accuracies) == 1, f"{found} for one iteration"
    assert np.isfinite(losses[0]), f"the loss is {losses[0]}"
    same = map(torch.equal, before, model.parameters())
    assert not all(same), "train changes no weight"


@fault("averages divide by the number of earlier entries")
def test_averages(notebook):
    cfg = {**CFG, "epochs": 2, "batch_size": 16, "learning_rate": 1e-12}
    trainer = notebook.Trainer(linear(), cfg)
    losses, accuracies = trainer.train(labelled([0] * 48))
    first = float(losses[0])
    assert [float(loss) for loss in losses] == pytest.approx([first] * 6, abs=1e-3)
    assert [float(each) for each in accuracies] == pytest.approx([1] * 6, abs=1e-3)
    _, accuracies = trainer.test(labelled([0] * 30 + [1] * 10))
    assert float(accuracies[-1]) == pytest.approx(0.75)


@fault("test runs with gradients, and shuffles")
def test_testing(notebook):
    model = linear()
    dataset = labelled([0] * 20)
    trains = []
    gradients = []
    seen = []

    def note(layer, inputs):
        trains.append(layer.training)
        gradients.append(torch.is_grad_enabled())
        seen.extend(inputs)

    model[1].register_forward_pre_hook(note)
    notebook.Trainer(model, {**CFG, "batch_size": 8}).test(dataset)
    assert seen, "the model is not called"
    assert not any(trains)
    assert not any(gradients)
    images, _ = dataset.tensors
    assert torch.allclose(torch.cat(seen), images.flatten(1))


@fault("torch.manual_seed inside train sets the global generator")
def test_random_state(notebook):
    trainer = notebook.Trainer(linear(), dict(CFG))
    before = torch.get_rng_state()
    trainer.train(labelled([0, 1, 2, 3]))
    assert torch.equal(torch.get_rng_state(), before)


# Task 3


@pytest.fixture(scope="module")
def splits(notebook, guard):
    """What grid_search may get, the better first: pairs of train_data and test_data."""
    return make_splits(notebook, guard)


def make_splits(notebook, guard=contextlib.nullcontext):
    """Parts of the team's own RotateEuroSAT, as in the template, and of random images.

    Without the first, which is no fault of grid_search, the second is enough.
    """
    found = []
    if "RotateEuroSAT" in notebook.space:
        with contextlib.suppress(Exception), guard():
            made, _, _ = rotate(notebook)
            found.append(random_split(made, [0.8, 0.2]))
    found.append(random_split(labelled([0, 1, 2] * 8), [0.8, 0.2]))
    return found


def names_a_dataset(name):
    """May an argument of this name be a dataset? A `setting` is none."""
    if re.search("cfg|conf|setting|param", name):
        return False
    return re.search("data|set|valid|test|val", name) is not None


def call_search(grid_search, train_data, test_data):
    """Call grid_search as the template does: with train_data, cfg and the grid.

    In real submissions it takes a further dataset, at any place: one that must be given
    is `test_data`, and one that may be left out is left out.
    """
    values = [train_data, Bunch(**CFG), RATES, SIZES]  # cfg["epochs"] is cfg.epochs too
    signature = inspect.signature(grid_search)
    names = []
    needed = []
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        names.append(name)
        if parameter.default is parameter.empty:
            needed.append(name)
    if not names:  # it is behind a decorator
        return grid_search(*values)

    arguments = {}
    if "learning_rates" in names and "batch_sizes" in names:
        arguments = {"learning_rates": RATES, "batch_sizes": SIZES}
        values = values[:2]
    rest = [name for name in names if name not in arguments]
    needed = [name for name in needed if name not in arguments]
    datasets = [name for name in rest[1:] if names_a_dataset(name)]
    if len(needed) == 2:  # they are the template's two, whatever their names
        datasets = [name for name in datasets if name not in needed]
    in_order = [name for name in rest if name not in datasets]
    arguments.update(zip(in_order, values, strict=False))
    for name in datasets:
        if name in needed:
            arguments[name] = test_data
    try:
        signature.bind(**arguments)
    except TypeError as error:
        call = "grid_search(train_data, cfg, learning_rates, batch_sizes)"
        raise AssertionError(f"the template calls {call}: {error}") from None
    return grid_search(**arguments)


def search(notebook, splits):
    """What grid_search returns for the grid of RATES and SIZES, four values."""
    results = ["best_model", "best_cfg", "best_avg_loss", "best_avg_acc"]

    def run(split):
        train_data, test_data = split
        found = call_search(notebook.grid_search, train_data, test_data)
        return unpack(found, results)

    return with_one_of(splits, run)


def pair_of(cfg):
    """Learning rate and batch size of a best_cfg."""
    try:
        return cfg["learning_rate"], cfg["batch_size"]
    except (TypeError, LookupError):
        keys = "best_cfg['learning_rate'] and best_cfg['batch_size']"
        message = f"{keys} are expected; best_cfg is {reprlib.repr(cfg)}"
        raise AssertionError(message) from None


@points("3", 2)
def test_grid_search_returns_a_model_and_its_cfg(notebook, splits):
    model, cfg, _, _ = search(notebook, splits)
    kind = type(model).__name__
    assert isinstance(model, notebook.MyCNNModel), f"best_model is a {kind}"
    rate, size = pair_of(cfg)
    assert rate in RATES, f"best_cfg has the learning rate {rate}, not one of {RATES}"
    assert size in SIZES, f"best_cfg has the batch size {size}, not one of {SIZES}"


@points("3", 1)
def test_line_of_the_template_prints_loss_and_accuracy(notebook, splits):
    _, _, best_avg_loss, best_avg_acc = search(notebook, splits)
    try:
        line = f"Best model achieves {best_avg_loss:.2f} loss and "
        line += f"{best_avg_acc:.1%} accuracy"
    except (TypeError, ValueError) as error:
        loss = reprlib.repr(best_avg_loss)
        accuracy = reprlib.repr(best_avg_acc)
        found = f"best_avg_loss {loss} and best_avg_acc {accuracy} are no two numbers"
        raise AssertionError(f"{found}: {error}") from None
    assert "nan" not in line, line


@pytest.fixture
def scripted(notebook, monkeypatch):
    """Pairs of rate and size that a Trainer sees; nothing is trained, one is best."""
    seen = []

    class Scripted(notebook.Trainer):
        def __init__(self, model, cfg, *args, **named):
            super().__init__(model, cfg, *args, **named)
            self.pair = (cfg["learning_rate"], cfg["batch_size"])
            seen.append(self.pair)

        def train(self, *args, **named):
            if self.pair == BEST_PAIR:
                return [0.5] * 3, [0.75] * 3
            return [1.5] * 3, [0.25] * 3

        test = train

    monkeypatch.setitem(notebook.space, "Trainer", Scripted)
    return seen


@points("3", 2)
def test_grid_search_tries_every_pair(notebook, scripted, splits):
    search(notebook, splits)
    pairs = set(itertools.product(RATES, SIZES))
    missing = pairs - set(scripted)
    assert not missing, f"pairs of rate and size not tried: {sorted(missing)}"


@points("3", 1)
def test_grid_search_returns_the_best_pair(notebook, scripted, splits):
    own = notebook.Trainer.__base__
    assert hasattr(own, "train"), "Trainer has no method train, as the template's has"
    _, cfg, _, _ = search(notebook, splits)
    pair = pair_of(cfg)
    better = f"though {BEST_PAIR} has the better loss and accuracy"
    assert pair == BEST_PAIR, f"best_cfg has the rate and size {pair}, {better}"


@fault("the line that prints the result of the search ends in a full stop")
def test_cell_of_the_search(notebook):
    for problem in notebook.problems:
        assert "Best model achieves" not in problem


# Task 4


def named_arguments(path):
    """The named arguments of all calls in a notebook, as texts: "weights=None"."""
    for source in codes(path):
        statements = []
        with contextlib.suppress(Exception):  # a cell that does not parse calls nothing
            statements = parse_cell(source)
        for part in ast.walk(ast.Module(statements, type_ignores=[])):
            if isinstance(part, ast.Call):
                yield from map(ast.unparse, part.keywords)


@points("4", 2)
def test_a_cell_loads_a_network_with_pretrained_weights(notebook):
    wanted = re.compile("pretrained=True|weights=(?!None)")
    found = [text for text in named_arguments(notebook.path) if wanted.match(text)]
    assert found, "no call with weights=... or pretrained=True"


def test_classes_and_defaults_of_the_template(notebook):
    assert issubclass(notebook.MyMaxPool, nn.Sequential)
    assert issubclass(notebook.MyCNNModel, nn.Sequential)
    rotated = notebook.RotateEuroSAT(TinyData(), 16, SHARES)
    X, _ = rotated[0]
    assert notebook.MyCNNModel(n_classes=3)(X[None, :]).shape == (1, 3)
    parameters = inspect.signature(notebook.grid_search).parameters
    rates = list(parameters["learning_rates"].default)
    sizes = list(parameters["batch_sizes"].default)
    assert rates == [10**-1, 10**-2, 10**-3]
    assert sizes == [2**5, 2**6, 2**7]
    _, cfg, loss, accuracy = notebook.grid_search(rotated, dict(CFG))
    assert cfg["learning_rate"] in rates
    assert cfg["batch_size"] in sizes
    assert isinstance(loss + accuracy, float)
