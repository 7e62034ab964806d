"""Fixtures for all tests, and `--notebook FILE`: the contract on another notebook.

Another notebook is other people's code: tests/test_template.py runs on it in a child
process with limits, and ends in a table of points. This is no jail.
"""

import contextlib
import functools
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.helpers import FOREIGN, Names, TinyData, lower_limit, within
from tools.collect import run_checks
from tools.definitions import codes, load_definitions

settings.register_profile("short", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("short")
ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "ps2_eurosat.ipynb"
GIBIBYTE = 2**30
START = time.monotonic()
RESERVE = 70  # seconds for the last check and the report
POSSIBLE = {"task 1": 10, "task 2": 15, "task 3": 10, "task 4": 10, "task 5": 5}


def pytest_addoption(parser):
    parser.addoption(
        "--notebook", type=Path, default=OWN, help="notebook for test_template.py"
    )


def pytest_cmdline_main(config):
    """Hand another notebook over to a child process."""
    notebook = config.option.notebook.resolve()
    if FOREIGN or notebook == OWN:
        return None
    report = config.option.xmlpath
    if report:  # it may be of an earlier notebook
        Path(report).unlink(missing_ok=True)
    try:
        codes(notebook)
        return run_checks(config.invocation_params.args, seconds=600)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    except RuntimeError as error:
        advice = "leave a check out with -k 'not NAME'"
        raise pytest.UsageError(f"{notebook}: {error}; {advice}") from None


# --- In the child process -------------------------------------------------------------


def note_doing(text):
    """Note what is under way, should the process end in it; "" when all is done."""
    if FOREIGN:
        Path(os.environ["HOME"], "doing").write_text(text)


def pytest_runtest_logstart(nodeid):
    note_doing(nodeid.partition("::")[2])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    note_doing(item.name)  # again, as its fixtures may have noted something else


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config, items):
    """Of another notebook, the checks with points are cases, and no others are.

    A case that is skipped or fails as expected counts against a team in the collector.
    So what costs nothing is no case; pytest_terminal_summary runs it, for a note.
    """
    if FOREIGN:
        config.faults = [item for item in items if item.get_closest_marker("fault")]
        items[:] = [item for item in items if item.get_closest_marker("points")]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A check that would begin too late fails: the report has to be written in time."""
    if not FOREIGN:
        return
    last_start = START + float(os.environ["PS2_CHILD"]) - RESERVE
    if time.monotonic() > last_start:
        pytest.fail("not run: the earlier checks took all of the time", pytrace=False)


# --- The notebook, and what a report of it says ---------------------------------------


@pytest.fixture(scope="session")
def guard(request):
    """A function: the context in which code of another notebook may take its time."""
    if FOREIGN:
        return functools.partial(within, request.config.option.timeout)
    return contextlib.nullcontext


@pytest.fixture(scope="session")
def notebook(request, guard):
    """The names of the notebook that is tested."""
    path = request.config.option.notebook.resolve()
    if FOREIGN:
        import resource  # not on Windows

        lower_limit(resource.RLIMIT_DATA, 4 * GIBIBYTE)
        os.chdir(os.environ["HOME"])
        ours = (ROOT, ROOT / "tests")
        others = [entry for entry in sys.path if Path(entry) not in ours]
        sys.path[:] = [str(path.parent), *others]
    given = {"device": torch.device("cpu"), "data": TinyData()}
    note_doing("its definitions")
    space, problems = load_definitions(path, guard, **given)
    request.config.names = Names(path, space, problems)
    return request.config.names


@pytest.fixture(scope="session")
def part2(notebook):
    """What ps2_eurosat.ipynb defines, a dictionary; nothing is trained."""
    assert not notebook.problems, notebook.problems
    return notebook.space


def pytest_itemcollected(item):
    """The points of a check go into its properties, which reports keep."""
    for marker in item.iter_markers("points"):
        task, points = marker.args
        item.user_properties.append((f"task {task}", points))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    """Last of all, what could not be loaded, the points of each task, and notes."""
    yield
    reports = []
    for outcome in ("passed", "failed", "error", "skipped"):
        reports.extend(terminalreporter.stats.get(outcome, []))
    names = getattr(config, "names", None)
    if names is not None:
        for problem in names.problems + missed(names, reports):
            terminalreporter.write_line(f"not loaded: {problem}")
    for line in points_of(reports):
        terminalreporter.write_line(line)
    note_doing("")  # the report is written; what follows costs nothing
    if names is not None:
        for line in kept_faults(config):
            terminalreporter.write_line(line)


def kept_faults(config):
    """A line for each fault of the template itself that another notebook has kept."""
    for item in getattr(config, "faults", []):
        marker = item.get_closest_marker("fault")
        try:
            with within(config.option.timeout):
                item.function(config.names)
        except (AssertionError, ValueError):
            yield f"the template's own fault, costs nothing: {marker.args[0]}"
        except (Exception, pytest.fail.Exception):
            pass  # it cannot be told, such as without a Trainer


def missed(names, reports):
    """Why each name is missing on which a check failed, a sentence each."""
    text = " ".join(report.longreprtext for report in reports)
    found = re.findall(r"name '(\w+)' is not", text)
    return [names.why(name) for name in dict.fromkeys(found)]


def points_of(reports):
    """A line for each task: its points; no line if no check with points has run."""
    got = dict.fromkeys(POSSIBLE, 0)
    testable = dict.fromkeys(POSSIBLE, 0)
    for report in reports:
        for task, points in getattr(report, "user_properties", []):
            testable[task] += points
            if report.passed:
                got[task] += points
    if not any(testable.values()):
        return []
    return [
        f"{task}: {got[task]:2} points, testable {testable[task]:2} of {possible}; "
        "a person gives the others"
        for task, possible in POSSIBLE.items()
    ]
