"""What one team has handed in, as one dictionary: found, graded, its cells as HTML.

python -m tools.team PATH FOLDER   prints it as JSON; PDFs are copied to FOLDER

tools/classroom.py starts this for each team, in a process of its own.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tools.cells import cell_record, questions, tasks
from tools.collect import first_ten, fitting_notebooks, list_files, refuse_large
from tools.files import command, read_notebook
from tools.formulas import typeset
from tools.grade import EndedError, end_as_with_ctrl_c, grade

MEGABYTE = 1_000_000
MOST_UNPACKED = 2000 * MEGABYTE
MOST_PDFS = 100 * MEGABYTE  # of all PDFs of a team
MOST_HTML = 25 * MEGABYTE  # of all outputs of a notebook
MOST_SOURCES = 100 * MEGABYTE  # of all its cells, with the images of Markdown
LARGE = 20 * MEGABYTE  # a notebook of this size gets a remark
MOST_MEMORY = 2 * 2**30  # bytes; of the checks, tests/conftest.py has a limit below


@contextlib.contextmanager
def opened(path):
    """The folder with what was handed in: the clone, or a temporary one for a file."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if path.suffix.lower() == ".zip":
            unpack(path, folder)
        else:
            shutil.copy(path, folder)
        yield folder


def unpack(path, folder):
    """Unpack an archive; ValueError, a sentence, if it is none or too large.

    OSError if the disk does not take its files.
    """
    size = 0
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size <= MOST_UNPACKED:
                archive.extractall(folder)  # names with .. stay in the folder
    except Exception as error:  # each way to compress has its own ones
        if isinstance(error, OSError) and error.errno is not None:
            raise
        sentence = f"{path.name} cannot be opened: {error}".rstrip(": ")
        raise ValueError(sentence) from error
    if size > MOST_UNPACKED:
        raise ValueError(f"it would unpack to {size / MEGABYTE:,.0f} MB")


def empty_result():
    """The result of a team before anything is known of it.

    "is_incomplete": something such as a full disk or the end of the time has stopped
    the work, so that a second run may find more.
    """
    return {
        "notebook": "",
        "reason": "",  # why it is not graded
        "remarks": [],
        "errors": 0,
        "cells": [],
        "theory": [],
        "pdfs": [],
        "checks": [],
        "problems": [],
        "faults": [],
        "seconds": 0,
        "is_incomplete": False,
    }


def team_result(path, pdf_folder):
    """What the team has handed in at `path`, a dictionary for JSON."""
    start = time.monotonic()
    result = empty_result()
    shutil.rmtree(pdf_folder, ignore_errors=True)  # of an earlier state
    try:
        with opened(path) as folder:
            fill_in(result, folder, pdf_folder)
    except OSError as error:
        result["reason"] = f"it cannot be read: {error.strerror or error}"
        result["is_incomplete"] = True
    except ValueError as error:
        result["reason"] = str(error)
    except Exception as error:  # of other people's files any is possible
        result["reason"] = f"it cannot be graded: {type(error).__name__}"
    result["remarks"] = first_ten(result["remarks"])
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def fill_in(result, folder, pdf_folder):
    """Fill in what is found in the folder of a team: first its points."""
    fitting = []
    try:
        fitting = fitting_notebooks(folder)
    except LookupError as error:
        result["reason"] = without_folder(str(error), folder)
    if fitting:
        fill_in_points(result, fitting, folder)
    try:
        fill_in_cells(result, fitting, folder)
        result["pdfs"] = copy_pdfs(folder, pdf_folder, result["remarks"])
    except (Exception, KeyboardInterrupt) as error:  # its points stay
        cause = type(error).__name__
        if isinstance(error, KeyboardInterrupt):
            cause = "its time was over"
        result["remarks"].append(f"not all that was handed in can be shown: {cause}")
        if isinstance(error, (OSError, KeyboardInterrupt)):
            result["is_incomplete"] = True


def fill_in_points(result, fitting, folder):
    """Grade the first of the notebooks that fit."""
    first, *rest = fitting
    result["notebook"] = str(first.relative_to(folder))
    for path in rest:
        name = path.relative_to(folder)
        result["remarks"].append(f"{name} defines MyCNNModel, too; it is not graded")
    megabytes = first.stat().st_size / MEGABYTE
    if megabytes > LARGE / MEGABYTE:
        result["remarks"].append(f"its notebook has {megabytes:.0f} MB")
    try:
        result.update(grade(first))
    except EndedError as error:
        result["reason"] = without_folder(str(error), folder)
        result["is_incomplete"] = error.timed_out


def fill_in_cells(result, fitting, folder):
    """Fill in the cells of the notebook that is graded, and the answers to part 1."""
    if fitting:
        first = fitting[0]
        cells = read_notebook(first).cells
        result["errors"] = len([cell for cell in cells if has_error(cell)])
        result["cells"] = records(cells, "task", tasks(cells), first.parent, folder)
        if any(questions(cells)):  # one with a number; fences alone may be part 2's
            remark = "answers to part 1 in the notebook of part 2 are not shown"
            result["remarks"].append(remark)
    notebooks, unreadable = list_files(folder, ".ipynb")
    others = [path for path in notebooks if path not in fitting]
    remarks = list(unreadable)
    result["theory"] = theory_of(others, remarks, folder)
    if fitting:  # else the reason names them
        for remark in remarks:
            result["remarks"].append(without_folder(remark, folder))


def without_folder(sentence, folder):
    """A sentence with the names of files as the team knows them."""
    return sentence.replace(f"{folder}{os.sep}", "")


def has_error(cell):
    """Does an output that was handed in show an error?"""
    outputs = cell.get("outputs", [])
    return any(output.output_type == "error" for output in outputs)


def theory_of(notebooks, remarks, root):
    """The answers to part 1 in the notebooks that can be read; a remark on others."""
    found = []
    for path in notebooks:
        sizes = [len(cell["source"]) + len(cell["outputs"]) for cell in found]
        if sum(sizes) > MOST_SOURCES:
            remarks.append(f"{path} is not shown: the others have too much")
            continue
        try:
            refuse_large(path)
            cells = read_notebook(path).cells
        except (OSError, ValueError) as error:
            remarks.append(str(error))
            continue
        found += records(cells, "question", questions(cells), path.parent, root)
    return found


def records(cells, key, places, folder, root):
    """The cells as dictionaries of HTML, each with its place under `key`.

    Without those whose place is None. Files are read beside the notebook, which lies
    in `folder`, if they are below `root`. From MOST_HTML and MOST_SOURCES on, a
    sentence is in place of outputs, and of cells.
    """
    found = []
    sources = 0
    outputs = 0
    for cell, place in zip(cells, places, strict=True):
        if place is None or cell.cell_type == "raw":
            continue
        if sources > MOST_SOURCES:
            record = in_place_of_cell("left out: the notebook has too much")
            found.append({**record, key: place})
            continue
        try:
            record = cell_record(cell, folder, root)
        except Exception as error:  # of other people's text any is possible
            record = in_place_of_cell(f"that cannot be shown: {type(error).__name__}")
        sources += len(record["source"])
        outputs += len(record["outputs"])
        if outputs > MOST_HTML and record["outputs"]:
            record["outputs"] = "<p>[outputs are left out: they are too many]</p>"
        found.append({**record, key: place})
    texts = [record for record in found if record["kind"] == "markdown"]
    drawn = typeset([record["source"] for record in texts])
    for record, source in zip(texts, drawn, strict=True):
        record["source"] = source
    return found


def in_place_of_cell(why):
    """The record of a cell in whose place there is a sentence."""
    sentence = f"[a cell {why}]"
    record = {"kind": "markdown", "digest": "", "line": sentence, "outputs": ""}
    return {**record, "source": f"<p>{sentence}</p>"}


def copy_pdfs(folder, target, remarks):
    """Names of the PDFs of a team, which are copied to `target`."""
    names = []
    paths, _ = list_files(folder, ".pdf")
    copied = 0
    for path in paths:
        name = str(path.relative_to(folder))
        size = path.stat().st_size
        if copied + size > MOST_PDFS:
            remarks.append(f"{name} is too large to be copied")
            continue
        copied += size
        target.mkdir(parents=True, exist_ok=True)
        copy = f"{len(names) + 1}.pdf"  # names of other people may be of any kind
        shutil.copy(path, target / copy)
        names.append({"name": name, "file": copy})
    return names


def limit_memory():
    """Limit the memory of this process; a lower limit in force stays."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > MOST_MEMORY:
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, hard))


def main():
    if len(sys.argv) != 3:
        raise ValueError("a call names two: python -m tools.team PATH FOLDER")
    path = Path(sys.argv[1])
    pdf_folder = Path(sys.argv[2])
    end_as_with_ctrl_c()
    limit_memory()
    print(json.dumps(team_result(path, pdf_folder)))


if __name__ == "__main__":
    command(main)
