"""Every command that README.md shows is in one of three lists: where is it run?

Some run here as they are typed, in a copy of the repository in a folder with a space,
without a network.
"""

import importlib
import os
import shutil
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from tests.helpers import ROOT, copy_with_commands, offline, readme_commands

pytestmark = [
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files"),
    pytest.mark.skipif(not shutil.which("make"), reason="needs make"),
]

SHORT = "test_readme.test_a_short_command_does_what_is_said"
LONG = "test_readme.test_a_long_command_does_what_is_said"
EARLIER = "test_readme.test_a_notebook_is_compared_with_an_earlier_commit"
RUN = "test_readme.test_make_run_is_the_command_without_make"
MAKE_NAME = "test_tools.test_make_hands_a_name_over_as_it_is"
GRADE = "test_grading.test_a_notebook_without_points_is_graded"
TUNE = "test_tuning.test_the_notebook_as_typed_in_two_processes_and_on_two_machines"

PYTHON = ".venv/bin/python -m"
NBCONVERT = ".venv/bin/jupyter nbconvert --to"
DASK = f"{PYTHON} distributed.cli"
SCHEDULER = "tcp://first:8786"

IN_MAKE_TEST = {  # the test that runs it
    "make": SHORT,
    f"{PYTHON} tools.notebook": RUN,
    'make grade SUBMISSION="FILE"': MAKE_NAME,
    'make classroom CLONES="FOLDER"': MAKE_NAME,
    f"{PYTHON} tools.grade FILE": GRADE,
    "make check BEFORE=a.ipynb AFTER=b.ipynb": SHORT,
    "mkdir -p build && git show HEAD~1:ps2_eurosat.ipynb > build/before.ipynb": EARLIER,
    "make check BEFORE=build/before.ipynb AFTER=ps2_eurosat.ipynb": EARLIER,
    f"{PYTHON} pytest tests/test_trainer.py -k cycle": SHORT,
    f"{NBCONVERT} html ps2_theory.ipynb": SHORT,
}
IN_MAKE_SOAK = {  # the test that runs it
    "make run": LONG,
    "make grade": LONG,
    "make pdf": LONG,
    f"{NBCONVERT} tools.pdf.TypstPDFExporter ps2_theory.ipynb": LONG,
    "make tune WORKERS=2": TUNE,
    f"{DASK}.dask_scheduler": TUNE,
    f"OMP_NUM_THREADS=1 {DASK}.dask_worker {SCHEDULER} --nthreads 1 --nworkers 2": TUNE,
    f"PS2_PROFILE=full {PYTHON} tools.tune --scheduler {SCHEDULER}": TUNE,
}
BY_HAND = {  # why no test runs it
    "git pull": "needs a network",
    "make test": "it runs this test",
    "make soak": "it runs the long tests",
    "make full": "takes hours, and needs EuroSAT",
    "make check": "needs EuroSAT",
    "python -m tools.check": "needs EuroSAT",
    "python -m tools.trials own epochs=5 images=2000 optimizer=AdamW": "needs EuroSAT",
    "python -m tools.ladder": "needs EuroSAT",
    "make bench": "needs a quiet machine",
    "python3 -m venv .venv": "installs",
    ".venv/bin/pip install --requirement requirements.txt "
    "--constraint constraints.txt": "installs, needs a network",
    ".venv/bin/pip install torch torchvision --no-deps -c constraints.txt "
    "--index-url https://download.pytorch.org/whl/cpu": "installs, needs a network",
    "py -m venv .venv": "needs Windows",
    ".venv/bin/jupyter lab": "opens a browser",
    f"{NBCONVERT} pdf ps2_theory.ipynb": "needs LaTeX",
}


def test_each_command_is_in_one_list_and_each_list_holds_no_other():
    listed = [*IN_MAKE_TEST, *IN_MAKE_SOAK, *BY_HAND]
    assert sorted(listed) == sorted(readme_commands())


def is_long(name):
    """Does make soak alone run this test? AttributeError if there is no such test."""
    file, _, function = name.partition(".")
    module = importlib.import_module(f"tests.{file}")
    markers = getattr(getattr(module, function), "pytestmark", [])
    return "soak" in [marker.name for marker in markers]


@pytest.mark.parametrize("name", sorted(set(IN_MAKE_TEST.values())))
def test_a_test_that_is_named_for_make_test_is_there(name):
    assert not is_long(name)


@pytest.mark.parametrize("name", sorted(set(IN_MAKE_SOAK.values())))
def test_a_test_that_is_named_for_make_soak_is_there(name):
    assert is_long(name)


# --- In a copy ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the repository, and two small notebooks."""
    folder = copy_with_commands(tmp_path_factory.mktemp("copy") / "Übung 2 (final)")
    write_text(folder / "a.ipynb", "one")
    write_text(folder / "b.ipynb", "one")
    return folder


def write_text(path, text):
    """Write a notebook with one cell of text."""
    cell = new_markdown_cell(text, id="first")
    nbformat.write(new_notebook(cells=[cell]), path)


def type_in(folder, command):
    """Type a command in a folder; all that it prints."""
    variables = offline(folder)
    variables["GIT_CONFIG_GLOBAL"] = os.devnull  # a reader's own settings of git
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def commands_of(commands, name):
    """The commands of a list that one test runs."""
    return [command for command in commands if commands[command] == name]


PRINTED = {  # what shows that a command has done its work
    "make": "both notebooks into build/",
    "make check BEFORE=a.ipynb AFTER=b.ipynb": "a.ipynb and b.ipynb: identical",
    f"{PYTHON} pytest tests/test_trainer.py -k cycle": "1 passed",
    f"{NBCONVERT} html ps2_theory.ipynb": "to ps2_theory.html",
    "make run": "notebooks, figures/ and report/ are in build/",
    "make grade": "together: 28 of 28 testable points",
    "make pdf": "wrote report/ps2_eurosat.pdf",
    f"{NBCONVERT} tools.pdf.TypstPDFExporter ps2_theory.ipynb": "to ps2_theory.pdf",
}


@pytest.mark.parametrize("command", commands_of(IN_MAKE_TEST, SHORT))
def test_a_short_command_does_what_is_said(folder, command):
    assert PRINTED[command] in type_in(folder, command)


@pytest.mark.soak
@pytest.mark.parametrize("command", commands_of(IN_MAKE_SOAK, LONG))
def test_a_long_command_does_what_is_said(folder, command):
    assert PRINTED[command] in type_in(folder, command)


def test_make_run_is_the_command_without_make(folder):
    told = type_in(folder, "make --dry-run run").splitlines()
    (command,) = commands_of(IN_MAKE_TEST, RUN)
    assert told == [command]


def test_a_notebook_is_compared_with_an_earlier_commit(folder):
    show, compare = commands_of(IN_MAKE_TEST, EARLIER)
    commit = "git -c user.name=a -c user.email=a@b commit --quiet --message a "
    type_in(folder, f"git init --quiet && git add . && {commit}")
    type_in(folder, f"{commit} --allow-empty")
    type_in(folder, show)
    told = type_in(folder, compare)
    names = "build/before.ipynb and ps2_eurosat.ipynb"
    assert f"{names}: identical" in told
