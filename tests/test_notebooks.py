"""The notebooks as files, alone, and under the limits of the course's collector."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.helpers import refused

PARTS = ["ps2_theory.ipynb", "ps2_eurosat.ipynb"]
OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "all_proxy")}


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", PARTS)
def test_one_run_from_top_to_bottom_with_text_and_described_png_alone(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type in ("stream", "display_data", "execute_result")
        kinds = set(output.get("data", {}))
        assert kinds <= {"text/plain", "image/png"}
        assert "image/png" not in kinds or len(output.metadata["image/png"]["alt"]) > 40
    assert Path(path).stat().st_size < 2_000_000


@pytest.mark.parametrize("path", PARTS)
def test_the_profile_stands_alone_in_its_tagged_cell(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert [cell.source for cell in tagged] == ['PROFILE = os.environ.get("PS2_PROFILE", "")']


@pytest.mark.parametrize("path", PARTS)
def test_a_notebook_opened_alone_says_what_is_missing(path, tmp_path, monkeypatch):
    first = code_cells(path)[0].source
    monkeypatch.chdir(tmp_path)
    for name in ("utils", "numpy", "torch", "matplotlib"):  # before any import can fail
        monkeypatch.setitem(sys.modules, name, None)
    with refused(FileNotFoundError, "utils.py is missing", "download the whole repository"):
        exec(first, {})
    Path("utils.py").touch()
    exec(first, {})


def limits():
    """The collector's: 600 s of CPU, 2 GiB of heap, 512 MiB a file; a user without rights."""
    for kind, value in {"CPU": 600, "DATA": 2 * 2**30, "FSIZE": 512 * 2**20}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (value, value))
    if os.getuid() == 0 and os.stat(os.path.expanduser("~")).st_mode & 1:  # Python may lie there
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.mark.parametrize("path", PARTS)
def test_the_collectors_completion_check_offline(path, tmp_path):
    """A stranger executes the notebook top to bottom, without a network, within 300 s."""
    for name in (path, "utils.py"):
        shutil.copy(name, tmp_path)
    folders = [tmp_path.parent.parent, tmp_path.parent, tmp_path]
    subprocess.run(["chmod", "-R", "a+rwX", *folders], check=True)
    places = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", path]
    options = {"cwd": tmp_path, "env": places | OFFLINE, "preexec_fn": limits, "timeout": 300}
    command += ["--output", "done.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    if "eurosat" in path:
        cells = code_cells(tmp_path / "done.ipynb")
        text = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
        assert "Drawn stand-in, not EuroSAT" in text
        accuracy = float(re.search(r"tuned, seed 42 +([\d.]+)%", text)[1])
        assert 80 <= accuracy <= 95.5
