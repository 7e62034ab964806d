"""What every tool shares: the reader of notebook files, and how a command ends."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat


def read_notebook(path):
    """The notebook at `path`, of any version, with or without a byte order mark, as version 4.

    Nothing is repaired and no cell id added. OSError if the file cannot be read; ValueError, a
    sentence with its name and the cause, if it holds no notebook.
    """
    content = Path(path).read_bytes()
    try:
        notebook = nbformat.convert(nbformat.reader.reads(content.decode("utf-8-sig")), 4)
        "".join(cell.source for cell in notebook.cells)  # fails unless each holds text
    except Exception as error:  # nbformat's refusals are of many kinds
        cause = " ".join(str(error).split())
        if isinstance(error, UnicodeDecodeError):
            cause = "it is not in UTF-8; save it in that encoding"
        elif mark := re.search(rb"^(<{7}|>{7}) ", content, re.MULTILINE):
            line = content.count(b"\n", 0, mark.start()) + 1
            cause = f"line {line} is a marker of a merge; choose a side and remove the markers"
        raise ValueError(f"{path} is no notebook: {cause}") from error
    return notebook


def join_streams(outputs):
    """The outputs with neighbouring prints joined: where they part depends on the machine."""
    joined = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def commit():
    """The commit that is checked out, 40 hex digits; "unknown" outside a clone or without git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    except OSError:
        found = ""
    return found.strip() or "unknown"


def command(main):
    """Run a tool: no character stops its printing; an error or Ctrl-C ends it in one sentence."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command starts again")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"stopped: {error}")
