"""Grade part 2 of a clone into JUnit XML, for the course's collector: run.sh calls it.

tools/team.py uses fitting_notebooks, too.
"""

import importlib
import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from tools.grade import CHECKS, SECONDS, run_checks

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
        print(run_checks(arguments, SECONDS))
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

    The shallowest first, then by name. LookupError says what there is instead, if there
    is none; OSError if the folder cannot be read.
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
    return fitting


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
