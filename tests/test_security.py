"""Nothing that comes from outside is executed or written elsewhere, and nothing of a machine enters a committed file."""
import ast
import base64
import getpass
import hashlib
import io
import os
import pathlib
import pickle
import re
import socket
import subprocess
import sys
import zipfile

import nbformat
import pytest
import torch
import torchvision
import yaml
from PIL import Image

import utils
from tests.grading import isolated
from tools import check, grade
from tools.notebook import definitions
from tools.pdf import TypstPDFExporter

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))


def committed():
    """The files that git knows or would take in."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# Pickles

def python_of(path):
    """The syntax tree of a program or of all code cells of a notebook."""
    if path.suffix == ".py":
        return ast.parse(path.read_text())
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return ast.parse("\n".join(line for cell in code for line in cell.split("\n") if not line.startswith(("%", "!"))))


def unsafe(tree):
    """Calls and imports that would execute what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or ""] + [alias.name for alias in node.names]
            yield from ({name.split(".")[0] for name in names} & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if (name == "torch.load" and given.get("weights_only") != "True") or given.get("allow_pickle") == "True" or \
                    (name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False") or \
                    name in ("torch.hub.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "os.system") or given.get("shell") == "True":
                yield ast.unparse(node)


@pytest.mark.parametrize("code", ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "import pickle", "os.system(f)",
                                  "from joblib import load", "np.load(f, allow_pickle=True)", "subprocess.run(f, shell=True)"])
def test_the_search_for_unsafe_calls_finds_them(code):
    assert list(unsafe(ast.parse(code)))


@pytest.mark.parametrize("path", [ROOT / "utils.py", *sorted((ROOT / "tools").glob("*.py")), *NOTEBOOKS], ids=lambda path: path.name)
def test_no_program_loads_a_pickle_or_starts_a_shell(path):
    assert list(unsafe(python_of(path))) == []


class Harm:
    """Unpickled, it makes a folder `harm`."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("save", [lambda path: path.write_bytes(pickle.dumps(Harm())), lambda path: torch.save(Harm(), path),
                                  lambda path: torch.save({"features.0.weight": Harm()}, path)], ids=["pickle", "object", "inside"])
def test_pretrained_weights_run_nothing(part2, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "weights.pth")
    with pytest.raises(pickle.UnpicklingError):
        part2["pretrained_model"]("squeezenet1_1", 10, tmp_path / "weights.pth")
    assert not (tmp_path / "harm").exists()  # test_faults_data.py and test_faults_training.py do it with cache and checkpoint
    pickle.loads(pickle.dumps(Harm()))
    assert (tmp_path / "harm").exists()  # it would have


# Archives

@pytest.mark.parametrize("evil", ["../evil.txt", "../../evil.txt", "{outside}/evil.txt", "2750/../../evil.txt", "link", "C:/evil.txt"])
def test_archive_writes_only_below_its_folder(tmp_path, monkeypatch, evil):
    monkeypatch.setenv("EUROSAT_REQUIRED", "1")
    folder, packed = tmp_path / "data/eurosat", io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        if evil == "link":  # a symbolic link, then a file behind it
            link = zipfile.ZipInfo("out")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            file.writestr(link, str(tmp_path))
            file.writestr("out/evil.txt", "evil")
        else:
            file.writestr(evil.format(outside=tmp_path), "evil")
        file.writestr("2750/Forest/Forest_1.jpg", "x")
    folder.mkdir(parents=True)
    (folder / "EuroSAT.zip").write_bytes(packed.getvalue())
    real, checksum = torchvision.datasets.utils.download_and_extract_archive, hashlib.md5(packed.getvalue()).hexdigest()
    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", lambda url, download_root, md5: real(
        url, download_root, md5=checksum))
    try:
        utils.find_eurosat(tmp_path / "data")
    except FileNotFoundError as error:
        assert evil == "link" and "could not be downloaded" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and [path.name for path in folder.parent.iterdir()] == ["eurosat"]
    assert all(path.resolve().is_relative_to(folder) for path in folder.rglob("*"))


# Notebooks of others

HARM = "import os\nos.mkdir('harm')\nclass A:\n    os.mkdir('harm2')\nB = os.mkdir('harm3')\n"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A notebook whose code, outputs and magics would leave files in the current folder."""
    monkeypatch.chdir(tmp_path)
    cells = [nbformat.v4.new_code_cell(code, id=f"c{n}") for n, code in enumerate(("!mkdir harm4", "%mkdir harm5", HARM))]
    cells += [nbformat.v4.new_markdown_cell("# Title\n\n<script>x</script> ![](file:///etc/hostname) `=image(\"/etc/hostname\")`", id="m")]
    path = tmp_path / "evil.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_notebook_is_data_until_it_is_executed_on_purpose(evil):
    check.compare(evil, evil)
    assert len(list(isolated.statements(evil))) == 3  # the import, the class and the constant: read, not run
    assert [path.name for path in evil.parent.iterdir()] == ["evil.ipynb"]
    definitions(evil)  # executes the definitions, which is why the tools use it for this repository's notebooks only
    assert {path.name for path in evil.parent.iterdir()} == {"evil.ipynb", "harm2", "harm3"}


def test_export_runs_nothing(evil):
    try:
        TypstPDFExporter().from_filename(str(evil))
    except Exception as error:
        print(f"the exporter refused it: {type(error).__name__}")
    assert [path.name for path in evil.parent.iterdir()] == ["evil.ipynb"]


@pytest.mark.parametrize("code, end", [
    ("while True: pass", "limit|signal"), ("bytes(2**40)", "MemoryError|signal"), ("open('f', 'wb').truncate(2**40)", "File too large|signal"),
    ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "no network"), ("import os; os._exit(0)", "ended its process"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9")])
def test_code_that_is_executed_on_purpose_has_limits(tmp_path, code, end):
    path = tmp_path / "evil.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "class A:\n    " + code.replace("while True: pass", "exec('while True: pass')"), id="a")]), path)
    text = " ".join(isolated.probe(path, 2).values())
    assert re.search(end, text), text


def test_submission_sees_no_secret(monkeypatch):
    seen = {}
    monkeypatch.setenv("PS2_TEST_TOKEN", "secret")
    monkeypatch.setattr(grade.subprocess, "run", lambda command, **options: seen.update(options) or subprocess.CompletedProcess(command, 1, "", ""))
    with pytest.raises(RuntimeError, match="did not start"):
        grade.run_checks(NOTEBOOKS[0], ["part2"], 1)
    assert "PS2_TEST_TOKEN" not in seen["env"] and "HOME" in seen["env"] and seen["env"]["HOME"] != os.environ.get("HOME") and seen["timeout"]


# Committed files

FOLDERS = r"(?<![\w.])/(?:root|home|Users|tmp|work|mnt|scratch|private|var/folders|content/drive)/\w|\b[A-Z]:\\Users\\"
TOKENS = (r"\bgh[opsur]_[A-Za-z0-9]{30}|\bgithub_pat_\w{30}|\bhf_[A-Za-z0-9]{30}|\bAKIA[A-Z0-9]{16}\b|\bsk-[A-Za-z0-9-]{20}|\bxox[abp]-\w{10}"
          r"|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{20,}\.eyJ|\bAIza[\w-]{35}|://[^/\s:@]+:[^/\s:@]+@\w")
ADDRESS = r"\b0x[0-9a-f]{9,}\b|\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b"


def of_this_machine():
    """The names of this machine, where they are long enough to mean nothing else."""
    names = {str(ROOT), str(pathlib.Path.home()), socket.gethostname(), sys.prefix}
    try:
        names.add(getpass.getuser())
    except (KeyError, OSError):
        pass
    return [name for name in names if len(name) > 5 and name not in ("runner", "ubuntu", "localhost", "github", "student")]


def texts(path):
    """The readable content of a file; of a notebook its cells and outputs, with the pictures decoded to their bytes."""
    if path.suffix != ".ipynb":
        return [path.read_bytes().decode("latin-1")]
    book, found = nbformat.read(path, as_version=4), []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/") and kind != "image/svg+xml"]:
                found.append(base64.b64decode(output["data"].pop(kind)).decode("latin-1"))
    return [*found, nbformat.writes(book)]


@pytest.mark.parametrize("text", [f"/ho{''}me/anna/x.py", f"/ro{''}ot/x", f"/t{''}mp/tmpab", f"gh{''}p_" + "a" * 36, f"hf{''}_" + "a" * 34,
                                  "<Figure at 0x" + "7f" * 6 + ">", "192.168." + "1.7", "https://user:" + "word@host"])
def test_the_search_for_private_texts_finds_them(text):
    assert re.search(f"{FOLDERS}|{TOKENS}|{ADDRESS}", text)


def test_committed_files_hold_no_path_name_or_token_of_a_machine():
    found, files = [], committed()
    for path in files:
        picture = path.suffix in (".png", ".jpg", ".pdf", ".pth")  # compressed bytes can spell short words by chance
        for text in texts(path):
            patterns = [TOKENS, *map(re.escape, of_this_machine())] + ([] if picture else [FOLDERS, ADDRESS])
            found += [f"{path.name}: {match[0]}" for pattern in patterns for match in re.finditer(pattern, text)]
    assert len(files) > 20 and found == []


def test_figures_hold_no_metadata_of_a_machine():
    for path in (path for path in committed() if path.suffix == ".png"):
        with Image.open(path) as picture:
            assert set(picture.info) <= {"dpi", "gamma", "srgb"}, path.name


# Workflows

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_may_do_no_more_than_it_needs(path):
    text, flow = path.read_text(), yaml.safe_load(path.read_text())
    assert flow["permissions"] in ({}, {"contents": "read"})
    for name, job in flow["jobs"].items():
        granted = job.get("permissions", flow["permissions"])
        assert isinstance(granted, dict) and "timeout-minutes" in job, name
        writes = {key for key, value in granted.items() if value == "write"}
        assert not writes or (writes <= {"pages", "id-token"} and any("deploy-pages" in step.get("uses", "") for step in job["steps"])), name
        for step in job["steps"]:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", "a@" + "0" * 40)), step  # a tag can be moved
            assert "${{ github.event" not in step.get("run", "") and "${{ github.head_ref" not in step.get("run", ""), step
    assert "pull_request_target" not in text and "secrets." not in text
