"""Fixtures for all tests, and `--notebook FILE`: the contract on another notebook.

Another notebook is other people's code: tools/grade.py runs tests/test_template.py on
it in a child process, which sets itself limits here. This is not a sandbox.
"""

import builtins
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
from tools.definitions import load_definitions

settings.register_profile("short", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("short")
ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "ps2_eurosat.ipynb"
MOST_MEMORY = 7 * 2**28  # bytes, 1.75 GiB; also of a file that is written
MOST_CPU = 600  # seconds of a processor
START = time.monotonic()
RESERVE = 70  # seconds for the last check and the report
NOTES = os.environ.get("PS2_NOTES", "")  # folder of what tools/grade.py reads


def pytest_addoption(parser):
    parser.addoption(
        "--notebook", type=Path, default=OWN, help="notebook for test_template.py"
    )


def pytest_cmdline_main(config):
    """Refuse another notebook outside of a child process with limits."""
    notebook = config.option.notebook.resolve()
    if not FOREIGN and notebook != OWN:
        raise pytest.UsageError(f"python -m tools.grade {notebook} grades it")


# --- In the child process -------------------------------------------------------------


def note_step(text):
    """Write down the current step, in case the process ends in it; "": all is done."""
    if FOREIGN:
        Path(NOTES, "step").write_text(text)


def pytest_runtest_logstart(nodeid):
    note_step(nodeid.partition("::")[2])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    note_step(item.name)  # again, as its fixtures may have noted something else


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
def notebook(request, guard, record_testsuite_property):
    """The names of the notebook that is tested."""
    path = request.config.option.notebook.resolve()
    if FOREIGN:
        limit_process()
        os.chdir(os.environ["HOME"])
        ours = (ROOT, ROOT / "tests")
        others = [entry for entry in sys.path if Path(entry) not in ours]
        sys.path[:] = [str(path.parent), *others]
    given = {"device": torch.device("cpu"), "data": TinyData()}
    note_step("its definitions")
    space, problems = load_definitions(path, guard, **given)
    for problem in problems:
        record_testsuite_property("not loaded", problem)
    request.config.names = Names(path, space, problems)
    return request.config.names


def limit_process():
    """Limits of this process; lower ones in force stay. Nobody is there to type."""
    import resource  # not on Windows

    lower_limit(resource.RLIMIT_DATA, MOST_MEMORY)
    lower_limit(resource.RLIMIT_FSIZE, MOST_MEMORY)
    lower_limit(resource.RLIMIT_CPU, MOST_CPU)
    builtins.input = refuse_input


def refuse_input(prompt=""):
    raise EOFError("input() is refused: nobody is there to type")


@pytest.fixture(scope="session")
def part2(notebook):
    """What ps2_eurosat.ipynb defines, a dictionary; nothing is trained."""
    assert not notebook.problems, notebook.problems
    return notebook.space


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Why a name is missing on which a check failed, as a property in the report."""
    report = yield
    names = getattr(item.config, "names", None)
    if report.failed and names is not None:
        found = re.findall(r"name '(\w+)' is not", report.longreprtext)
        for name in dict.fromkeys(found):
            item.user_properties.append(("missing", names.why(name)))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(config):
    """Last of all, the template's own faults; the report is written by then."""
    yield
    note_step("")  # what follows costs nothing
    if FOREIGN:
        for text in kept_faults(config):
            with Path(NOTES, "faults").open("a") as file:
                file.write(f"{text}\n")


def kept_faults(config):
    """The faults of the template itself that another notebook has kept."""
    names = getattr(config, "names", None)
    if names is None:
        return
    for item in config.faults:
        marker = item.get_closest_marker("fault")
        try:
            with within(config.option.timeout):
                item.function(names)
        except (AssertionError, ValueError):
            yield marker.args[0]
        except (Exception, pytest.fail.Exception):
            pass  # it cannot be told, such as without a Trainer
