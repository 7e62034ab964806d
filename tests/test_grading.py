"""The grading: planted faults, harmful code, the untouched template."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import nbformat

# In the style of the template, with its faults; what follows "# TODO" in a cell is the answer.
SUBMISSION = """%matplotlib inline
!pip install nothing
import no_such_package as timm, math
import numpy as np, matplotlib.pyplot as plt, torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, random_split
# %%
device, data = torch.device("cuda"), timm.EuroSAT(root="data", download=True)
cfg = {"batch_size": 64, "epochs": 1}
try:
    scale: float = 255.0
except Exception:
    scale = 1
if scale > 2:
    turns = np.arange(1, 5)
# %%
%%time
def rotate_picture(picture, rotation):
    # TODO
    return torch.rot90(picture, rotation // 90, (1, 2))
# %%
def plot_histogram(data):
    # TODO
    fig, ax = plt.subplots()
    ax.bar([f"{name}:{k}" for k, name in enumerate(data.classes)], np.bincount(data.targets))
    return fig, ax
# %%
class RotateEuroSAT(Dataset):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        assert sum(shares) == 1 and len(shares) == len(original_data.classes)
        self.original_data, self.length, self.shares = original_data, length, shares
        self.seed, self.device = seed, device
        self.dataset = self._create_rotated_dataset()
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        return self.dataset[index]
    def _create_rotated_dataset(self):
        # TODO
        rng, dataset = np.random.default_rng(self.seed), []
        for label, share in enumerate(self.shares):
            pool = np.flatnonzero(np.array(self.original_data.targets) == label)
            for index in rng.choice(pool, int(share * self.length)):
                x = torch.tensor(np.array(self.original_data[index][0])).permute(2, 0, 1) / scale
                dataset.append((rotate_picture(x, 90 * int(rng.choice(turns))), label))
        return dataset
# %%
class MyMaxPool(nn.Sequential):
    def __init__(self, kernel_size, stride=1, padding=0):
        super().__init__()
        # TODO
        self.k, self.s, self.p = kernel_size, stride, padding
    def forward(self, x):
        x = nn.functional.pad(x, (self.p,) * 4, value=-torch.inf)
        return x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))
# %%
class MyCNNModel(nn.Sequential):
    def __init__(self, n_classes):
        super().__init__()
        # TODO
        self.extend([
            nn.LazyConv2d(4, 5), nn.ReLU(), MyMaxPool(2, 2), nn.Conv2d(4, 4, 3), nn.ReLU(),
            nn.Conv2d(4, 4, 3), MyMaxPool(3, 2), nn.Flatten(), nn.LazyLinear(n_classes)])
# %%
class Trainer:
    def __init__(self, model, cfg):
        vars(self).update(cfg)
        self.model = model.to(device)
        self.optimizer = getattr(optim, self.optimizer)(model.parameters(), lr=self.learning_rate)
        self.criterion = getattr(nn, self.criterion)()
    def iter_step(self, X, Y):
        scores = self.model(X.to(device))
        return self.criterion(scores, Y), (scores.argmax(1) == Y).float().mean()
    def train(self, dataset):
        torch.manual_seed(self.seed)
        total, averages = torch.zeros(2), []
        for epoch in range(self.epochs):
            for X, Y in DataLoader(dataset, batch_size=self.batch_size, shuffle=True):
                loss, acc = self.iter_step(X, Y)
                loss.backward()
                self.optimizer.step()
                total += torch.stack([loss, acc]).detach()
                averages.append((total / max(len(averages), 1)).tolist())
        return tuple(zip(*averages))
    test = train
# %%
def grid_search(train_dataset, cfg, learning_rates=[10**-1, 10**-2], batch_sizes=[2**5, 2**6]):
    # TODO
    tried = []
    for rate in learning_rates:
        for size in batch_sizes:
            point = {**cfg, "learning_rate": rate, "batch_size": size}
            model = MyCNNModel(n_classes=len(data.classes))
            model(torch.rand(1, 3, 64, 64))
            loss, acc = Trainer(model, point).train(train_dataset)
            tried.append((model, point, loss[-1], acc[-1]))
    return max(tried, key=lambda each: each[3])
best_model, best_cfg, best_avg_loss, best_avg_acc = grid_search(train_data, cfg)
print(f"Best model achieves {best_avg_loss:.2f} loss and {best_avg_acc:.1%} accuracy").
# %%
# TODO
loaded_model = timm.create_model("resnet18", pretrained=True)"""
# Right | wrong | the check that it costs, where it costs one | the reason
FAULTS = """vars(self) | assert 'TOKEN' not in __import__('os').environ; vars(self)
cfg = | answer = rotate_picture(data, 90); cfg =
rotation // 90, | rotation // 90 % 3, | rotate_picture | wrong for 270 and 360
(data): | (data, x=all(1 for _ in iter(int, 1))): | histogram | TimeoutError: stopped after 15 s
(self.shares) | (self.shares[::-1]) | in_the_shares | [4, 4, 8] images
rng, | all(self.seed == 8 for _ in iter(int, 1)); rng, | same_seed | Timeout
self.seed, | length == 12 and bytearray(5 * 2**30); self.seed, | call_of | MemoryError
padding | pad | with_padding | 'padding'
x.unfold(2, | nn.functional.max_pool2d(x, 1).unfold(2, | is_own | max_pool2d
self.extend | n_classes == 17 and answer; self.extend | one_score | name 'answer' is not defined
n_classes | num_classes | one_iteration | 'n_classes'
nn.ReLU(), MyM | nn.BatchNorm2d(4), MyM | layers_only | BatchNorm2d
Conv2d(4, 5) | Conv2d(4, 3) | three_conv | 1 kernel sizes
in batch_sizes | in batch_sizes[rate > 0.005 :] | every_pair | not tried: [(0.01, 8)]
each[3] | -each[3] | best_pair | though (0.001, 16)
loss[-1], acc | loss, acc | line_of | unsupported format string
=True) | =False) | pretrained | no call with"""
FAULTS = [line.split(" | ") for line in FAULTS.splitlines()]


def grade(folder, code, *command):
    """{check: (points, reason or "")}, exit status and what was printed."""
    file, junit = folder / "Übung 2 (fertig).ipynb", folder / "report.xml"
    cells = [nbformat.v4.new_code_cell(cell) for cell in code.split("# %%\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    junit.write_text("of an earlier notebook")
    variables = {"TOKEN": "secret", "DSL_SUBMISSION_DIR": folder, "DSL_JUNIT_OUT": junit}
    python = [sys.executable, "-m", "pytest", "tests/test_template.py", "--timeout=15"]
    command = command or [*python, "--notebook", file, "--junitxml", junit]
    found = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    checks = {}
    for case in ElementTree.parse(junit).iter("testcase") if junit.exists() else ():
        points = [int(each.get("value")) for each in case.iter("property")]
        reasons = [each.get("message") for each in case if each.tag != "properties"]
        if points:
            checks[case.get("name")] = points[0], " ".join(reasons).partition("\n")[0]
    return checks, found


def test_exactly_the_checks_with_a_fault_lose_their_points_for_the_real_reason(tmp_path):
    code = SUBMISSION
    for right, wrong, *_ in FAULTS:
        assert right in code
        code = code.replace(right, wrong)
    checks, found = grade(tmp_path, code)
    costs = dict(fault[2:] for fault in FAULTS if fault[2:])
    for check, (_, reason) in checks.items():
        expected = [costs.pop(word) for word in list(costs) if word in check] or [""]
        assert expected[0] in reason and bool(expected[0]) == bool(reason), (check, reason)
        assert reason[:60] in found.stdout
    assert not costs and sum(points for points, _ in checks.values()) == 8 + 12 + 6 + 2
    assert "not loaded: cell 1: ModuleNotFoundError: No module named 'no_such" in found.stdout
    assert "not loaded: answer is not defined (cell 2: " in found.stdout
    assert "task 2:  5 points, testable 12 of 15" in found.stdout
    for fault in ("averages divide", "test runs", "torch.manual_seed", "a random", "the line"):
        assert f"course template, costs nothing: {fault}" in found.stdout


def test_the_untouched_template_gets_nothing(tmp_path):
    cells = [re.sub("# TODO.*", "pass\n", cell, flags=re.S) for cell in SUBMISSION.split("# %%\n")]
    checks, found = grade(tmp_path, "# %%\n".join(cells), "sh", "tests/run.sh")
    assert len(checks) == 19 and all(reason for _, reason in checks.values())
    assert all(f"task {task}:  0 points" in found.stdout for task in "12345")


def test_a_notebook_that_ends_the_process_gets_a_sentence_and_no_report(tmp_path):
    checks, found = grade(tmp_path, SUBMISSION.replace("rng, ", "__import__('os')._exit(0); rng, "))
    assert found.returncode == 4 and not checks and "ends the check above" in found.stderr
    assert found.stdout.split()[-1].endswith("_in_the_shares_asked_for")


def test_what_is_no_notebook_is_refused_in_a_line(tmp_path):
    (file := tmp_path / "x.ipynb").write_text("{}")
    command = [sys.executable, "-m", "pytest", "tests/test_template.py", "--notebook", file]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 4 and f"{file} is no notebook" in found.stderr
