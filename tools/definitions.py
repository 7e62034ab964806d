"""Load what a notebook defines, without running it: one loader for the tests and the tools.

Imports, functions and classes always run. An assignment to names runs too, within `if` and `try` as
well, unless its value calls what the notebook or a module beside it defines, reads a name that was
left out, or uses one of the words LEFT_OUT: these train, download, plot or wait. Constants by their
names (UPPER_CASE) may call the notebook's own functions. Nothing else runs.
"""

import ast
import contextlib
import re
import sys
import types
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from IPython.display import display

LEFT_OUT = re.compile(
    r"EuroSAT|download\w*|load_dataset|hub|fit\w*|train|figure|subplots|sleep|input|_?exit"
    r"|get_ipython|(pretrained|download)=True|weights=(?!None).*"
)
OTHER_LANGUAGES = re.compile(
    r"\s*%%(bash|html|javascript|js|latex|markdown|script|sh|svg|writefile)\b"
)
IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (*IMPORTS, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Missing:
    """Stands for what could not be imported; says so when it is called."""

    def __init__(self, error):
        self._error = error

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args, **kwargs):
        raise ModuleNotFoundError(self._error)


def load_definitions(path, guard=contextlib.nullcontext, **given):
    """The namespace of what a notebook defines, and what failed in loading it, a line each.

    `given` sets names, whatever the notebook assigns to them. Each statement runs alone, within
    `guard()`. namespace["__left_out__"] tells why each name that was not loaded was not.
    """
    loader = Loader(Path(path).resolve(), guard, given)
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, 1):
        if cell.cell_type == "code" and not OTHER_LANGUAGES.match(cell.source):
            loader.load(f"cell {number}", re.sub(r"\A\s*%%.*", "", cell.source))
    return loader.space, loader.problems


def parse(source):
    """(statements, error or None, rest): a syntax error costs what begins with its statement."""
    lines, failed = source.split("\n"), None
    for end in range(len(lines), -1, -1):
        if end == len(lines) or lines[end][:1].strip():  # cut where a statement may begin
            try:
                text = TransformerManager().transform_cell("\n".join(lines[:end]))  # % and ! lines
                return ast.parse(text).body, failed, "\n".join(lines[end:])
            except (SyntaxError, ValueError) as error:
                failed = failed or error
    return [], failed, source


def assigned(node):
    """Names that a statement sets; an import has none."""
    if isinstance(node, DEFINITIONS):
        return [node.name] if hasattr(node, "name") else []
    roots = getattr(node, "targets", [getattr(node, "target", node)])
    names = [part for root in roots for part in ast.walk(root) if isinstance(part, ast.Name)]
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


class Loader(ast.NodeTransformer):
    """The namespace while it grows; as a transformer, it replaces what may not run by `pass`."""

    def __init__(self, path, guard, given):
        self.path, self.guard, self.given, self.problems, self.lost = path, guard, given, [], {}
        self.space = {"__name__": path.stem, "display": display, **given}
        self.space["__left_out__"] = self.lost

    def load(self, cell, source):
        nodes, error, rest = parse(source)
        self.cell = cell
        for node in nodes:
            self.execute(ast.Module([self.visit(node)], []), node)
        if error:
            where = f"{getattr(error, 'msg', error)}, line {getattr(error, 'lineno', '?')}"
            self.problems.append(f"{cell}: {type(error).__name__}: {where}")
            for names in re.findall(r"^(?:def|class)\s+(\w+)|^(\w+)\s*=", rest, re.MULTILINE):
                self.lost[max(names)] = self.problems[-1]

    def execute(self, module, node):
        try:
            with self.guard():
                code = compile(ast.fix_missing_locations(module), self.cell, "exec")
                exec(code, self.space)
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{self.cell}: {type(error).__name__}: {error}".split())[:200]
            if isinstance(error, ImportError) or isinstance(node, IMPORTS):
                self.stub(node)
            elif isinstance(node, DEFINITIONS) or all(map(str.isupper, assigned(node))):
                self.problems.append(reason)  # any other name is no problem until it is missed
            self.lost.update(dict.fromkeys(assigned(node), reason))
        self.space.update(self.given)

    def stub(self, node):
        """Import one name after the other; where that fails, `Missing` takes its place."""
        for found in (n for n in ast.walk(node) if isinstance(n, IMPORTS)):
            for alias in found.names:
                one = type(found)(**{**dict(ast.iter_fields(found)), "names": [alias]})
                try:
                    exec(ast.unparse(one), self.space)
                except Exception as error:
                    reason = f"{type(error).__name__}: {error}"
                    name = alias.asname or alias.name.partition(".")[0]
                    self.space[name] = Missing(f"{reason} ({self.cell})")
                    if f"{self.cell}: {reason}" not in self.problems:
                        self.problems.append(f"{self.cell}: {reason}")

    def visit(self, node):
        """The statement itself, or what of it may run."""
        names = assigned(node)
        if isinstance(node, (*DEFINITIONS, ast.expr)):
            return node
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and names and node.value:
            if set(names) <= set(self.given):
                return ast.Pass()
            if isinstance(node.value, ast.Lambda) or self.is_harmless(
                node, all(map(str.isupper, names))
            ):
                return node
        elif isinstance(node, (ast.ExceptHandler, ast.Try)):
            return self.generic_visit(node)
        elif isinstance(node, ast.If) and self.is_harmless(node.test):
            return self.generic_visit(node)
        reason = f"{self.cell}: left out, since it calls the notebook's code, loads or plots"
        self.lost.update(dict.fromkeys(names, reason))
        return ast.Pass()

    def is_harmless(self, node, is_constant=False):
        names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
        bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        lost = {name.id for name in names} & set(self.lost) - set(self.space) - bound
        for call in (part for part in ast.walk(node) if isinstance(part, ast.Call)):
            words = re.findall(r"\w+", ast.unparse(call.func))
            words += [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords]
            lost.update(filter(LEFT_OUT.fullmatch, words))
            if not is_constant and self.is_own(call.func):
                return False
        return not lost

    def is_own(self, function):
        """Does this call go to code of the notebook, or of a module beside it?"""
        while isinstance(function, (ast.Attribute, ast.Call, ast.Subscript)):
            function = function.func if isinstance(function, ast.Call) else function.value
        value = self.space.get(getattr(function, "id", None))
        is_module = isinstance(value, types.ModuleType)
        home = value.__name__ if is_module else getattr(value, "__module__", "")
        file = getattr(sys.modules.get(home), "__file__", None)
        return home == self.path.stem or bool(file) and Path(file).parent == self.path.parent
