"""Execute a notebook reproducibly, or load what it defines without running it.

python tools/notebook.py NOTEBOOK [--out FILE] [--until CELL]   executes top to bottom, in place unless --out is given
"""
import argparse
import ast
import pathlib
import sys
import time

import nbformat
from nbclient import NotebookClient

METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}


def definitions(path, **given):
    """The namespace of the imports, functions, classes and upper-case constants of a notebook.

    `given` replaces constants by name. Magics and all other statements are skipped, so nothing is trained or drawn.
    """
    space = {"__name__": pathlib.Path(path).stem}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        source = "\n".join("" if line.startswith(("%", "!")) else line for line in cell.source.split("\n"))
        kept = [node for node in ast.parse(source).body if _is_definition(node, given)]
        exec(compile(ast.Module(kept, type_ignores=[]), f"{path}:{cell.id}", "exec"), space)
        space.update(given)
    return space


def _is_definition(node, given):
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return bool(names) and all(name.isupper() and name not in given for name in names)
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))


class Client(NotebookClient):
    """Runs a notebook and repeats its text in the terminal, so that a long cell can be watched."""
    shown = 0.0

    def process_message(self, msg, cell, cell_index):
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream":
            print(content["text"], end="", flush=True)
        elif kind in ("display_data", "update_display_data") and "image/png" not in content["data"]:
            self.show_progress(content["data"].get("text/plain", ""), kind)
        return super().process_message(msg, cell, cell_index)

    def show_progress(self, text, kind):
        """Overwrite one line in a terminal; in a log, add a line every 20 s."""
        if sys.stdout.isatty():
            print(f"\r\033[K{text[:110]}", end="\n" if text.endswith(".") else "", flush=True)
        elif text.endswith(".") or time.monotonic() - self.shown > 20:
            self.shown = time.monotonic()
            print(text, flush=True)


def execute(path, out=None, until=None):
    """Execute the notebook at `path` from the folder it lies in, and write it to `out` (default: `path`).

    `until` is the id of the last cell to execute and write; it needs `out`. ValueError if there is no such cell.
    The file holds nothing that differs between two equal runs: no times, no widget state, fixed metadata and cell ids.
    A failing cell raises nbclient.exceptions.CellExecutionError, and nothing is written.
    """
    path = pathlib.Path(path)
    notebook = nbformat.read(path, as_version=4)
    if until:
        ids = [cell.id for cell in notebook.cells]
        if until not in ids or not out:
            raise ValueError(f"until={until!r} must be a cell of {path.name}, with a file `out` to write to")
        notebook.cells = notebook.cells[:ids.index(until) + 1]
    Client(notebook, timeout=None, record_timing=False, store_widget_state=False, coalesce_streams=True,
           resources={"metadata": {"path": str(path.resolve().parent)}}).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(METADATA)
    out = pathlib.Path(out or path)
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook")
    parser.add_argument("--out", help="write the executed notebook here and leave the original alone")
    parser.add_argument("--until", metavar="CELL", help="id of the last cell to execute; needs --out")
    arguments = parser.parse_args()
    print(f"executing {arguments.notebook}", flush=True)
    print(f"wrote {execute(arguments.notebook, arguments.out, arguments.until)}")
