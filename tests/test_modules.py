"""Our modules import without side effects, and in one direction only."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {  # what each module may import of ours
    "utils": [],
    "standin": ["utils"],
    "eurosat": ["utils", "standin"],
    "trainer": ["utils", "eurosat"],
    "results": ["utils"],
    "discussion": ["results"],
    "pooling": [],
    "symmetry": [],
}


def imported(path):
    """Top-level names of all modules that a file imports, within functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names.add(node.module.partition(".")[0])
    return names


def test_every_module_is_in_the_table():
    assert sorted(ALLOWED) == sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("name", ALLOWED)
def test_a_module_imports_only_those_below_it(name):
    ours = {*ALLOWED, "tools", "tests"}
    assert imported(ROOT / f"{name}.py") & ours <= set(ALLOWED[name])


# Packages are loaded first: what they do by themselves is not ours.
LOOK = """
import importlib
import os
import socket
import sys
import IPython, matplotlib.pyplot, PIL.Image, scipy.ndimage, scipy.stats
import torch, torchvision.datasets, torchvision.transforms.v2

def state():
    return {
        "matplotlib": dict(matplotlib.rcParams),
        "threads": torch.get_num_threads(),
        "timeout": socket.getdefaulttimeout(),
        "random numbers": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "folder": [list(folder) for folder in os.walk(".")],
        "temporary files": [list(folder) for folder in os.walk(os.environ["TMPDIR"])],
        "blocked modules": [name for name, found in sys.modules.items() if not found],
    }

matplotlib.rcParams["lines.linewidth"] = 7
torch.set_num_threads(1)
socket.setdefaulttimeout(7)
for name in sys.argv[1:]:
    before = state()
    importlib.import_module(name)
    after = state()
    for what in before:
        if after[what] != before[what]:
            print("import", name, "changes", what)
"""


def test_an_import_changes_nothing(tmp_path):
    for name in ("here", "temporary", "matplotlib"):
        (tmp_path / name).mkdir()
    environment = {
        **os.environ,
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    run = subprocess.run(
        [sys.executable, "-c", LOOK, *ALLOWED],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
