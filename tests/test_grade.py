"""The grader: planted faults are found, and no submission can break it."""
import concurrent.futures
import json

import nbformat
import pytest

from tools import grade

# A small notebook that meets every check. Written for this test; no team's code.
CELLS = {
    "imports": """
%matplotlib inline
!pip install nothing
import math
import numpy as np
import torch
import torchvision
import matplotlib.pyplot as plt
from torch import nn
from torch.utils.data import DataLoader, Dataset
""",
    "data": "data = torchvision.datasets.EuroSAT('data', download=True)",
    "rotate": """
def rotate_picture(picture, rotation):
    if rotation not in (90, 180, 270, 360):
        raise ValueError(rotation)
    return torch.rot90(picture, rotation // 90, (1, 2))
""",
    "histogram": """
def plot_histogram(data):
    fig, ax = plt.subplots()
    ax.bar([f"{name}:{k}" for k, name in enumerate(data.classes)], np.bincount(data.targets))
    return fig, ax
""",
    "dataset": """
class RotateEuroSAT(Dataset):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        self.rng = np.random.default_rng(seed)
        self.items = self._create_rotated_dataset(original_data, length, shares)

    def _create_rotated_dataset(self, original_data, length, shares):
        items = []
        ends = np.round(np.cumsum(shares) * length).astype(int)
        for label, count in enumerate(np.diff(ends, prepend=0)):
            pool = np.flatnonzero(np.array(original_data.targets) == label)
            if count:
                items += list(np.concatenate([self.rng.permutation(pool) for _ in range(math.ceil(count / len(pool)))])[:count])
        pictures = [original_data[i] for i in self.rng.permutation(items)]
        to_tensor = torchvision.transforms.ToTensor()
        return [(rotate_picture(to_tensor(x), int(self.rng.integers(1, 5)) * 90), y) for x, y in pictures]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]
""",
    "pool": """
class MyMaxPool(nn.Module):
    def __init__(self, kernel_size, stride=1, padding=0):
        super().__init__()
        self.k, self.s, self.p = kernel_size, stride, padding

    def forward(self, x):
        x = nn.functional.pad(x, (self.p,) * 4, value=-torch.inf)
        return x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))
""",
    "model": """
class MyCNNModel(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 5), nn.ReLU(), MyMaxPool(2, 2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))

    def forward(self, x):
        return self.layers(x)
""",
    "trainer": """
class Trainer:
    def __init__(self, model, cfg):
        self.model, self.cfg = model.to(device), cfg
        self.optimizer = cfg.optimizer(model.parameters(), lr=cfg.learning_rate)

    def iter_step(self, X, Y):
        scores = self.model(X)
        loss = self.cfg.criterion(scores, Y)
        if self.model.training:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item(), (scores.argmax(1) == Y).sum().item() / len(Y)

    def train(self, dataset):
        self.model.train()
        return self.run(dataset, self.cfg.epochs)

    @torch.no_grad()
    def test(self, dataset):
        self.model.eval()
        return self.run(dataset, 1)

    def run(self, dataset, epochs):
        losses, accuracies = [], []
        for epoch in range(epochs):
            total = right = seen = 0
            for X, Y in DataLoader(dataset, self.cfg.batch_size, shuffle=True):
                loss, accuracy = self.iter_step(X, Y)
                total, right, seen = total + loss * len(Y), right + accuracy * len(Y), seen + len(Y)
                losses.append(total / seen)
                accuracies.append(right / seen)
        return losses, accuracies
""",
    "search": """
def grid_search(train_dataset, cfg, learning_rates, batch_sizes):
    best = None
    for rate in learning_rates:
        for size in batch_sizes:
            point = type(cfg)(**{**cfg, "learning_rate": rate, "batch_size": size})
            model = MyCNNModel(10)
            losses, accuracies = Trainer(model, point).train(train_dataset)
            if best is None or accuracies[-1] > best[3][-1]:
                best = model, point, losses, accuracies
    return best
""",
    "pretrained": "network = torchvision.models.resnet18(weights='DEFAULT')",
}

FAULTS = [  # cell, right, wrong, the check that must find it
    ("rotate", "rotation // 90, (1, 2)", "1 if rotation == 270 else rotation // 90, (1, 2)", "rotate_picture turns"),
    ("dataset", "np.cumsum(shares)", "np.arange(1, 11) / 10", "shares of labels"),
    ("dataset", "self.rng.permutation(pool)", "self.rng.choice(pool, len(pool))", "no picture comes twice"),
    ("pool", "value=-torch.inf", "value=0", "with padding"),
    ("model", "nn.Conv2d(3, 4, 5), nn.ReLU()", "nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.ReLU()", "layers only"),
    ("trainer", "losses.append(total / seen)", "losses.append(total / max(seen - len(Y), 1))", "true averages"),
]

HARM = [  # cell, right, wrong, the check that it costs, a part of the reason given
    ("imports", "import math", "import no_such_package\nimport math", None, "cell imports: ModuleNotFoundError"),
    ("data", "data =", "import sys, time\nLATE = time.sleep(99)\nEND = sys.exit(0)\ndata =", None, "stopped after the limit"),
    ("pretrained", "network", "this is no Python\nnetwork", None, "cell pretrained: SyntaxError"),
    ("rotate", "if rotation not", "while rotation == 360:\n        pass\n    if rotation not", "rotate_picture turns", "limit of"),
    ("histogram", "fig, ax =", "import os; os._exit(0); fig, ax =", "plot_histogram", "ended its process (exit status 0)"),
    ("dataset", "items = []", "import socket; socket.create_connection(('192.0.2.1', 80))", "shares of labels", "OSError: no network"),
    ("pool", "x = nn", "torch.zeros(10**13); x = nn", "without padding", "RuntimeError"),
    ("pool", "self.k, self.s", "bytearray(10**12) if padding else 0; self.k, self.s", "with padding", "MemoryError"),
    ("model", "nn.Linear(4, n_classes)", "nn.Linear(4, 10)", "one score", "RuntimeError"),
    ("trainer", "self.model.eval()", "raise SystemExit", "last accuracy of Trainer.test", "SystemExit"),
    ("search", "def grid_search", "def my_search", "grid_search returns", "grid_search is not defined"),
]


def write(path, changes):
    """The notebook above with some replacements made."""
    cells = dict(CELLS)
    for name, right, wrong, *_ in changes:
        assert right in cells[name]
        cells[name] = cells[name].replace(right, wrong, 1)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.strip(), id=name)
                                                   for name, source in cells.items()]), path)
    return path


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports on our own notebooks and on two others, made at the same time to save it."""
    folder = tmp_path_factory.mktemp("submissions")
    jobs = {"own": ("ps2_eurosat.ipynb", ["part1", "part2"]), "faults": (write(folder / "faults.ipynb", FAULTS),),
            "harm": (write(folder / "harm.ipynb", HARM), ["part2"], 6)}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = {name: pool.submit(grade.grade, *job) for name, job in jobs.items()}
    return {name: future.result() for name, future in futures.items()}


def checks(report):
    return [check for task in report["tasks"] for check in task["checks"]]


def test_our_notebooks_reach_every_point_that_a_program_gives(reports):
    assert [check for check in checks(reports["own"]) if check["reason"]] == []
    assert reports["own"]["reached"] == reports["own"]["by_program"] and reports["own"]["possible"] == 100


def test_points_add_up_to_those_of_the_problem_set(reports):
    tasks = reports["own"]["tasks"]
    assert [task["possible"] for task in tasks] == [7, 10, 10, 2, 3, 8, 10, 10, 15, 10, 10, 5]
    for task in tasks:
        assert sum(check["points"] for check in task["checks"]) + task["by_a_person"] == task["possible"]
        assert bool(task["to_be_read"]) == bool(task["by_a_person"])


def test_six_planted_faults_are_exactly_what_is_found(reports):
    lost = [check["what"] for check in checks(reports["faults"]) if not check["reached"]]
    assert len(lost) == len(FAULTS) == 6
    assert all(any(check in what for what in lost) for *_, check in FAULTS)


def test_harmful_code_costs_its_points_and_no_others(reports):
    report = reports["harm"]
    assert sum(check["points"] for check in checks(report)) == 32  # each check is in the report
    for *_, check, reason in HARM:
        found = [entry["reason"] for entry in checks(report) if check and check in entry["what"]] if check else report["problems"]
        assert any(reason in text for text in found), (check, found)
    assert any(entry["reached"] for entry in checks(report) if "other angles" in entry["what"])


def test_the_table_names_tasks_checks_and_what_a_person_reads(reports):
    text = grade.markdown(reports["faults"])
    assert "| 2.2 Own network | 8 | 14 | 1: comments | 15 |" in text
    assert "| 2.2 | 0 of 2 | MyCNNModel has convolutional, linear and pooling layers only | it has BatchNorm2d" in text
    assert json.loads(json.dumps(reports["harm"])) == reports["harm"]


def test_text_of_a_submission_cannot_break_the_table():
    assert grade.plain("a | b\n<img src=x> [x](y) \x1b[31m\ud800") == "a \\| b \\<img src=x> \\[x](y) ?\\[31m?"
