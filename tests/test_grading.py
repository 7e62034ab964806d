"""The grading: planted faults, harmful code, the untouched template."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest

# In the style of the template, with its faults and others; below "# TODO" stands the answer.
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
    return torch.rot90(picture, rotation // 90 % 3, (1, 2))
# %%
def plot_histogram(data, endless=all(1 for _ in iter(int, 1))):
    # TODO
    return None
# %%
class RotateEuroSAT(list):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        assert sum(shares) == 1
        vars(self).update(locals(), dataset=self, memory=length == 12 and bytearray(5 * 2**30))
        while seed == 8:
            pass
        # TODO
        rng = np.random.default_rng(seed)
        for label, share in enumerate(shares[::-1]):
            pool = np.flatnonzero(np.array(original_data.targets) == label)
            for index in rng.choice(pool, int(share * length)):
                x = torch.tensor(np.array(original_data[index][0])).permute(2, 0, 1) / scale
                self.append((rotate_picture(x, 90 * int(rng.choice(turns))), label))
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
            nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), MyMaxPool(2, 2), nn.Conv2d(4, 4, 3), nn.ReLU(),
            nn.Conv2d(4, 4, 3), MyMaxPool(3, 2), nn.Flatten(), nn.LazyLinear(number)])
# %%
class Trainer:
    def __init__(self, model, cfg):
        assert "TOKEN" not in os.environ
        vars(self).update(cfg, model=model.to(device))
    def train(self, dataset):
        torch.manual_seed(self.seed)
        optimizer, losses = optim.Adam(self.model.parameters(), self.learning_rate), []
        for X, Y in [*DataLoader(dataset, self.batch_size, True)] * self.epochs:
            losses.append(nn.functional.cross_entropy(self.model(X.to(device)), Y))
            losses[-1].backward()
            optimizer.step()
        return [loss.item() for loss in losses], [0.5] * len(losses)
    test = train
# %%
def grid_search(train_dataset, cfg, learning_rates=[10**-1, 10**-2], batch_sizes=[2**5, 2**6]):
    # TODO
    tried = []
    for rate in learning_rates:
        for size in batch_sizes[rate > 0.005 :]:
            trainer = Trainer(MyCNNModel(4), {**cfg, "learning_rate": rate, "batch_size": size})
            trainer.model(torch.rand(1, 3, 64, 64))
            losses, hits = trainer.train(train_dataset)
            tried.append((trainer.model, vars(trainer), losses, hits[-1]))
    return min(tried, key=lambda each: each[3])
best_model, best_cfg, best_avg_loss, best_avg_acc = grid_search(train_data, cfg)
print(f"Best model achieves {best_avg_loss:.2f} loss and {best_avg_acc:.1%} accuracy").
# %%
# TODO
loaded_model = timm.create_model("resnet18", pretrained=False)"""
COSTS = {  # a word of the check that loses its points, and the reason
    "rotate_picture": "wrong for 270 and 360",
    "histogram": "TimeoutError: stopped after 15 s",
    "in_the_shares": "[4, 4, 8] images",
    "same_seed": "Timeout",
    "call_of": "MemoryError",
    "with_padding": "'padding'",
    "is_own": "max_pool2d",
    "one_score": "name 'answer' is not defined",
    "one_iteration": "'n_classes'",
    "layers_only": "BatchNorm2d",
    "three_conv": "1 kernel sizes",
    "every_pair": "not tried: [(0.01, 8)]",
    "best_pair": "though (0.001, 16)",
    "line_of": "unsupported format string",
    "pretrained": "no call with",
}


def grade(folder, code, *command):
    """{check: reason or ""} of those with points, and how the command ended."""
    file, junit = folder / "Übung 2 (fertig).ipynb", folder / "report.xml"
    cells = [nbformat.v4.new_code_cell(cell) for cell in code.split("# %%\n")]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    file.write_text("\ufeff" + text if code else "{}", encoding="utf-8")
    junit.write_text("of an earlier notebook")
    variables = {"TOKEN": "secret", "DSL_SUBMISSION_DIR": folder, "DSL_JUNIT_OUT": junit}
    python = [sys.executable, "-m", "pytest", "tests/test_template.py", "--timeout=15"]
    command = command or [*python, "--notebook", file, "--junitxml", junit]
    found = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    cases = ElementTree.parse(junit).iter("testcase") if junit.exists() else ()
    worth = [case for case in cases if case.find("properties")]
    return {c.get("name"): " ".join(e.get("message", "") for e in c).strip() for c in worth}, found


def test_exactly_the_checks_with_a_fault_lose_their_points_for_the_real_reason(tmp_path):
    checks, found = grade(tmp_path, SUBMISSION)
    for check, reason in checks.items():
        (expected,) = [COSTS[word] for word in COSTS if word in check] or [""]
        assert expected in reason and bool(expected) == bool(reason), (check, reason)
        assert reason.partition("\n")[0][:60] in found.stdout
    assert len(checks) == 19 and sum(map(bool, checks.values())) == len(COSTS)
    assert "not loaded: cell 1: ModuleNotFoundError: No module named 'no_such" in found.stdout
    assert "not loaded: answer is not defined (cell 2: " in found.stdout
    assert "task 2:  5 points, testable 12 of 15" in found.stdout
    for fault in ("averages divide", "test runs", "torch.manual_seed", "a random", "the line"):
        assert f"course template, costs nothing: {fault}" in found.stdout


def test_the_untouched_template_gets_nothing(tmp_path):
    cells = [re.sub("# TODO.*", "pass\n", cell, flags=re.S) for cell in SUBMISSION.split("# %%\n")]
    checks, found = grade(tmp_path, "# %%\n".join(cells), "sh", "tests/run.sh")
    assert len(checks) == 19 and all(checks.values())
    assert all(f"task {task}:  0 points" in found.stdout for task in "12345")


ENDS = SUBMISSION.replace("rng = ", "os._exit(0); rng = ")


@pytest.mark.parametrize("code, words", [(ENDS, "ends the check above"), ("", "is no notebook")])
def test_what_cannot_be_tested_gets_a_sentence_and_no_report(tmp_path, code, words):
    checks, found = grade(tmp_path, code)
    assert found.returncode == 4 and not checks and words in found.stderr
    assert not code or found.stdout.split()[-1].endswith("_in_the_shares_asked_for")
