"""What comes from outside is taken in, or refused by name, and executes nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pypdfium2
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from tests.helpers import random_data, refused
from tools.check import compare
from tools.definitions import load_definitions
from tools.pdf import TypstPDFExporter
from trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
CFG = {"batch_size": 4, "epochs": 1, "learning_rate": 0.125, "seed": 3}


# --- Datasets and settings ------------------------------------------------------------


def test_a_plain_list_is_a_dataset_for_the_grid(part2):
    images = torch.rand(12, 3, 32, 32)
    labels = torch.arange(12) % 2
    data = list(zip(images, labels, strict=True))
    best_model, _, _, _ = part2["grid_search"](data, CFG, [0.01], [4])
    assert best_model.grid.shape == (1, 1)


NO_BATCH_SIZES = [
    pytest.param(True, id="True"),
    pytest.param(8.0, id="8.0"),
    pytest.param("8", id="a text"),
    pytest.param(0, id="0"),
]


@pytest.mark.parametrize("size", NO_BATCH_SIZES)
def test_a_batch_size_that_is_none_is_refused_before_any_training(
    part2, size, monkeypatch
):
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trains"))
    data = random_data(8, side=4, classes=3)
    rule = f"batch_size must be a whole number, at least 1, not {size!r}"
    with refused(ValueError, rule):
        part2["grid_search"](data, CFG, [0.1], [8, size])


def test_a_network_that_timm_does_not_have_is_refused_by_name(part2):
    with refused(RuntimeError, "Unknown model (resnet)"):
        part2["pretrained_model"]("resnet", 10)


# --- Notebooks of others --------------------------------------------------------------


HARM = """import os
os.mkdir("harm")
x = os.system("mkdir harm5")
class A:
    os.mkdir("class")
B = os.mkdir("constant")
"""
TEXT = (
    '<script>x</script> `=read("/secret")` `#read("/secret")`{=typst} #read("/secret")'
)


def test_notebook_is_data_until_it_is_executed_on_purpose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("confidential")
    cells = [
        new_markdown_cell(TEXT),
        new_code_cell("!mkdir harm2"),
        new_code_cell("%mkdir harm3"),
        new_code_cell("%%bash\nmkdir harm4"),
        new_code_cell(HARM),
    ]
    nbformat.write(new_notebook(cells=cells), "evil.ipynb")
    compare("evil.ipynb", "evil.ipynb")
    pdf, _ = TypstPDFExporter().from_filename("evil.ipynb")
    first_page = pypdfium2.PdfDocument(pdf)[0]
    shown = first_page.get_textpage().get_text_bounded()
    assert "mkdir harm4" in shown
    assert "confidential" not in shown
    assert sorted(os.listdir()) == ["evil.ipynb", "secret"]
    load_definitions("evil.ipynb")  # runs the class and the constant, and no other line
    assert sorted(os.listdir()) == ["class", "constant", "evil.ipynb", "secret"]


# --- Committed files ------------------------------------------------------------------


FOLDERS = "root|home|Users|tmp|work|mnt|scratch|private|var/folders|content/drive"
SIGNS_OF_A_MACHINE = [
    rf"(?<![\w.])/(?:{FOLDERS})/\w",
    r"\b[A-Z]:\\Users",
    r"\b0x[0-9a-f]{9,}\b",  # an address in memory
    r"\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d",  # a private network
    r"\bgh[opsur]_[A-Za-z0-9]{30}",  # tokens
    r"\bgithub_pat_\w{30}",
    r"\bhf_[A-Za-z0-9]{30}",
    r"\bAKIA[A-Z0-9]{16}\b",
    r"\bsk-[A-Za-z0-9-]{20}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"://[^/\s:@]+:[^/\s:@]+@\w",  # a password in an address
    re.escape(str(ROOT)),
    re.escape(sys.prefix),
]
COMPRESSED = (".jpg", ".pdf", ".pth", ".pt")


def committed_files():
    """All files of the checkout that git keeps, or would keep."""
    command = ["git", "ls-files", "-zco", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True)
    paths = [ROOT / name for name in names.split("\0")]
    return [path for path in paths if path.is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_committed_files_hold_nothing_of_a_machine():
    signs = re.compile("|".join(SIGNS_OF_A_MACHINE))
    for path in committed_files():
        if path.suffix == ".png":
            assert Image.open(path).info.keys() <= {"dpi", "gamma", "srgb"}, path
        elif path.suffix not in COMPRESSED:
            found = signs.search(path.read_text("utf-8"))
            assert not found, (path, found)
