"""Grade part 2 of a clone into JUnit XML, for the course's collector: run.sh calls it.

tests/conftest.py uses run_checks, too: another notebook is graded in a child process.
"""

import importlib
import os
import re
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

PYTEST = "-P -m pytest -vv --tb=no -rfE --timeout=30 -o timeout_func_only=true".split()
STARTING = "the start of pytest"
SECONDS = 270  # the collector ends everything after 300
DEFINES = re.compile(r"^ *(class|def) +MyCNNModel\b|^MyCNNModel *=", re.MULTILINE)


def main():
    """Grade the clone at DSL_SUBMISSION_DIR into DSL_JUNIT_OUT, an error if need be."""
    report = os.environ["DSL_JUNIT_OUT"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names of files may be of bytes
    try:
        importlib.import_module("pytest")
        clone = os.environ.get("DSL_SUBMISSION_DIR", "")
        if not clone:
            raise LookupError("DSL_SUBMISSION_DIR names no clone")
        notebook = find_notebook(clone)
        arguments = ["tests/test_template.py", "-m", "points"]
        arguments += [f"--notebook={notebook}", f"--junitxml={report}"]
        run_checks(arguments, SECONDS)
    except Exception as error:  # of any kind: no report would be worse
        print(error, file=sys.stderr)
        write_error(report, str(error))


def find_notebook(folder):
    """Path of the notebook below `folder` that defines MyCNNModel.

    Of several, the shallowest, then the first by name. LookupError says what there is
    instead, if there is none; OSError if the folder cannot be read.
    """
    # Not at the top: a machine that lacks nbformat gets a report that says so.
    from tools.definitions import codes

    os.listdir(folder)  # OSError, a sentence, if it cannot be read
    fitting = []
    others = []
    for path in list_notebooks(folder):
        try:
            cells = codes(path)
        except (OSError, ValueError) as error:
            others.append(str(error))
            continue
        if any(DEFINES.search(cell) for cell in cells):
            fitting.append(path)
        else:
            others.append(f"not in {path.name}")
    if not fitting:
        if not others:
            others.append("there is no notebook")
        raise LookupError(f"no notebook defines MyCNNModel: {'; '.join(others)}")
    first, *rest = fitting
    print(f"graded: {first}", flush=True)
    for path in rest:
        print(f"not graded, though it defines MyCNNModel, too: {path}")
    return first


def list_notebooks(folder):
    """All notebooks below `folder` but hidden ones: the shallowest first, then by name.

    Names are compared without their ending, so that "a.ipynb" is before "a copy.ipynb".
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            is_notebook = path.suffix.lower() == ".ipynb" and path.is_file()
            if is_notebook and not name.startswith("."):
                found.append(path)
    return sorted(found, key=lambda path: (len(path.parts), path.with_suffix("")))


def run_checks(arguments, seconds):
    """Exit status of pytest on another notebook, in a child process.

    `arguments` are pytest's. RuntimeError, a sentence, if the child does not get to its
    end, or not within so many seconds.
    """
    command = [sys.executable, *PYTEST, *arguments]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TMPDIR": folder,
            "PS2_CHILD": str(seconds),
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            "MPLBACKEND": "Agg",
            "COLUMNS": "200",
            # packages that are installed for this user alone, whatever HOME is
            "PYTHONUSERBASE": site.getuserbase(),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        errors = Path(folder, "errors")
        doing = Path(folder, "doing")  # tests/conftest.py notes there what is under way
        doing.write_text(STARTING)
        with errors.open("w") as stream:
            child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stderr=stream
            )
            ended = wait_for(child, seconds)
        last_words = errors.read_text(errors="replace")[-2000:].strip()
        last_doing = doing.read_text()
    if last_words:
        print(last_words, file=sys.stderr)
    if last_doing == "":
        return child.returncode
    reason = f"the notebook {ended} in {last_doing}"
    if last_doing == STARTING:  # there, no code of the notebook has run
        reason = f"pytest {ended} before it began"
    raise RuntimeError(f"{reason}: {last_words[-300:]}".rstrip(": "))


def wait_for(child, seconds):
    """Wait for a child process, at most so many seconds; how it ended, in words."""
    try:
        status = child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return f"was stopped after {seconds:g} s"
    if status < 0:
        return f"ended the process with signal {-status}"
    return f"ended the process with status {status}"


def write_error(report, sentence):
    """Write a JUnit report of one case, an error.

    The collector keeps the names of the cases alone, so the sentence is the name.
    """
    sentence = " ".join(sentence.split())
    # XML has no place for control characters, nor for half ones of a file's name.
    name = "".join(letter if letter.isprintable() else "?" for letter in sentence)
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name="part 2")
    suite.attrib.update(tests="1", errors="1", failures="0", skipped="0")
    case = ElementTree.SubElement(suite, "testcase", classname="run.sh", name=name)
    ElementTree.SubElement(case, "error", message=name)
    Path(report).write_bytes(ElementTree.tostring(suites))


if __name__ == "__main__":
    main()
