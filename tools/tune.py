"""Run the grid search of ps2_eurosat.ipynb in several processes, here or elsewhere.

python -m tools.tune WORKERS                so many processes here, of one torch thread
python -m tools.tune --scheduler ADDRESS    the workers of a Dask scheduler, such as
                                            tcp://host:8786

Executes the notebook up to its search, into build/tune.ipynb. In the profile full,
finished points are kept in build/work-full, where a full run of it finds them.
"""

import argparse
from importlib.util import find_spec

from distributed import Client
from joblib.parallel import ParallelBackendBase

from tools.files import command
from tools.notebook import execute
from utils import build_folder, whole_number

NOTEBOOK = "ps2_eurosat.ipynb"
LAST = "tune"  # the id of the notebook's cell that searches
TIMEOUT = 15  # seconds for a scheduler, and as many for its first worker
PATIENCE = 60  # seconds without any worker after which a task fails

# The cell put before the notebook: from there on, joblib.Parallel uses other processes.
HERE = """\
import joblib

joblib.parallel_config("loky", n_jobs={workers}, inner_max_num_threads=1)
"""
ELSEWHERE = """\
import warnings

import joblib
from distributed import Client
from tools.tune import DaskBackend

# In a full run each point takes its 200 MB of images along.
warnings.filterwarnings("ignore", "Sending large graph")
client = Client({scheduler!r})
joblib.parallel_config(DaskBackend(client))
"""


class DaskBackend(ParallelBackendBase):
    """Lets joblib.Parallel use the workers of a Dask client.

    joblib's own waits for ever if a task cannot be sent, or if each worker that takes
    it dies.
    """

    supports_retrieve_callback = True

    def __init__(self, client):
        super().__init__(nesting_level=0)
        self.client = client
        client.run_on_scheduler(limit_waiting)

    def effective_n_jobs(self, n_jobs):
        workers = sum(self.client.ncores().values())
        return max(2, workers)  # at 1, joblib would compute in this process

    def submit(self, func, callback=None):
        try:
            future = self.client.submit(func, pure=False)
        except TypeError as error:  # Dask's own text names its classes alone
            trouble = "a task cannot be sent to another process"
            raise TypeError(f"{trouble}: {error.__cause__}") from error
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future):
        return future.result()


def limit_waiting(dask_scheduler):
    """Let tasks fail when all workers are gone; by default they wait for ever.

    Runs on the scheduler, which Dask hands over by this name.
    """
    dask_scheduler.no_workers_timeout = PATIENCE


def first_cell(workers, scheduler=None):
    """The cell that tells joblib.Parallel which processes to use."""
    if scheduler:
        return ELSEWHERE.format(scheduler=scheduler)
    return HERE.format(workers=workers)


def check_scheduler(address):
    """ValueError unless a Dask scheduler answers that has a worker.

    All of them need the modules of this repository. Without, Dask waits for ever.
    """
    try:
        with Client(address, timeout=TIMEOUT) as client:
            client.wait_for_workers(1, timeout=TIMEOUT)
            modules = client.run(find_spec, "trainer")
            modules["the scheduler"] = client.run_on_scheduler(find_spec, "trainer")
    except Exception as error:  # Dask raises many kinds
        reason = str(error).partition("\n")[0]
        advice = "README.md says how to start both"
        trouble = f"no Dask scheduler with a worker answers at {address}"
        raise ValueError(f"{trouble} ({reason}): {advice}") from error
    for name, module in modules.items():
        if module is None:
            trouble = f"{name} was started outside a clone of this repository"
            raise ValueError(f"{trouble}: README.md says how to start it")


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workers", nargs="?", type=int, default=2, metavar="WORKERS")
    parser.add_argument("--scheduler", metavar="ADDRESS")
    arguments = parser.parse_args()
    workers = whole_number("WORKERS", arguments.workers)
    if arguments.scheduler:
        check_scheduler(arguments.scheduler)
    first = first_cell(workers, arguments.scheduler)
    out = build_folder() / "tune.ipynb"
    execute(NOTEBOOK, out, until=LAST, first=first)
    print(f"wrote {out}")


if __name__ == "__main__":
    command(main)
