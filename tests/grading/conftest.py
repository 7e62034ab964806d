"""Each check runs in a process of its own (isolated.py) and becomes one entry of a JSON report.

tools/grade.py starts this. The files of this folder are no tests of the repository, so their names do not begin with test_.
"""
import json
import pathlib
import types

import optuna  # noqa: F401, loaded here once, so that the process of each check need not
import pytest
import sklearn.linear_model  # noqa: F401
import torch
import torchvision
from _pytest.runner import runtestprotocol

import utils
from tests.grading.isolated import ROOT, in_child, load, probe

STATE = types.SimpleNamespace(problems={}, checks={})


def pytest_addoption(parser):
    parser.addoption("--submission", type=pathlib.Path, help="notebook with part 2")
    parser.addoption("--report", type=pathlib.Path, help="file to write")
    parser.addoption("--limit", type=float, help="seconds that one check may take")


def pytest_configure(config):
    config.addinivalue_line("markers", "points(task, points): what a check is worth")


def path_of(item):
    return ROOT / "ps2_theory.ipynb" if item.path.stem == "part1" else item.config.option.submission


def pytest_collection_finish(session):
    """Draw the pictures, find the broken statements of each notebook, and enter every check as not reached."""
    torch.set_num_threads(1)
    STATE.root = utils.make_stand_in("data", per_class=8)
    for name in ("Forest_6", "Forest_7", "Forest_8", "River_8"):  # classes of different sizes
        (STATE.root / f"eurosat/2750/{name.split('_')[0]}/{name}.jpg").unlink()
    STATE.root = STATE.root.resolve()
    for item in session.items:
        task, points = item.get_closest_marker("points").args
        STATE.checks[item.nodeid] = dict(task=task, points=points, what=item.function.__doc__, reached=0, reason="not run")
        if path_of(item) not in STATE.problems:
            STATE.problems[path_of(item)] = probe(path_of(item), session.config.option.limit)
    write_report(session.config)


def pytest_runtest_protocol(item):
    def work(tell):
        reports = runtestprotocol(item, log=False, nextitem=None)
        tell(next((reason_of(report) for report in reports if not report.passed), ""))
    told, end = in_child(work, item.config.option.limit)
    reason = told[0] if told else end
    STATE.checks[item.nodeid].update(reached=0 if reason else STATE.checks[item.nodeid]["points"], reason=reason)
    write_report(item.config)
    return True


def reason_of(report):
    """Why a check failed, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr).strip().splitlines() or ["failed"]
    return lines[0].removeprefix("AssertionError: ").removeprefix("Failed: ")[:200]


def write_report(config):
    """Written anew after each check, so that a run that is stopped keeps what it has found."""
    problems = [error[:200] for found in STATE.problems.values() for error in found.values()]
    text = json.dumps({"checks": list(STATE.checks.values()), "problems": problems})
    config.option.report.write_text(text)


class Names:
    """The names that a notebook defines, as attributes."""

    def __init__(self, path):
        self.path, self.space = path, load(path, STATE.problems[path])

    def __getattr__(self, name):
        if name not in self.space:
            pytest.fail(f"{name} is not defined", pytrace=False)
        return self.space[name]


@pytest.fixture
def notebook(request):
    """Part 1's or part 2's definitions, whichever the file of the check is about."""
    return Names(path_of(request.node))


@pytest.fixture
def data():
    """A EuroSAT of torchvision with 4 to 8 generated pictures a class; its items are (PIL picture, label)."""
    return torchvision.datasets.EuroSAT(STATE.root)


@pytest.fixture
def tensor_data():
    """The same with tensors in [0, 1]."""
    return torchvision.datasets.EuroSAT(STATE.root, transform=torchvision.transforms.ToTensor())
