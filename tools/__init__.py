"""Tools of this repository, each a command: `python -m tools.notebook --help`."""
