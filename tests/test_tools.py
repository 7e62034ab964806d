"""Files, command lines and surroundings as people have them.

Each tool works with them, or says in one sentence why not.
"""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelspec import get_kernel_dict
from nbconvert.exporters import ScriptExporter
from nbformat.v4 import new_code_cell, new_notebook

from tools import check, classroom, definitions, grade, notebook, pdf, tune
from tools.files import command, read_notebook
from utils import write_whole

CODE = "print(6 * 7)"


def ending(module, *arguments):
    """The exit status of a tool's command, or its last words."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["tool", *map(str, arguments)])
        command(module.main)
    return ended.value.code


def write_codes(path, *codes):
    """Write a notebook of code cells that were never executed."""
    cells = [new_code_cell(code, id=f"code-{n}") for n, code in enumerate(codes)]
    nbformat.write(new_notebook(cells=cells), path)


# --- Odd notebooks --------------------------------------------------------------------


def book(*cells, **changes):
    """The file of a notebook with one good code cell before other cells, as JSON."""
    first = {
        "cell_type": "code",
        "id": "first",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": CODE,
    }
    whole = {
        "cells": [first, *cells],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
        **changes,
    }
    return json.dumps(whole, indent=1).encode()


def code(**changes):
    """A code cell with a change; a part that is `...` is missing."""
    cell = {
        "cell_type": "code",
        "id": "second",
        "metadata": {},
        "execution_count": 1,
        "outputs": [],
        "source": "1",
        **changes,
    }
    return {key: value for key, value in cell.items() if value is not ...}


def output(**parts):
    """A code cell that nothing is executed in, with an output."""
    return code(source="", outputs=[parts])


def markdown(**changes):
    return {"cell_type": "markdown", "id": "m", "metadata": {}, **changes}


PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA\n",
    "AABJRU5ErkJggg==\n",
)
THIRD = {  # a notebook of nbformat 3
    "metadata": {"name": ""},
    "nbformat": 3,
    "nbformat_minor": 0,
    "worksheets": [{"cells": [{"cell_type": "code", "input": [CODE], "outputs": []}]}],
}
WIDGETS = {"application/vnd.jupyter.widget-state+json": {"a": {}}}
OTHER_KERNEL = {"name": "venv", "display_name": "venv"}
SPLIT = {"image/png": list(PNG), "text/plain": ["a\n", "b"]}
READ = [
    pytest.param(b"\xef\xbb\xbf" + book(), id="byte order mark"),
    pytest.param(book().replace(b"\n", b"\r\n"), id="line ends of Windows"),
    pytest.param(json.dumps(THIRD).encode(), id="nbformat 3"),
    pytest.param(book(code(id=...), nbformat_minor=2), id="nbformat 4.2"),
    pytest.param(book(nbformat_minor=9), id="nbformat of the future"),
    pytest.param(book(nbformat_minor=None), id="no minor version"),
    pytest.param(book(metadata=None), id="no metadata"),
    pytest.param(book(metadata={"widgets": WIDGETS}), id="widgets without a state"),
    pytest.param(book(metadata={"kernelspec": OTHER_KERNEL}), id="another kernel"),
    pytest.param(book(metadata={"kernelspec": {}}), id="kernel without a name"),
    pytest.param(book(metadata={"authors": None, "date": None}), id="no authors"),
    pytest.param(
        book(metadata={"authors": [{"orcid": 1}]}), id="author without a name"
    ),
    pytest.param(book(code(outputs=...)), id="cell without outputs"),
    pytest.param(book(code(outputs=None)), id="outputs null"),
    pytest.param(book(code(execution_count=...)), id="cell without a count"),
    pytest.param(book(code(metadata=...)), id="cell without metadata"),
    pytest.param(book(code(metadata=None)), id="metadata null"),
    pytest.param(book(code(metadata={"tags": None})), id="tags null"),
    pytest.param(book(code(id=...)), id="cell without an id"),
    pytest.param(book(code(id="first")), id="two cells of one id"),
    pytest.param(book(code(id="first cell, #1")), id="id that Jupyter would not give"),
    pytest.param(book(code(source=...)), id="cell without a source"),
    pytest.param(book(code(source=None)), id="source null"),
    pytest.param(book(code(source=["a = 1\n", "a"])), id="source in lines"),
    pytest.param(book(markdown(source=["a\n", "b"])), id="Markdown in lines"),
    pytest.param(book(markdown(source="a", attachments=None)), id="attachments null"),
    pytest.param(book(output(output_type="stream", text=["a\n"])), id="print in lines"),
    pytest.param(book(output(output_type="stream", name="stdout")), id="empty print"),
    pytest.param(book(output(output_type="error")), id="error without its text"),
    pytest.param(
        book(output(output_type="display_data", data=SPLIT)), id="image in lines"
    ),
    pytest.param(
        book(output(output_type="execute_result", data=None)), id="output without data"
    ),
    pytest.param(
        book(output(output_type="display_data", data=SPLIT, metadata=None)),
        id="output's metadata null",
    ),
]
REFUSED = [  # what each tool refuses, and a part of what it says
    pytest.param(None, "No such file", id="no file"),
    pytest.param(b"", "it is not JSON: it is empty", id="empty"),
    pytest.param(book()[:90], "it is not JSON", id="cut"),
    pytest.param(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "it is a pointer of Git LFS; git lfs pull",
        id="pointer of Git LFS",
    ),
    pytest.param(book().decode().encode("utf-16"), "not in UTF-8", id="UTF-16"),
    pytest.param(
        book().decode().encode("utf-16-le"), "not in UTF-8", id="UTF-16 without a mark"
    ),
    pytest.param(
        book().replace(b"{", b"{\n<<<<<<< HEAD\n", 1),
        "line 2 is a marker of a merge",
        id="markers of a merge",
    ),
    pytest.param(book(markdown(source="\ud83d")), "half of a character", id="half"),
    pytest.param(b"[]", "its content is [], not an object", id="list"),
    pytest.param(b'{"name": "a"}', "nbformat", id="other JSON"),
    pytest.param(
        book(nbformat=5), "nbformat is 5, not one of 2, 3, 4", id="nbformat 5"
    ),
    pytest.param(b'{"nbformat": 4}', "it has no cells", id="no cells"),
    pytest.param(book(cells=None), "it has no cells", id="cells null"),
    pytest.param(book(cells={}), "cells is {}, not a list", id="cells in an object"),
    pytest.param(book("a"), "cell 2 is 'a', not an object", id="text for a cell"),
    pytest.param(book({}), "cell 2: cell_type is None", id="cell without a type"),
    pytest.param(
        book(markdown(cell_type="heading")), "is 'heading', not one of", id="cell type"
    ),
    pytest.param(book(code(source=1)), "cell 2: source is 1", id="number for a source"),
    pytest.param(
        book(code(id=1)), "cell 2: id is 1, not a text", id="number for an id"
    ),
    pytest.param(book(code(metadata=[])), "cell 2: metadata is []", id="metadata"),
    pytest.param(book(nbformat_minor="5"), "not a whole number", id="minor version"),
    pytest.param(book(metadata={"authors": 1}), "authors is 1", id="authors"),
    pytest.param(
        book(markdown(attachments=1)), "attachments is 1, not an", id="attachments"
    ),
    pytest.param(book(code(outputs={})), "cell 2: outputs is {}", id="outputs"),
    pytest.param(book(output(text="a")), "output 1: output_type", id="output type"),
    pytest.param(
        book(output(output_type="error", traceback=[1])), "traceback is 1", id="error"
    ),
    pytest.param(
        book(output(output_type="display_data", data={"image/png": 1})),
        "cell 2, output 1: image/png is 1, not a text",
        id="number for an image",
    ),
]


@pytest.mark.parametrize("content", READ)
def test_each_tool_takes(tmp_path, content):
    path = tmp_path / "a.ipynb"
    path.write_bytes(content)
    assert definitions.codes(path)[0] == CODE
    assert not ending(check, path, path)
    assert not ending(pdf, path, "--out", tmp_path)
    executed = tmp_path / "b.ipynb"
    assert not ending(notebook, path, "--out", executed)
    first, *_ = read_notebook(executed).cells
    assert first.outputs[0].text == "42\n"


@pytest.mark.parametrize("content, cause", REFUSED)
@pytest.mark.parametrize("module, files", [(notebook, 1), (check, 2), (pdf, 1)])
def test_each_tool_refuses_in_a_sentence(tmp_path, module, files, content, cause):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_bytes(content)
    text = ending(module, *[path] * files)
    assert str(path) in text
    assert cause in text
    assert "\n" not in text


def places(value, path=()):
    """Yield the way (keys and indices) to each part of what JSON holds."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*path, index))


def replaced(whole, path, value):
    """A copy of `whole` with another value at one place, or with nothing there."""
    whole = copy.deepcopy(whole)
    *parents, last = path
    place = whole
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return whole


FULL = json.loads(
    book(
        markdown(source="a", attachments={"a.png": {"image/png": list(PNG)}}),
        code(
            metadata={"tags": ["a"]},
            outputs=[
                {"output_type": "stream", "name": "stdout", "text": "a"},
                {"output_type": "display_data", "data": SPLIT, "metadata": {}},
                {"output_type": "error", "ename": "", "evalue": "", "traceback": ["a"]},
            ],
        ),
        metadata={"authors": ["a"]},
    )
)


@pytest.mark.parametrize("whole", [FULL, THIRD], ids=["nbformat 4", "nbformat 3"])
@pytest.mark.parametrize("value", [..., None, 0, True, "a", "", [], ["a"], [1], {}])
def test_whatever_a_part_is_the_file_is_read_or_refused(tmp_path, whole, value):
    path = tmp_path / "a.ipynb"
    for place in places(whole):
        path.write_text(json.dumps(replaced(whole, place, value)))
        try:
            given = read_notebook(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} is no notebook: ")
            assert "\n" not in str(error)
        else:
            path.write_text(nbformat.v4.writes(given))
            assert read_notebook(path).cells == given.cells


def test_a_cell_without_an_id_is_written_the_same_each_time(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_bytes(book(code(id=...)))
    for name in ("b.ipynb", "c.ipynb"):
        notebook.execute(path, tmp_path / name)
    assert (tmp_path / "b.ipynb").read_bytes() == (tmp_path / "c.ipynb").read_bytes()


# --- Executing ------------------------------------------------------------------------

LOOK = """import os, sys, matplotlib, utils
from matplotlib.pyplot import rcParams

print(matplotlib.get_backend()[-6:])
print(rcParams["image.cmap"])
print(utils.NAME)
print(sys.executable)
print(os.environ.get("OMP_NUM_THREADS"))
print("started" in globals())
os.makedirs("build")"""
SEEN = ["inline", "viridis", "own", sys.executable, "None", "False"]
SURROUNDINGS = {
    "other/utils.py": "NAME = 'other'",
    "other/matplotlibrc": "image.cmap: jet",
    "other/profile_default/startup/a.py": "started = 1",
    "other/kernels/python3/kernel.json": json.dumps(
        {"argv": ["false"], "display_name": "", "language": ""}
    ),
    "home/utils.py": "NAME = 'own'",
}
FAILS = [  # the code of a cell, and what is said of it
    pytest.param(
        "raise ValueError('too small; take 9')",
        "a.ipynb, code cell 2: ValueError: too small; take 9",
        id="error",
    ),
    pytest.param(
        "input()",
        "a.ipynb, code cell 2: StdinNotImplementedError: raw_input was called",
        id="input",
    ),
    pytest.param(
        "import os\nos._exit(1)", "a.ipynb, code cell 2: Kernel died", id="silent end"
    ),
    pytest.param(
        "import os\nos.write(2, b'out of memory\\n')\nos._exit(1)",
        "a.ipynb, code cell 2: Kernel died; its last words: out of memory",
        id="end with a reason",
    ),
]


def test_surroundings_and_a_folder_that_takes_nothing_change_nothing(
    tmp_path, monkeypatch
):
    for name, text in SURROUNDINGS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_codes(tmp_path / "home/a.ipynb", LOOK)
    for name in ("PYTHONPATH", "MATPLOTLIBRC", "IPYTHONDIR", "JUPYTER_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    executed = notebook.execute(tmp_path / "home/a.ipynb", tmp_path / "out/b.ipynb")
    (cell,) = read_notebook(executed).cells
    assert cell.outputs[0].text.splitlines() == SEEN
    assert sorted(os.listdir(tmp_path / "home")) == ["a.ipynb", "utils.py"]


def test_metadata_is_what_jupyter_writes_but_for_the_version_of_python(tmp_path):
    write_codes(tmp_path / "a.ipynb", CODE)
    executed = read_notebook(notebook.execute(tmp_path / "a.ipynb"))
    kernel = get_kernel_dict()
    assert executed.metadata.kernelspec == {
        "display_name": kernel["display_name"],
        "language": kernel["language"],
        "name": "python3",
    }
    language = dict(IPythonKernel.language_info)  # a kernel here would change display()
    del language["version"]
    assert executed.metadata.language_info == language
    script, about = ScriptExporter().from_notebook_node(executed)
    assert about["output_extension"] == ".py"
    assert CODE in script


@pytest.mark.parametrize("source, reason", FAILS)
def test_a_cell_that_fails_is_named_and_nothing_waits_or_is_written(
    tmp_path, source, reason
):
    write_codes(tmp_path / "a.ipynb", "1", source)
    text = ending(notebook, tmp_path / "a.ipynb", "--out", tmp_path / "b.ipynb")
    assert reason in text
    assert os.listdir(tmp_path) == ["a.ipynb"]


def test_a_last_cell_that_is_not_there_is_named(tmp_path):
    write_codes(tmp_path / "a.ipynb", "1")
    with pytest.raises(ValueError, match="a.ipynb has no cell with the id 'tune'"):
        notebook.execute(tmp_path / "a.ipynb", until="tune")


def test_a_narrow_console_prints_and_ctrl_c_ends_in_a_sentence(tmp_path):
    path = tmp_path / "a.ipynb"
    write_codes(path, "print('started ✅', flush=True)\nimport time\ntime.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.notebook", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == f"executing {path}\n"
        assert process.stdout.readline() == "started \\u2705\n"
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert rest == "stopped by Ctrl-C; the same command starts again\n"
    assert process.returncode == 1


RESULTS = {
    "data": "EuroSAT",
    "judged on": "test list",
    "numbers of": "quick run",
    "results": {"own CNN": {"Accuracy (test)": 0.9725}},
}
WRITE_RESULTS = f"""from pathlib import Path
import json
text = json.dumps({RESULTS!r})
Path("build/report/results.json").write_text(text)"""


def test_both_parts_go_to_build_and_the_results_are_printed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PS2_PROFILE", raising=False)
    write_codes(notebook.THEORY, CODE)
    write_codes(notebook.EUROSAT, WRITE_RESULTS)
    assert not ending(notebook)
    told = capsys.readouterr().out
    assert "accuracy (EuroSAT, test list)" in told
    assert "own CNN                       97.25%" in told
    assert sorted(os.listdir()) == ["build", notebook.EUROSAT, notebook.THEORY]
    for name in (notebook.THEORY, notebook.EUROSAT):
        (given,) = read_notebook(name).cells
        (executed,) = read_notebook(f"build/{name}").cells
        assert given.execution_count is None
        assert executed.execution_count == 1


# --- Files and commands ---------------------------------------------------------------


def test_a_file_is_written_whole_through_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("old", encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_whole(link, "neü\n")
    assert link.is_symlink()
    assert target.read_bytes() == "neü\n".encode()
    write_whole(link, b"\0")
    assert target.read_bytes() == b"\0"
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


@pytest.mark.parametrize("module", [notebook, check, pdf, tune, grade, classroom])
def test_help_is_no_file(module, capsys):
    assert ending(module, "--help") == 0
    assert "usage: " in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Müller Abgabe (1).ipynb", id="spaces"),
        pytest.param("""'a' "$b" $(c) `d` & ; * # %.ipynb""", id="signs of the shell"),
    ],
)
@pytest.mark.parametrize(
    "target, variable", [("grade", "SUBMISSION"), ("classroom", "CLONES")]
)
def test_make_hands_a_name_over_as_it_is(target, variable, name):
    printing = "PY=printf '%s\\n'"
    command = ["make", "-so", ".venv/installed", printing]
    command += [target, f"{variable}={name}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    assert name in told.stdout.splitlines()
