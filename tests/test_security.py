"""Nothing from outside is executed or written elsewhere; nothing of a machine is committed."""

import os
import pickle
import re
import socket
import sys
import zipfile
from pathlib import Path
from subprocess import check_output

import nbformat
import pypdfium2
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

import utils
from tools.check import compare
from tools.definitions import load_definitions
from tools.pdf import TypstPDFExporter

ROOT = Path(__file__).parent.parent
HARM = "import os\nos.mkdir('harm')\nclass A:\n    os.mkdir('class')\nB = os.mkdir('constant')\n"
TEXT = '<script>x</script> `=read("/secret")` `#read("/secret")`{=typst} #read("/secret")'
MACHINE = (  # folders and addresses
    r"(?<![\w.])/(?:root|home|Users|tmp|work|mnt|scratch|private|var/folders|content/drive)/\w|"
    r"\b[A-Z]:\\Users|\b0x[0-9a-f]{9,}\b|\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d"
)
SECRET = (  # tokens, and the names of this machine
    r"\bgh[opsur]_[A-Za-z0-9]{30}|\bgithub_pat_\w{30}|\bhf_[A-Za-z0-9]{30}|\bAKIA[A-Z0-9]{16}\b|"
    r"\bsk-[A-Za-z0-9-]{20}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]+@\w"
)
NAMES = {str(ROOT), str(Path.home()), Path.home().name, socket.gethostname(), sys.prefix}
for name in NAMES - {"runner", "ubuntu", "localhost", "student"}:
    SECRET += f"|{re.escape(name)}" * (len(name) > 5)
SAMPLES = [f"gh+p_{'a' * 36}", f"hf+_{'a' * 34}", "192.168.+1.7", f"<Figure at 0x+{'7f' * 6}>"]
SAMPLES += ["/ho+me/a", "/ro+ot/x", "/t+mp/tmpab", "https:/+/user:word@host"]  # + hides them here


class Harm:  # unpickled, it makes a folder
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_pretrained_weights_run_nothing(part2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Harm()}, "weights.pth")
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        part2["pretrained_model"]("squeezenet1_1", 10, "weights.pth")
    assert not Path("harm").exists()


def test_archive_writes_only_below_its_folder(tmp_path, monkeypatch):
    folder, link = tmp_path / "data/eurosat", zipfile.ZipInfo("out")
    link.create_system, link.external_attr = 3, 0o120777 << 16  # a symbolic link
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "EuroSAT.zip", "w") as file:
        file.writestr(link, str(tmp_path))
        for name in ("2750/Forest/1.jpg", "../a", "2750/../../c", f"{tmp_path}/d", "C:/e", "out/f"):
            file.writestr(name, "evil")
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *_: True)
    with pytest.raises((ValueError, OSError), match="eurosat"):  # what came is not EuroSAT
        utils.load_eurosat(tmp_path / "data")
    assert os.listdir(tmp_path) == ["data"] and os.listdir(tmp_path / "data") == ["eurosat"]
    assert {"out", "a", "e"} <= {path.name for path in folder.rglob("*")}
    assert all(path.resolve().is_relative_to(folder) for path in folder.rglob("*"))


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
    everything, found = f"{MACHINE}|{SECRET}", []
    assert all(re.search(everything, sample.replace("+", "")) for sample in SAMPLES)
    names = check_output("git ls-files -zco --exclude-standard".split(), cwd=ROOT, text=True)
    for path in [ROOT / name for name in names.split("\0") if (ROOT / name).is_file()]:
        by_chance = path.suffix in (".png", ".jpg", ".pdf", ".pth", ".pt")  # compressed bytes
        matches = re.finditer(SECRET if by_chance else everything, path.read_text("latin-1"))
        found += [f"{path.name}: {match[0]}" for match in matches]
        if path.suffix == ".png":
            extra = Image.open(path).info.keys() - {"dpi", "gamma", "srgb"}
            found += [f"{path.name}: {key}" for key in extra]
    assert names.count("\0") > 20 and found == []


def test_workflows_may_do_no_more_than_they_need():
    for path in ROOT.glob(".github/workflows/*"):
        text, least = path.read_text(), ({}, {"contents": "read"})
        flow, actions = yaml.safe_load(text), re.findall(r"uses: *(\S+)", text)
        assert not re.search(r"pull_request_target|secrets\.|github\.(event|head_ref)", text)
        assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in actions)  # tags move
        assert flow["permissions"] in least
        for job in flow["jobs"].values():
            assert job.get("permissions", {}) in least and "timeout-minutes" in job
