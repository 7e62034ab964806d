"""The loader of definitions: what of a notebook runs, what does not, what is said."""

import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.definitions import load_definitions

DEFINED = [
    pytest.param("import os.path", id="import"),
    pytest.param("from os import path as os", id="import under a name"),
    pytest.param("def os(): pass", id="function"),
    pytest.param("async def os(): await later()", id="async function"),
    pytest.param("@staticmethod\ndef os(): pass", id="decorated function"),
    pytest.param("class os: pass", id="class"),
    pytest.param("%%time\ndef os(): pass", id="timed cell"),
    pytest.param("\n%%capture out\nimport os", id="captured cell"),
    pytest.param("%matplotlib inline\n!ls\nimport os", id="after magics"),
    pytest.param("x = undefined\nimport os", id="after a line that would fail"),
    pytest.param("def os():\n    files = !ls", id="magic in a function"),
]
LEFT_OUT = [  # each line would make a folder
    pytest.param("os.mkdir('harm')", id="call"),
    pytest.param("x = os.system('mkdir harm')", id="assignment"),
    pytest.param("x: int = os.system('mkdir harm')", id="annotated assignment"),
    pytest.param("A, x = os.mkdir('harm'), 1", id="upper and lower case"),
    pytest.param("A = x = os.mkdir('harm')", id="chain of upper and lower case"),
    pytest.param("SIZES['own'] = os.mkdir('harm')", id="item of a constant"),
    pytest.param("x += os.system('mkdir harm')", id="augmented assignment"),
    pytest.param("if not os.mkdir('harm'): A = 1", id="if"),
    pytest.param("for A in [os.mkdir('harm')]: pass", id="for"),
    pytest.param("try:\n    A = os.mkdir('harm')\nfinally: pass", id="try"),
    pytest.param("with open('harm', 'w') as A: pass", id="with"),
    pytest.param("assert not os.mkdir('harm')", id="assert"),
    pytest.param("!mkdir harm", id="shell"),
    pytest.param("A = !mkdir harm", id="shell into a constant"),
    pytest.param("%mkdir harm", id="magic"),
    pytest.param("A = %mkdir harm", id="magic into a constant"),
    pytest.param("%%bash\nmkdir harm", id="cell of another program"),
    pytest.param("%%writefile harm\nA = 1", id="cell that writes a file"),
    pytest.param("A = os.mkdir('harm')\nreturn", id="cell with a syntax error"),
]
FAILS = [
    pytest.param(
        "from os import path, no_such",
        "cell 1: ImportError: cannot import name 'no_such'",
        id="import",
    ),
    pytest.param(
        "def f(x=undefined): pass",
        "cell 1: NameError: name 'undefined' is not defined",
        id="default argument",
    ),
    pytest.param(
        "class A:\n    raise SystemExit(3)", "cell 1: SystemExit: 3", id="exit"
    ),
    pytest.param(
        "def f(): pass\nprint(1)..\n",
        "cell 1: SyntaxError: invalid syntax line 2: print(1)..",
        id="syntax error",
    ),
    pytest.param(
        "return 1", "cell 1: SyntaxError: 'return' outside function", id="return"
    ),
]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function: the namespace and problems of a notebook with these code cells."""
    monkeypatch.chdir(tmp_path)

    def load(*sources, **given):
        cells = [new_code_cell(source) for source in sources]
        nbformat.write(new_notebook(cells=cells), "a.ipynb")
        return load_definitions("a.ipynb", **given)

    return load


@pytest.mark.parametrize("source", DEFINED)
def test_imports_functions_and_classes_are_defined(load, source):
    space, problems = load(source)
    assert "os" in space
    assert not problems


@pytest.mark.parametrize("source", LEFT_OUT)
def test_nothing_else_runs(load, source):
    space, _ = load("import os", source)
    assert os.listdir() == ["a.ipynb"]
    assert not {"A", "x"} & set(space)


def test_upper_case_constants_run_in_order(load):
    code = "A, B = 1, [x for x in 'b']\nC: int = A + 1\nC += 1\nD = E = str(C)"
    space, problems = load(code)
    values = {name: space[name] for name in "ABCDE"}
    assert values == {"A": 1, "B": ["b"], "C": 3, "D": "3", "E": "3"}
    assert not problems


RUNS_ON_THE_WAY = [
    pytest.param("class A:\n    os.mkdir('made')", id="body of a class"),
    pytest.param("@lambda f: os.mkdir('made')\ndef f(): pass", id="decorator"),
    pytest.param("def f(x=os.mkdir('made')): pass", id="default argument"),
    pytest.param("A = os.mkdir('made')", id="value of a constant"),
]


@pytest.mark.parametrize("source", RUNS_ON_THE_WAY)
def test_this_is_code_too_and_runs(load, source):
    load("import os", source)
    assert sorted(os.listdir()) == ["a.ipynb", "made"]


@pytest.mark.parametrize("source, problem", FAILS)
def test_what_fails_is_named_with_its_cell_and_loading_goes_on(load, source, problem):
    space, problems = load(source, "def after(): pass")
    assert len(problems) == 1
    assert problems[0].startswith(problem)
    assert "after" in space


def test_why_a_name_is_missing(load):
    cells = [
        "class Net(undefined): pass\nSIZE = width\nwidth, height = 1, 2",
        "def f(): pass\nanswer = 42\nprint(f())..",
    ]
    space, problems = load(*cells)
    rule = "only imports, functions, classes and upper-case constants run"
    syntax = "cell 2: SyntaxError: invalid syntax line 3: print(f()).."
    assert space["__left_out__"] == {
        "Net": "cell 1: NameError: name 'undefined' is not defined",
        "SIZE": "cell 1: NameError: name 'width' is not defined",
        "width": f"cell 1: left out: {rule}",
        "height": f"cell 1: left out: {rule}",
        "f": syntax,
        "answer": syntax,
    }
    assert problems == [space["__left_out__"]["Net"], syntax]


def test_the_full_stop_of_the_template_costs_nothing(load):
    line = "print(f'{f():.2f} loss')."
    space, problems = load("B = 1", f"def f(): return 1\n{line}\nA = 2\nB = 2")
    assert space["f"]() == 1
    assert space["A"] == 2
    assert space["B"] == 1  # the cell does not run in Jupyter, and overwrites nothing
    assert problems == [f"cell 2: SyntaxError: invalid syntax line 2: {line}"]


LOOKED_UP = [  # what sets x to 3
    pytest.param("x = 3", id="assignment"),
    pytest.param("y, x = 4, 3", id="two names"),
    pytest.param("x: int = 3", id="annotated assignment"),
    pytest.param("x = 2\nx = 3", id="the last one wins"),
    pytest.param("y = 3\nx = y", id="a name that needs another"),
    pytest.param("if True:\n    x = 3\nelse:\n    x = 4", id="if"),
    pytest.param("try:\n    x = 1 / 0\nexcept ArithmeticError:\n    x = 3", id="try"),
]


@pytest.mark.parametrize("source", LOOKED_UP)
def test_a_name_that_is_needed_is_looked_up(load, source):
    space, problems = load(source, "def f(): return x", "class A: y = x")
    assert space["f"]() == 3
    assert space["A"].y == 3
    assert space["x"] == 3
    assert not problems


def test_a_name_is_looked_up_once(load):
    space, _ = load("import os", "x = os.mkdir('made')", "def f(): return x")
    assert os.listdir() == ["a.ipynb"]
    assert space["f"]() is None
    assert space["f"]() is None
    assert sorted(os.listdir()) == ["a.ipynb", "made"]


NOT_LOOKED_UP = [
    pytest.param("for x in [3]: pass", "not defined", id="loop"),
    pytest.param("x = x + 1", "cell 1: NameError: name 'x' is not", id="itself"),
    pytest.param("x = 1 / 0", "cell 1: ZeroDivisionError: division", id="error"),
    pytest.param("if False: x = 3", "left out", id="a branch that is not taken"),
]


@pytest.mark.parametrize("source, words", NOT_LOOKED_UP)
def test_a_name_that_cannot_be_looked_up_says_why(load, source, words):
    space, _ = load(source, "def f(): return x")
    with pytest.raises(NameError, match=f"name 'x' is not defined.*{words}|{words}"):
        space["f"]()


def test_a_builtin_is_not_looked_up(load):
    space, _ = load("sum = 0", "def f(): return sum([1, 2])")
    assert space["f"]() == 3


def test_a_cell_that_does_not_parse_overwrites_nothing(load):
    space, problems = load("def f(): return 1", "def f(): return 2\nf(")
    assert space["f"]() == 1
    assert len(problems) == 1


def test_what_fails_overwrites_nothing(load):
    space, problems = load("SIZE = 1\nimport os", "SIZE = small\nimport os.no_such")
    assert space["SIZE"] == 1
    assert space["os"] is os
    assert len(problems) == 1


def test_given_names_win(load):
    source = "data = 1\ndef device(): pass\nDATA = data\nSEED = 3\nimport os as data"
    space, _ = load(source, data="given", device="cpu", SEED=42)
    names = ("data", "device", "DATA", "SEED")
    assert [space[name] for name in names] == ["given", "cpu", "given", 42]


USES = [
    pytest.param("missing()", id="call"),
    pytest.param("missing.models.create('resnet18')", id="call of an attribute"),
    pytest.param("class Net(missing.Module): pass", id="base of a class"),
]


@pytest.mark.parametrize("use", USES)
def test_a_missing_package_says_so_when_it_is_used(load, use):
    space, problems = load("import math, no_such_package as missing, os")
    reason = "cell 1: ModuleNotFoundError: No module named 'no_such_package'"
    assert problems == [reason]
    assert {"math", "os"} <= set(space)
    with pytest.raises(ModuleNotFoundError, match=reason):
        exec(use, space)


COLAB = [
    pytest.param("from google.colab import drive", id="a part"),
    pytest.param("import google.colab as drive", id="under a name"),
    pytest.param("from google import colab as drive", id="from the package"),
]


@pytest.mark.parametrize("source", COLAB)
def test_the_package_of_colab_is_no_fault_where_it_is_missing(load, source):
    space, problems = load(source, "def f(): return drive.mount('/content')")
    assert not problems
    with pytest.raises(ModuleNotFoundError, match="No module named 'google"):
        space["f"]()


def test_a_cell_of_text_counts_but_does_not_run(tmp_path):
    cells = [new_markdown_cell("A = 1"), new_code_cell("def f(x=A): pass")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    _, problems = load_definitions(tmp_path / "a.ipynb")
    assert problems == ["cell 2: NameError: name 'A' is not defined"]
