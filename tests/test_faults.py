"""What comes from outside is taken in, or refused by name, and executes nothing."""

import os
import re
import sys
from pathlib import Path
from subprocess import check_output

import nbformat
import pypdfium2
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from torch.utils.data import TensorDataset

import utils
from tests.helpers import refused
from tools.check import compare
from tools.definitions import load_definitions
from tools.pdf import TypstPDFExporter

CFG = {"batch_size": 4, "epochs": 2, "learning_rate": 0.125, "seed": 3}
DATA = TensorDataset(torch.rand(8, 3, 4, 4), torch.arange(8) % 3)
ROOT = Path(__file__).parent.parent
HARM = "import os\nos.mkdir('harm')\nclass A:\n    os.mkdir('class')\nB = os.mkdir('constant')\n"
TEXT = '<script>x</script> `=read("/secret")` `#read("/secret")`{=typst} #read("/secret")'
LEAK = re.compile(  # folders, addresses and tokens
    r"(?<![\w.])/(?:root|home|Users|tmp|work|mnt|scratch|private|var/folders|content/drive)/\w|"
    r"\b[A-Z]:\\Users|\b0x[0-9a-f]{9,}\b|\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d|"
    r"\bgh[opsur]_[A-Za-z0-9]{30}|\bgithub_pat_\w{30}|\bhf_[A-Za-z0-9]{30}|\bAKIA[A-Z0-9]{16}\b|"
    r"\bsk-[A-Za-z0-9-]{20}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]+@\w|"
    rf"{re.escape(str(ROOT))}|{re.escape(sys.prefix)}"
)


def test_a_plain_list_is_a_dataset_for_the_grid(part2):
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 2
    data = [*zip(images, labels, strict=True)]
    assert part2["grid_search"](data, CFG | {"epochs": 1}, [0.01], [4])[0].grid.shape == (1, 1)


@pytest.mark.parametrize("sizes", [[True], [8.0], ["8"], [0]])
def test_a_batch_size_that_is_none_is_refused_before_any_training(part2, sizes, monkeypatch):
    monkeypatch.setattr(utils.Trainer, "train", lambda *_: pytest.fail("it trains"))
    with refused(ValueError, "batch_size must be a whole number"):
        part2["grid_search"](DATA, CFG, [0.1], sizes)


def test_a_network_that_timm_does_not_have_is_refused_by_name(part2):
    with refused(RuntimeError, "Unknown model (resnet)"):
        part2["pretrained_model"](10, "resnet")


def test_notebook_is_data_until_it_is_executed_on_purpose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("confidential")
    codes = "!mkdir harm2", "%mkdir harm3", "%%bash\nmkdir harm4", HARM
    cells = [new_markdown_cell(TEXT), *map(new_code_cell, codes)]
    nbformat.write(new_notebook(cells=cells), "evil.ipynb")
    compare("evil.ipynb", "evil.ipynb")
    page = pypdfium2.PdfDocument(TypstPDFExporter().from_filename("evil.ipynb")[0])[0]
    shown = page.get_textpage().get_text_bounded()
    assert "mkdir harm4" in shown and "confidential" not in shown
    assert sorted(os.listdir()) == ["evil.ipynb", "secret"]
    load_definitions("evil.ipynb")  # executes the definitions, and no other line
    assert set(os.listdir()) <= {"evil.ipynb", "secret", "class", "constant"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_committed_files_hold_nothing_of_a_machine():
    names = check_output("git ls-files -zco --exclude-standard".split(), cwd=ROOT, text=True)
    for path in [ROOT / name for name in names.split("\0") if (ROOT / name).is_file()]:
        if path.suffix == ".png":
            assert Image.open(path).info.keys() <= {"dpi", "gamma", "srgb"}, path
        elif path.suffix not in (".jpg", ".pdf", ".pth", ".pt"):  # compressed
            assert not (found := LEAK.search(path.read_text("utf-8"))), (path, found)
