"""Run a submission's code where it can do little harm: in a process of its own, with limits, without a network.

This guards against accidents and not against a determined attacker: the process may still read, and write, the user's files.
"""
import ast
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import sys
import tempfile
import types

import nbformat
import torch
from IPython.core.inputtransformer2 import TransformerManager

from tools.notebook import _is_definition

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEMORY = 4 * 2**30  # bytes of address space on top of what torch has taken
FILE_SIZE = 2**28


def in_child(work, limit):
    """Call work(tell) in a forked process of at most `limit` seconds; returns what it told and how it ended, in words.

    A child may hang, exit or crash: the parent only waits, kills what is left of the process group, and reads a file.
    """
    answers = pathlib.Path(tempfile.mkdtemp(), "answers.jsonl")
    child = multiprocessing.get_context("fork").Process(target=_begin, args=(work, answers, limit))
    child.start()
    child.join(limit)
    status = child.exitcode
    for kill in (lambda: os.killpg(child.pid, signal.SIGKILL), child.kill):
        try:
            kill()
        except ProcessLookupError:
            pass
    child.join()
    told = [json.loads(line) for line in answers.read_text().splitlines()] if answers.exists() else []
    if status is None:
        return told, f"stopped after the limit of {limit:g} s"
    return told, f"its process was ended by signal {-status}" if status < 0 else f"it ended its process (exit status {status})"


def _begin(work, answers, limit):
    os.setsid()
    os.chdir(tempfile.mkdtemp())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    _restrict(limit)

    def tell(value):
        with open(answers, "a") as file:
            file.write(json.dumps(value) + "\n")
    work(tell)


def _restrict(limit):
    seconds = int(limit) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    size = pathlib.Path("/proc/self/statm")
    if size.exists():  # Linux only
        taken = int(size.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    sys.addaudithook(_refuse_network)


def _refuse_network(event, arguments):
    """Holds for Python code of this process; where it can, tools/grade.py also takes the network from the whole run."""
    local = event == "socket.connect" and isinstance(arguments[1], (str, bytes))  # a socket in the file system
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind") and not local:
        raise OSError("no network while grading")


def cells(path):
    """(name, syntax tree) of each code cell; in place of a tree stands the error, in words, where a cell is no Python."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
        if cell.cell_type == "code":
            try:
                yield cell.get("id", f"number {number}"), ast.parse(TransformerManager().transform_cell(cell.source))
            except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
                yield cell.get("id", f"number {number}"), str(error)


def statements(path):
    """(cell, statement) for what a notebook defines: imports, functions, classes, upper-case constants and plain values."""
    for name, tree in cells(path):
        for node in [tree] if isinstance(tree, str) else tree.body:
            if isinstance(node, str) or _is_definition(node, {}) or _is_plain_value(node):
                yield name, node


def _is_plain_value(node):
    """True for assignments such as batch_size = 64, which functions of a notebook may read."""
    if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


def load(path, skip=(), note=lambda number, cell, error: None):
    """The namespace of what a notebook defines; a statement that fails costs only what it would have defined.

    Modules are imported from the notebook's own folder. `skip` has the numbers of statements to leave out. `note` is
    called with the number and the cell of each statement, first with no error and again with one, in words, if there is one.
    """
    sys.path[:] = [str(path.parent), *(entry for entry in sys.path if not _is_ours(pathlib.Path(entry).resolve()))]
    sys.modules.pop("utils", None)
    module = sys.modules["submission"] = types.ModuleType("submission")
    module.device = torch.device("cpu")  # notebooks often set it in a statement that is not executed
    for number, (cell, node) in enumerate(statements(path)):
        note(number, cell, "")
        try:
            if isinstance(node, str):
                raise SyntaxError(node)
            if number not in skip:
                exec(compile(ast.Module([node], []), f"cell {cell}", "exec"), vars(module))
        except BaseException as error:  # SystemExit too
            note(number, cell, f"{type(error).__name__}: {error}")
    return vars(module)


def _is_ours(folder):
    return folder == ROOT or folder.is_relative_to(ROOT / "tests")


def probe(path, limit):
    """{number: error in words} of the statements that fail, or that end or hold up the process that executes them."""
    problems = {}

    def work(tell):
        load(path, problems, lambda *found: tell(found))
        tell([None, "", ""])
    while True:
        told, end = in_child(work, limit)
        problems |= {number: f"cell {cell}: {error}" for number, cell, error in told if error}
        last, cell, _ = told[-1] if told else (None, "", "")
        if last is None or last in problems:
            return problems
        problems[last] = f"cell {cell}: {end}"
