"""The notebooks as files, alone, and under the limits of the course's collector."""

import ast
import os
import re
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.helpers import (
    code_cells,
    copy_notebook,
    list_in_first_cell,
    lower_limit,
    shown_text,
)

THEORY = "ps2_theory.ipynb"
EUROSAT = "ps2_eurosat.ipynb"
MIB = 2**20
both_parts = pytest.mark.parametrize("path", [THEORY, EUROSAT])


# --- As files -------------------------------------------------------------------------


@both_parts
def test_one_run_from_top_to_bottom_with_texts_and_described_png_alone(path):
    cells = code_cells(path)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            check_output(output)
    assert Path(path).stat().st_size < 2_000_000


def check_output(output):
    """Fails unless an output is a text, or a PNG or Markdown beside a text."""
    if output.output_type == "stream":
        return
    assert output.output_type in ("display_data", "execute_result")
    kinds = set(output.data)
    assert "text/plain" in kinds
    assert kinds <= {"text/plain", "text/markdown", "image/png"}
    if "image/png" in kinds:
        assert len(output.metadata["image/png"]["alt"]) > 40


@both_parts
def test_the_profile_stands_alone_in_its_tagged_cell(path):
    tagged = []
    for cell in code_cells(path):
        if "parameters" in cell.metadata.get("tags", []):
            tagged.append(cell.source)
    assert tagged == ['PROFILE = os.environ.get("PS2_PROFILE", "")']


@both_parts
def test_code_cells_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert statistics.median(lengths) <= 10
    assert max(lengths) <= 30


def draws(source):
    """Does a cell show a figure itself, not in a function that it defines?"""
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                if ast.unparse(node.func) in (
                    "show",
                    "show_figure",
                    "utils.show_figure",
                ):
                    return True
    return False


@both_parts
def test_the_code_of_a_drawing_is_hidden(path):
    drawing = [cell for cell in code_cells(path) if draws(cell.source)]
    assert len(drawing) >= 5
    for cell in drawing:
        assert "remove-input" in cell.metadata.get("tags", []), cell.id
        assert cell.metadata.get("jupyter", {}).get("source_hidden"), cell.id


# --- Alone, or without its packages ---------------------------------------------------


def run_first_cell(path, folder):
    """Run the first cell of a notebook in a folder, by a Python without packages."""
    source = code_cells(path)[0].source
    command = [sys.executable, "-E", "-S", "-c", source]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def last_line(run):
    """The error that ended a run, in one line."""
    return run.stderr.strip().rpartition("\n")[2]


@both_parts
def test_the_first_cell_names_each_missing_file(path, tmp_path):
    files = list_in_first_cell(path, "FILES")
    error = last_line(run_first_cell(path, tmp_path))
    assert error.startswith("FileNotFoundError")
    assert "whole repository" in error
    for name in files:
        assert name in error

    missing, *others = files
    for name in others:
        (tmp_path / name).touch()
    error = last_line(run_first_cell(path, tmp_path))
    assert missing in error
    for name in others:
        assert name not in error


@both_parts
def test_the_first_cell_names_each_missing_package_in_one_sentence(path, tmp_path):
    packages = list_in_first_cell(path, "PACKAGES")
    pip_names = list_in_first_cell(path, "PIP_NAMES")
    for name in list_in_first_cell(path, "FILES"):
        (tmp_path / name).touch()

    error = last_line(run_first_cell(path, tmp_path))
    assert error.startswith("ModuleNotFoundError")
    for name in packages:
        assert pip_names.get(name, name) in error
    assert "pip install --requirement requirements.txt" in error

    missing, *others = packages
    for name in others:
        (tmp_path / name).mkdir()  # a folder can be imported
    error = last_line(run_first_cell(path, tmp_path))
    assert f"missing: {pip_names.get(missing, missing)};" in error

    (tmp_path / missing).mkdir()
    assert run_first_cell(path, tmp_path).returncode == 0


def imported(source):
    """Top-level names of all that a Python source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return names


@both_parts
def test_the_first_cell_knows_every_file_and_package_that_is_imported(path):
    files = list_in_first_cell(path, "FILES")
    sources = [cell.source for cell in code_cells(path)]
    sources += [Path(name).read_text("utf-8") for name in files]
    names = set()
    for source in sources:
        names.update(imported(source))
    names.difference_update(sys.stdlib_module_names)
    names.discard("IPython")  # a notebook runs in it
    known = {Path(name).stem for name in files}
    known.update(list_in_first_cell(path, "PACKAGES"))
    assert names <= known


# --- Under the limits of the course's collector ---------------------------------------


def limit_resources():
    """The collector's limits, as hard ones, and a user without rights."""
    import resource  # not on Windows

    limits = {
        resource.RLIMIT_CPU: 600,  # seconds
        resource.RLIMIT_DATA: 2048 * MIB,
        resource.RLIMIT_FSIZE: 512 * MIB,
    }
    for kind, most in limits.items():
        lower_limit(kind, most)
    home = os.stat(os.path.expanduser("~"))
    others_may_enter = home.st_mode & 1  # Python itself may lie there
    if os.getuid() == 0 and others_may_enter:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def data_of_descendants(ancestor):
    """The largest VmData, in MiB, of the processes that descend from a process."""
    parents = {}
    sizes = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = path.read_text().splitlines()
        except OSError:  # it has ended
            continue
        fields = dict(line.split(":", 1) for line in lines)
        pid = int(path.parent.name)
        parents[pid] = int(fields["PPid"])
        sizes[pid] = int(fields.get("VmData", "0 kB").split()[0]) / 1024
    found = [0]
    for pid, size in sizes.items():
        above = parents[pid]
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor:
            found.append(size)
    return max(found)


class PeakOfData(threading.Thread):
    """Within its block, follows a process: `peak` is the largest VmData below it."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.is_over = threading.Event()

    def run(self):
        while not self.is_over.wait(0.05):
            self.peak = max(self.peak, data_of_descendants(self.pid))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.join()


def cpu_seconds():
    """CPU seconds of all processes that this one has started and that have ended."""
    import resource  # not on Windows

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


RUNS = [
    pytest.param(THEORY, {}, id="part 1"),
    pytest.param(EUROSAT, {}, id="part 2"),
    pytest.param(
        EUROSAT,
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        id="part 2 as with AVX2",
        marks=pytest.mark.soak,
    ),
    pytest.param(
        EUROSAT,
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        id="part 2 as with AVX-512",
        marks=pytest.mark.soak,
    ),
]


@pytest.mark.skipif(sys.platform != "linux", reason="the collector runs on Linux")
@pytest.mark.parametrize("path, processor", RUNS)
def test_the_collectors_completion_check_offline(path, processor, tmp_path, capsys):
    """A stranger executes a notebook top to bottom, without a network.

    The collector has 300 s and 2 GiB. CPU seconds are asserted in place of time, which
    depends on what else runs; a sixth of time and memory is left for other machines.
    """
    copy_notebook(path, tmp_path)
    folders = [tmp_path.parent.parent, tmp_path.parent, tmp_path]
    subprocess.run(["chmod", "-R", "a+rwX", *folders], check=True)
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "MALLOC_ARENA_MAX": "2",
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "all_proxy": nowhere,
        **processor,
    }
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook"]
    command += ["--execute", path, "--output", "done.ipynb"]
    before = cpu_seconds()
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        preexec_fn=limit_resources,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with PeakOfData(child.pid) as data:
        _, errors = child.communicate()
    seconds = cpu_seconds() - before
    with capsys.disabled():  # shown when it passes, too
        print(f"\n{path}: {seconds:.0f} s of CPU, at most {data.peak:,.0f} MiB of data")
    assert child.returncode == 0, errors[-2000:]
    if path == EUROSAT:
        check_quick_run(tmp_path / "done.ipynb")
    assert seconds <= 250
    assert 0 < data.peak <= 1700  # MiB


def check_quick_run(path):
    """The run was on the stand-in, and both networks learnt: chance gives 10 %."""
    text = shown_text(code_cells(path))
    assert "Drawn stand-in, not EuroSAT" in text
    tuned = float(re.search(r"tuned, seed 42 +1 +([\d.]+)%", text)[1])
    pretrained = float(re.search(r"pretrained, seed 42 +2 +([\d.]+)%", text)[1])
    assert 20 <= tuned <= 95.5
    assert 70 <= pretrained <= 95.5
