"""Fixtures, and `--notebook FILE`: test_template.py on another notebook, with a table of points.

Another notebook is other people's code: it runs in a child process with limits. This is no jail.
"""

import contextlib
import functools
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.helpers import FOREIGN, Names, TinyData, within
from tools.definitions import codes, load_definitions

settings.register_profile("short", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("short")
ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "ps2_eurosat.ipynb"
CHILD = "-P -m pytest -vv --tb=no -rfEsx --timeout=30 -o timeout_func_only=true".split()
TASKS = {"task 1": 10, "task 2": 15, "task 3": 10, "task 4": 10, "task 5": 5}  # points possible


def pytest_addoption(parser):
    parser.addoption("--notebook", type=Path, default=OWN, help="notebook for test_template.py")


def pytest_cmdline_main(config):
    """Hand another notebook over to a child process."""
    notebook = config.option.notebook.resolve()
    if FOREIGN or notebook == OWN:
        return None
    if config.option.xmlpath:  # the report of an earlier notebook
        Path(config.option.xmlpath).unlink(missing_ok=True)
    try:
        codes(notebook)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        clean = {"HOME": folder, "TMPDIR": folder, "PATH": os.environ["PATH"], "PS2_CHILD": "1"}
        clean |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "200"}
        command = [sys.executable, *CHILD, *config.invocation_params.args]
        with contextlib.suppress(subprocess.TimeoutExpired):
            child = subprocess.run(command, env=clean, stdin=subprocess.DEVNULL, timeout=600)
            if Path(folder, "finished").exists():
                return child.returncode
    raise pytest.UsageError(f"{notebook} ends the check above, or blocks it: try -k 'not CHECK'")


@pytest.fixture(scope="session")
def notebook(request):
    """The names of the notebook that is tested."""
    path, guard = request.config.option.notebook.resolve(), contextlib.nullcontext
    if FOREIGN:
        resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
        os.chdir(os.environ["HOME"])
        kept = [entry for entry in sys.path if Path(entry) not in (ROOT, ROOT / "tests")]
        sys.path[:] = [str(path.parent), *kept]
        guard = functools.partial(within, request.config.option.timeout)
    given = {"device": torch.device("cpu"), "data": TinyData()}  # whatever it sets them to
    request.config.names = Names(path, *load_definitions(path, guard, **given))
    return request.config.names


@pytest.fixture(scope="session")
def part2(notebook):
    """What ps2_eurosat.ipynb defines; nothing is trained."""
    assert not notebook.problems, notebook.problems
    return notebook.space


def pytest_itemcollected(item):
    item.user_properties += [(f"task {m.args[0]}", m.args[1]) for m in item.iter_markers("points")]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    """Last of all, what could not be loaded, and the points of each task."""
    yield
    write, names = terminalreporter.write_line, getattr(config, "names", None)
    stats = terminalreporter.stats
    reports = [r for kind in ("passed", "failed", "error", "skipped") for r in stats.get(kind, [])]
    missed = re.findall(r"name '(\w+)' is not", " ".join(r.longreprtext for r in reports))
    for problem in [*names.problems, *map(names.why, dict.fromkeys(missed))] if names else ():
        write(f"not loaded: {problem}")
    checks = [(dict(getattr(r, "user_properties", ())), r.passed) for r in reports]
    for task, possible in TASKS.items() if any(worth for worth, _ in checks) else ():
        got = sum(worth.get(task, 0) for worth, passed in checks if passed)
        n = sum(worth.get(task, 0) for worth, _ in checks)
        write(f"{task}: {got:2} points, testable {n:2} of {possible}; a person gives the others")
    if FOREIGN:
        Path(os.environ["HOME"], "finished").touch()
