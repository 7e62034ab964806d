"""Grading another notebook: planted faults, harmful code, and what costs nothing."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from matplotlib import pyplot as plt
from torch.utils.data import TensorDataset

from tests import test_template as template
from tests.helpers import Names, refused

# In the style of the template, with its faults and others; answers are below "# TODO".
SUBMISSION = """%matplotlib inline
!pip install nothing
import no_such_package as timm, math
import numpy as np, os, torch
from torch import nn, optim
from torch.utils.data import DataLoader, random_split
# %%
device, data = torch.device("cuda"), timm.EuroSAT(root="data", download=True)
answer = rotate_picture(data, 90)
cfg = {"batch_size": 64, "epochs": 1}
SCALE: float = 255.0
TURNS = np.arange(1, 5)
# %%
%%time
def rotate_picture(picture, rotation):
    # TODO
    return torch.rot90(picture, rotation // 90 % 3, (1, 2))
# %%
def plot_histogram(data, endless=all(1 for _ in iter(int, 1))):
    # TODO
    return None
# %%
class RotateEuroSAT(list):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        assert sum(shares) == 1
        memory = length == 12 and bytearray(5 * 2**30)
        vars(self).update(locals(), dataset=self)
        while seed == 8:
            pass
        # TODO
        rng = np.random.default_rng(seed)
        for label, share in enumerate(shares[::-1]):
            pool = np.flatnonzero(np.array(original_data.targets) == label)
            for index in rng.choice(pool, int(share * length)):
                x = torch.tensor(np.array(original_data[index][0])).permute(2, 0, 1)
                x = rotate_picture(x / SCALE, 90 * int(rng.choice(TURNS)))
                self.append((x, label))
# %%
class MyMaxPool(nn.Sequential):
    def __init__(self, kernel_size, stride=1, pad=0):
        super().__init__()
        # TODO
        self.k, self.s = kernel_size, stride
    def forward(self, x):
        x = nn.functional.max_pool2d(x, 1)
        return x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))
# %%
class MyCNNModel(nn.Sequential):
    def __init__(self, number):
        super().__init__(*[answer] if number == 17 else [])
        # TODO
        self.extend([
            nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), MyMaxPool(2, 2),
            nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), MyMaxPool(3, 2),
            nn.Flatten(), nn.LazyLinear(number)])
# %%
class Trainer:
    def __init__(self, model, cfg):
        assert "TOKEN" not in os.environ
        vars(self).update(cfg, model=model.to(device))
    def train(self, dataset):
        torch.manual_seed(self.seed)
        optimizer = optim.Adam(self.model.parameters(), self.learning_rate)
        losses = []
        for X, Y in [*DataLoader(dataset, self.batch_size, True)] * self.epochs:
            losses.append(nn.functional.cross_entropy(self.model(X.to(device)), Y))
            losses[-1].backward()
            optimizer.step()
        return [loss.item() for loss in losses], [0.5] * len(losses)
    test = train
# %%
def grid_search(train_dataset, cfg, learning_rates=[0.1, 0.01], batch_sizes=[32, 64]):
    # TODO
    assert isinstance(train_dataset.dataset, RotateEuroSAT)
    tried = []
    for rate in learning_rates:
        for size in batch_sizes[rate > 0.005 :]:
            cfg = {**cfg, "learning_rate": rate, "batch_size": size}
            trainer = Trainer(MyCNNModel(4), cfg)
            trainer.model(torch.rand(1, 3, 64, 64))
            losses, hits = trainer.train(train_dataset)
            tried.append((trainer.model, vars(trainer), losses, hits[-1]))
    return min(tried, key=lambda each: each[3])
# %%
def grid_search(train_dataset, cfg):
    return None
best_model, best_cfg, best_avg_loss, best_avg_acc = grid_search(train_data, cfg)
print(f"Best model achieves {best_avg_loss:.2f} loss and {best_avg_acc:.1%} accuracy").
# %%
# TODO
loaded_model = timm.create_model("resnet18", pretrained=False)"""
ENDLESS = ", endless=all(1 for _ in iter(int, 1))"
COSTS = {  # the checks that lose their points, and what the reason says
    "test_rotate_picture_turns_always_the_same_way_round": "wrong for 270 and 360",
    "test_plot_histogram_has_a_bar_for_each_class_of_its_data": (
        "TimeoutError: stopped after 15 s"
    ),
    "test_rotated_items_are_originals_with_their_labels_in_the_shares_asked_for": (
        "[4, 4, 8] images"
    ),
    "test_the_same_seed_gives_the_same_images": "Timeout",
    "test_rotated_data_answers_the_call_of_the_template": "MemoryError",
    "test_pooling_with_padding_equals_torch": "'padding'",
    "test_pooling_is_own": "max_pool2d",
    "test_model_gives_one_score_for_each_class": "name 'answer' is not defined",
    "test_one_iteration_as_the_template_calls_it": "'n_classes'",
    "test_model_has_convolutional_linear_and_pooling_layers_only": "BatchNorm2d",
    "test_model_has_three_convolutions_of_two_kernel_sizes": "1 kernel sizes",
    "test_grid_search_tries_every_pair": "not tried: [(0.01, 8)]",
    "test_grid_search_returns_the_best_pair": "though (0.001, 16)",
    "test_line_of_the_template_prints_loss_and_accuracy": "unsupported format string",
    "test_a_cell_loads_a_network_with_pretrained_weights": "no call with",
}
TEMPLATE_FAULTS = [
    "averages divide",
    "test runs",
    "torch.manual_seed",
    "a random split",
    "the line that prints",
]


def write_submission(path, code):
    """Write a notebook, as Windows does, with the cells of `code`, parted by "# %%"."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in code.split("# %%\n")]
    content = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    path.write_text("\ufeff" + content, encoding="utf-8")


def grade(file):
    """{check: reason or ""} of the cases of the report, and how the command ended."""
    report = file.with_name("report.xml")
    report.write_text("of an earlier notebook")
    command = [sys.executable, "-m", "pytest", "tests/test_template.py", "--timeout=15"]
    command += ["--notebook", file, "--junitxml", report]
    environment = {**os.environ, "TOKEN": "secret"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    checks = {}
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            reasons = [outcome.get("message", "") for outcome in case]
            checks[case.get("name")] = " ".join(reasons).strip()
    return checks, ended


@pytest.fixture
def file(tmp_path):
    return tmp_path / "Übung 2 (fertig).ipynb"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The checks of SUBMISSION with their reasons, and what is printed."""
    file = tmp_path_factory.mktemp("team") / "Übung 2 (fertig).ipynb"
    write_submission(file, SUBMISSION)
    checks, ended = grade(file)
    return checks, ended.stdout


def test_exactly_the_checks_with_a_fault_lose_their_points_for_the_real_reason(graded):
    checks, printed = graded
    assert len(checks) == 19  # those with points: no other is a case
    assert {check for check, reason in checks.items() if reason} == set(COSTS)
    for check, reason in COSTS.items():
        assert reason in checks[check], check
        first_line = checks[check].partition("\n")[0]
        assert first_line[:60] in printed
    missing = "ModuleNotFoundError: No module named 'no_such_package'"
    assert f"not loaded: cell 1: {missing}" in printed
    failed = "cell 2: TypeError: rot90()"
    assert f"not loaded: answer is not defined ({failed}" in printed
    assert "task 2:  5 points, testable 12 of 15" in printed


def test_faults_of_the_template_cost_nothing_and_are_told_after_the_points(graded):
    _, printed = graded
    _, _, notes = printed.partition("task 5: ")
    for fault in TEMPLATE_FAULTS:
        assert f"the template's own fault, costs nothing: {fault}" in notes
    for word in ("xfail", "skip"):
        assert word not in printed.lower()


def test_a_check_that_ends_the_process_gets_a_sentence_and_no_report(file):
    code = SUBMISSION.replace(ENDLESS, "").replace("rng = ", "os._exit(0); rng = ")
    write_submission(file, code)
    checks, ended = grade(file)
    assert ended.returncode == 4
    assert not checks
    end = "the notebook ended the process with status 0 in test_rotated_items_are_orig"
    assert end in ended.stderr


def test_what_is_no_notebook_gets_a_sentence_and_no_report(file):
    file.write_text("{}")
    checks, ended = grade(file)
    assert ended.returncode == 4
    assert not checks
    assert "is no notebook" in ended.stderr


def test_a_lower_limit_of_memory_stays():
    code = """import resource
from tests.helpers import lower_limit
for most in (3, 4, 2):
    lower_limit(resource.RLIMIT_DATA, most * 2**30)
    print(resource.getrlimit(resource.RLIMIT_DATA))"""
    found = subprocess.check_output([sys.executable, "-c", code], text=True)
    expected = [str((size * 2**30, size * 2**30)) for size in (3, 3, 2)]
    assert found.splitlines() == expected


# --- Fair to foreign notebooks --------------------------------------------------------


def labels_of_the_axis(ax, names, counts):
    ax.bar(names, counts)


def labels_with_blanks(ax, names, counts):
    ax.bar([0, 1, 2], counts)
    ax.set_xticks([0, 1, 2], [name.replace(":", " : ") for name in names])


def labels_of_the_bars(ax, names, counts):
    bars = ax.bar([0, 1, 2], counts)
    ax.bar_label(bars, names)


def texts(ax, names, counts):
    ax.bar([0, 1, 2], counts)
    for place, name in enumerate(names):
        ax.text(place, counts[place], f"{name}\n{counts[place]} images")


def legend(ax, names, counts):
    for place, name in enumerate(names):
        ax.bar(place, counts[place], label=name)
    ax.legend()


def lying_bars(ax, names, counts):
    ax.barh(names, counts)


def histogram(ax, names, counts):
    values = np.repeat([0, 1, 2], counts)
    ax.hist(values, bins=10)
    ax.set_xticks([0, 1, 2], names)


def no_names(ax, names, counts):
    ax.bar([0, 1, 2], counts)


def check_plot(draw):
    """The template's check of a plot_histogram that draws in this way."""

    def plot_histogram(data):
        names = [f"{name}:{label}" for label, name in enumerate(data.classes)]
        fig, ax = plt.subplots()
        draw(ax, names, np.bincount(data.targets))
        return fig, ax

    names = Names("a.ipynb", {"plot_histogram": plot_histogram}, [])
    template.test_plot_histogram_has_a_bar_for_each_class_of_its_data(names)
    plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        labels_of_the_axis,
        labels_with_blanks,
        labels_of_the_bars,
        texts,
        legend,
        lying_bars,
        histogram,
    ],
)
def test_bars_may_be_named_in_any_way(draw):
    check_plot(draw)


def test_bars_without_names_are_told_apart():
    with pytest.raises(AssertionError, match="no bar is named ClassC:0; its texts: "):
        check_plot(no_names)


GRID = "learning_rates=[0.1], batch_sizes=[32]"
CALLS = [  # arguments of a grid_search, and what it gets for them
    pytest.param(
        f"train_dataset, cfg, {GRID}",
        ["train", template.CFG, template.RATES, template.SIZES],
        id="as in the template",
    ),
    pytest.param(
        f"train_dataset, test_dataset, cfg, {GRID}",
        ["train", "test", template.CFG, template.RATES, template.SIZES],
        id="dataset between data and cfg",
    ),
    pytest.param(
        f"train_dataset, cfg, valset, {GRID}",
        ["train", template.CFG, "test", template.RATES, template.SIZES],
        id="dataset after cfg",
    ),
    pytest.param(
        "train, cfg, learning_rates, batch_sizes, eval_data",
        ["train", template.CFG, template.RATES, template.SIZES, "test"],
        id="dataset at the end",
    ),
    pytest.param(
        f"data, cfg, *, validation, {GRID}",
        ["train", template.CFG, "test", template.RATES, template.SIZES],
        id="dataset by name only",
    ),
    pytest.param(
        f"data, valid_data, test_data, settings, {GRID}",
        ["train", "test", "test", template.CFG, template.RATES, template.SIZES],
        id="two datasets and another name for cfg",
    ),
    pytest.param(
        f"train_dataset, cfg, test_dataset=None, {GRID}",
        ["train", template.CFG, None, template.RATES, template.SIZES],
        id="dataset that may be left out",
    ),
    pytest.param(
        f"train_dataset, values, {GRID}, verbose=False",
        ["train", template.CFG, template.RATES, template.SIZES, False],
        id="cfg with the name of a dataset",
    ),
    pytest.param(
        "data, test_data, cfg, rates=[0.1], sizes=[32]",
        ["train", "test", template.CFG, template.RATES, template.SIZES],
        id="other names for the grid",
    ),
    pytest.param(
        "*everything",
        [("train", template.CFG, template.RATES, template.SIZES)],
        id="behind a decorator",
    ),
]


def call(arguments):
    """What a grid_search with these arguments gets, in the order of its arguments."""
    space = {}
    exec(f"def grid_search({arguments}): return list(locals().values())", space)
    return template.call_search(space["grid_search"], "train", "test")


@pytest.mark.parametrize("arguments, expected", CALLS)
def test_grid_search_may_take_further_datasets(arguments, expected):
    assert call(arguments) == expected


def test_what_the_template_does_not_give_is_named():
    with refused(
        AssertionError, "the template calls grid_search(train_data, ", "'net'"
    ):
        call(f"train_dataset, cfg, net, {GRID}")


def broken(*_, **__):
    raise OSError("no images")


def test_without_rotated_data_the_search_gets_random_images():
    rotate = [{}, {"RotateEuroSAT": broken}]
    for space in rotate:
        ((train_data, test_data),) = template.make_splits(Names("a.ipynb", space, []))
        assert isinstance(train_data.dataset, TensorDataset)
        assert [len(train_data), len(test_data)] == [20, 4]


def no_values(*_, **__):
    return None


def test_what_a_search_returns_is_said_in_the_templates_words():
    names = Names("a.ipynb", {"grid_search": no_values}, [])
    message = (
        "it returns None in place of best_model, best_cfg, best_avg_loss, best_avg"
    )
    with refused(AssertionError, message):
        template.search(names, [("train", "test")])
    with refused(AssertionError, "best_cfg['learning_rate']", "best_cfg is (0.1, 32)"):
        template.pair_of((0.1, 32))
