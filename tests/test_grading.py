"""The grading: a good submission, planted faults, harmful code, the untouched template."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest

TESTABLE = {"1": 8, "2": 12, "3": 6, "4": 2}
CELLS = {  # in the style of the template, with its faults; written for this test
    "imports": """%matplotlib inline
!pip install nothing
import no_such_package as timm, math
import numpy as np, matplotlib.pyplot as plt, torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, random_split""",
    "data": """device = torch.device("cuda")
data = timm.EuroSAT(root="data", download=True)
cfg = {"batch_size": 64, "epochs": 1}
try:
    scale, channels = torch.tensor(255.0), 3
except Exception:
    channels: int = 1
if channels > 2:
    turns = np.arange(1, 5)""",
    "rotate": """%%time
def rotate_picture(picture, rotation):
    return torch.rot90(picture, rotation // 90, (1, 2))""",
    "histogram": """def plot_histogram(data):
    fig, ax = plt.subplots()
    names = [f"{name}:{k}" for k, name in enumerate(data.classes)]
    ax.bar(names, np.bincount(data.targets))
    return fig, ax
fig, ax = plot_histogram(data)""",
    "dataset": """class RotateEuroSAT(Dataset):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        assert sum(shares) == 1 and len(shares) == len(original_data.classes)
        self.original_data, self.length, self.shares = original_data, length, shares
        self.seed, self.device = seed, device
        self.dataset = self._create_rotated_dataset()
    def _create_rotated_dataset(self):
        rng, dataset = np.random.default_rng(self.seed), []
        for label, share in enumerate(self.shares):
            pool = np.flatnonzero(np.array(self.original_data.targets) == label)
            for index in rng.choice(pool, int(share * self.length)):
                picture = np.array(self.original_data[index][0]) / np.float32(scale)
                picture = torch.from_numpy(picture).permute(2, 0, 1)
                dataset.append((rotate_picture(picture, 90 * int(rng.choice(turns))), label))
        return dataset
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        return self.dataset[index]
rotated_data = RotateEuroSAT(data, length=10**4, shares=[0.1] * 10, seed=42)
train_data, test_data = random_split(rotated_data, [0.8, 0.2])""",
    "pool": """class MyMaxPool(nn.Sequential):
    def __init__(self, kernel_size, stride=1, padding=0):
        super().__init__()
        self.k, self.s, self.p = kernel_size, stride, padding
    def forward(self, x):
        x = nn.functional.pad(x, (self.p,) * 4, value=-torch.inf)
        return x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))""",
    "model": """class MyCNNModel(nn.Sequential):
    def __init__(self, n_classes):
        super().__init__(
            nn.LazyConv2d(4, 5), nn.ReLU(), MyMaxPool(2, 2), nn.Conv2d(4, 4, 3), nn.ReLU(),
            nn.Conv2d(4, channels + 1, 3), MyMaxPool(3, 2), nn.Flatten(), nn.LazyLinear(n_classes))
my_model = MyCNNModel(n_classes=10)
X, y = train_data[0]
my_model(X[None, :])""",
    "trainer": """class Trainer:
    def __init__(self, model, cfg):
        for key, value in cfg.items():
            setattr(self, key, value)
        self.model = model.to(device)
        self.optimizer = getattr(optim, self.optimizer)(model.parameters(), lr=self.learning_rate)
        self.criterion = getattr(nn, self.criterion)()
    def iter_step(self, X, Y):
        scores = self.model(X.to(device))
        return self.criterion(scores, Y), (scores.argmax(1) == Y).float().mean()
    def train(self, dataset):
        torch.manual_seed(self.seed)
        return self.run(dataset, self.epochs, True)
    def test(self, dataset):
        return self.run(dataset, 1, False)
    def run(self, dataset, epochs, training):
        losses, accs, avg_loss, avg_acc = 0, 0, [], []
        for epoch in range(epochs):
            for X, Y in DataLoader(dataset, batch_size=self.batch_size, shuffle=True):
                loss, acc = self.iter_step(X, Y)
                if training:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                losses, accs = losses + loss.item(), accs + acc.item()
                avg_loss.append(losses / max(len(avg_loss), 1))
                avg_acc.append(accs / max(len(avg_acc), 1))
        return avg_loss, avg_acc
avg_loss, avg_acc = Trainer(my_model, cfg).train(train_data)""",
    "search": """def grid_search(train_dataset, cfg, learning_rates=[10**-1, 10**-2, 10**-3],
                batch_sizes=[2**5, 2**6, 2**7]):
    best = None
    for rate in learning_rates:
        for size in batch_sizes:
            point = {**cfg, "learning_rate": rate, "batch_size": size}
            model = MyCNNModel(n_classes=len(data.classes))
            model(torch.rand(1, 3, 64, 64))
            loss, acc = Trainer(model, point).train(train_dataset)
            if best is None or acc[-1] > best[3]:
                best = model, point, loss[-1], acc[-1]
    return best
best_model, best_cfg, best_avg_loss, best_avg_acc = grid_search(train_data, cfg)
print(f"Best model achieves {best_avg_loss:.2f} loss and {best_avg_acc:.1%} accuracy").""",
    "pretrained": """loaded_model = timm.create_model("resnet18", pretrained=True)
loaded_model.fc = nn.Linear(512, 10)""",
}
UNTOUCHED = {  # the template before anything is done
    "rotate": "def rotate_picture(picture, rotation):\n    pass  # TODO",
    "histogram": "def plot_histogram(data):\n    fig, ax = None, None  # TODO\n    return fig, ax",
    "dataset": CELLS["dataset"].partition("        rng")[0]
    + """        return None  # TODO
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        return self.dataset[index]""",
    "pool": """class MyMaxPool(nn.Sequential):
    def __init__(self, kernel_size, stride=1, padding=0):
        super().__init__()  # TODO""",
    "model": """class MyCNNModel(nn.Sequential):
    def __init__(self, n_classes):
        super().__init__()  # TODO""",
    "search": """def grid_search(train_dataset, cfg, learning_rates=[0.1], batch_sizes=[32]):
    #TODO
    return best_model, best_cfg, best_avg_loss, best_avg_acc""",
    "pretrained": "loaded_model = None  # TODO",
}
# fmt: off
FAULTS = [  # notebook, cell, right, wrong; the checks that it costs, and the reason
    ("a", "rotate", "rotation // 90", "rotation // 90 % 3", "rotate_picture", "270 and 360"),
    ("a", "histogram", "enumerate(data.classes)", "enumerate('ABC')", "histogram", "but A:0"),
    ("a", "dataset", "(self.shares)", "(self.shares[::-1])", "the_shares", "[4, 4, 8] images"),
    ("a", "dataset", "rng(self.seed)", "rng()", "same_seed", "other images"),
    ("a", "pool", "value=-torch.inf", "value=0", "with_padding", "other values for kernel"),
    ("a", "model", "nn.ReLU(), MyM", "nn.BatchNorm2d(4), MyM", "layers_only", "BatchNorm2d"),
    ("a", "model", "Conv2d(4, 5)", "Conv2d(4, 3)", "three_conv", "1 kernel sizes"),
    ("a", "search", "{**cfg,", "cfg; cfg |= {", "best_pair", "(0.01, 16), though"),
    ("a", "pretrained", "True", "False", "pretrained", "no call with"),
    ("b", "histogram", "(data):", "(data, x=next(x for x in iter(int, 1) if x)):",
     "histogram", "not defined (cell 4: TimeoutError: stopped after 15 s"),
    ("b", "dataset", "length, shares, device=None, seed=42):",
     "n, shares, device=None, seed=42):\n        length = n", "the_call_of", "'length'"),
    ("b", "pool", ", padding=0", "", "with_padding", "positional arguments"),
    ("b", "pool", "stride, padding\n", "stride, 0\n", "", ""),
    ("b", "pool", "x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))",
     "nn.functional.max_pool2d(x, self.k, self.s)", "is_own", "max_pool2d"),
    ("b", "model", "n_classes", "num_classes", "one_iteration", "'n_classes'"),
    ("b", "search", "n_classes", "num_classes", "", ""),
    ("b", "trainer", "def train", "def fit", "takes_the_dictionary", "no attribute 'train'"),
    ("b", "search", ").train(", ").fit(", "best_pair", "no method train"),
    ("b", "search", "            point", "            if size == 8 and rate == 0.01: continue\n"
     "            point", "every_pair", "not tried: [(0.01, 8)]"),
    ("b", "search", "loss[-1], acc[-1]", "loss, acc[-1]", "line_of", "unsupported format string"),
    ("harm", "data", "device =", "answer = rotate_picture(data, 90)\ndevice =", "", ""),
    ("harm", "histogram", "return fig, ax", "return fig, answer", "histogram",
     "'answer' is not defined, in plot_histogram (cell 2: "),
    ("harm", "model", "super()", "while n_classes == 17: pass\n        super()",
     "one_score", "Timeout"),
    ("harm", "dataset", "rng, dataset", "self.seed == 8 and __import__('os')._exit(0)\n"
     "        rng, dataset", "same_seed", "it ends the process"),
    ("harm", "pool", "self.k, self.s, self.p", "bytearray(10**13 if padding else 1)\n"
     "        self.k, self.s, self.p", "with_padding", "MemoryError"),
    ("harm", "search", "best = None", "raise SystemExit('end')", "grid_search|line_of", "end"),
    ("harm", "trainer", "self.model =", "assert 'TOKEN' not in __import__('os').environ\n"
     "        self.model =", "", ""),
]
# fmt: on


def grade(folder, name):
    """{check: (points, reason or "")}, and the text that was printed."""
    cells = CELLS | (UNTOUCHED if name == "untouched" else {})
    for group, cell, right, wrong, *_ in FAULTS:
        assert right in CELLS[cell]
        if group == name:
            cells[cell] = cells[cell].replace(right, wrong)
    file, junit = folder / name / "Übung 2 (fertig).ipynb", folder / f"{name}.xml"
    file.parent.mkdir()
    codes = [{"cell_type": "code", "source": code.splitlines(True)} for code in cells.values()]
    file.write_text(json.dumps({"cells": codes, "nbformat": 4}))
    environment = dict(
        os.environ, TOKEN="secret", DSL_SUBMISSION_DIR=file.parent, DSL_JUNIT_OUT=junit
    )
    command = ["-m", "pytest", "tests/test_template.py", "--timeout=15", "--notebook", file]
    command = [sys.executable, *command, "--junitxml", junit]
    if name == "untouched":
        command = ["sh", "tests/run.sh"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    checks = {}
    for case in ElementTree.parse(junit).iter("testcase"):
        properties = {each.get("name"): each.get("value") for each in case.iter("property")}
        if "points" in properties:
            bad = [each for each in case if each.tag != "properties"]
            reason = properties.get("reason", "no reason") if bad else ""
            checks[case.get("name")] = int(properties["points"]), reason
    return checks, found.stdout


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Every notebook graded, two at a time."""
    names, folder = ["harm", "a", "b", "good", "untouched"], tmp_path_factory.mktemp("grading")
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: grade(folder, name), names), strict=True))


@pytest.mark.parametrize("name", ["good", "a", "b", "harm"])
def test_exactly_the_checks_with_a_fault_lose_their_points(graded, name):
    checks, _ = graded[name]
    costly = [fault[4] for fault in FAULTS if fault[0] == name and fault[4]]
    expected = {check for check in checks if any(re.search(cost, check) for cost in costly)}
    assert {check: reason for check, (_, reason) in checks.items() if reason}.keys() == expected
    assert sum(points for points, _ in checks.values()) == sum(TESTABLE.values())


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault[4]], ids=lambda f: f[4])
def test_the_real_reason_is_given_in_one_line(graded, fault):
    checks, text = graded[fault[0]]
    for check in (check for check in checks if re.search(fault[4], check)):
        points, reason = checks[check]
        assert fault[5] in reason and "\n" not in reason
        assert any(reason in line for line in text.splitlines())


def test_the_untouched_template_gets_nothing(graded):
    checks, text = graded["untouched"]
    assert all(reason for _, reason in checks.values())
    assert all(f"task {task}:  0 points" in text for task in "12345")


def test_the_table_names_points_faults_of_the_template_and_what_was_not_loaded(graded):
    _, text = graded["good"]
    for task, points in TESTABLE.items():
        assert f"task {task}: {points:2} points, testable {points:2} of 1" in text
    assert "not loaded: cell 1: ModuleNotFoundError: No module named 'no_such_package'" in text
    costs_nothing = "course template, costs nothing: "
    for fault in ("averages divide", "test runs", "torch.manual_seed", "a random", "the line"):
        assert costs_nothing + fault in text


def test_what_is_no_notebook_is_refused_in_a_line(tmp_path):
    (tmp_path / "x.ipynb").write_text("{}")
    command = [sys.executable, "-m", "pytest", "tests/test_template.py", "--notebook"]
    for file in (tmp_path / "x.ipynb", tmp_path / "missing.ipynb"):
        found = subprocess.run([*command, file], capture_output=True, text=True)
        assert found.returncode == 4 and f"{file} is no notebook" in found.stderr
