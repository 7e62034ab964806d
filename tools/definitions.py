"""Load what a notebook defines, without running it: one loader for the tests and the tools.

Imports, functions and classes run. An assignment to names runs too, within `if` and `try` as well,
unless its value calls code of the notebook or of a module beside it, calls one of LEFT_OUT, or
reads a name that was left out: these train, download, plot or wait. A constant, by its UPPER_CASE
name, may call functions of the notebook. Nothing else runs.
"""

import ast
import contextlib
import re
import sys
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from IPython.display import display

from tools.files import read_notebook

LEFT_OUT = re.compile(
    r"EuroSAT|download\w*|load_dataset|hub|fit\w*|train|figure|subplots|sleep|input|_?exit"
    r"|get_ipython|(pretrained|download)=True|weights=(?!None).*"
)
IMPORTS = ast.Import, ast.ImportFrom
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


class Missing:
    """In the place of what could not be imported; says so when it is called."""

    def __init__(self, reason):
        self._reason = reason

    def __getattr__(self, name):
        return object.__getattribute__(self, name) if name.startswith("__") else self

    def __call__(self, *args, **kwargs):
        raise ModuleNotFoundError(self._reason)


def load_definitions(path, guard=contextlib.nullcontext, **given):
    """The namespace of what a notebook defines, and what failed in loading it, a line each.

    `given` sets names, whatever the notebook assigns to them. Each statement runs alone, within
    `guard()`. namespace["__left_out__"] tells why each name that was not loaded was not.
    """
    loader = Loader(Path(path).resolve(), guard, given)
    for number, source in enumerate(codes(path), 1):
        loader.load(f"cell {number}", source)
    return loader.space, loader.problems


def codes(path):
    """Source of each cell, "" unless it is code; read_notebook says what is no notebook."""
    return [c.source if c.cell_type == "code" else "" for c in read_notebook(path).cells]


def parse(source):
    """(statements, error or None, rest) of a cell: a syntax error costs what follows it."""
    lines, failed = re.sub(r"\A\s*%%.*", "", source).split("\n"), None
    for end in range(len(lines), -1, -1):
        if end in (0, len(lines)) or lines[end][:1].strip():  # where a statement may begin
            try:
                text = TransformerManager().transform_cell("\n".join(lines[:end]))  # % and ! lines
                return ast.parse(text).body, failed, "\n".join(lines[end:])
            except (SyntaxError, ValueError) as error:
                failed = failed or error


def assigned(node):
    """Names that a statement sets, other than by importing."""
    if isinstance(node, DEFINITIONS):
        return [node.name]
    parts = [part for root in getattr(node, "targets", [node]) for part in ast.walk(root)]
    return [p.id for p in parts if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)]


class Loader(ast.NodeTransformer):
    """The namespace as it grows; `visit` puts `pass` in the place of what may not run."""

    def __init__(self, path, guard, given):
        self.path, self.guard, self.given, self.problems, self.lost = path, guard, given, [], {}
        self.space = {"__name__": path.stem, "__left_out__": self.lost, "display": display, **given}

    def load(self, cell, source):
        self.cell, (nodes, error, rest) = cell, parse(source)
        for node in nodes:
            self.execute(self.visit(node), assigned(node))
        if error:
            where = f"line {getattr(error, 'lineno', '?')}: {getattr(error, 'text', '')}"
            names = re.findall(r"^(?:def |class |)(\w+)(?=[(:]| *=)", rest, re.MULTILINE)
            self.note(error, names, True, where)

    def note(self, error, names, is_problem, where=""):
        """Keep why names were not loaded; other than constants, that is no problem until then."""
        kind = f"{type(error).__name__}: " if isinstance(error, BaseException) else ""
        reason = " ".join(f"{self.cell}: {kind}{getattr(error, 'msg', error)} {where}".split())
        self.lost.update(dict.fromkeys(names, reason))
        if is_problem and reason not in self.problems:
            self.problems.append(reason)

    def execute(self, node, names):
        try:
            with self.guard():
                module = ast.fix_missing_locations(ast.Module([node], []))
                exec(compile(module, self.cell, "exec"), self.space)
        except (Exception, SystemExit) as error:
            imports = [part for part in ast.walk(node) if isinstance(part, IMPORTS)]
            for part in imports if isinstance(error, ImportError) else []:
                for alias in part.names:
                    self.import_one(type(part)(**{**vars(part), "names": [alias]}))
            constant = names and all(map(str.isupper, names))
            self.note(error, names, isinstance(node, DEFINITIONS) or constant)
        self.space.update(self.given)

    def import_one(self, node):
        try:
            exec(ast.unparse(node), self.space)
        except Exception as error:
            self.note(error, [], True)
            name = node.names[0].asname or node.names[0].name.partition(".")[0]
            self.space[name] = Missing(self.problems[-1])

    def visit(self, node):
        names, branch = assigned(node), isinstance(node, ast.If) and self.may_run(node.test)
        if isinstance(node, (*IMPORTS, *DEFINITIONS, ast.expr)):
            return node
        if branch or isinstance(node, (ast.ExceptHandler, ast.Try)):
            return self.generic_visit(node)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and names and node.value:
            is_constant = all(map(str.isupper, names))
            if not set(names) <= set(self.given) and self.may_run(node.value, is_constant):
                return node
        self.note("left out, since it calls the notebook's code, loads or plots", names, False)
        return ast.Pass()

    def may_run(self, value, is_constant=False):
        parts = list(ast.walk(value))
        names = [part for part in parts if isinstance(part, ast.Name)]
        bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        stop = {name.id for name in names} & set(self.lost) - set(self.space) - bound
        for call in (part for part in parts if isinstance(part, ast.Call)):
            words = re.findall(r"\w+", ast.unparse(call.func))
            words += [f"{named.arg}={ast.unparse(named.value)}" for named in call.keywords]
            stop.update(filter(LEFT_OUT.fullmatch, words))
            stop.update(["own"] if not is_constant and self.is_own(call.func) else [])
        return isinstance(value, ast.Lambda) or not stop

    def is_own(self, function):
        """Does a call of this go to code of the notebook, or of a module beside it?"""
        while isinstance(function, (ast.Attribute, ast.Call, ast.Subscript)):
            function = getattr(function, "func", getattr(function, "value", None))
        value = self.space.get(getattr(function, "id", None))
        home = getattr(value, "__module__", getattr(value, "__name__", None))
        file = getattr(sys.modules.get(home), "__file__", None)
        return home == self.path.stem or bool(file) and Path(file).parent == self.path.parent
