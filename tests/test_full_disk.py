"""A full disk: what a tool or a notebook writes is there whole, or as it was before."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch

import results
import utils
from tests.helpers import code_cells, lower_limit, refused
from tools import bench, record, trials

resource = pytest.importorskip("resource")  # not on Windows
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ["ps2_theory.ipynb", "ps2_eurosat.ipynb"]
LIMIT = 100_000  # bytes that a file can have: as if the disk were full then
LONG = "A line that makes a file longer than that.\n" * 3_000


@pytest.fixture
def limit():
    """A function: from its call on, no file here can be longer than LIMIT."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def apply():
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, most))

    yield apply
    resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: a copy of what the writers read and replace."""
    for name in [*NOTEBOOKS, "README.md", "report", "figures"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    """{path: bytes} of all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- Every writer ---------------------------------------------------------------------


def write_figure(monkeypatch):
    fig, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).random((500, 500)))
    utils.show_figure(fig, "figures/confusion.png", "Noise.", "Noise.")


def write_network(monkeypatch):
    weights = {"layer": torch.zeros(LIMIT)}
    utils.save_state(Path("report/weights/your model.pt"), "a network", weights)


def write_benchmark(monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench"])
    monkeypatch.setattr(bench, "load_published", lambda: None)
    monkeypatch.setattr(bench, "SECTIONS", [lambda part2, data: [LONG]])
    bench.main()


def write_ledger(monkeypatch):
    monkeypatch.setattr("sys.argv", ["trials", "own"])
    data = torch.utils.data.TensorDataset(torch.zeros(3))
    monkeypatch.setattr(trials, "load_published", lambda: data)
    split = {"train": [0], "val": [1], "test": [2]}
    monkeypatch.setattr(trials, "split_eurosat", lambda data: split)
    monkeypatch.setattr(trials, "run_trial", lambda *arguments: {"what": LONG})
    trials.main()


def run_cell(name, **space):
    """Run a cell of part 2, which has the name `name`, with these names defined."""
    (cell,) = [cell for cell in code_cells("ps2_eurosat.ipynb") if cell.id == name]
    exec(cell.source, {"utils": utils, "results": results, **space})


def write_results(monkeypatch):
    made = {"results": {}, "what": LONG}
    run_cell("write-results", record=made, profile="quick", out=Path("."))


def write_looks(monkeypatch):
    made = {}
    latest = {"test": [], "trials": LONG}
    monkeypatch.setattr(results, "read_json", lambda path: latest)
    ledger = {"test": []}
    run_cell("write-results", record=made, profile="full", out=Path("."), ledger=ledger)


@pytest.mark.parametrize(
    "write, name",
    [
        pytest.param(write_figure, "figures/confusion.png", id="figure"),
        pytest.param(write_network, "report/weights/your model.pt", id="network"),
        pytest.param(write_benchmark, "report/benchmark.md", id="benchmark"),
        pytest.param(write_ledger, "report/trials.json", id="ledger"),
        pytest.param(write_results, "report/results.json", id="results"),
        pytest.param(write_looks, "report/trials.json", id="looks at the test list"),
    ],
)
def test_the_file_of_before_stays(folder, limit, monkeypatch, write, name):
    before = contents(folder)
    limit()
    with refused(OSError, f"{name} could not be written: File too large"):
        write(monkeypatch)
    after = contents(folder)
    if write is write_looks:  # its first file is short, and is written
        del before[folder / results.RESULTS], after[folder / results.RESULTS]
    assert after == before


def test_the_record_of_before_stays(folder, limit):
    path = utils.work_folder() / "net.pt"
    utils.save_state(path, "a network", {"layer": torch.zeros(LIMIT)})
    before = contents(folder)
    limit()
    with pytest.raises(OSError, match="File too large"):
        record.keep()
    after = contents(folder)
    for name in list(after):
        if "weights-new" in str(name):  # the next start removes it
            del after[name]
    assert after == before


def test_the_readme_of_before_stays(folder, limit):
    utils.save_state(utils.work_folder() / "net.pt", "a network", {})
    readme = Path("README.md")
    readme.write_text(readme.read_text("utf-8") + LONG, "utf-8")
    before = readme.read_bytes()
    limit()
    with refused(OSError, "README.md could not be written: File too large"):
        record.keep()
    assert readme.read_bytes() == before
    assert utils.work_folder().exists()  # a second start goes on from there


# --- Commands -------------------------------------------------------------------------


def run_tool(size, *command):
    """Run a tool that can write no file longer than `size` bytes; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        preexec_fn=lambda: lower_limit(resource.RLIMIT_FSIZE, size),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


def write_notebook(path, code):
    cell = nbformat.v4.new_code_cell(code, id="one")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


def test_the_notebook_of_before_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook("a.ipynb", f"print('x' * {2 * LIMIT})")
    before = contents(tmp_path)
    told = run_tool(LIMIT, "tools.notebook", "a.ipynb")
    assert told.startswith("stopped: a.ipynb could not be written: File too large")
    assert contents(tmp_path) == before


def test_the_pdf_of_before_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook("a.ipynb", "print('x')")
    Path("a.pdf").write_text("of before")
    before = contents(tmp_path)
    told = run_tool(10_000, "tools.pdf", "a.ipynb", "--out", ".")
    assert told.startswith("stopped: a.pdf could not be written: File too large")
    assert contents(tmp_path) == before


def test_a_disk_that_is_full_before_the_pdf_is_drawn_is_named(folder):
    before = contents(folder)
    told = run_tool(LIMIT, "tools.pdf", "ps2_theory.ipynb")
    assert told == "stopped: pandoc was stopped: File size limit exceeded\n"
    assert contents(folder) == before


# --- No other writer ------------------------------------------------------------------

WRITES = {"copy", "copyfile", "copytree", "dump", "open", "save", "savefig", "savetxt"}
WRITES |= {"to_csv", "urlretrieve", "write", "write_bytes", "write_text"}
NO_FILE_OF_BEFORE = {  # calls with such a name, by file, or by notebook and cell
    "eurosat.py": {"PIL.Image.open(file, formats=['JPEG'])"},  # reads
    "ps2_eurosat.ipynb, own-tile": {"Image.open('tile.jpg')"},  # reads
    "standin.py": {"image.save(file, 'JPEG', quality=90)"},  # in memory
    "tools/cells.py": {"path.open('rb')"},  # reads
    "tools/collect.py": {  # the report of a new run
        "Path(report).write_bytes(ElementTree.tostring(suites))",
    },
    "tools/definitions.py": {"copy.copy(statement)"},  # in memory
    "tools/grade.py": {  # a temporary folder
        "errors.open('w')",
        "path.open('rb')",
        "printed.open('w')",
        "step_file.write_text(STARTING)",
    },
    "tools/pdf.py": {  # a temporary folder
        "source.write_text(DESIGN.read_text(encoding='utf-8') + body, encoding='utf-8')"
    },
    "tools/record.py": {
        "shutil.copy(path, target)"
    },  # a new folder, swapped when whole
    "tools/team.py": {  # a temporary folder, and a new one for PDFs
        "shutil.copy(path, folder)",
        "shutil.copy(path, target / copy)",
    },
    "utils.py": {  # in memory, and write_whole itself
        "fig.savefig(file, dpi=dpi, format='png', bbox_inches='tight',"
        " metadata=no_program)",
        "part.write_bytes(content)",
        "torch.save({'identity': identity, **state}, file)",
    },
}


def calls_that_write(source):
    """The calls in Python code that may write a file, as texts."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in WRITES:
                found.add(ast.unparse(node))
    return found


def all_code():
    """(name, code) of each module and tool, and of each cell of both notebooks."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]:
        yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    for name in NOTEBOOKS:
        for cell in code_cells(ROOT / name):
            yield f"{name}, {cell.id}", cell.source


def test_all_others_write_with_write_whole():
    found = {}
    for name, code in all_code():
        calls = calls_that_write(code)
        if calls:
            found[name] = calls
    assert found == NO_FILE_OF_BEFORE
