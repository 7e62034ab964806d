"""Every cell of both notebooks twice in one kernel, some after an interrupt.

And part 1 where other settings, threads and modules of the same name lie around.
"""

import copy
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from tests.helpers import code_cells, copy_notebook, shown_text
from tools.files import join_streams

THEORY = "ps2_theory.ipynb"
EUROSAT = "ps2_eurosat.ipynb"
INTERRUPTED = {  # long cells, and the method of Trainer whose third call is stopped
    "train-our-model": "optimise",
    "tune": "optimise",
    "final-own": "optimise",
    "fine-tune": "optimise",
    "score-tuned": "scores",
}
ARM = """import time

calls = []
method = Trainer.{name}


def stop(trainer, *args):
    calls.append(1)
    time.sleep(0.6)  # until the progress shows the time that is left
    if len(calls) == 3:
        raise KeyboardInterrupt
    return method(trainer, *args)


Trainer.{name} = stop"""
DISARM = """assert len(calls) == 3
Trainer.{name} = method"""
SMALLER = {  # what is added after a cell, so that the run takes a minute
    "sizes": 'size = {**size, "epochs": 1, "sample": 200}',
    "split": """train_part = Subset(data, train_part.indices[::2])
val_part = Subset(data, val_part.indices[::8])
test_part = Subset(data, test_part.indices[::8])""",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, with no way to images or a network."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("EUROSAT_ROOT", "PS2_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def renamed(cell, run):
    """A copy of a cell with the name of the run in its id."""
    return nbformat.NotebookNode(copy.deepcopy(cell), id=f"{cell.id}-{run}")


def repeat(cells, is_small):
    """Each cell twice, those of INTERRUPTED with an interrupted run between the two."""
    repeated = []
    for cell in cells:
        repeated.append(renamed(cell, "first"))
        if cell.id in INTERRUPTED:
            name = INTERRUPTED[cell.id]
            stopped = renamed(cell, "stopped")
            stopped.metadata["tags"] = ["raises-exception"]
            repeated.append(new_code_cell(ARM.format(name=name)))
            repeated.append(stopped)
            repeated.append(new_code_cell(DISARM.format(name=name)))
        repeated.append(renamed(cell, "again"))
        if is_small and cell.id in SMALLER:
            repeated.append(new_code_cell(SMALLER[cell.id]))
    return repeated


def run_twice(folder, name, is_small=True):
    """The cells of the run, by id; fails where two runs of a cell differ."""
    copy_notebook(name, folder)
    notebook = nbformat.read(folder / name, as_version=4)
    codes = code_cells(folder / name)
    notebook.cells = repeat(codes, is_small)
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=None, resources=resources).execute()
    run = {cell.id: cell for cell in notebook.cells}
    for cell in run.values():
        cell.outputs = join_streams(cell.outputs)
        for output in cell.outputs:
            output.pop("execution_count", None)
    for cell in codes:
        first = run[f"{cell.id}-first"]
        again = run[f"{cell.id}-again"]
        assert again.outputs == first.outputs, cell.id
    return run


def test_part_1_every_cell_twice(folder):
    run_twice(folder, THEORY)


SIZES = [
    pytest.param(True, id="small"),
    pytest.param(False, id="as it is", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("is_small", SIZES)
def test_part_2_every_cell_twice_and_some_after_an_interrupt(folder, is_small):
    run = run_twice(folder, EUROSAT, is_small)

    assert not re.search(r"\b(inf|nan)\b", shown_text(run.values()), re.IGNORECASE)
    report = (folder / "build/report/results.json").read_text(encoding="utf-8")
    json.loads(report, parse_constant=lambda name: pytest.fail(f"results.json: {name}"))

    for name in INTERRUPTED:
        stopped = run[f"{name}-stopped"]
        assert stopped.outputs[-1].ename == "KeyboardInterrupt"
        text = shown_text([stopped])
        assert re.search(r"\d of \d", text), f"{name} shows no progress: {text}"
        assert "s left" not in text, f"{name}: {text}"


def test_the_surroundings_change_nothing_in_part_1(folder):
    """Agg, a matplotlibrc, threads, another utils.py: images and texts stay."""
    copy_notebook(THEORY, folder)
    (folder / "other").mkdir()
    (folder / "other/utils.py").write_text("raise ImportError('the other utils.py')")
    (folder / "matplotlibrc").write_text("font.family: No Such Font\nfigure.dpi: 37\n")
    environment = {
        **os.environ,
        "MATPLOTLIBRC": str(folder),
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_CORETYPE": "Prescott",  # the arithmetic of an older processor
        "PYTHONPATH": str(folder / "other"),
    }
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook"]
    command += ["--execute", "--inplace", THEORY]
    subprocess.run(command, cwd=folder, check=True, env=environment)
    found = [cell.outputs for cell in code_cells(folder / THEORY)]
    assert found == [cell.outputs for cell in code_cells(THEORY)]


SHOW_THREADS = """import torch
print(torch.get_num_threads())
import utils
print(torch.get_num_threads())
utils.set_up()
print(torch.get_num_threads())"""


def test_two_threads_are_set_by_set_up_and_not_by_the_import():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SHOW_THREADS]
    shown = subprocess.check_output(command, env=environment, text=True)
    assert shown.split() == ["1", "1", "2"]
