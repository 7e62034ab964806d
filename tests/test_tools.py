"""Files, command lines and surroundings as people have them: each tool works, or says why not."""

import json
import os
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import check, definitions, notebook, pdf, tune
from tools.files import command, read_notebook

LOOK = """import os, sys, matplotlib, utils
from matplotlib.pyplot import rcParams
print(matplotlib.get_backend()[-6:], rcParams["image.cmap"], utils.NAME, sys.executable,
      os.environ.get("OMP_NUM_THREADS"), "started" in globals())
os.makedirs("build")"""
SEEN = ["inline", "viridis", "own", sys.executable, "None", "False"]
TEXT = nbformat.writes(new_notebook(cells=[new_code_cell(LOOK, id="look")]))
OLD = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}}
OLD["worksheets"] = [{"cells": [{"cell_type": "code", "input": [LOOK], "outputs": []}]}]
ABOUT = {"widgets": {"application/vnd.jupyter.widget-state+json": {"a": {}}}}
ABOUT["kernelspec"] = {"name": "venv", "display_name": "venv"}
READ = [  # files that every tool takes: a BOM, CRLF, nbformat 3, 4.2, widgets without a state
    TEXT.encode("utf-8-sig"),
    TEXT.replace("\n", "\r\n").encode(),
    json.dumps(OLD).encode(),
    TEXT.replace('_minor": 5', '_minor": 2').replace('"id": "look",', "").encode(),
    TEXT.replace('\n "metadata": {}', f'\n "metadata": {json.dumps(ABOUT)}').encode(),
]
REFUSED = [  # files that each tool refuses, and what it says
    (TEXT.encode("utf-16"), "it is not in UTF-8"),
    (TEXT.replace("{", "{\n<<<<<<< HEAD\n", 1).encode(), "line 2 is a marker of a merge"),
    (TEXT[:90].encode(), "JSON"),
    (b'{"nbformat": 4}', "cells"),
    (None, "No such file"),
]
FAILS = {
    "raise ValueError('too small; take 9')": "a.ipynb, code cell 2: ValueError: too small; take 9",
    "input()": "a.ipynb, code cell 2: StdinNotImplementedError: raw_input was called",
    "import os; os._exit(1)": "a.ipynb, code cell 2: Kernel died",
}
SURROUNDINGS = {
    "other/utils.py": "NAME = 'other'",
    "other/matplotlibrc": "image.cmap: jet",
    "other/profile_default/startup/a.py": "started = 1",
    "other/kernels/python3/kernel.json": '{"argv": ["false"], "display_name": "", "language": ""}',
    "home/utils.py": "NAME = 'own'",
    "home/a.ipynb": READ[-1].decode(),
}


def ending(module, *arguments):
    """The exit status of a command, or its last words."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["tool", *map(str, arguments)])
        command(module.main)
    return ended.value.code


@pytest.mark.parametrize("content", READ)
def test_each_tool_reads(tmp_path, content):
    (path := tmp_path / "a.ipynb").write_bytes(content)
    assert definitions.codes(path) == [LOOK]
    assert not ending(check, path, path) and not ending(pdf, path, "--out", tmp_path)


@pytest.mark.parametrize("content, cause", REFUSED)
@pytest.mark.parametrize("module, files", [(notebook, 1), (check, 2), (pdf, 1)])
def test_each_tool_says_in_a_sentence_what_it_cannot_read(tmp_path, module, files, content, cause):
    if content is not None:
        (tmp_path / "a.ipynb").write_bytes(content)
    text = ending(module, *[tmp_path / "a.ipynb"] * files)
    assert "a.ipynb" in text and cause in text and "\n" not in text


def test_surroundings_and_a_folder_that_takes_nothing_change_nothing(tmp_path, monkeypatch):
    for name, text in SURROUNDINGS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("PYTHONPATH", "MATPLOTLIBRC", "IPYTHONDIR", "JUPYTER_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    told = read_notebook(notebook.execute(tmp_path / "home/a.ipynb", tmp_path / "out/b.ipynb"))
    assert told.cells[0].outputs[0].text.split() == SEEN
    assert sorted(os.listdir(tmp_path / "home")) == ["a.ipynb", "utils.py"]


@pytest.mark.parametrize("code", FAILS)
def test_a_cell_that_fails_is_named_and_nothing_waits_or_is_written(tmp_path, code):
    nbformat.write(new_notebook(cells=[*map(new_code_cell, ["1", code])]), tmp_path / "a.ipynb")
    text = ending(notebook, tmp_path / "a.ipynb", "--out", tmp_path / "b.ipynb")
    assert FAILS[code] in text and os.listdir(tmp_path) == ["a.ipynb"]


def test_a_narrow_console_prints_and_ctrl_c_ends_in_a_sentence(tmp_path):
    code = "print('started ✅', flush=True)\nimport time\ntime.sleep(60)"
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), tmp_path / "a.ipynb")
    words = [sys.executable, "-m", "tools.notebook", str(tmp_path / "a.ipynb")]
    options = {"env": os.environ | {"PYTHONIOENCODING": "cp1252"}, "start_new_session": True}
    with subprocess.Popen(words, stdout=-1, stderr=-2, text=True, **options) as run:
        lines = [run.stdout.readline(), run.stdout.readline()]
        os.killpg(run.pid, signal.SIGINT)
        lines += run.stdout.readlines()
    assert lines[1:] == ["started \\u2705\n", "stopped by Ctrl-C; the same command starts again\n"]
    assert run.returncode == 1


@pytest.mark.parametrize("module", [notebook, check, pdf, tune])
def test_help_is_no_file(module, capsys):
    assert ending(module, "--help") == 0 and "usage: " in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(
    "name", ["Müller Abgabe (1).ipynb", """'a' "$b" $(c) `d` & ; * # %.ipynb"""]
)
def test_make_hands_a_name_over_as_it_is(name):
    words = ["make", "-so", ".venv/installed", "PY=printf '%s\\n'", "grade", f"SUBMISSION={name}"]
    assert name in subprocess.check_output(words, text=True).splitlines()
