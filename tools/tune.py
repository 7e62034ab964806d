"""Run the grid search of ps2_eurosat.ipynb in several processes, on this machine or on many.

python -m tools.tune WORKERS                  so many processes here, one torch thread each
python -m tools.tune --scheduler ADDRESS      the workers of a Dask scheduler, such as tcp://host:8786

Executes the notebook up to its search, into build/tune.ipynb. In the profile full, finished points
are kept in build/work-full, where a full run of the notebook finds them.
"""

import argparse

from tools.files import command
from tools.notebook import execute

NOTEBOOK, LAST = "ps2_eurosat.ipynb", "tune"


def first_cell(workers, scheduler=None):
    """The cell that tells joblib.Parallel, for the whole notebook, which processes to use."""
    if not scheduler:
        options = f'"loky", n_jobs={workers}, inner_max_num_threads=1'
        return f"import joblib\n\njoblib.parallel_config({options})"
    client = f"from distributed import Client\n\nclient = Client({scheduler!r})"
    return f'{client}\nimport joblib\n\njoblib.parallel_config("dask", client=client)'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workers", nargs="?", type=int, default=2)
    parser.add_argument("--scheduler", metavar="ADDRESS")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"workers must be at least 1, not {arguments.workers}")
    first = first_cell(arguments.workers, arguments.scheduler)
    execute(NOTEBOOK, "build/tune.ipynb", until=LAST, first=first)


if __name__ == "__main__":
    command(main)
