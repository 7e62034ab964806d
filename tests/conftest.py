"""Fixtures, and `--notebook FILE`: test_template.py on another notebook, with a table of points.

Another notebook is other people's code. It runs in a child process without this environment, in
a temporary folder, with limits of time and memory. This is no jail.
"""

import contextlib
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("short", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("soak", deadline=None, max_examples=2000)
settings.load_profile("short")
ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "ps2_eurosat.ipynb"
CHILD = os.environ.get("PS2_CHILD")  # set in a child process: the checks that ended earlier ones
PLAIN = AssertionError, pytest.fail.Exception, pytest.skip.Exception
TASKS = {  # points possible, and what a person reads
    "1": (10, "the examples, the histograms, comments"),
    "2": (15, "the printed iteration, why this architecture, the plots"),
    "3": (10, "the choice of the grid, comments"),
    "4": (10, "new last layer, training, summary, why this architecture, plots"),
    "5": (5, "table and discussion"),
}


@pytest.fixture(scope="session")
def part2():
    """What ps2_eurosat.ipynb defines; nothing is trained."""
    from tools.definitions import load_definitions  # here: the parent process need not wait for it

    space, problems = load_definitions(OWN)
    assert not problems, problems
    return space


@pytest.fixture(scope="session")
def notebook(request):
    """The names of the notebook that is tested."""
    from tests.helpers import Names

    own = None if CHILD is not None else Names(OWN, request.getfixturevalue("part2"), [])
    return own or request.config.names


@pytest.fixture
def template_fault(request):
    """template_fault(text): a failure within is the template's fault and costs nothing."""

    @contextlib.contextmanager
    def expected(text):
        try:
            yield
        except Exception as error:
            if CHILD is None:
                raise
            if not isinstance(error, (AssertionError, ValueError)):
                pytest.skip(f"{type(error).__name__}: {error}")
            request.node.user_properties.append(("course template", text))

    return expected


def pytest_addoption(parser):
    parser.addoption("--notebook", type=Path, default=OWN, help="notebook for test_template.py")


def pytest_cmdline_main(config):
    """Hand another notebook over to a child process; where a check ends that, start another."""
    config.addinivalue_line("markers", "ours: more than the template asks of another notebook")
    notebook, limit = config.option.notebook, config.getoption("timeout", None) or 30
    if CHILD is not None or notebook.resolve() == OWN:
        return None
    try:
        json.loads(notebook.read_text())["cells"]
    except Exception as error:
        raise pytest.UsageError(f"{notebook} is no notebook: {error!r}") from None
    command = [sys.executable, "-P", "-m", "pytest", *config.invocation_params.args]
    command += ["--tb=no", "-rN", f"--timeout={limit:g}", "--timeout-method=signal"]
    ended = [""]
    while ended[-1] not in ended[:-1]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            clean = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder}
            clean |= {"PS2_CHILD": " ".join(ended), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
            with contextlib.suppress(subprocess.TimeoutExpired):
                child = subprocess.run(command, env=clean, stdin=-3, timeout=20 * limit)
                if not Path(folder, "running").exists():
                    return child.returncode
            ended.append(Path(folder, "running").read_text())
    raise pytest.UsageError(f"{notebook} ends the process, or cannot be stopped, in {ended[-1]}")


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("points"):
            item.user_properties += [("task", mark.args[0]), ("points", mark.args[1])]
        if CHILD is not None and item.get_closest_marker("ours"):
            item.add_marker(pytest.mark.skip(reason="the template does not ask for it"))


def pytest_collection_finish(session):
    """In the child process: enter the folder, limit the memory, load the notebook."""
    if CHILD is None:
        return
    from tests.helpers import Names, given, within
    from tools.definitions import load_definitions

    os.chdir(os.environ["HOME"])
    Path("running").write_text("its definitions")
    if (statm := Path("/proc/self/statm")).exists():  # Linux
        size = int(statm.read_text().split()[0]) * resource.getpagesize() + 4 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    path, here = session.config.option.notebook.resolve(), (str(ROOT), str(ROOT / "tests"))
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if entry not in here)]
    guard = functools.partial(within, int(session.config.getoption("timeout")))
    session.config.names = Names(path, *load_definitions(path, guard, **given()))


def pytest_runtest_setup(item):
    if CHILD is not None:
        Path(os.environ["HOME"], "running").write_text(item.name)
        if item.name in CHILD.split():
            pytest.fail("it ends the process, or cannot be stopped", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep the real reason of a failure with its report, in one line."""
    if CHILD is not None and call.excinfo:
        error, where = call.excinfo.value, call.excinfo.traceback[-1].name
        lost, text = item.config.names.space["__left_out__"], str(error).strip().partition("\n")[0]
        if not text or not isinstance(error, PLAIN):
            text = f"{type(error).__name__}: {text}" + f", in {where}" * (where != item.name)
        text += f" ({lost[error.name]})" if getattr(error, "name", None) in lost else ""
        item.user_properties.append(("reason", text[:300]))
    return (yield)


def pytest_terminal_summary(terminalreporter, config):
    """Points by task, what cost points and why, and what could not be loaded."""
    kinds, write = ("passed", "failed", "error", "skipped"), terminalreporter.write_line
    reports = {r.nodeid: r for kind in kinds for r in terminalreporter.getreports(kind)}
    checks = [(r, dict(getattr(r, "user_properties", ()))) for r in reports.values()]
    for task, (possible, person) in TASKS.items():
        each = [(r.passed, found["points"]) for r, found in checks if found.get("task") == task]
        reached, testable = sum(n for good, n in each if good), sum(n for _, n in each)
        if any("points" in found for _, found in checks):
            text = f"task {task}: {reached:2} points, testable {testable:2} of {possible}"
            write(f"{text}; a person reads {person}")
    for report, found in checks:
        if "points" in found and not report.passed:
            verb = "not tested" if report.skipped else f"0 of {found['points']}"
            name = report.nodeid.rpartition("::test_")[2].replace("_", " ")
            write(f"task {found['task']}, {verb}: {name}: {found.get('reason', report.outcome)}")
        if "course template" in found:
            write(f"course template, costs nothing: {found['course template']}")
    for problem in config.names.problems if CHILD is not None else []:
        write(f"not loaded: {problem}")
    if CHILD is not None:
        Path(os.environ["HOME"], "running").unlink()
