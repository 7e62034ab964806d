"""What the tools share: reading a notebook, writing a file, and how a command ends.

Used by every other module of tools/ and by the tests.
"""

import json
import re
import reprlib
import subprocess
import sys
from pathlib import Path

import nbformat

CELL_TYPES = ("code", "markdown", "raw")
OUTPUT_TYPES = ("stream", "display_data", "execute_result", "error")
WORDS = {int: "a whole number", str: "a text", list: "a list", dict: "an object"}


def read_notebook(path):
    """The notebook at `path`, of any version, as one of version 4 with all its parts.

    It may have a byte order mark, be of an older version, hold texts as lists of lines.
    What a cell or an output lacks, or has as null, is put in empty; only an id is not.
    OSError if the file cannot be read; ValueError, a sentence with its name and the
    cause, if it holds no notebook.
    """
    content = Path(path).read_bytes()
    try:
        notebook = parse_notebook(content)
    except Exception as error:  # the refusals of json and nbformat are of many kinds
        cause = find_cause(content, error)
        raise ValueError(f"{path} is no notebook: {cause}") from error
    return notebook


def parse_notebook(content):
    """The notebook in the bytes `content`; an error of any kind if there is none."""
    text = content.decode("utf-8-sig")
    given = json.loads(text)
    check_kind(given, "its content", dict)
    check_choice(given, "its content", "nbformat", [2, 3, 4])
    complete(given, "its content", "nbformat_minor", int)
    if given["nbformat"] == 4:
        notebook = nbformat.from_dict(given)
    else:
        older = nbformat.reader.reads(json.dumps(given))
        notebook = nbformat.convert(older, 4)
        for cell in notebook.cells:
            del cell["id"]  # it is drawn anew in each conversion
        notebook.nbformat_minor = 4  # the last one without ids
    complete_notebook(notebook)
    json.dumps(notebook, ensure_ascii=False).encode("utf-8")  # it can be written, too
    return notebook


def find_cause(content, error):
    """Why the bytes `content` are no notebook, in words that help to mend the file."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory; remove its outputs"
    if content.strip() == b"":
        return "it is not JSON: it is empty"
    if content.startswith(b"version https://git-lfs.github.com/"):
        return "it is a pointer of Git LFS; git lfs pull puts the notebook in its place"
    if isinstance(error, UnicodeDecodeError) or b"\0" in content:
        return "it is not in UTF-8; save it in that encoding"
    marker = re.search(rb"^(<{7}|>{7}) ", content, re.MULTILINE)
    if marker:
        line = content.count(b"\n", 0, marker.start()) + 1
        advice = "choose a side and remove the markers"
        return f"line {line} is a marker of a merge; {advice}"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON: {error}"
    if isinstance(error, UnicodeEncodeError):
        return f"it holds half of a character: {error.object[error.start]!r}"
    return " ".join(str(error).split())


# --- What a notebook of version 4 may lack --------------------------------------------


def complete_notebook(notebook):
    """Put in what a notebook lacks; ValueError names what is of the wrong kind."""
    drop_nulls(notebook)
    if "cells" not in notebook:
        raise ValueError("it has no cells")
    check_kind(notebook.cells, "cells", list)
    complete_object(notebook, "the notebook", "metadata")
    if "authors" in notebook.metadata:
        check_kind(notebook.metadata.authors, "the metadata: authors", list)
    for number, cell in enumerate(notebook.cells, 1):
        complete_cell(cell, f"cell {number}")


def complete_cell(cell, where):
    check_kind(cell, where, dict)
    drop_nulls(cell)
    check_choice(cell, where, "cell_type", CELL_TYPES)
    complete(cell, where, "source", str)
    complete_object(cell, where, "metadata")
    if "id" in cell:
        check_kind(cell.id, f"{where}: id", str)
    if "attachments" in cell:
        complete_object(cell, where, "attachments")
        for name in cell.attachments:
            complete_forms(cell.attachments, where, name)
    if cell.cell_type == "code":
        cell.setdefault("execution_count", None)
        complete(cell, where, "outputs", list)
        for number, output in enumerate(cell.outputs, 1):
            complete_output(output, f"{where}, output {number}")


def complete_output(output, where):
    check_kind(output, where, dict)
    drop_nulls(output)
    check_choice(output, where, "output_type", OUTPUT_TYPES)
    if output.output_type == "stream":
        output.setdefault("name", "stdout")
        complete(output, where, "text", str)
    elif output.output_type == "error":
        complete(output, where, "ename", str)
        complete(output, where, "evalue", str)
        complete(output, where, "traceback", list)
        for line in output.traceback:
            check_kind(line, f"{where}, a line of the traceback", str)
    else:
        complete_forms(output, where, "data")
        complete_object(output, where, "metadata")
        for form in output.data:
            if form in output.metadata:
                check_kind(output.metadata[form], f"{where}, metadata: {form}", dict)
        if output.output_type == "execute_result":
            output.setdefault("execution_count", None)


def complete_forms(place, where, key):
    """Complete {media type: content}; each text and each image becomes one text."""
    complete_object(place, where, key)
    for form in place[key]:
        if form.startswith(("text/", "image/")):
            complete(place[key], where, form, str)


def complete_object(place, where, key):
    """Complete an object, in which a key that is null counts as missing."""
    complete(place, where, key, dict)
    drop_nulls(place[key])


def complete(place, where, key, kind):
    """Put in an empty `key` where it is missing; ValueError if it is of another kind.

    The lines of a text become one text.
    """
    value = place.get(key)
    if value is None:
        value = kind()
    if kind is str and is_lines(value):
        value = "".join(value)
    check_kind(value, f"{where}: {key}", kind)
    place[key] = value


def drop_nulls(place):
    for key in list(place):
        if place[key] is None:
            del place[key]


def is_lines(value):
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def check_kind(value, what, kind):
    if not isinstance(value, kind):
        raise ValueError(f"{what} is {reprlib.repr(value)}, not {WORDS[kind]}")


def check_choice(place, where, key, choices):
    value = place.get(key)
    if value not in choices:
        words = ", ".join(map(str, choices))
        raise ValueError(f"{where}: {key} is {reprlib.repr(value)}, not one of {words}")


# --- Outputs, files, commands ---------------------------------------------------------


def join_streams(outputs):
    """The outputs with neighbouring prints joined.

    Where the kernel cuts a print into pieces depends on the machine.
    """
    joined = []
    for output in outputs:
        if joined and is_continued(joined[-1], output):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def is_continued(output, following):
    """Are both outputs prints to the same stream?"""
    if output.output_type != "stream" or following.output_type != "stream":
        return False
    return output.name == following.name


def commit():
    """The commit that is checked out; "unknown" outside a clone or without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "unknown"
    if done.returncode != 0:
        return "unknown"
    return done.stdout.strip()


def command(main):
    """Run a tool's main(): an error or Ctrl-C ends it in one sentence, with status 1.

    A console that lacks a character does not stop its printing.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command starts again")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"stopped: {error}")
