"""Nothing from outside is executed or written elsewhere; nothing of a machine is committed."""

import os
import re
import sys
from pathlib import Path
from subprocess import check_output

import nbformat
import pypdfium2
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from tools.check import compare
from tools.definitions import load_definitions
from tools.pdf import TypstPDFExporter

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
