"""Let several processes, on one machine or on many, work through the grid search of ps2_eurosat.ipynb together.

python tools/tune.py WORKERS              starts so many processes here, each with the notebook's own cells up to `tune`
python tools/tune.py --serve HOST:PORT    hands the trials in the storage to other machines, until it is interrupted

The storage is PS2_STORAGE, a folder or grpc://host:port, or that of the notebook. The server asks for no password: use it in a
network that you trust.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import threading

import nbformat
import optuna
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import utils  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK, LAST = ROOT / "ps2_eurosat.ipynb", "tune"


def output(number):
    """The notebook that worker `number` leaves."""
    return ROOT / f"build/tune-{number}.ipynb"


def start(number, threads):
    """Process of worker `number`; its text goes to a pipe."""
    command = [sys.executable, "tools/notebook.py", NOTEBOOK.name, "--out", str(output(number)), "--until", LAST]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def follow(number, process):
    """Repeat the text of a worker, with its number before each line."""
    for line in process.stdout:
        print(f"worker {number}: {line}", end="", flush=True)


def result(number):
    """What the last cell of worker `number` printed."""
    cell = nbformat.read(output(number), as_version=4).cells[-1]
    return "".join(out.get("text", "") for out in cell.outputs)


def tune(workers):
    """Run the workers; returns 0 if those that came to their end, at least one, agree on the best configuration, else 1."""
    processes = {number: start(number, max(1, torch.get_num_threads() // workers)) for number in range(1, workers + 1)}
    threads = [threading.Thread(target=follow, args=item) for item in processes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = [number for number, process in processes.items() if process.wait() == 0]
    results = {result(number) for number in ended}
    for number in processes.keys() - ended:
        print(f"worker {number} ended with status {processes[number].returncode}; the others took over its trial")
    print(f"{len(ended)} of {workers} workers came to the end:", *(results or ["none"]), sep="\n")
    return 0 if len(results) == 1 else 1


def serve(address):
    """Give the trials in the storage folder to workers on other machines."""
    host, _, port = address.rpartition(":")
    folder = os.environ.get("PS2_STORAGE", ROOT / "build/work-full/tuning")
    storage = utils.open_storage(folder)[0]
    print(f"serving the trials at {address}; interrupt to end", flush=True)
    optuna.storages.run_grpc_proxy_server(storage, host=host, port=int(port))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workers", nargs="?", type=int, default=2)
    parser.add_argument("--serve", metavar="HOST:PORT")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"workers is {arguments.workers}; allowed: a whole number above 0")
    sys.exit(serve(arguments.serve) if arguments.serve else tune(arguments.workers))
