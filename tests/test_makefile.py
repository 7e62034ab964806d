"""The Makefile and .venv: made if missing, updated in place, never destroyed.

It runs in a folder of its own. Nothing is installed from a network.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, outside_make

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")
INSTALL = "-m pip install --requirement requirements.txt --constraint constraints.txt"
SENTENCE = "The packages could not be installed: is there a network?"
NEED_PACKAGES = ["run", "test", "full", "pdf", "check", "grade", "tune", "bench"]
NEED_PACKAGES += ["soak", "classroom"]
NEED_NONE = ["help", "clean"]

# Stands for .venv/bin/python: notes how it is called, and can fail as pip would.
FAKE_PYTHON = """\
#!/bin/sh
echo "$@" >> calls
[ ! -e pip-fails ] || [ "$2" != pip ]
"""


def make(folder, *arguments):
    """Run make in a folder, without a network; what subprocess.run returns."""
    variables = outside_make()
    variables.pop("PS2_PROFILE", None)
    python3 = Path(sys.executable).parent
    variables["PATH"] = f"{python3}:{variables['PATH']}"
    variables["PIP_NO_INDEX"] = "1"
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True
    )


def make_older(stamp):
    """Let a file be of 1970, as if requirements.txt had been changed since."""
    os.utime(stamp, (0, 0))


@pytest.fixture
def folder(tmp_path):
    """A folder with our Makefile, and a .venv that is older than requirements.txt."""
    folder = tmp_path / "Übung 2 (final)"
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = programs / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    stamp = folder / ".venv/installed"
    stamp.touch()
    make_older(stamp)
    return folder


def files_of(folder):
    """Names and contents of all files below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths}


def test_every_target_is_in_a_list(folder):
    listed = [line.split()[0] for line in make(folder).stdout.splitlines()]
    assert sorted(listed) == sorted(NEED_PACKAGES + NEED_NONE)


@pytest.mark.parametrize("target", NEED_PACKAGES)
def test_a_target_updates_what_is_there(folder, target):
    before = files_of(folder / ".venv")
    done = make(folder, target)
    assert done.returncode == 0, done.stderr
    assert files_of(folder / ".venv") == before
    first, *others = (folder / "calls").read_text().splitlines()
    assert first == INSTALL
    assert others
    make(folder, target)  # nothing has changed since
    again = (folder / "calls").read_text().splitlines()
    assert again == [first, *others, *others]


@pytest.mark.parametrize("target", NEED_PACKAGES)
def test_an_install_that_fails_leaves_what_was_there(folder, target):
    (folder / "pip-fails").touch()
    before = files_of(folder / ".venv")
    for _ in range(2):  # the second call tries again
        done = make(folder, target)
        assert done.returncode == 2
        assert SENTENCE in done.stderr
        assert files_of(folder / ".venv") == before
    assert (folder / "calls").read_text().splitlines() == [INSTALL, INSTALL]


@pytest.mark.parametrize("target", NEED_NONE)
def test_other_targets_install_nothing(folder, target):
    before = files_of(folder / ".venv")
    assert make(folder, target).returncode == 0
    assert files_of(folder / ".venv") == before
    assert not (folder / "calls").exists()


def test_a_real_environment_is_made_once_and_survives_what_cannot_be_had(folder):
    shutil.rmtree(folder / ".venv")
    (folder / "tools").mkdir()
    (folder / "tools/notebook.py").write_text("import sys; print(sys.prefix)")
    requirements = folder / "requirements.txt"
    requirements.write_text("pip\n")  # each new environment has it
    (folder / "constraints.txt").write_text("")

    done = make(folder, "run")
    assert done.returncode == 0, done.stderr
    made = str(folder / ".venv")
    assert done.stdout.splitlines()[-1] == made

    requirements.write_text("a-package-that-is-nowhere\n")
    make_older(folder / ".venv/installed")
    done = make(folder, "run")
    assert done.returncode == 2
    assert SENTENCE in done.stderr
    python = folder / ".venv/bin/python"
    run = [python, "-m", "tools.notebook"]
    assert subprocess.check_output(run, cwd=folder, text=True).strip() == made
