"""Execute notebooks so that two equal runs give equal files.

python -m tools.notebook                           both parts into build/, in the profile that fits
python -m tools.notebook NOTEBOOK... [--out FILE]  top to bottom, in place or into FILE
"""

import argparse
import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from tools.files import command, join_streams, read_notebook

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PARTS = ["ps2_theory.ipynb", "ps2_eurosat.ipynb"]
# What would change imports, images or numbers: the kernel does not get these variables.
SURROUNDINGS = re.compile("PYTHON.*|MPLBACKEND|.*_NUM_THREADS")
PLAIN = Path(importlib.util.find_spec("matplotlib").origin).parent / "mpl-data/matplotlibrc"


class Client(NotebookClient):
    """Runs a notebook and repeats its text in the terminal, so that a long cell can be watched."""

    shown = 0

    def create_kernel_manager(self):
        """A kernel of this Python, whatever kernels the notebook and the machine name."""
        self.kernel_name = "python3"
        super().create_kernel_manager().kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        return self.km

    def process_message(self, msg, cell, cell_index):
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream":
            print(content["text"], end="", flush=True)
        elif kind.endswith("display_data") and "image/png" not in content["data"]:
            self.show_progress(content["data"].get("text/plain", ""))
        return super().process_message(msg, cell, cell_index)

    def show_progress(self, text):  # one line of a terminal; of a log, a line every 20 s
        if sys.stdout.isatty():
            print(f"\r\033[K{text[:110]}", end="\n" if text.endswith(".") else "", flush=True)
        elif text.endswith(".") or time.monotonic() - self.shown > 20:
            self.shown = time.monotonic()
            print(text, flush=True)


def execute(path, out=None, until=None, first=None):
    """Execute the notebook at `path` in its folder, and write it to `out` (default: `path`).

    `until` is the id of the last cell to execute, `first` the code of a cell to put before all
    others. Equal runs give equal files: no times, no widget state, fixed metadata and cell ids. The
    kernel knows nothing of SURROUNDINGS, nor of a reader's own settings of IPython and matplotlib.
    RuntimeError names a cell that fails; nothing is written.
    """
    path, notebook = Path(path), read_notebook(path)
    if until:
        ids = [cell.get("id") for cell in notebook.cells]
        notebook.cells = notebook.cells[: ids.index(until) + 1]
    if first:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first, id="first"))
    print(f"executing {path}", flush=True)
    # A kernel with torch takes two seconds to end: only the worker processes of `first` need them.
    end = {"shutdown_kernel": "graceful" if first else "immediate"}
    client = Client(notebook, timeout=None, record_timing=False, store_widget_state=False, **end)
    variables = {k: v for k, v in os.environ.items() if not SURROUNDINGS.fullmatch(k)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as spare:
        variables |= {"MATPLOTLIBRC": str(PLAIN), "IPYTHONDIR": f"{spare}/.ipython"}
        try:
            folder = workplace(path.resolve().parent, Path(spare))
            client.execute(env=variables, cwd=folder, stderr=subprocess.DEVNULL)
        except (Exception, asyncio.CancelledError) as error:
            if getattr(client, "_async_cleanup_kernel_future", None):  # set by nbclient on Ctrl-C
                raise KeyboardInterrupt from None
            reason = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else error
            number = client.code_cells_executed
            raise RuntimeError(f"{path}, code cell {number}: {reason}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(METADATA)
    out = Path(out or path)
    out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out)
    return out


def workplace(folder, spare):
    """`folder`, or where nothing can be written there, `spare` with links to what it holds."""
    if os.access(folder, os.W_OK):
        return folder
    for entry in folder.iterdir():
        if entry.name != "build":
            (spare / entry.name).symlink_to(entry)
    return spare


def run():
    """Both parts in the profile of PS2_PROFILE, or the one that fits; then the results."""
    import utils

    data = utils.load_eurosat()
    profile = utils.choose_profile(os.environ.get("PS2_PROFILE", ""), data)
    out = utils.output_folder(profile)
    summary = f"profile {profile}: {data.note or 'EuroSAT'}, {len(data):,} images"
    print(summary, flush=True)
    os.environ["PS2_PROFILE"] = profile
    for part in PARTS:
        execute(part, out / part)
    if profile == "full":
        from tools import record

        record.keep(PARTS[1])
    report = json.loads((out / "report/results.json").read_text(encoding="utf-8"))
    print(f"\naccuracy ({report['data']}, {report['judged on']})")
    for model, result in report["results"].items():
        print(f"  {model:28}{result['Accuracy (test)']:8.2%}")
    print(f"{summary}; notebooks, figures/ and report/ are in {out}/")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.add_argument("--out", metavar="FILE", help="write the executed notebook here")
    arguments = parser.parse_args()
    if arguments.out and len(arguments.notebooks) != 1:
        parser.error("--out takes one notebook")
    if not arguments.notebooks:
        run()
    for notebook in arguments.notebooks:
        print(f"wrote {execute(notebook, arguments.out)}")


if __name__ == "__main__":
    command(main)
