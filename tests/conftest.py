"""Fixtures, and `--notebook FILE`: test_template.py on another notebook, with a table of points.

Another notebook is other people's code. It runs in a child process with a clean environment, in a
temporary folder, and each check in a fork with limits of time and memory. This is no jail.
"""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from _pytest.runner import runtestprotocol

from tools.definitions import load_definitions

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "ps2_eurosat.ipynb"
FOLDER = os.environ.get("PS2_CHILD_FOLDER")  # set in the child process alone
ARGUMENTS = "-P -m pytest --tb=no -rN --timeout=30 --timeout-method=signal -o timeout_func_only=1"
FORK = multiprocessing.get_context("fork")
LIMIT, MEMORY = 1200, 4 * 2**30  # seconds for all checks; bytes on top of what torch has taken
TASKS = {  # points possible, and what a person reads
    "1": (10, "the examples, the histograms, comments"),
    "2": (15, "the printed iteration, why this architecture, the plots"),
    "3": (10, "the choice of the grid, comments"),
    "4": (10, "new last layer, training, summary, why this architecture, plots"),
    "5": (5, "table and discussion"),
}


def pytest_addoption(parser):
    parser.addoption("--notebook", type=Path, default=OWN, help="notebook for test_template.py")


def pytest_configure(config):
    config.addinivalue_line("markers", "ours: more than the template asks of another notebook")


def pytest_cmdline_main(config):
    """Hand another notebook over to a child process that knows nothing of this environment."""
    notebook = config.option.notebook
    if FOLDER or notebook.resolve() == OWN:
        return None
    try:
        nbformat.read(notebook, as_version=4)
    except Exception as error:
        raise pytest.UsageError(f"{notebook} is no notebook: {error}") from None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        clean = {"PATH": os.environ["PATH"], "PS2_CHILD_FOLDER": folder, "OMP_NUM_THREADS": "1"}
        clean |= {"HOME": folder, "TMPDIR": folder, "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, *ARGUMENTS.split(), *config.invocation_params.args]
        try:
            return subprocess.run(command, env=clean, stdin=-3, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            running = Path(folder, "running").read_text()
            raise pytest.UsageError(f"stopped after {LIMIT} s, in {running}") from None


def pytest_collection_modifyitems(config, items):
    for item in items:
        for mark in item.iter_markers("points"):
            item.user_properties += [("task", mark.args[0]), ("points", mark.args[1])]
            item.user_properties.append(("check", item.function.__doc__))
        if FOLDER and item.get_closest_marker("ours"):
            item.add_marker(pytest.mark.skip(reason="the template does not ask for it"))


def pytest_collection_finish(session):
    """In the child process: enter the folder, limit the memory, load the notebook."""
    if not FOLDER or not session.items:
        return
    os.chdir(FOLDER)
    if Path("/proc/self/statm").exists():  # Linux
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    path = session.config.option.notebook.resolve()
    here = {str(ROOT), str(ROOT / "tests")}
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if entry not in here)]
    given = session.items[0].module.given()
    session.config.names = Names(path, *load_definitions(path, at_most, **given))


@contextlib.contextmanager
def at_most(seconds=10):
    def stop(*_):
        raise TimeoutError(f"stopped after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def run_check(item, end):
    os.setsid()
    hook = item.config.hook.pytest_report_to_serializable
    reports = runtestprotocol(item, nextitem=None, log=False)
    end.send_bytes(json.dumps([hook(config=item.config, report=r) for r in reports]).encode())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    """In the child process: each check runs in a fork, which may hang, exit or crash."""
    if not FOLDER:
        return None
    Path(FOLDER, "running").write_text(item.name)
    limit, (ours, theirs) = item.config.getoption("timeout"), FORK.Pipe(duplex=False)
    process = FORK.Process(target=run_check, args=(item, theirs))
    process.start()
    theirs.close()
    try:
        reason = "its process ended" if ours.poll(limit + 5) else f"stopped after {limit:g} s"
        plain = json.loads(ours.recv_bytes()) if reason.startswith("its") else []
    except EOFError:
        plain = []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    hook = item.ihook.pytest_report_from_serializable
    for data in plain:
        item.ihook.pytest_runtest_logreport(report=hook(config=item.config, data=data))
    return True


class Names:
    """The names that a notebook defines, as attributes; says why one of them is missing."""

    def __init__(self, path, space, problems):
        self.path, self.space, self.problems = path, space, problems

    def __getattr__(self, name):
        if name not in self.space:
            why = self.space["__left_out__"].get(name, "nowhere in the notebook")
            pytest.fail(f"{name} is not defined ({why})", pytrace=False)
        return self.space[name]


@pytest.fixture(scope="session")
def part2():
    """What ps2_eurosat.ipynb defines; nothing is trained."""
    space, problems = load_definitions(OWN)
    assert not problems, problems
    return space


@pytest.fixture(scope="session")
def notebook(request):
    """The names that the notebook in question defines."""
    if FOLDER:
        return request.config.names
    return Names(OWN, request.getfixturevalue("part2"), [])


@pytest.fixture
def template_fault(record_property):
    """template_fault(text): a failure within is the template's fault and costs nothing."""

    @contextlib.contextmanager
    def expected(text):
        try:
            yield
        except (AssertionError, ValueError):
            if not FOLDER:
                raise
            record_property("course template", text)
        except Exception as error:
            if not FOLDER:
                raise
            pytest.skip(f"{type(error).__name__}: {error}")

    return expected
