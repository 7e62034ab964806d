"""Cells of other people as parts of a page: which task, how much, and what goes."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pypdfium2 import PdfDocument

from tools import cells, formulas, pages, team

# --- Which task -----------------------------------------------------------------------

HEADINGS = [
    pytest.param("## Task 3: tune", "3", id="task"),
    pytest.param("### **Task 2** (15 points)", "2", id="bold task"),
    pytest.param("## 1. Transform the data (10 pt)", "1", id="the assignment's"),
    pytest.param("**4) Load a model**", "4", id="bold line"),
    pytest.param("**4) Load a model**\r\n", "4", id="end of a line in Windows"),
    pytest.param("<h2>5. Compare</h2>", "5", id="HTML"),
    pytest.param("## 2.3 Tuning", "3", id="number of part 2"),
    pytest.param("## Compare models and discuss results", "5", id="title alone"),
    pytest.param("# 2 Identifying land use with CNN", "", id="the whole part"),
    pytest.param("## Some 3 words", "", id="another number"),
    pytest.param("### 3 images per class", "", id="number without a point"),
    pytest.param("#\n\n3. images", "", id="empty heading"),
    pytest.param("## References", "", id="behind the last"),
]


@pytest.mark.parametrize("text, task", HEADINGS)
def test_a_heading_opens_a_task(text, task):
    given = [new_markdown_cell(text), new_code_cell("x")]
    assert cells.tasks_by_headings(given, cells.BOLD) == [task, task]


def test_headings_of_steps_open_no_task():
    texts = {
        "# Land use": "",
        "## 1. Transform": "1",
        "## Task 2": "2",
        "**1. Why this architecture?**": "2",
        "## 4. Load": "4",
        "### 1. Load the weights": "4",
        "<h3>3. Print them</h3>": "4",
        "## Preferences of the class": "4",
        "## References": "",
    }
    found = cells.tasks([new_markdown_cell(text) for text in texts])
    assert found == list(texts.values())


def test_lines_in_bold_tell_where_there_are_no_headings():
    texts = ["**Task 1**", "Yes.", "**Task 2**"]
    found = cells.tasks([new_markdown_cell(text) for text in texts])
    assert found == ["1", "1", "2"]


def test_without_headings_the_names_tell():
    sources = {
        "import timm": "",
        "data = EuroSAT()": "",
        "def rotate_picture(picture, rotation): pass": "1",
        "show(picture)": "1",
        "class MyMaxPool(nn.Sequential): pass": "2",
        "Trainer(my_model, cfg)": "2",
        "def grid_search(train_dataset, cfg): pass": "3",
        "loaded_model = timm.create_model('resnet18')": "4",
        "pd.DataFrame(results)": "5",
    }
    found = cells.tasks([new_code_cell(source) for source in sources])
    assert found == list(sources.values())


ANSWERS = [
    pytest.param(
        [
            "# Part 1",
            "## 1.1 Kernels",
            "It blurs.",
            "### 1.3.2 Pooling",
            "## References",
        ],
        [None, "1.1", "1.1", "1.3", None],
        id="headings",
    ),
    pytest.param(
        [
            "## Question 1.1",
            "<!-- BEGIN QUESTION -->\n## Question 1.2",
            "It is an edge.\n<!-- END QUESTION -->",
            "The check.",
            "<!-- BEGIN QUESTION -->\nIt is a mean.\n<!-- END QUESTION -->",
        ],
        [None, "1.2", "1.2", None, "1.2"],
        id="fences",
    ),
    pytest.param(
        ["<!-- BEGIN QUESTION -->", "Yes.", "<!-- END QUESTION -->", "No."],
        ["", "", "", None],
        id="fences without numbers",
    ),
    pytest.param(["Version 1.1 of 11.2", "x"], [None, None], id="no heading"),
]


@pytest.mark.parametrize("texts, numbers", ANSWERS)
def test_answers_to_part_1_are_found(texts, numbers):
    assert cells.questions([new_markdown_cell(text) for text in texts]) == numbers


# --- What is left of a cell -----------------------------------------------------------

HARMFUL = [
    pytest.param("<script>harm()</script>", "", id="script"),
    pytest.param("<style>* {color: harm}</style>", "", id="style"),
    pytest.param("<iframe src='https://harm'>harm</iframe>", "", id="frame"),
    pytest.param("<object data='harm'>harm</object>", "", id="object"),
    pytest.param("<svg onload='harm()'><script>harm()</script></svg>", "", id="SVG"),
    pytest.param("<svg/onload=harm()>", "", id="open SVG"),
    pytest.param("<p onclick='harm()'>hello</p>", "hello", id="event"),
    pytest.param(
        "<p style='background: url(https://harm)'>hello</p>", "hello", id="address"
    ),
    pytest.param("<p id='harm' class='harm'>hello</p>", "hello", id="name"),
    pytest.param("<a href='javascript:harm()'>hello</a>", "hello", id="link that runs"),
    pytest.param("<a href='https://harm'>hello</a>", "hello", id="link"),
    pytest.param("<img src='https://harm/a.png'>", "", id="remote image"),
    pytest.param("<img src='data:text/html;base64,harm'>", "", id="page as an image"),
    pytest.param("<form action='harm'><input name='harm'></form>", "", id="form"),
    pytest.param("<base href='https://harm'>", "", id="base"),
    pytest.param("<meta http-equiv='refresh' content='0; harm'>", "", id="meta"),
    pytest.param(
        "<link rel='stylesheet' href='https://harm'>", "", id="link to a style"
    ),
    pytest.param("<math><mtext><style><img src=harm></style></math>", "", id="MathML"),
    pytest.param("<noscript><p title='</noscript><img src=harm>'>", "", id="noscript"),
    pytest.param("<!-- harm -->", "", id="comment"),
    pytest.param("<p title='>' onclick='harm()'>hello</p>", "hello", id="> in a value"),
    pytest.param("<img alt='a > b' src='https://harm'>", "a > b", id="> in alt"),
]


@pytest.mark.parametrize("text, left", HARMFUL)
def test_what_runs_or_loads_something_goes(text, left):
    clean = cells.sanitise(text)
    tags = re.findall("<[^>]*>", clean)
    assert "harm" not in "".join(tags)
    assert not re.search("<(script|style|svg|iframe|form|input|base|meta|link)", clean)
    assert left in clean


KEPT = [
    "<table><tbody><tr><th>a</th><td>1</td></tr></tbody></table>",
    '<img src="data:image/png;base64,AAAA" alt="a line">',
    '<img src="data:image/png;base64,AAAA" alt="a > b, $K$">',
    '<img src="data:image/jpg;base64,AAAA" alt="a wrong word for JPEG">',
    '<img src="data:image/png;base64,AAAA\nAAAA" alt="lines">',
    '<span class="k">def</span>',
    "<p>x &lt; y, 5 % and <code>&lt;script&gt;</code></p>",
    "<ul><li><strong>a</strong></li></ul>",
]


@pytest.mark.parametrize("text", KEPT)
def test_tables_images_and_text_stay(text):
    assert cells.sanitise(text) == text


def test_what_a_screen_reader_would_miss_is_put_right():
    assert cells.sanitise("<h1>a</h1>") == '<p class="heading">a</p>'
    assert cells.sanitise("<table><tr><th></th></tr></table>").count("<td></td>") == 1
    image = cells.sanitise("<img src='data:image/png;base64,AAAA'>")
    assert f'alt="{cells.NO_ALT}"' in image
    gone = cells.sanitise("<img src='figure.png' alt='a curve'>")
    assert gone == "[image that is not in the notebook: a curve]"


def record(cell, folder="."):
    """Source and outputs of a cell, as pages show them."""
    found = cells.cell_record(nbformat.from_dict(cell), folder, folder)
    return found["source"], found["outputs"]


def display(data):
    """An output that is displayed, from {form: content}."""
    return new_output("display_data", data=data)


OUTPUTS = [
    pytest.param(
        new_output("stream", text="x" * 10_000_000),
        "[9,980,000 more characters are left out here.]",
        id="10 MB of text",
    ),
    pytest.param(
        display({"image/png": "A" * 10_000_000, "text/plain": "<Figure>"}),
        "[An image of 10 MB is left out.]",
        id="10 MB of an image",
    ),
    pytest.param(
        display({"text/html": "<p>x</p>" * 1_000_000, "text/plain": "a table"}),
        "a table",
        id="8 MB of HTML",
    ),
    pytest.param(
        display({"text/html": "<script>draw()</script>", "text/plain": "a chart"}),
        "a chart",
        id="a script, and a text",
    ),
    pytest.param(
        display({"application/x-widget": ["a"]}),
        "[An output that is not shown here: application/x-widget.]",
        id="a widget",
    ),
    pytest.param(
        new_output("error", ename="E", evalue="v", traceback=["\x1b[31mE\x1b[0m: v"]),
        "<span>E</span>: v",
        id="an error",
    ),
    pytest.param(
        display(
            {"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "no"}
        ),
        "<td>1</td>",
        id="a table",
    ),
]


@pytest.mark.parametrize("output, expected", OUTPUTS)
def test_an_output_is_shown_or_cut_with_a_sentence(output, expected):
    source, shown = record(new_code_cell("f(1)", outputs=[output]))
    assert expected in shown
    assert len(shown) < 30_000
    assert '<div class="highlight hl-ipython3">' in source
    assert '<span class="n">f</span>' in source


ODD = [  # keys of a cell that nbconvert refuses, or takes for a wish
    pytest.param({"id": "x" * 100}, id="long id"),
    pytest.param({"id": "a b"}, id="blank in an id"),
    pytest.param({"metadata": {"tags": "x"}}, id="tags"),
    pytest.param({"metadata": {"collapsed": "x"}}, id="collapsed"),
    pytest.param({"metadata": {"jupyter": 1}}, id="settings of Jupyter"),
    pytest.param({"transient": {"remove_source": True}}, id="another key"),
]


@pytest.mark.parametrize("changes", ODD)
def test_a_cell_with_odd_keys_is_shown(changes):
    printed = {"output_type": "stream", "text": "printed", "name": 5}
    code = {"cell_type": "code", "source": "f(1)", "outputs": [printed]}
    source, shown = record({**code, **changes})
    assert '<span class="n">f</span>' in source
    assert "printed" in shown
    source, _ = record({**new_markdown_cell("It blurs."), **changes})
    assert "It blurs." in source


def test_of_many_outputs_the_first_are_shown():
    outputs = [display({"text/plain": f"number {number}"}) for number in range(100)]
    _, shown = record(new_code_cell(outputs=outputs))
    assert "number 39" in shown
    assert "number 40" not in shown
    assert "[60 more outputs of this cell are left out.]" in shown


def test_figures_stay_whatever_their_kind():
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><script>harm()</script></svg>"
    outputs = [display({"image/png": "AA\nAA"}), display({"image/svg+xml": svg})]
    _, shown = record(new_code_cell(outputs=outputs))
    assert 'src="data:image/png;base64,AAAA"' in shown
    assert 'src="data:image/svg+xml;base64,' in shown  # there, its script does not run
    assert "harm" not in shown


def test_an_image_of_markdown_is_taken_from_the_folder_of_the_team(tmp_path):
    inside = tmp_path / "team"
    inside.mkdir()
    for folder in (tmp_path, inside):
        (folder / "a.png").write_bytes(b"\0" * 3)
    text = "![ours](a.png) ![theirs](../a.png) ![gone](b.png) ![far](https://a/b.png)"
    source, _ = record(new_markdown_cell(text), inside)
    assert source.count("<img") == 1
    assert '<img src="data:image/png;base64,AAAA" alt="ours">' in source
    for alt in ("theirs", "gone", "far"):
        assert f"[image that is not in the notebook: {alt}]" in source


@pytest.mark.parametrize("name", ["a.png", "b.JPG", "c.svg", "d.webp", "e.gif"])
def test_an_image_of_markdown_may_be_of_any_kind(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0" * 3)
    source, _ = record(new_markdown_cell(f"![ours]({name})"), tmp_path)
    assert re.search('<img src="data:image/[a-z+]+;base64,AAAA" alt="ours">', source)


def test_a_drawing_may_be_attached():
    cell = new_markdown_cell("![a](attachment:a.svg)")
    cell.attachments = {"a.svg": {"image/svg+xml": "AAAA"}}
    source, _ = record(cell)
    assert '<img src="data:image/svg+xml;base64,AAAA" alt="a">' in source


def test_images_of_markdown_are_found_in_the_whole_clone(tmp_path):
    part = tmp_path / "team/part 2"
    part.mkdir(parents=True)
    for path in (tmp_path / "far.png", tmp_path / "team/a.png", part / "b c.png"):
        path.write_bytes(b"\0" * 3)
    text = "![up](../a.png) ![blank](b%20c.png) ![far](../../far.png) ![no](a%00.png)"
    text += '\n<img alt="tag" src="b c.png">'
    found = cells.cell_record(new_markdown_cell(text), part, tmp_path / "team")
    for alt in ("up", "blank", "tag"):
        image = f'<img src="data:image/png;base64,AAAA" alt="{alt}">'
        assert image in found["source"]
    for alt in ("far", "no"):
        assert f"[image that is not in the notebook: {alt}]" in found["source"]


PASTED = [
    pytest.param("![a](data:image/png;base64,{})", id="Markdown"),
    pytest.param("<img src='data:image/png;base64,{}'>", id="tag"),
    pytest.param("![a](attachment:a.png)", id="attachment"),
]


@pytest.mark.parametrize("text", PASTED)
def test_a_pasted_image_does_not_count_as_text(text):
    answer = "It blurs. " * 1_990
    for size, is_shown in ((30_000, True), (cells.MOST_IMAGE + 4, False)):
        image = "A" * size
        cell = new_markdown_cell(f"{text.format(image)}\n\n{answer}\n\n{'x' * 1_000}")
        cell.attachments = {"a.png": {"image/png": image}}
        source, _ = record(cell)
        assert (f'src="data:image/png;base64,{image}"' in source) == is_shown
        assert ("[An image is left out: it is too large.]" in source) != is_shown
        assert source.count("It blurs.") == 1_990
        assert "more characters are left out here.]" in source


def test_images_of_a_cell_are_limited_together(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MOST_IMAGES", 100_000)
    (tmp_path / "a.png").write_bytes(b"\0" * 30_000)
    source, _ = record(new_markdown_cell("![a](a.png)\n" * 300), tmp_path)
    assert source.count("<img") == 3  # of 40,000 characters each
    assert "[An image is left out: this cell has too many.]" in source


def test_an_attachment_that_is_gone_is_named():
    source, _ = record(new_markdown_cell("![a](attachment:a.png) text"))
    assert "[image that is not in the notebook: a] text" in source


SLOW = [
    pytest.param(cells.has_content, "<" * 100_000, id="tags"),
    pytest.param(cells.HEADING.findall, "<h1\n" * 50_000, id="headings"),
    pytest.param(cells.IMAGE.findall, "![" * 50_000, id="images"),
    pytest.param(cells.IMAGE.findall, "![](" * 50_000, id="addresses"),
    pytest.param(cells.IMAGE.findall, "![](a " * 50_000, id="titles"),
]


@pytest.mark.parametrize("find, text", SLOW)
def test_a_long_text_is_searched_in_a_bearable_time(find, text):
    start = time.process_time()
    find(text)
    assert time.process_time() - start < 2


LINES = [
    pytest.param("%%time\nx = 1\ndef f(): pass", "def f(): pass", id="definition"),
    pytest.param("\n!ls\n  x = 1\ny = 2", "x = 1", id="no magic"),
    pytest.param("!ls\n%time", "!ls %time", id="magics alone"),
    pytest.param("", "", id="empty"),
]


@pytest.mark.parametrize("source, line", LINES)
def test_a_folded_cell_says_what_it_is(source, line):
    assert cells.telling_line(source) == line


def test_the_same_source_is_told_by_its_digest():
    found = []
    for cell in (
        new_code_cell("a = 1\n"),
        new_code_cell("\na  = 1", outputs=[display({"text/plain": "x"})]),
        new_markdown_cell("a = 1"),
    ):
        found.append(cells.cell_record(cell, ".", ".")["digest"])
    assert found[0] == found[1]
    assert found[0] != found[2]


OWN = [
    pytest.param("class MyMaxPool(nn.Sequential): pass", True, id="asked for"),
    pytest.param("import x\n\ndef grid_search(): pass", True, id="not the first"),
    pytest.param("class Trainer: pass", False, id="the template's"),
]


@pytest.mark.parametrize("source, is_own", OWN)
def test_what_a_task_asks_for_has_no_digest(source, is_own):
    digest = cells.cell_record(new_code_cell(source), ".", ".")["digest"]
    assert (digest == "") == is_own


FORMULAS = [
    pytest.param("a $x &lt; y^2$ b", ["<mo>&lt;</mo><msup>", "a <math", "</math> b"]),
    pytest.param("$$\\frac{1}{2}$$", ['<math display="block"', "<mfrac>"]),
    pytest.param("$\\text{&lt;script&gt;}$", ["<mtext", "&lt;script&gt;"]),
]
NO_FORMULAS = [
    '<img alt="the kernel $K$ here">',
    '<img alt="a > b, $K$">',
    "<p>$$a</p><p>b$$</p>",
    "<em>$a</em>$",
    "costs $5 and $6",
    "<code>$x$</code>",
    "<pre>$$x$$</pre>",
    "$ x $",
    r"\$x$",
    r"$\frac{$",
    r"$\unknown{x}$",
]


@pytest.mark.parametrize("text, words", FORMULAS)
def test_a_formula_is_drawn_without_a_script(text, words):
    (drawn,) = formulas.typeset([text])
    for word in words:
        assert word in drawn
    assert "<script" not in drawn


def test_what_is_no_formula_stays():
    texts = [*NO_FORMULAS, "$x$"]
    *others, formula = formulas.typeset(texts)
    assert others == NO_FORMULAS
    assert "<math" in formula


# --- Cells of a team ------------------------------------------------------------------


def answers(folder, number):
    """Write a notebook of part 1 with so many cells, each with an image of a file."""
    (folder / "a.png").write_bytes(b"\0" * 30_000)
    texts = ["## 1.1 Kernels", *(number * ["![a](a.png)"])]
    notebook = new_notebook(cells=[new_markdown_cell(text) for text in texts])
    nbformat.write(notebook, folder / "theory.ipynb")


def test_from_a_limit_on_a_sentence_is_in_place_of_a_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(team, "MOST_SOURCES", 100_000)
    answers(tmp_path, 9)
    path = tmp_path / "theory.ipynb"
    remarks = []
    found = team.theory_of([path, path], remarks, tmp_path)
    shown = [cell["source"] for cell in found if "<img" in cell["source"]]
    assert len(shown) == 3  # of 40,000 characters each
    assert len(found) == 10  # with the heading
    left_out = "<p>[a cell left out: the notebook has too much]</p>"
    assert found[-1]["source"] == left_out
    assert remarks == [f"{path} is not shown: the others have too much"]


def test_a_cell_that_cannot_be_shown_is_a_sentence(tmp_path, monkeypatch):
    def fail(cell, folder, root):
        raise MemoryError

    monkeypatch.setattr(team, "cell_record", fail)
    answers(tmp_path, 0)
    result = team.empty_result()
    team.fill_in_cells(result, [], tmp_path)
    (cell,) = result["theory"]
    assert cell["source"] == "<p>[a cell that cannot be shown: MemoryError]</p>"


# --- Files of a team ------------------------------------------------------------------


def test_an_archive_is_unpacked_elsewhere_and_deleted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("part 2/a.txt", "x")
    with team.opened(tmp_path / "a.zip") as folder:
        assert (folder / "part 2/a.txt").read_text() == "x"
        assert not folder.is_relative_to(tmp_path)
    assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 4_000_000)
    monkeypatch.setattr(team, "MOST_UNPACKED", 3_000_000)
    result = team.team_result(tmp_path / "a.zip", tmp_path / "pdfs")
    assert result["reason"] == "it would unpack to 4 MB"


def test_what_cannot_be_read_is_a_sentence(tmp_path):
    result = team.team_result(tmp_path / "gone.ipynb", tmp_path / "pdfs")
    assert result["reason"] == "it cannot be read: No such file or directory"


@pytest.mark.skipif(
    not shutil.which("setpriv"), reason="root can give up rights with setpriv alone"
)
def test_a_folder_that_may_not_be_read_is_a_sentence(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    call = [sys.executable, "-m", "tools.team", str(closed), str(tmp_path / "pdfs")]
    if os.access(closed, os.R_OK):  # as root, who may read all, unless without this:
        rights = "-dac_override,-dac_read_search"
        call = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *call]
    printed = subprocess.check_output(call, text=True)
    assert json.loads(printed)["reason"] == "it cannot be read: Permission denied"


def test_pdfs_and_answers_to_part_1_are_found_without_part_2(tmp_path):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers/Part 1 <final>.pdf").write_bytes(b"%PDF")
    notebook = new_notebook(cells=[new_markdown_cell("## 1.1 Kernels\n\nIt blurs.")])
    nbformat.write(notebook, tmp_path / "theory.ipynb")
    (tmp_path / "torn.ipynb").write_text("{")
    pdfs = tmp_path / "pdfs"
    result = team.team_result(tmp_path, pdfs)
    assert "no notebook defines MyCNNModel" in result["reason"]
    assert result["pdfs"] == [{"name": "answers/Part 1 <final>.pdf", "file": "1.pdf"}]
    assert (pdfs / "1.pdf").read_bytes() == b"%PDF"
    (cell,) = result["theory"]
    assert cell["question"] == "1.1"
    assert "It blurs." in cell["source"]


# --- Pages ----------------------------------------------------------------------------


class Outline(HTMLParser):
    """Headings, identifiers, addresses and tags without a partner of a page."""

    VOID = ("meta", "img", "br", "hr", "col")

    def __init__(self, text):
        super().__init__()
        self.headings = []
        self.ids = []
        self.addresses = []
        self.open = []
        self.tags = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href"):
                self.addresses.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(path):
    """What holds for each page; its text."""
    text = path.read_text("utf-8")
    outline = Outline(text)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    for heading, following in zip(outline.headings, outline.headings[1:], strict=False):
        assert following <= heading + 1
    assert len(outline.ids) == len(set(outline.ids))
    for address in outline.addresses:
        if address.startswith("data:image/"):
            continue
        if address.startswith("#"):
            assert address[1:] in outline.ids
        else:
            assert (path.parent / address).exists(), address
    scripts = [tag for tag, _ in outline.tags if tag == "script"]
    assert len(scripts) == (path.name == "index.html")
    for tag, attributes in outline.tags:
        assert tag != "img" or attributes["alt"]
        assert not [name for name in attributes if name.startswith("on")]
    return text


def made_up(name, **changes):
    """A result as tools.team gives it."""
    checks = []
    for reason in ("", "it is <b>wrong</b>"):
        checks.append({"check": "one", "task": "1", "points": 2, "reason": reason})
    shown = new_code_cell("print(1)", outputs=[new_output("stream", text=f"by {name}")])
    own = new_code_cell(f"own = {name!r}", outputs=[display({"image/png": "AAAA"})])
    text = new_markdown_cell(f"## A heading of {name}\n\n<script>harm()</script>")
    asked = new_code_cell("class MyMaxPool: pass")
    records = [cells.cell_record(cell, ".", ".") for cell in (shown, own, text, asked)]
    result = {"team": name, "file": name, "notebook": "a.ipynb", "seconds": 3.4}
    result.update(checks=checks, cells=[], theory=[], pdfs=[], problems=[], faults=[])
    result.update(reason="", remarks=[], errors=0)
    result["cells"] = [{**record, "task": "1"} for record in records]
    result["theory"] = [{**records[2], "question": "1.3"}]
    return {**result, **changes}


TEAMS = ("a", "b", "main", "z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pages of four made-up teams, one of them with much in its cells."""
    from tools.classroom import table_row

    folder = tmp_path_factory.mktemp("pages")
    ungraded = {"checks": [], "cells": [], "theory": [], "notebook": ""}
    results = [
        made_up("a"),
        made_up("b", faults=["averages"], problems=["cell 1: <i>"], theory=[]),
        made_up("main"),
        made_up("z", reason="no <script>notebook</script>", **ungraded),
    ]
    for number in range(20):
        source = f"<p>piece {number}</p>" + " " * (pages.MOST_PART // 10)
        record = {"kind": "code", "digest": "", "line": "", "task": "2"}
        results[0]["cells"].append({**record, "source": source, "outputs": ""})
    results[1]["pdfs"] = [{"name": "<theory>.pdf", "file": "1.pdf"}]
    (folder / "b").mkdir()
    (folder / "b/1.pdf").touch()
    (folder / "points.csv").touch()  # tools/classroom.py writes it
    rows = [table_row(result) for result in results]
    pages.write_pages(folder, results, rows)
    return folder


def test_every_page_is_whole_and_loads_nothing(folder):
    names = sorted(path.name for path in folder.glob("*.html"))
    expected = [f"task-{task}.html" for task in range(1, 6)]
    expected += [f"team-{name}.html" for name in TEAMS]
    assert names == ["index.html", *expected, "theory.html"]
    for name in names:
        text = check_page(folder / name)
        assert "harm" not in text


def test_a_page_allows_no_script_but_its_own(folder):
    for name in ("index", "team-a", "task-1", "theory"):
        text = (folder / f"{name}.html").read_text("utf-8")
        policies = []
        for _, attributes in Outline(text).tags:
            if attributes.get("http-equiv") == "Content-Security-Policy":
                policies.append(attributes["content"])
        allowed = "'none'"
        if name == "index":
            (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
            digest = hashlib.sha256(script.encode()).digest()
            allowed = f"'sha256-{base64.b64encode(digest).decode()}'"
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        assert policies == [f"{policy}; script-src {allowed}"]


@pytest.mark.skipif(not shutil.which("chromium"), reason="it prints with Chromium")
def test_code_that_is_folded_is_printed(folder, tmp_path):
    printed = tmp_path / "task.pdf"
    call = ["chromium", "--headless", "--no-sandbox", f"--user-data-dir={tmp_path}"]
    call += [f"--print-to-pdf={printed}", (folder / "task-1.html").as_uri()]
    subprocess.run(call, check=True, capture_output=True, timeout=100)
    texts = [page.get_textpage().get_text_range() for page in PdfDocument(printed)]
    # Once in the line that tells what is folded, and once in the code.
    assert "".join(texts).count("print(1)") == 2 * 3


def test_a_task_shows_all_teams_below_each_other(folder):
    text = (folder / "task-1.html").read_text("utf-8")
    places = [text.index(f'<a href="team-{name}.html">{name}</a>') for name in TEAMS]
    assert places == sorted(places)
    assert text.count("The same in 3 teams: <code>print(1)</code>") == 3
    assert "by a" in text  # outputs are no part of what is folded
    assert text.count("data:image/png;base64,AAAA") == 3
    for name in ("a", "b", "main"):
        own = cells.cell_record(new_code_cell(f"own = {name!r}"), ".", ".")
        assert own["source"] in text
    asked = cells.cell_record(new_code_cell("class MyMaxPool: pass"), ".", ".")
    assert text.count(f'<div class="cell code">\n{asked["source"]}') == 3
    assert text.count("2 of 4 testable points") == 3
    assert "Not graded: no &lt;script&gt;notebook&lt;/script&gt;" in text
    assert text.count("No cells of this task were found.") == 1


def test_a_team_with_much_has_the_rest_on_its_own_page(folder):
    text = (folder / "task-2.html").read_text("utf-8")
    assert re.findall(r"piece (\d+)", text) == [str(number) for number in range(9)]
    assert '11 more on the <a href="team-a.html">page of a</a>' in text
    assert text.count("No cells of this task were found.") == 3
    own_page = (folder / "team-a.html").read_text("utf-8")
    assert len(re.findall(r"piece \d+", own_page)) == 20
    assert own_page.count("A heading of a") == 2  # task 1, and its answer to part 1


def test_theory_shows_each_question_and_links_documents(folder):
    text = (folder / "theory.html").read_text("utf-8")
    assert '<h2 id="group-1">Question 1.3</h2>' in text
    assert '<a href="#group-1">Question 1.3</a>' in text
    assert "A heading of a" in text
    assert "A heading of b" not in text
    assert '<a href="b/1.pdf">&lt;theory&gt;.pdf</a>' in text


def test_the_page_of_a_team_says_what_failed(folder):
    text = (folder / "team-b.html").read_text("utf-8")
    assert text.count("it is &lt;b&gt;wrong&lt;/b&gt;") == 1
    assert "<li>cell 1: &lt;i&gt;</li>" in text
    assert "Faults of the template itself, which cost no points" in text
    reason = "Not graded: no &lt;script&gt;notebook&lt;/script&gt;"
    assert reason in (folder / "team-z.html").read_text("utf-8")
