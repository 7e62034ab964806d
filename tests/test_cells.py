"""Every cell of both notebooks twice in one kernel, some after an interrupt; odd surroundings."""

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from tools.files import join_streams

STOPPED = {  # cells that take long, and what is interrupted at its third call
    "train-base": "_optimise",
    "tune": "_optimise",
    "final-own": "_optimise",
    "fine-tune": "_optimise",
    "score": "scores",
}
ARM = """calls, method = [], utils.Trainer.{name}
def stop(trainer, *args):
    calls.append(1)
    if len(calls) == 3:
        raise KeyboardInterrupt
    return method(trainer, *args)
utils.Trainer.{name} = stop"""
SMALL = {  # what is added after a cell, for a run of a minute
    "sizes": "SIZE |= dict(tuned=1, sample=20)",
    "split": "train, val, test = (Subset(data, part.indices[::8]) for part in (train, val, test))",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the notebooks and utils.py, and no way to images or a network."""
    for name in ("ps2_theory.ipynb", "ps2_eurosat.ipynb", "utils.py"):
        shutil.copy(name, tmp_path)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("EUROSAT_ROOT", "PS2_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def repeated(cells, small):
    """Each cell twice, those of STOPPED with an interrupted run between the two."""
    for cell in cells:
        yield nbformat.NotebookNode(copy.deepcopy(cell), id=f"{cell.id}-first")
        if name := STOPPED.get(cell.id):
            yield new_code_cell(ARM.format(name=name))
            yield new_code_cell(cell.source, metadata={"tags": ["raises-exception"]})
            yield new_code_cell(f"assert len(calls) == 3\nutils.Trainer.{name} = method")
        yield nbformat.NotebookNode(copy.deepcopy(cell), id=f"{cell.id}-again")
        if small and cell.id in SMALL:
            yield new_code_cell(SMALL[cell.id])


def run_twice(folder, name, small=True):
    """Fails where two runs of a cell differ; the text that was printed."""
    notebook = nbformat.read(folder / name, as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = list(repeated(codes, small))
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}})
    client.execute()
    outputs = {cell.id: join_streams(cell.outputs) for cell in notebook.cells}
    for output in itertools.chain(*outputs.values()):
        output.pop("execution_count", None)
    for cell in codes:
        assert outputs[f"{cell.id}-again"] == outputs[f"{cell.id}-first"], cell.id
    return "".join(output.get("text", "") for each in outputs.values() for output in each)


def test_part_1_every_cell_twice(folder):
    run_twice(folder, "ps2_theory.ipynb")


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_part_2_every_cell_twice_and_some_after_an_interrupt(folder, small):
    printed = run_twice(folder, "ps2_eurosat.ipynb", small)
    assert not re.search(r"\b(inf|nan)\b", printed, re.IGNORECASE)
    report = (folder / "build/report/results.json").read_text(encoding="utf-8")
    json.loads(report, parse_constant=lambda name: pytest.fail(f"{name} in results.json"))


def test_the_surroundings_change_nothing_in_part_1(folder, monkeypatch):
    """Agg, a matplotlibrc, threads and another utils.py: the committed images and texts come."""
    (folder / "other").mkdir()
    (folder / "other/utils.py").write_text("raise ImportError('the other utils.py')")
    (folder / "matplotlibrc").write_text("font.family: No Such Font\nfigure.dpi: 37\n")
    odd = {"PYTHONPATH": str(folder / "other"), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    odd["OPENBLAS_CORETYPE"] = "Prescott"  # the arithmetic of an older processor
    before = [cell.get("outputs") for cell in nbformat.read("ps2_theory.ipynb", 4).cells]
    command = [sys.executable, "-m", "nbconvert", "--execute", "--inplace", "--to", "notebook"]
    environment = os.environ | odd | {"MATPLOTLIBRC": str(folder)}
    path = folder / "ps2_theory.ipynb"
    subprocess.run([*command, path], cwd=folder, check=True, env=environment)
    assert [cell.get("outputs") for cell in nbformat.read(path, 4).cells] == before


def test_threads_are_as_many_whatever_the_surroundings_say():
    command = [sys.executable, "-c", "import utils; print(utils.torch.get_num_threads())"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert subprocess.check_output(command, env=environment) == b"2\n"
