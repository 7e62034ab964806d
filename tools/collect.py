"""Grade part 2 of a clone into JUnit XML, for the course's collector: run.sh calls it.

tools/team.py uses fitting_notebooks and what it stands on, too.
"""

import importlib
import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from tools.grade import CHECKS, FAULT_PREFIX, SECONDS, one_line, run_checks

PACKAGES = ("site-packages", "venv")
MOST_NOTEBOOK = 200_000_000  # bytes
MOST_SENTENCES = 10  # sentences of one kind
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
        arguments = [CHECKS, f"--notebook={notebook.resolve()}"]
        arguments += [f"--junitxml={os.path.abspath(report)}"]
        ran = run_checks(arguments, SECONDS)
        print(ran["printed"])
        for fault in ran["faults"]:
            print(f"{FAULT_PREFIX}{fault}")
        if ran["errors"]:
            print(ran["errors"], file=sys.stderr)
    except Exception as error:  # of any kind: no report would be worse
        print(error, file=sys.stderr)
        write_error(report, str(error))


def find_notebook(folder):
    """Path of the notebook below `folder` that defines MyCNNModel, the first that fits.

    Errors as fitting_notebooks.
    """
    first, *rest = fitting_notebooks(folder)
    print(f"graded: {first}", flush=True)
    for path in rest:
        print(f"not graded, though it defines MyCNNModel, too: {path}")
    return first


def fitting_notebooks(folder):
    """Paths of all notebooks below `folder` that define MyCNNModel.

    The shallowest first, then by name. LookupError says what there is instead, ten of
    them, if there is none; OSError if the folder cannot be read.
    """
    # Not at the top: a machine that lacks nbformat gets a report that says so.
    from tools.definitions import codes

    os.listdir(folder)  # OSError, a sentence, if it cannot be read
    fitting = []
    others = []
    notebooks, unreadable = list_files(folder, ".ipynb")
    for path in notebooks:
        try:
            refuse_large(path)
            cells = codes(path)
        except (OSError, ValueError) as error:
            others.append(str(error))
            continue
        if any(DEFINES.search(cell) for cell in cells):
            fitting.append(path)
        else:
            others.append(f"not in {path.name}")
    if not fitting:
        reasons = unreadable + others
        if not reasons:
            reasons.append("there is no notebook")
        reasons = first_ten(reasons)
        raise LookupError(f"no notebook defines MyCNNModel: {'; '.join(reasons)}")
    return fitting


def first_ten(sentences):
    """The first ten sentences, and how many more there are."""
    more = len(sentences) - MOST_SENTENCES
    if more <= 0:
        return sentences
    return [*sentences[:MOST_SENTENCES], f"and {more} more"]


def refuse_large(path):
    """ValueError, a sentence, if a notebook is too large to be read."""
    size = path.stat().st_size
    if size > MOST_NOTEBOOK:
        megabytes = size / 1_000_000
        raise ValueError(f"{path} has {megabytes:.0f} MB, which is too large")


def list_files(folder, ending):
    """All files below `folder` with this ending: the shallowest first, then by name.

    Without hidden ones, those of installed packages, and links that lead out of the
    folder. Names are compared without their ending, so that "a.ipynb" is before
    "a copy.ipynb". Returns them, and a sentence for each folder that cannot be read.
    """
    top = Path(folder).resolve()
    found = []
    errors = []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if is_handed_in(name)]
        for name in files:
            path = Path(place, name)
            if path.suffix.lower() != ending or not is_handed_in(name):
                continue
            if path.is_file() and path.resolve().is_relative_to(top):
                found.append(path)
    unreadable = []
    for error in errors:
        unreadable.append(f"{error.filename} cannot be read: {error.strerror or error}")
    found.sort(key=lambda path: (len(path.parts), path.with_suffix("")))
    return found, unreadable


def is_handed_in(name):
    """Is a file or folder of this name a team's own?"""
    return not name.startswith(".") and name not in PACKAGES


def write_error(report, sentence):
    """Write a JUnit report of one case, an error.

    The collector keeps the names of the cases alone, so the sentence is the name.
    """
    # XML has no place for control characters, nor for half ones of a file's name.
    name = one_line(sentence)
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name="part 2")
    suite.attrib.update(tests="1", errors="1", failures="0", skipped="0")
    case = ElementTree.SubElement(suite, "testcase", classname="run.sh", name=name)
    ElementTree.SubElement(case, "error", message=name)
    Path(report).write_bytes(ElementTree.tostring(suites))


if __name__ == "__main__":
    main()
