"""run.sh as the course's collector runs it: a copy of the tree, a stranger, 2 GiB."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers import copy_notebook, copy_repository, lower_limit, refused
from tests.test_grading import ENDLESS, SUBMISSION, write_submission
from tools import collect
from tools.grade import EndedError, run_checks

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the collector runs on Linux"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files"),
]


def open_to_all(folder):
    """Let the collector's user enter a folder, and write there."""
    subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)


@pytest.fixture(scope="module")
def tree():
    """A folder with a space in its name that holds the files of git, and nothing else.

    It is not below pytest's own folder, where no other user may enter.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "hidden tests")
        copy_repository(tree)
        open_to_all(folder)
        yield tree


@pytest.fixture
def clone(tree):
    """An empty folder for a team's clone, with a name that needs quotes."""
    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        clone = Path(folder, 'Gruppe "Ü" (it\'s ours)')
        clone.mkdir()
        yield clone


def without_rights(command):
    """The command as another user, who cannot raise a limit."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return command
    setpriv = [shutil.which("setpriv"), "--bounding-set", "-sys_resource"]
    home = os.stat(Path.home())
    others_may_enter = home.st_mode & 1  # Python itself may lie there
    if others_may_enter:
        setpriv += ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
    return [*setpriv, *command]


def limit_data():
    """The collector's hard limit of memory."""
    import resource  # not on Windows

    lower_limit(resource.RLIMIT_DATA, 2 * 2**30)


def collect_cases(tree, clone, path=None, cwd=None, submission=None):
    """{name: "" or what is wrong} of the cases in the report of run.sh on a clone.

    `submission` is the path that run.sh is told, by default the clone's.
    """
    if submission is None:
        submission = str(clone)
    report = clone.parent / "report.xml"
    open_to_all(clone.parent)
    environment = {
        "PATH": path or f"{Path(sys.executable).parent}:{os.defpath}",
        "HOME": str(clone.parent),
        "TMPDIR": str(clone.parent),
        "MALLOC_ARENA_MAX": "2",
        "PYTHONSAFEPATH": "1",
        "DSL_SUBMISSION_DIR": submission,
        "DSL_JUNIT_OUT": str(report),
    }
    script = "run.sh"
    if cwd is not None:
        script = str(tree / "run.sh")
    command = without_rights(["sh", script])
    subprocess.run(
        command,
        cwd=cwd or tree,
        env=environment,
        preexec_fn=limit_data,
        stdout=subprocess.DEVNULL,
        timeout=300,
    )
    cases = {}
    for case in ElementTree.parse(report).iterfind("./testsuite/testcase"):
        wrong = [part.tag for part in case if part.tag != "properties"]
        cases[case.get("name")] = " ".join(wrong)
    return cases


def test_our_notebook_gets_all_points(tree, clone):
    copy_notebook("ps2_eurosat.ipynb", clone)
    write_submission(clone / "ps2_eurosat (copy).ipynb", SUBMISSION)
    shutil.copy("ps2_theory.ipynb", clone / "a.ipynb")
    cases = collect_cases(tree, clone)
    assert len(cases) == 19
    assert not any(cases.values()), cases


def test_the_untouched_template_gets_nothing(tree, clone):
    cells = []
    for cell in SUBMISSION.replace(ENDLESS, "").split("# %%\n"):
        cells.append(re.sub("# TODO.*", "pass\n", cell, flags=re.DOTALL))
    write_submission(clone / "part 2.ipynb", "# %%\n".join(cells))
    cases = collect_cases(tree, clone, cwd=tree.parent)
    assert len(cases) == 19
    assert set(cases.values()) <= {"failure", "error"}


def only_case(cases):
    """The name of the one case, an error, of a report."""
    ((name, wrong),) = cases.items()
    assert wrong == "error"
    return name


def test_a_clone_without_a_notebook_gets_a_report(tree, clone):
    (clone / "part 2.py").write_text("class MyCNNModel: pass")
    reason = only_case(collect_cases(tree, clone))
    assert reason == "no notebook defines MyCNNModel: there is no notebook"


UNREADABLE = [
    pytest.param("", "DSL_SUBMISSION_DIR names no clone", id="none named"),
    pytest.param("no/clone", "No such file or directory: 'no/clone'", id="missing"),
    pytest.param("run.sh", "Not a directory: 'run.sh'", id="a file"),
]


@pytest.mark.parametrize("submission, words", UNREADABLE)
def test_a_clone_that_cannot_be_read_gets_a_report(tree, clone, submission, words):
    reason = only_case(collect_cases(tree, clone, submission=submission))
    assert words in reason


def test_a_definition_that_kills_the_process_gets_a_report(tree, clone):
    code = "import os\n# %%\nclass MyCNNModel:\n    os.kill(os.getpid(), 9)"
    write_submission(clone / "a.ipynb", code)
    reason = only_case(collect_cases(tree, clone))
    assert reason == "the notebook ended the process with signal 9 in its definitions"


def test_a_machine_without_pytest_gets_a_report(tree, clone):
    python = clone.parent / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    copy_notebook("ps2_eurosat.ipynb", clone)
    reason = only_case(collect_cases(tree, clone, f"{clone.parent}:{os.defpath}"))
    assert reason == "No module named 'pytest'"


def test_a_machine_without_python_gets_a_report(tree, clone):
    for name in ("cat", "dirname", "sh"):
        (clone.parent / name).symlink_to(shutil.which(name))
    reason = only_case(collect_cases(tree, clone, str(clone.parent)))
    assert "python3 does not start" in reason


# --- The parts ------------------------------------------------------------------------

OWN = "class MyCNNModel(nn.Sequential):\n    pass"
FOUND = [  # files with their code, and the one that is graded
    pytest.param({"b.ipynb": OWN, "a.ipynb": "x = 1"}, "b.ipynb", id="it defines it"),
    pytest.param({"z.ipynb": OWN, "a/a.ipynb": OWN}, "z.ipynb", id="shallowest"),
    pytest.param({"b.ipynb": OWN, "a.ipynb": OWN}, "a.ipynb", id="two"),
    pytest.param({"a.ipynb": OWN, "a-Copy1.ipynb": OWN}, "a.ipynb", id="copy"),
    pytest.param(
        {".ipynb_checkpoints/a.ipynb": OWN, ".a.ipynb": OWN, "x/y/b.ipynb": OWN},
        "x/y/b.ipynb",
        id="hidden",
    ),
    pytest.param(
        {'it\'s "Ü" $(id) `id` .ipynb': OWN},
        'it\'s "Ü" $(id) `id` .ipynb',
        id="name that needs quotes",
    ),
    pytest.param({"-x.ipynb": OWN}, "-x.ipynb", id="name like an option"),
    pytest.param({"a.ipynb": "", "b.ipynb": OWN}, "b.ipynb", id="a broken one, too"),
    pytest.param(
        {"a.ipynb": "# class MyCNNModel\nMyCNNModel(3)", "b.ipynb": OWN},
        "b.ipynb",
        id="used, not defined",
    ),
    pytest.param({"a.ipynb": OWN + "\nprint(1)."}, "a.ipynb", id="syntax error"),
    pytest.param({"a.ipynb": "MyCNNModel = nn.Sequential"}, "a.ipynb", id="assigned"),
]
NOT_FOUND = [
    pytest.param({}, "there is no notebook", id="empty"),
    pytest.param({"a.ipynb": "x = 1", "b.ipynb": "y"}, "a.ipynb; not in b", id="other"),
    pytest.param(
        {"a.ipynb": ""}, "a.ipynb is no notebook: it is not JSON", id="broken"
    ),
]


def write_clone(folder, files):
    """Write the notebooks of a clone; an empty one is a file of no bytes."""
    for name, code in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if code:
            write_submission(path, code)
        else:
            path.touch()


@pytest.mark.parametrize("files, expected", FOUND)
def test_which_notebook_is_graded(tmp_path, files, expected):
    write_clone(tmp_path, files)
    assert collect.find_notebook(tmp_path) == tmp_path / expected


@pytest.mark.parametrize("files, reason", NOT_FOUND)
def test_why_no_notebook_is_graded(tmp_path, files, reason):
    write_clone(tmp_path, files)
    with refused(LookupError, "no notebook defines MyCNNModel: ", reason):
        collect.find_notebook(tmp_path)


def test_ten_notebooks_that_do_not_fit_are_named(tmp_path):
    write_clone(tmp_path, {f"{number}.ipynb": "x = 1" for number in range(10, 22)})
    with refused(LookupError, "not in 10.ipynb", "; not in 19.ipynb; and 2 more"):
        collect.find_notebook(tmp_path)


def test_a_notebook_that_is_too_large_is_named(tmp_path):
    path = tmp_path / "a.ipynb"
    path.touch()
    os.truncate(path, 201_000_000)
    with refused(LookupError, f"{path} has 201 MB, which is too large"):
        collect.find_notebook(tmp_path)


@pytest.mark.soak
def test_a_notebook_that_does_not_fit_into_memory_is_named(tmp_path):
    parts = '{"nbformat": 4, "cells": [' + "{}," * 30_000_000 + "{}]}"
    (tmp_path / "a.ipynb").write_text(parts)
    code = f"""import sys
from tools.collect import fitting_notebooks
from tools.team import limit_memory
limit_memory()
try:
    fitting_notebooks({str(tmp_path)!r})
except LookupError as error:
    print(error)"""
    found = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "a.ipynb is no notebook: it does not fit into memory; remove" in found


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    if os.getuid() == 0:
        pytest.skip("root may read every folder")
    folder = tmp_path / "part 2"
    folder.mkdir(mode=0)
    with refused(LookupError, "part 2 cannot be read: Permission denied"):
        collect.find_notebook(tmp_path)
    folder.chmod(0o700)


def test_other_notebooks_that_fit_are_named(tmp_path, capsys):
    write_clone(tmp_path, {"a.ipynb": OWN, "b.ipynb": OWN})
    collect.find_notebook(tmp_path)
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        f"graded: {tmp_path / 'a.ipynb'}",
        f"not graded, though it defines MyCNNModel, too: {tmp_path / 'b.ipynb'}",
    ]


def test_checks_that_never_end_are_stopped(tmp_path):
    write_submission(tmp_path / "a.ipynb", OWN)
    arguments = ["tests/test_template.py", f"--notebook={tmp_path / 'a.ipynb'}"]
    with refused(EndedError, "pytest was stopped after 0.2 s before it began"):
        run_checks(arguments, 0.2)


def test_checks_that_take_too_long_leave_time_for_the_report(tmp_path):
    write_submission(tmp_path / "a.ipynb", OWN)
    report = tmp_path / "report.xml"
    arguments = ["tests/test_template.py", f"--notebook={tmp_path / 'a.ipynb'}"]
    run_checks([*arguments, f"--junitxml={report}"], 60)
    errors = list(ElementTree.parse(report).iter("error"))
    assert len(errors) == 19
    for error in errors:
        assert "not run: the earlier checks took all of the time" in error.get(
            "message"
        )


def test_a_message_of_any_characters_becomes_xml(tmp_path):
    report = tmp_path / "report.xml"
    sentence = "<a> & \"b\" 'c' \n\tÜ ✅ \0 \x1b[31m \ud83d \ufffe ]]>"
    collect.write_error(report, sentence)
    (case,) = ElementTree.fromstring(report.read_text()).iter("testcase")
    assert case.get("name") == "<a> & \"b\" 'c' Ü ✅ ? ?[31m ? ? ]]>"
    assert case.find("error") is not None
