"""Execute notebooks so that two equal runs give equal files.

python -m tools.notebook                           both parts into build/, in the profile that fits
python -m tools.notebook NOTEBOOK... [--out FILE]  top to bottom, in place or into FILE
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PARTS = ["ps2_theory.ipynb", "ps2_eurosat.ipynb"]


class Client(NotebookClient):
    """Runs a notebook and repeats its text in the terminal, so that a long cell can be watched."""

    shown = 0.0

    def process_message(self, msg, cell, cell_index):
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream":
            print(content["text"], end="", flush=True)
        elif kind.endswith("display_data") and "image/png" not in content["data"]:
            self.show_progress(content["data"].get("text/plain", ""))
        return super().process_message(msg, cell, cell_index)

    def show_progress(self, text):
        """Overwrite one line in a terminal; in a log, add a line every 20 s."""
        if sys.stdout.isatty():
            print(f"\r\033[K{text[:110]}", end="\n" if text.endswith(".") else "", flush=True)
        elif text.endswith(".") or time.monotonic() - self.shown > 20:
            self.shown = time.monotonic()
            print(text, flush=True)


def execute(path, out=None, until=None, first=None):
    """Execute the notebook at `path` in its folder, and write it to `out` (default: `path`).

    `until` is the id of the last cell to execute and write, `first` the code of a cell to put
    before all others. The file holds nothing that differs between two equal runs: no times, no
    widget state, fixed metadata and cell ids. A failing cell raises
    nbclient.exceptions.CellExecutionError, and nothing is written.
    """
    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    if until:
        place = [cell.id for cell in notebook.cells].index(until)
        notebook.cells = notebook.cells[: place + 1]
    if first:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first, id="first"))
    Client(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    ).execute()
    for cell in notebook.cells:
        join_streams(cell)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(METADATA)
    out = Path(out or path)
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)
    return out


def join_streams(cell):
    """Neighbouring pieces of printed text become one: where they part depends on the machine."""
    joined = []
    for output in cell.get("outputs", []):
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    if joined:
        cell["outputs"] = joined


def run():
    """Both parts in the profile of PS2_PROFILE, or the one that fits; then the results."""
    import utils

    with contextlib.redirect_stdout(io.StringIO()) as told:  # the profile stands in the first line
        data = utils.load_eurosat()
    chosen = utils.Run.of(os.environ.get("PS2_PROFILE", ""), data)
    summary = f"profile {chosen.profile}: {data.note or 'EuroSAT'}, {len(data):,} images"
    print(f"{summary}\n{told.getvalue()}", end="", flush=True)
    os.environ["PS2_PROFILE"] = chosen.profile
    for part in PARTS:
        print(f"executing {part}", flush=True)
        execute(part, chosen.out / part)
    report = json.loads((chosen.out / "report/results.json").read_text())
    print(f"\naccuracy ({report['data']}, {report['judged on']})")
    for result in report["results"]:
        print(f"  {result['model']:28}{result['accuracy']:8.2%}")
    print(f"{summary}; notebooks, figures/ and report/ are in {chosen.out}/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.add_argument("--out", metavar="FILE", help="write the executed notebook here")
    arguments = parser.parse_args()
    if arguments.out and len(arguments.notebooks) != 1:
        parser.error("--out takes one notebook")
    try:
        if not arguments.notebooks:
            run()
        for notebook in arguments.notebooks:
            print(f"executing {notebook}", flush=True)
            print(f"wrote {execute(notebook, arguments.out)}")
    except CellExecutionError as error:
        sys.exit(f"stopped: {error.ename}: {error.evalue}")
    except (OSError, ValueError) as error:
        sys.exit(f"stopped: {error}")
