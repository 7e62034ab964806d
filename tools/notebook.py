"""Execute notebooks so that two equal runs give equal files.

python -m tools.notebook                           both parts, into build/
python -m tools.notebook NOTEBOOK... [--out FILE]  top to bottom, in place or into FILE

The first form writes to the repository itself in the profile full (PS2_PROFILE=full).
"""

import argparse
import asyncio
import importlib.util
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools.files import command, join_streams, read_notebook
from utils import output_folder, write_whole

THEORY = "ps2_theory.ipynb"
EUROSAT = "ps2_eurosat.ipynb"
# What Jupyter writes, but for the version of Python: it would differ between machines.
METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
# Variables that would change imports, images or numbers: the kernel does not get them.
SURROUNDINGS = re.compile("PYTHON.*|MPLBACKEND|.*_NUM_THREADS")
# A line that each kernel logs when it starts.
ABOUT_TCP = "[IPKernelApp] WARNING | Kernel is running over TCP without encryption"


class Client(NotebookClient):
    """Runs a notebook and repeats its text in the terminal, to be watched."""

    shown = 0.0  # when the last line of progress was shown

    def create_kernel_manager(self):
        """A kernel of this Python, whatever kernels notebook and machine name."""
        self.kernel_name = "python3"
        manager = super().create_kernel_manager()
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        return manager

    def process_message(self, msg, cell, cell_index):
        """Print what a message shows, but for images; then do what nbclient does."""
        kind = msg["msg_type"]
        content = msg["content"]
        if kind == "stream":
            print(content["text"], end="", flush=True)
        elif kind in ("display_data", "update_display_data"):
            if "image/png" not in content["data"]:
                self.show_progress(content["data"].get("text/plain", ""))
        return super().process_message(msg, cell, cell_index)

    def show_progress(self, text):
        """One line of a terminal that is written anew; in a log, a line every 20 s."""
        is_finished = text.endswith(".")
        if sys.stdout.isatty():
            end = "\n" if is_finished else ""
            print(f"\r\033[K{text[:110]}", end=end, flush=True)
        elif is_finished or time.monotonic() - self.shown > 20:
            self.shown = time.monotonic()
            print(text, flush=True)


def execute(path, out=None, until=None, first=None):
    """Execute the notebook at `path` in its folder; write it to `out` or in place.

    `until` is the id of the last cell to execute, `first` the code of a cell to put
    before all others. Equal runs give equal files: no times, no widget state, fixed
    metadata. The kernel knows nothing of SURROUNDINGS, nor of a reader's own settings
    of IPython and matplotlib. RuntimeError names a cell that fails; nothing is written.
    """
    path = Path(path)
    notebook = read_notebook(path)
    if until:
        notebook.cells = cells_until(notebook, until, path)
    if first:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first, id="first"))
    print(f"executing {path}", flush=True)
    client = Client(
        notebook,
        timeout=None,
        record_timing=False,
        store_widget_state=False,
        # A kernel with torch takes 2 s to end; only the workers of `first` need them.
        shutdown_kernel="graceful" if first else "immediate",
    )
    run_cells(client, path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = join_streams(cell.outputs)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(METADATA)
    out = Path(out) if out else path
    out.parent.mkdir(parents=True, exist_ok=True)
    # Not nbformat.write: it gives a cell without an id another one in each run.
    write_whole(out, nbformat.v4.writes(notebook) + "\n")
    return out


def cells_until(notebook, name, path):
    """The cells up to the one with the id `name`; ValueError if there is none."""
    ids = [cell.get("id") for cell in notebook.cells]
    if name not in ids:
        raise ValueError(f"{path} has no cell with the id {name!r}")
    return notebook.cells[: ids.index(name) + 1]


def run_cells(client, path):
    """Execute the cells in the folder of `path`; RuntimeError as execute."""
    spare_folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with spare_folder as spare, tempfile.TemporaryFile() as stderr:
        folder = working_folder(path.resolve().parent, Path(spare))
        variables = kernel_variables(spare)
        try:
            client.execute(env=variables, cwd=folder, stderr=stderr)
        except (Exception, asyncio.CancelledError) as error:
            # nbclient sets this on Ctrl-C, which then ends in one of many errors.
            if getattr(client, "_async_cleanup_kernel_future", None):
                raise KeyboardInterrupt from None
            where = f"{path}, code cell {client.code_cells_executed}"
            reason = find_reason(error, stderr)
            raise RuntimeError(f"{where}: {reason}") from error


def working_folder(folder, spare):
    """`folder`; where nothing can be written there, `spare` with links to its files."""
    if os.access(folder, os.W_OK):
        return folder
    for entry in folder.iterdir():
        if entry.name != "build":
            (spare / entry.name).symlink_to(entry)
    return spare


def kernel_variables(spare):
    """The environment variables of the kernel; IPython's own files go to `spare`."""
    variables = {}
    for name, value in os.environ.items():
        if not SURROUNDINGS.fullmatch(name):
            variables[name] = value
    matplotlib = Path(importlib.util.find_spec("matplotlib").origin).parent
    variables["MATPLOTLIBRC"] = str(matplotlib / "mpl-data/matplotlibrc")
    variables["IPYTHONDIR"] = str(Path(spare, ".ipython"))
    return variables


def find_reason(error, stderr):
    """Why a cell failed: its error, or what the kernel wrote to `stderr` as it died."""
    if isinstance(error, CellExecutionError):
        text = " ".join(error.evalue.split())  # one sentence, however many lines
        return f"{error.ename}: {text}"
    stderr.seek(0)
    told = []
    for line in stderr.read().decode("utf-8", "replace").splitlines():
        if line.strip() and ABOUT_TCP not in line:
            told.append(line.strip())
    if not told:
        return f"{error}; if the kernel died without a word, memory may be the reason"
    last_words = " / ".join(told[-5:])
    return f"{error}; its last words: {last_words}"


def run():
    """Execute both parts in the profile of PS2_PROFILE, or the one that fits."""
    asked = os.environ.get("PS2_PROFILE", "")
    folder = output_folder(asked)  # the other profiles, chosen by part 2, share one
    for name in (THEORY, EUROSAT):
        execute(name, folder / name)
    if asked == "full":
        from tools.record import keep

        keep()
    results = json.loads((folder / "report/results.json").read_text(encoding="utf-8"))
    print(f"\naccuracy ({results['data']}, {results['judged on']})")
    for model, row in results["results"].items():
        print(f"  {model:28}{row['Accuracy (test)']:8.2%}")
    print(f"numbers of a {results['numbers of']}")
    print(f"notebooks, figures/ and report/ are in {folder}/")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebook",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK")
    parser.add_argument(
        "--out", metavar="FILE", help="write the executed notebook here"
    )
    arguments = parser.parse_args()
    if arguments.out and len(arguments.notebooks) != 1:
        parser.error("--out takes one notebook")
    if not arguments.notebooks:
        run()
    for notebook in arguments.notebooks:
        print(f"wrote {execute(notebook, arguments.out)}")


if __name__ == "__main__":
    command(main)
