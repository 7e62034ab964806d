"""Nothing from outside is executed or written elsewhere; nothing of a machine is committed."""

import ast
import base64
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
import typst
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from PIL import Image

import utils
from tools.check import compare
from tools.definitions import load_definitions
from tools.pdf import TypstPDFExporter

ROOT = Path(__file__).parent.parent
PROGRAMS = [ROOT / "utils.py", *sorted(ROOT.glob("tools/*.py")), *sorted(ROOT.glob("*.ipynb"))]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*"))
PICKLES = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
UNSAFE = {"joblib.load", "torch.hub.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load"}
UNSAFE |= {f"from {name} import load" for name in ("joblib", "torch", "numpy")} | {"os.system"}
NEEDED = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
SEEN = """torch.load(f) | torch.load(f, weights_only=False) | np.load(f) | import pickle
os.system(f) | np.load(f, allow_pickle=True) | subprocess.run(f, shell=True)
from joblib import load | joblib.load(f) | from numpy import load | import dill.source"""
HARM = "import os\nos.mkdir('harm')\nclass A:\n    os.mkdir('class')\nB = os.mkdir('constant')\n"
CODE = ["!mkdir harm2", "%mkdir harm3", "%%bash\nmkdir harm4", HARM]
TEXT = '<script>x</script> `=read("/secret")` `#read("/secret")`{=typst} #read("/secret")'
FOLDERS = "root home Users tmp work mnt scratch private var/folders content/drive"
FOLDERS = rf"(?<![\w.])/(?:{FOLDERS.replace(' ', '|')})/\w|\b[A-Z]:\\Users"
TOKENS = (
    r"\bgh[opsur]_[A-Za-z0-9]{30}|\bgithub_pat_\w{30}|\bhf_[A-Za-z0-9]{30}|\bAKIA[A-Z0-9]{16}\b|"
    r"\bsk-[A-Za-z0-9-]{20}|\bxox[abp]-\w{10}|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{20,}\.eyJ|"
    r"\bAIza[\w-]{35}|://[^/\s:@]+:[^/\s:@]+@\w"
)
ADDRESS = r"\b0x[0-9a-f]{9,}\b|\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b"
SAMPLES = f"/ho+me/a | /ro+ot/x | /t+mp/tmpab | gh+p_{'a' * 36} | hf+_{'a' * 34} | 192.168.+1.7"
SAMPLES += (
    f" | <Figure at 0x+{'7f' * 6}> | https:/+/user:word@host"  # + keeps them from being found here
)
NAMES = {str(ROOT), str(Path.home()), Path.home().name, socket.gethostname(), sys.prefix}
NAMES = [name for name in NAMES - {"runner", "ubuntu", "localhost", "student"} if len(name) > 5]
REFUSED = [(new_markdown_cell("![](secret)"), "unknown image format")]
REFUSED += [(new_raw_cell('#read("/secret")', metadata={"format": "typst"}), "file not found")]


def unsafe(code):
    """Imports and calls that would execute what a file says, or start a shell."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module, names = getattr(node, "module", None) or "", [n.name for n in node.names]
            yield from PICKLES & {name.split(".")[0] for name in [module, *names]}
            yield from UNSAFE & {f"from {module} import {name}" for name in names}
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {ast.unparse(word) for word in node.keywords}
            needed = {NEEDED.get(name.replace("numpy.", "np."))} - {None}
            if name in UNSAFE or needed - given or given & {"allow_pickle=True", "shell=True"}:
                yield name


@pytest.mark.parametrize("code", re.split(r" \| |\n", SEEN))
def test_the_search_for_unsafe_calls_finds_them(code):
    assert list(unsafe(code))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_no_program_loads_a_pickle_or_starts_a_shell(path):
    code = path.read_text()
    if path.suffix == ".ipynb":
        cells = nbformat.reads(code, 4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert not list(unsafe(re.sub("^[%!].*", "", code, flags=re.MULTILINE)))


class Harm:  # unpickled, it makes a folder
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_pretrained_weights_run_nothing(part2, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    with open("weights.pth", "wb") as file:
        save({"features.0.weight": Harm()}, file)
    with pytest.raises(pickle.UnpicklingError):
        part2["pretrained_model"]("squeezenet1_1", 10, "weights.pth")
    assert not Path("harm").exists()
    pickle.loads(pickle.dumps(Harm()))
    assert Path("harm").exists()  # it would have


def test_archive_writes_only_below_its_folder(tmp_path, monkeypatch):
    folder, link = tmp_path / "data/eurosat", zipfile.ZipInfo("out")
    link.create_system, link.external_attr = 3, 0o120777 << 16  # a symbolic link
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "EuroSAT.zip", "w") as file:
        file.writestr(link, str(tmp_path))
        for name in ("2750/Forest/1.jpg", "../a", "../../b", "2750/../../c", "/d", "C:/e", "out/f"):
            file.writestr(f"{tmp_path}{name}" if name == "/d" else name, "evil")
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *_: True)
    with pytest.raises((ValueError, OSError), match="eurosat"):  # what came is not EuroSAT
        utils.load_eurosat(tmp_path / "data")
    assert os.listdir(tmp_path) == ["data"] and os.listdir(tmp_path / "data") == ["eurosat"]
    assert {"out", "a", "b", "e"} <= {path.name for path in folder.rglob("*")}
    assert all(path.resolve().is_relative_to(folder) for path in folder.rglob("*"))


def test_notebook_is_data_until_it_is_executed_on_purpose(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("confidential")
    cells = [new_markdown_cell(TEXT), *map(new_code_cell, CODE)]
    nbformat.write(new_notebook(cells=cells), "evil.ipynb")
    compare("evil.ipynb", "evil.ipynb")
    page = pypdfium2.PdfDocument(TypstPDFExporter().from_filename("evil.ipynb")[0])[0]
    shown = page.get_textpage().get_text_bounded()
    assert "mkdir harm4" in shown and "confidential" not in shown
    assert sorted(os.listdir()) == ["evil.ipynb", "secret"]
    load_definitions("evil.ipynb")  # executes the definitions, and no other line
    assert set(os.listdir()) <= {"evil.ipynb", "secret", "class", "constant"}


@pytest.mark.parametrize("cell, reason", REFUSED)
def test_export_of_another_file_is_refused(tmp_path, cell, reason):
    (tmp_path / "secret").write_text("confidential")
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "evil.ipynb")
    with pytest.raises(typst.TypstError, match=reason):
        TypstPDFExporter().from_filename(str(tmp_path / "evil.ipynb"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_committed_files_hold_nothing_of_a_machine():
    short, found = "|".join([FOLDERS, ADDRESS]), []  # compressed bytes spell these by chance
    long = "|".join([TOKENS, *map(re.escape, NAMES)])
    assert all(re.search(f"{short}|{long}", text.replace("+", "")) for text in SAMPLES.split(" | "))
    names = check_output("git ls-files -zco --exclude-standard".split(), cwd=ROOT, text=True)
    for path in [ROOT / name for name in names.split("\0") if (ROOT / name).is_file()]:
        content = path.read_bytes()
        images = map(base64.b64decode, re.findall(rb'"image/\w+": "([^"\\]+)', content))
        compressed = path.suffix in (".png", ".jpg", ".pdf", ".pth", ".pt")
        texts = [(content, long if compressed else f"{short}|{long}"), *((i, long) for i in images)]
        for text, pattern in texts:
            found += [f"{path.name}: {m[0]}" for m in re.finditer(pattern, text.decode("latin-1"))]
        if path.suffix == ".png":
            extra = Image.open(path).info.keys() - {"dpi", "gamma", "srgb"}
            found += [f"{path.name}: {key}" for key in extra]
    assert names.count("\0") > 20 and found == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_may_do_no_more_than_it_needs(path):
    text, least = path.read_text(), ({}, {"contents": "read"})
    flow, actions = yaml.safe_load(text), re.findall(r"uses: *(\S+)", text)
    assert not re.search(r"pull_request_target|secrets\.|github\.(event|head_ref)", text)
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in actions)  # tags can move
    assert flow["permissions"] in least
    for job in flow["jobs"].values():
        assert job.get("permissions", {}) in least and "timeout-minutes" in job
