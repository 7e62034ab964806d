"""Load what a notebook defines, by one plain rule: for the tests, and for tools.

Of each code cell that parses as a whole, the imports, the functions, the classes and
the assignments to UPPER_CASE names run, in order. Of these, the modules that are
imported, decorators, default arguments, the body of a class and the value of an
upper-case constant are code, and do run. Of the other statements, one runs where
something needs the name that it sets, such as `device`: the last one that sets it.
Nothing of a cell that does not parse runs, as in Jupyter. This is not a sandbox for
other people's code.
"""

import ast
import builtins
import contextlib
import copy
import re
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from IPython.display import display

from tools.files import read_notebook

IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)
SETTINGS = (*ASSIGNMENTS, ast.If, ast.Try)  # statements that may set a name
LEFT_OUT = "left out: only imports, functions, classes and upper-case constants run"
MOST_CHARACTERS = 500  # of one problem
# The template's line that prints the result of the search ends in a full stop. Who
# keeps it must not lose what stands in the same cell.
FULL_STOP = re.compile(r"^(print\(.*\))\.[ \t]*$", re.MULTILINE)


class Missing:
    """In the place of what could not be imported: says so when it is used."""

    def __init__(self, reason):
        self._reason = reason

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        raise ModuleNotFoundError(self._reason)


class Space(dict):
    """A namespace in which a name that is missing is looked up, once.

    `later[name]` is (cell, statement): what sets it, and has not run.
    """

    def __init__(self, names):
        super().__init__(names)
        self.later = {}

    def __missing__(self, name):
        """NameError, in one line, if the statement that sets the name fails."""
        if name not in self.later or hasattr(builtins, name):
            raise KeyError(name)
        cell, statement = self.later.pop(name)
        error = run(statement, cell, self, contextlib.nullcontext)
        if error is None and name in self:
            return self[name]
        reason = LEFT_OUT if error is None else describe(cell, error)
        self["__left_out__"][name] = reason
        raise NameError(f"name {name!r} is not defined ({reason})")


def load_definitions(path, guard=contextlib.nullcontext, **given):
    """(namespace, problems): what a notebook defines, and what failed, a line each.

    `given` sets names, whatever the notebook sets them to. Each statement runs alone,
    within `guard()`. namespace["__left_out__"] is a dictionary: why a name is missing.
    OSError or ValueError if there is no notebook at `path`.
    """
    names = {"__name__": Path(path).stem, "__left_out__": {}, "display": display}
    space = Space({**names, **given})
    problems = []
    for number, source in enumerate(codes(path), 1):
        for problem in load_cell(f"cell {number}", source, space, guard, given):
            if problem not in problems:
                problems.append(problem)
    return space, problems


def codes(path):
    """Source of each cell, "" unless it is code; errors as read_notebook's."""
    cells = read_notebook(path).cells
    return [cell.source if cell.cell_type == "code" else "" for cell in cells]


def load_cell(cell, source, space, guard, given):
    """Run the definitions of a cell in `space`; yields what failed, a line each."""
    left_out = space["__left_out__"]
    try:
        statements = parse_cell(source)
    except Exception as error:  # SyntaxError, or too much for the parser
        reason = describe(cell, error)
        names = re.findall(r"^(?:class |def |(?=\w+ *=))(\w+)", source, re.MULTILINE)
        left_out.update(dict.fromkeys(names, reason))
        yield reason
        statements = without_full_stop(source, space)
    for statement in split_imports(statements):
        names = bound_names(statement)
        if not may_run(statement):
            for name in names:
                left_out.setdefault(name, f"{cell}: {LEFT_OUT}")
                if isinstance(statement, SETTINGS):
                    space.later[name] = (cell, statement)
            continue
        error = run_and_look_up(statement, cell, space, guard)
        space.update(given)
        if error is None:
            continue
        reason = describe(cell, error)
        left_out.update(dict.fromkeys(names, reason))
        if isinstance(statement, IMPORTS):
            for name in names:
                space.setdefault(name, Missing(reason))
        if is_reported(statement):
            yield reason


def is_reported(statement):
    """Is it a fault of the notebook if this statement fails?

    A constant often needs what did not run, and Colab's own package is nowhere else.
    """
    if isinstance(statement, ASSIGNMENTS):
        return False
    source = ast.unparse(statement)
    of_colab = r"(import google\.|from google\.|from google import )colab\b"
    return re.match(of_colab, source) is None


def parse_cell(source):
    """The statements of a cell as IPython would run them, a list of syntax trees.

    Lines that start with % or ! become calls of get_ipython(), and so does a cell that
    starts with %%, all of it. Only the body of %%time and %%capture is taken as code of
    the notebook, which it is. SyntaxError if IPython would not run the cell.
    """
    source = re.sub(r"\A\s*%%(time|capture)\b.*", "pass", source)
    tree = ast.parse(TransformerManager().transform_cell(source))
    # The compiler refuses what the parser takes, such as `return` outside a function.
    compile(tree, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return tree.body


def without_full_stop(source, space):
    """Statements of a cell that the template's full stop alone keeps from running.

    Without those that would set a name again: where it was set before, a cell that
    does not parse leaves it.
    """
    mended = FULL_STOP.sub(r"\1", source)
    if mended == source:
        return []
    try:
        statements = parse_cell(mended)
    except SyntaxError:
        return []
    return [part for part in statements if not space.keys() & set(bound_names(part))]


def split_imports(statements):
    """The same statements, but an import for each name that is imported."""
    for statement in statements:
        if not isinstance(statement, IMPORTS):
            yield statement
            continue
        for alias in statement.names:
            single = copy.copy(statement)
            single.names = [alias]
            yield single


def bound_names(statement):
    """Names that a statement sets, in its branches and loops too."""
    if isinstance(statement, DEFINITIONS):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        roots = statement.targets
    elif isinstance(statement, ASSIGNMENTS):
        roots = [statement.target]
    else:
        roots = [statement]
    names = []
    for root in roots:
        for part in ast.walk(root):
            if isinstance(part, ast.alias):
                names.append(part.asname or part.name.partition(".")[0])
            elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                names.append(part.id)
    return names


def may_run(statement):
    """The rule: an import, a definition, or an assignment to UPPER_CASE names alone."""
    if isinstance(statement, ASSIGNMENTS):
        names = bound_names(statement)
        return names != [] and all(name.isupper() for name in names)
    return isinstance(statement, IMPORTS + DEFINITIONS)


def run(statement, cell, space, guard):
    """Run one statement; the error that it ended with, or None."""
    module = ast.Module([statement], type_ignores=[])
    try:
        with guard():
            exec(compile(module, cell, "exec"), space)
    except (Exception, SystemExit) as error:
        return error
    return None


def run_and_look_up(statement, cell, space, guard):
    """The same, but names that the body of a class needs are looked up, too.

    There, Python 3.11 does not ask Space.__missing__.
    """
    error = run(statement, cell, space, guard)
    while isinstance(error, NameError) and error.name in space.later:
        with contextlib.suppress(NameError):
            space[error.name]
        error = run(statement, cell, space, guard)
    return error


def describe(cell, error):
    """An error in one line of at most 500 characters, with its cell.

    A syntax error with its place as well.
    """
    message = str(error)
    if isinstance(error, SyntaxError):
        message = f"{error.msg} line {error.lineno}"
        if error.text:
            message += f": {error.text}"
    sentence = f"{cell}: {type(error).__name__}: {message[:MOST_CHARACTERS]}"
    return " ".join(sentence.split())[:MOST_CHARACTERS]
