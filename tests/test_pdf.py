"""The exported PDF against the notebook that it shows."""

import base64
import copy
import ctypes
import hashlib
import io
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import nbformat
import pypdfium2
import pytest
import typst
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.exporters import HTMLExporter, LatexExporter, ScriptExporter
from nbconvert.filters import strip_ansi
from nbformat.v4 import (
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
    new_raw_cell,
)
from PIL import Image
from pypdfium2 import raw

from tests.helpers import refused
from tools import pdf as exporter
from tools.notebook import METADATA
from tools.pdf import PANDOC, TypstPDFExporter


def make_png(width, height):
    """The bytes of a navy image."""
    content = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(content, "png")
    return content.getvalue()


def in_base64(content):
    return base64.b64encode(content).decode()


LONG_LINE = f"%config A = 1\ntotal = 0  # {'x' * 250}"
CODE = LONG_LINE + "\n\n\ndef f(x):\n\t'Ünïcode → ≤'\n    return x - -1"
TITLE = r"A title with 100 % & $ # _ { } \ ~ ^"
REMARK = "longer than a line of the page can be, so that it is wrapped within the table"
TEXT = rf"""# {TITLE}

The team: Ada Løvelace, Zoë O'Brien

Dashes - -- and "quotes", *stars*, <3, a_b_c, e.g. [1] @home,
3*4*5, [a heading](#Elsewhere)
äöüßéñçøå αβγδΩ Привет; a formula of its own:
$$\left\lfloor \frac{{H - K + 2P}}{{S}} \right\rfloor + 1$$

| accuracy | remark |
|--:|---|
| 97.87 % | {REMARK} |
"""
ABOUT = {
    "title": TITLE,
    "team": "The team",
    "date": "17 October 2025",
    "authors": [{"name": "Ada Løvelace"}, "Zoë O'Brien"],
}
PRINTED = "  indented ``` text\n\n" + "wide " * 40 + "y" * 300 + "\n"
NAVY = make_png(1800, 300)


def make_cell(kind, content):
    """A cell of text or raw text, or one that shows an output of a kind and no code."""
    if kind == "text":
        return new_markdown_cell(content, id="it")
    if kind.startswith("raw"):
        metadata = {"format": kind.removeprefix("raw").strip()}
        return new_raw_cell(content, id="it", metadata=metadata)
    data = {"text/plain": "<a.B object at 0x1>", kind: content}
    outputs = [new_output("display_data", data)]
    metadata = {"tags": ["remove-input"]}
    return new_code_cell("1", id="it", outputs=outputs, metadata=metadata)


@pytest.fixture
def sample():
    """A notebook with everything that our notebooks hold, and more."""
    image = {"text/plain": "<Figure>", "image/png": in_base64(NAVY)}
    described = {"image/png": {"alt": "A navy area"}}
    array = {"text/plain": "array([1.])", "text/html": "<b>array</b>"}
    outputs = [
        new_output("stream", text=PRINTED),
        new_output("display_data", image, metadata=described),
        new_output("stream", name="stderr", text="\x1b[31ma warning\x1b[0m\n"),
        new_output("execute_result", array),
    ]
    cells = [new_markdown_cell(TEXT), new_code_cell(CODE, outputs=outputs)]
    metadata = {**ABOUT, "language_info": {"name": "python"}}
    return new_notebook(cells=cells, metadata=metadata)


def export(notebook, folder=""):
    """The PDF of a notebook that is called a.ipynb and lies in `folder`."""
    about = {"metadata": {"name": "a", "path": str(folder)}}
    pdf, _ = TypstPDFExporter().from_notebook_node(notebook, about)
    return pdf


# --- What a PDF holds -----------------------------------------------------------------


def letters(text):
    """The text without spaces, each character in its plainest form."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def pdf_text(pdf):
    """The letters of a PDF, without the page numbers."""
    shown = []
    for number, page in enumerate(pypdfium2.PdfDocument(pdf), 1):
        text = page.get_textpage().get_text_bounded()
        shown.append(letters(text).removesuffix(str(number)))
    return "".join(shown).replace("\x02", "-")  # the sign for a hyphen at a line's end


def objects(pdf, kind):
    """Objects on the first page: images, or paths, of which boxes consist."""
    page = pypdfium2.PdfDocument(pdf)[0]
    return list(page.get_objects(filter=[kind]))


def read_string(get, element):
    """What a function of pdfium writes about an element into a buffer."""
    size = get(element, None, 0)
    buffer = ctypes.create_string_buffer(size)
    get(element, buffer, size)
    return buffer.raw.decode("utf-16-le").rstrip("\0")


def walk(element):
    """Yield (type, alt text) of an element for screen readers, and of all within."""
    kind = read_string(raw.FPDF_StructElement_GetType, element)
    alt = read_string(raw.FPDF_StructElement_GetAltText, element)
    yield kind, alt
    for number in range(raw.FPDF_StructElement_CountChildren(element)):
        child = raw.FPDF_StructElement_GetChildAtIndex(element, number)
        if child:
            yield from walk(child)


def tags(pdf):
    """[(type, alt text)] of what a screen reader is told of a PDF, in order."""
    found = []
    for page in pypdfium2.PdfDocument(pdf):
        tree = raw.FPDF_StructTree_GetForPage(page)
        found += walk(raw.FPDF_StructTree_GetChildAtIndex(tree, 0))
    return found


def alt_texts(pdf, wanted):
    return [alt for kind, alt in tags(pdf) if kind == wanted]


# --- What a notebook holds ------------------------------------------------------------

# In Markdown: commands of TeX, targets of links, comments, tags
UNSEEN = r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|\]\(.*?\)|<!--.*?-->|</?[a-z].*?>"


def markdown_pieces(source):
    """Yield (word, is it in a formula?) of Markdown."""
    parts = re.split(r"(\$\$.+?\$\$|\$.+?\$)", re.sub(UNSEEN, " ", source))
    for number, part in enumerate(parts):
        is_formula = number % 2 == 1
        for word in re.findall(r"[^\W_]+", part):
            yield word, is_formula


def output_pieces(outputs):
    """Yield (text, is it in a formula?) of each output but an image."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            continue
        if "text/markdown" in data:
            yield from markdown_pieces(data["text/markdown"])
            continue
        text = output.get("text")
        if not text:
            text = data["text/plain"]
        yield strip_ansi(text), False


def pieces(notebook):
    """Yield (text, is it in a formula?): words of Markdown; whole codes and outputs."""
    about = notebook.metadata
    authors = ", ".join(getattr(author, "name", author) for author in about["authors"])
    yield about["title"] + about["team"] + authors + about["date"], False
    repeated = f"# {about['title']}\n\n{about['team']}: {authors}\n"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield from markdown_pieces(cell.source.removeprefix(repeated))
        elif "remove-input" not in cell.metadata.get("tags", []):
            yield cell.source, False
        yield from output_pieces(cell.get("outputs", []))


def check_text(pdf, notebook):
    """Fails unless the PDF holds the text, in order, and no letter or digit more."""
    text = pdf_text(pdf)
    expected = [(letters(piece), is_formula) for piece, is_formula in pieces(notebook)]
    held = "".join(piece for piece, _ in expected)
    drawn_letters = sorted(re.findall("[0-9A-Za-z]", text))
    held_letters = sorted(re.findall("[0-9A-Za-z]", held))
    assert drawn_letters == held_letters
    for piece, is_formula in expected:
        if is_formula:  # its parts may be in any order
            continue
        assert piece in text, piece
        _, _, text = text.partition(piece)


# --- Tests ----------------------------------------------------------------------------


def test_text_and_title_are_there_and_equal_notebooks_give_equal_bytes(
    sample, tmp_path
):
    pdf = export(sample)
    check_text(pdf, sample)
    path = tmp_path / "a.ipynb"
    nbformat.write(sample, path)
    exporter_name = "--to=tools.pdf.TypstPDFExporter"
    command = [sys.executable, "-m", "nbconvert", exporter_name, path]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "a.pdf").read_bytes() == pdf
    about = pypdfium2.PdfDocument(pdf).get_metadata_dict()
    assert about["Title"] == TITLE
    assert about["Author"] == "Ada Løvelace, Zoë O'Brien"


def test_nothing_leaves_the_page_however_long_a_word(sample):
    for page in pypdfium2.PdfDocument(export(sample)):
        text = page.get_textpage()
        for place in range(text.count_chars()):
            left, _bottom, right, _top = text.get_charbox(place)
            assert left > 50
            assert right < page.get_width() - 50


both_parts = pytest.mark.parametrize("name", ["ps2_theory", "ps2_eurosat"])


@both_parts
def test_report_and_web_page_hold_what_the_notebook_holds(name):
    """A failure may mean that the notebook is newer than its PDF: run make pdf."""
    pdf = Path(f"report/{name}.pdf").read_bytes()
    notebook = nbformat.read(f"{name}.ipynb", 4)
    check_text(pdf, notebook)
    images = []
    text = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text += cell.source + "\n"
        for output in cell.get("outputs", []):
            if "image/png" in str(output):
                images.append(output.metadata["image/png"]["alt"])
    formulas = re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.DOTALL)
    assert alt_texts(pdf, "Figure") == images
    assert alt_texts(pdf, "Formula") == ["".join(formula) for formula in formulas]
    page = BeautifulSoup(web_page(notebook), "html.parser")
    assert [image["alt"] for image in page.select("img")] == images


def web_page(notebook):
    """The page of nbconvert's HTML, by the template in lab/."""
    html, _ = HTMLExporter().from_notebook_node(notebook)
    return html


@both_parts
def test_tables_are_tables_in_notebook_web_page_and_report(name):
    notebook = nbformat.read(f"{name}.ipynb", 4)
    in_markdown = 0
    for cell in notebook.cells:
        sources = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            sources.append(output.get("data", {}).get("text/markdown", ""))
        for source in sources:
            in_markdown += len(re.findall(r"^\|[ :|-]+\|$", source, re.MULTILINE))
    page = BeautifulSoup(web_page(notebook), "html.parser")
    assert len(page.select("table")) == in_markdown > 0

    filled = [cell.name for cell in page.select("th, td") if cell.get_text(strip=True)]
    named_by_nothing = len(page.select("th")) - filled.count("th")
    assert named_by_nothing == 0

    kinds = [kind for kind, _ in tags(Path(f"report/{name}.pdf").read_bytes())]
    assert kinds.count("Table") == in_markdown
    assert kinds.count("TR") == len(page.select("tr"))
    assert kinds.count("TH") == filled.count("th")  # pdfium passes over empty cells
    assert kinds.count("TD") == filled.count("td")


@both_parts
def test_github_takes_the_formulas(name):
    assert "\\operatorname" not in Path(f"{name}.ipynb").read_text("utf-8")


@both_parts
def test_jupyter_need_not_change_the_metadata_and_a_script_is_python(name):
    notebook = nbformat.read(f"{name}.ipynb", 4)
    for key, value in METADATA.items():
        assert notebook.metadata[key] == value
    _, about = ScriptExporter().from_notebook_node(notebook)
    assert about["output_extension"] == ".py"


def brightness(colour):
    """Relative luminance, as WCAG defines it, of a colour such as #fff or #ffffff."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    total = 0
    for place, weight in ((0, 0.2126), (2, 0.7152), (4, 0.0722)):
        share = int(digits[place : place + 2], 16) / 255
        if share <= 0.04045:
            linear = share / 12.92
        else:
            linear = ((share + 0.055) / 1.055) ** 2.4
        total += weight * linear
    return total


def test_code_on_the_web_page_has_the_contrast_of_wcag_aa(sample):
    page = web_page(sample)
    values = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", page))  # the last one counts

    def colour(name):
        value = values[name]
        while value.startswith("var("):
            value = values[value.removeprefix("var(").removesuffix(")")]
        return value

    used = set(re.findall(r"\.highlight \.\w+ \{ color: var\((.+?)\)", page))
    assert len(used) > 5
    ground = brightness(colour("--jp-cell-editor-background"))
    for name in used:
        contrast = (ground + 0.05) / (brightness(colour(name)) + 0.05)
        assert contrast >= 4.5, name
    assert values["--jp-cell-prompt-not-active-opacity"] == "1"
    assert (
        "a:link, .jp-RenderedHTMLCommon a:visited { text-decoration: underline" in page
    )


@pytest.fixture
def illustrated(tmp_path):
    """A notebook with two images in Markdown and two outputs, none with an alt text.

    The first output is a small image whose sharper file lies in figures/.
    """
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(NAVY)
    text = "![*b* $c$](figures/a.png) ![](figures/a.png)\n\n### x\n\n##### y"
    cell = make_cell("image/png", in_base64(make_png(180, 30)))
    (image,) = cell.outputs
    cell.outputs.append(new_output("stream", text="Fig. 1"))
    cell.outputs.append(copy.deepcopy(image))
    image.metadata["figure"] = hashlib.sha256(NAVY).hexdigest()
    return new_notebook(cells=[new_markdown_cell(text), cell])


def test_images_without_alt_text_have_words_too(illustrated, tmp_path):
    pdf = export(illustrated, tmp_path)
    words = ["b c", "image figures/a.png", "Fig. 1", "output of cell 2"]
    assert alt_texts(pdf, "Figure") == words


def test_headings_leave_out_no_level(illustrated, tmp_path):
    kinds = [kind for kind, _ in tags(export(illustrated, tmp_path))]
    assert [kind for kind in kinds if kind[0] == "H"] == ["H1", "H2", "H3"]


def test_the_sharper_file_is_drawn(illustrated, tmp_path):
    widths = []
    for image in objects(export(illustrated, tmp_path), raw.FPDF_PAGEOBJ_IMAGE):
        width, _height = image.get_px_size()
        widths.append(width)
    assert widths == [1800, 1800, 1800, 180]


DETAILS = "<details><summary>More</summary>\n\n*within* $x$\n\n</details>"
QUESTION = "<!-- BEGIN QUESTION -->\n\nH<sub>2</sub>O <foo>bar</foo>"
DOLLARS = "so $ x^2 $, $y $, `$ z $` and $5 or $6"
EQUATION = "\\begin{equation}\nx = 1\n\\end{equation}"
TABLE = "<table><tr><td>left<td>right</table>"
VIDEO = "<video src='a.mp4'></video>"
PLAN = "- [ ] open\n- [x] done"
ALIGNED = r"$$\begin{align}x &= 1 \tag{7} \\ y &= 2 \tag{8}\end{align}$$"
LISTED = "<table><tr><td><ul><li>left</ul><td><div>right</div></table>"
SCRIPT = "<div></div><script>draw()</script>"
GONE = "https://example.org/a.png"
BULLETS = "<ul><li>left</li></ul>"
FOLDED = "<details><summary>More</summary>left</details>"
PICTURE = '<div><img src="a.png"></div>'


def in_table(content):
    """Markdown of a table with this content in a cell."""
    return f"| one | two |\n|---|---|\n| {content} | right |\n"


DRAWN = [  # the kind of cell, what it holds, the letters that show it
    pytest.param("text", TABLE, "leftright", id="table in HTML"),
    pytest.param("text", DETAILS, "Morewithinx", id="Markdown within HTML"),
    pytest.param("text", QUESTION, "H2Obar", id="comment and unknown tag"),
    pytest.param("text", DOLLARS, "sox2,y,$z$and$5or$6", id="dollars"),
    pytest.param("text", EQUATION, "x=1", id="formula without dollars"),
    pytest.param("text", r"$$x = 1 \tag{7}$$", "x=1(7)", id="number of a formula"),
    pytest.param("text", r"$$x \tag*{A.$n$}$$", "xA.n", id="name without brackets"),
    pytest.param("text", ALIGNED, "x=1(7)y=2(8)", id="numbers of lines"),
    pytest.param("text", r"$a \& \text{b \& c}$", "a&b&c", id="the sign &"),
    pytest.param("text", r"$f\!(x) \; y$", "f(x)y", id="spaces of a formula"),
    pytest.param("text", "% of images", "%ofimages", id="title in pandoc's Markdown"),
    pytest.param("text", PLAN, "•☐open•☒done", id="list of tasks"),
    pytest.param("raw", "*raw* <b>text", "*raw*<b>text", id="raw text"),
    pytest.param("text/html", "<b>bold</b>", "bold", id="HTML output"),
    pytest.param("text/html", LISTED, "•leftright", id="blocks in a table of HTML"),
    pytest.param("text/latex", r"$\displaystyle x^2$", "x2", id="LaTeX output"),
    pytest.param("text/markdown", "**bold** $ x $", "boldx", id="Markdown output"),
]
IMAGES = [
    pytest.param("text", 'an <img src="a.png"> image', "animage", id="HTML"),
    pytest.param("image/png", in_base64(NAVY), "", id="output"),
]
NOT_DRAWN = [  # the kind of cell, what it holds, the word by which that is named
    pytest.param("text", "![a](gone.png)", "gone.png", id="missing file"),
    pytest.param("text", f"![a]({GONE})", GONE, id="image of the web"),
    pytest.param("text", VIDEO, '<video src="a.mp4">', id="video"),
    pytest.param("text", "![](attachment:a.png)", "a.png", id="missing attachment"),
    pytest.param("text", in_table("<div>left</div>"), "'left'", id="div in a table"),
    pytest.param("text", in_table("<p>left</p>"), "'left'", id="p in a table"),
    pytest.param("text", in_table("<pre>left</pre>"), "'left'", id="pre in a table"),
    pytest.param("text", in_table("<h3>left</h3>"), "'left'", id="heading in a table"),
    pytest.param("text", in_table(BULLETS), "'left'", id="list in a table"),
    pytest.param("text", in_table(FOLDED), "'More'", id="details in a table"),
    pytest.param("text", in_table(TABLE), "'left'", id="table in a table"),
    pytest.param("text", in_table(VIDEO), "<video", id="video in a table"),
    pytest.param("text", in_table(PICTURE), "'(image)'", id="image in a table's div"),
    pytest.param("text", in_table("<div>✓</div>"), "'✓'", id="sign in a table's div"),
    pytest.param("text", in_table("a | b | c"), "'| one |", id="row that is too long"),
    pytest.param("text", "a <main>b</main>", "'a'", id="main, which is a whole page"),
    pytest.param("text", r"\cite{a}", r"\cite{a}", id="citation"),
    pytest.param("text", r"$\unknown{x}$", r"\unknown{x}", id="unknown command of TeX"),
    pytest.param("text", "a 漢 b", "漢", id="character without a font"),
    pytest.param("raw text/x-rst", "*a*", "text/x-rst", id="raw reStructuredText"),
    pytest.param("text/html", SCRIPT, "text/html", id="script"),
    pytest.param("text/html", "a<main>b</main>", "'a'", id="main in an output"),
    pytest.param("image/png", "AAAA", "decode", id="broken image"),
]


@pytest.fixture
def between(tmp_path):
    """A function: a notebook with a cell between others, the last with an image."""
    (tmp_path / "a.png").write_bytes(NAVY)

    def make(cell):
        last = new_markdown_cell("![](a.png) last")
        return new_notebook(cells=[new_markdown_cell("first"), cell, last])

    return make


@pytest.mark.parametrize("kind, content, text", DRAWN)
def test_a_cell_is_drawn(tmp_path, between, kind, content, text):
    pdf = export(between(make_cell(kind, content)), tmp_path)
    assert pdf_text(pdf) == f"afirst{text}last"
    assert len(objects(pdf, raw.FPDF_PAGEOBJ_IMAGE)) == 1
    if kind != "raw" and content != TABLE:
        assert objects(pdf, raw.FPDF_PAGEOBJ_PATH) == []  # no empty box


@pytest.mark.parametrize("kind, content, text", IMAGES)
def test_an_image_is_drawn(tmp_path, between, kind, content, text):
    pdf = export(between(make_cell(kind, content)), tmp_path)
    assert pdf_text(pdf) == f"afirst{text}last"
    assert len(objects(pdf, raw.FPDF_PAGEOBJ_IMAGE)) == 2
    assert objects(pdf, raw.FPDF_PAGEOBJ_PATH) == []


@pytest.mark.parametrize("kind, content, word", NOT_DRAWN)
def test_a_cell_that_cannot_be_drawn_is_named(tmp_path, between, kind, content, word):
    with pytest.raises(typst.TypstError, match=re.escape(word)) as caught:
        export(between(make_cell(kind, content)), tmp_path)
    assert str(caught.value).startswith("a.ipynb, cell 2 (it) cannot be drawn: ")


def test_cells_that_cannot_be_drawn_together_are_named():
    """Where HTML is read as a page, Typst of a raw cell has no place in it."""
    cells = [make_cell("raw typst", "#strong[one]"), new_markdown_cell("<b>two</b>")]
    words = "a.ipynb cannot be drawn as a whole: #strong[one]"
    with refused(typst.TypstError, words):
        export(new_notebook(cells=cells))


FORMULAS = [  # formulas that show Q and Z, each once
    r"\frac{Q}{Z} \dfrac{1}{2} \binom 34",
    r"\begin{array}{l|r}\hline Q & Z \\ \hline\end{array}",
    r"\begin{cases}Q & \text{if } Z \\ 1\end{cases}",
    r"\begin{gather}Q \\ Z\end{gather} \substack{1 \\ 2}",
    r"\underbrace{Q}_{Z} \overset{1}{2} \xrightarrow[3]{4} \sqrt[5]{6}",
    r"\boxed{Q} \color{red}{Z} \mbox{1} \phantom{2}",
    r"\mathbb{Q} \mathcal{Z} \boldsymbol{1} \mathrm{2} \texttt{3}",
    r"Q \pmod{Z} \left.1\right|_2 \big(3\Big) 4'^5",
    r"\newcommand{\both}{QZ} \both",
    r"\text{Q, $Z$} \% \# \& \_ \{ \}",
]


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("mark", ["$", "$$"])
def test_all_of_a_formula_is_drawn(formula, mark):
    cell = make_cell("text", f"{mark}{formula}{mark}")
    text = pdf_text(export(new_notebook(cells=[cell])))
    unseen = r"\\phantom\{2\}|\{l\|r\}|\{red\}|\\newcommand.+\} |\\both"
    bare = re.sub(unseen, "", formula)
    assert text.count("Q") == text.count("Z") == 1
    drawn_digits = sorted(re.findall("[0-9]", text))
    assert drawn_digits == sorted(re.findall("[0-9]", bare))


FORMS = [  # of Markdown and of HTML, around a text
    "*{}*",
    "~~{}~~",
    "`{}`",
    "[{}](https://example.org)",
    "# {}",
    "> {}",
    "- {}",
    "- [ ] {}",
    "1. {}\n   - one",
    "    {}",
    "% {}",
    "```\n{}\n```",
    "| one |\n|---|\n| {} |",
    "| {} | two |\n|---|---|\n| three | four |",
    "${}$",
    r"$$\text{{{}}} \tag{{7}}$$",
    r"$$x \tag{{{}}}$$",
    "<div>{}</div>",
    "<div>\n\n{}\n\n</div>",
    "<ul><li>{}</li></ul>",
    "<dl><dt>{}<dd>one</dl>",
    "<details><summary>one</summary>{}</details>",
    "<p>{}</p>",
    "<pre>{}</pre>",
    "<h3>{}</h3>",
    "<table><tr><th>one<td>{}</table>",
    "<figure>{}<figcaption>one</figcaption></figure>",
    "<b>{}</b>",
    "<span style='color: red'>{}</span>",
    "<kbd>{}</kbd>",
    "<main>{}</main>",
    "<unknown>{}</unknown>",
    "<button>{}</button>",
    "<select><option>{}</select>",
    "<!-- one -->{}",
]
WORD = "WORD"  # each becomes another word


def larger(texts):
    """Texts of which each is one of `texts` in a form, or two of them together."""
    in_a_form = st.builds(str.format, st.sampled_from(FORMS), texts)
    two = st.lists(texts, min_size=2, max_size=2)
    together = st.builds(str.join, st.sampled_from([" ", "\n", "\n\n", " | "]), two)
    return in_a_form | together


@given(st.recursive(st.just(WORD), larger, max_leaves=5))
def test_each_text_of_markdown_is_drawn_or_the_cell_is_named(source):
    words = []
    while WORD in source:
        word = f"k{len(words)}k"
        words.append(word)
        source = source.replace(WORD, word, 1)
    notebook = new_notebook(cells=[make_cell("text", source)])
    try:
        text = pdf_text(export(notebook))
    except typst.TypstError as error:
        assert str(error).startswith("a.ipynb, cell 1 (it) cannot be drawn: ")
        return
    for word in words:
        assert word in text


def test_latex_says_the_title_once_and_stops_at_what_it_cannot_draw(
    sample, monkeypatch
):
    monkeypatch.setenv("PATH", os.path.dirname(PANDOC), prepend=os.pathsep)
    source, _ = LatexExporter().from_notebook_node(sample)
    assert r"\author{The team\\Ada Løvelace, Zoë O'Brien}" in source
    assert "lostchars=3" in source
    assert source.count("A title with") == 2  # once for the file
    assert source.count("Zoë") == 2


def test_two_notebooks_of_one_name_are_refused(tmp_path, monkeypatch):
    command = ["pdf", "a.ipynb", "b/A.ipynb", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with refused(ValueError, "two notebooks have one name"):
        exporter.main()
    assert list(tmp_path.iterdir()) == []
