"""The exported PDF and HTML pages against the notebooks that they show."""
import base64
import io
import os
import pathlib
import re
import shutil
import unicodedata
from collections import Counter

import bs4
import nbformat
import pypdfium2
import pytest
import typst
from nbconvert.exporters.pdf import LatexFailed, PDFExporter
from nbconvert.filters import markdown2html, strip_ansi
from PIL import Image

from tools.pdf import PANDOC, TypstPDFExporter
from tools.webpage import OfflineHTMLExporter

ROOT = pathlib.Path(__file__).parent.parent
CODE = f"""%config A = 1
total = {" + ".join(f"term_{n}" for n in range(40))}  # {"x" * 250}


def f(x):
\t'''Ünïcode → ≤.'''
    return x ** 2 - -1"""
TEXT = r"""# A title with 100 % & $ # _ { } \ ~ ^

The team: Ada Løvelace, Zoë O'Brien

Dashes - -- --- and "quotes" 'single', *stars*, <3, a_b_c, e.g. [1] @home, 50x fewer, -5, 3*4*5,
https://example.org/a_b, [a heading](#Elsewhere).
Letters äöüßéñçøå ÄÖÜ, signs €£§©°±²³½×÷ … – — „“«»,
Greek αβγδΩ, Cyrillic Привет, arrows ←→↑↓, relations ≤≥≠≈∞∑√∂∈.

Inline $\sigma(z) = 1 / (1 + e^{-z})$ and a formula of its own, `$not_one$`:

$$\left\lfloor \frac{H - K + 2P}{S} \right\rfloor + 1$$

| model | accuracy | remark |
|:--|--:|---|
| own **CNN** | 97.87 % | `net(x)` |
| fine-tuned | 97.80 % | a |
| long | 1 | A cell whose text is longer than a line of the page can be, so that the column has to wrap it. |

- first
- second
    1. nested
    2. twice

> a quotation

```
listed    without a language
```
"""


def notebook(*cells, **metadata):
    """A notebook of these cells, with the language that colours the code."""
    given = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
             "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=list(cells), metadata={**given, **metadata})


@pytest.fixture(scope="module")
def sample():
    """A notebook with everything that our notebooks hold, and more."""
    file = io.BytesIO()
    Image.new("RGB", (1800, 300), "navy").save(file, "png")
    png = base64.b64encode(file.getvalue()).decode()
    out = nbformat.v4.new_output
    outputs = [out("stream", text="  indented ``` text\n\n" + "wide " * 40 + "y" * 300 + "\n"),
               out("display_data", {"text/plain": "validation: 22 of 22."}),
               out("display_data", {"text/plain": "<Figure size 1800x300>", "image/png": png}),
               out("stream", name="stderr", text="\x1b[31ma warning\x1b[0m\n"),
               out("execute_result", {"text/plain": "array([1., 2.])", "text/html": "<b>array</b>"})]
    return notebook(
        nbformat.v4.new_markdown_cell(TEXT),
        nbformat.v4.new_code_cell(CODE, outputs=outputs),
        nbformat.v4.new_code_cell("\n".join(f"line_{n} = {n}" for n in range(120))),
        title=TEXT.split("\n")[0][2:], team="The team", date="17 October 2025",
        authors=[{"name": "Ada Løvelace"}, {"name": "Zoë O'Brien"}])


def export(given):
    """The PDF of a notebook, as bytes."""
    return TypstPDFExporter().from_notebook_node(given)[0]


def letters(text):
    """The text without spaces; typographic forms of one character count as that character."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-"))


def pdf_text(pdf):
    """The letters of a PDF, without the page numbers."""
    pages = [page.get_textpage().get_text_bounded() for page in pypdfium2.PdfDocument(pdf)]
    shown = "".join(letters(text).removesuffix(str(number)) for number, text in enumerate(pages, 1))
    return shown.replace("\x02", "-")  # the reader's sign for a hyphen at the end of a line


def shown_text(source):
    """What a markdown cell shows, by nbconvert's own reader; formulas keep their dollar signs."""
    page = bs4.BeautifulSoup(markdown2html(source), "html.parser")
    for link in page("a", class_="anchor-link"):
        link.decompose()
    for code in page("code"):
        code.string = code.text.replace("$", "\0")
    for item in page("li"):
        before = len(item.find_previous_siblings("li"))
        item.insert(0, f"{before + 1}." if item.parent.name == "ol" else "•")
    return page.text


def pieces(given):
    """The texts of a notebook in the order of its PDF, each with True if it is a formula."""
    about, source = given.metadata, given.cells[0].source
    authors = ", ".join(author["name"] for author in about["authors"])
    for line in (about["title"], about["team"], authors, about["date"]):
        yield line, False
    first = source.removeprefix(f"# {about['title']}\n\n").removeprefix(f"{about['team']}: {authors}\n")
    for number, cell in enumerate(given.cells):
        if cell.cell_type == "markdown":
            for part in re.split(r"(\$\$.+?\$\$|\$.+?\$)", shown_text(cell.source if number else first)):
                yield part.replace("\0", "$"), part.startswith("$")
            continue
        yield cell.source, False
        for output in cell.outputs:
            data = output.get("data", {})
            yield strip_ansi("" if "image/png" in data else output.get("text") or data["text/plain"]), False


def check_text(pdf, given):
    """Fails unless the PDF holds the text of the notebook, all of it, in order, and nothing else."""
    text, at, formula = pdf_text(pdf), 0, None
    for piece, is_formula in pieces(given):
        if is_formula:
            formula = piece
            continue
        piece = letters(piece)
        start = text.find(piece, at) if formula else at
        assert text[start:start + len(piece)] == piece
        if formula and piece:  # what stands between two texts is the formula; its parts may come in any order
            names = re.sub(r"\\[A-Za-z]+|[^0-9A-Za-z]", "", formula)
            assert sorted(re.sub("[^0-9A-Za-z]", "", text[at:start])) == sorted(names), formula
            formula = None
        at = start + len(piece)
    assert text[at:] == ""


def test_no_character_is_lost(sample):
    check_text(export(sample), sample)


@pytest.mark.parametrize("name", ["ps2_theory", "ps2_eurosat"])
def test_report_holds_the_text_of_the_notebook(name):
    """A failure may mean that the notebook is newer than its PDF: run make pdf."""
    check_text((ROOT / f"report/{name}.pdf").read_bytes(), nbformat.read(ROOT / f"{name}.ipynb", 4))


@pytest.mark.parametrize("where", ["text", "code", "output"])
def test_a_missing_character_is_noticed(sample, where):
    other = nbformat.from_dict(sample)
    lines = {"text": other.cells[0], "code": other.cells[1], "output": other.cells[1].outputs[0]}[where]
    key = "text" if where == "output" else "source"
    lines[key] = lines[key].replace("e", "", 1)
    with pytest.raises(AssertionError):
        check_text(export(other), sample)


def test_same_notebook_same_bytes(sample):
    assert export(sample) == export(sample)


def test_title_block(sample):
    about = pypdfium2.PdfDocument(export(sample)).get_metadata_dict()
    assert about["Title"] == sample.metadata["title"]
    assert about["Author"] == "Ada Løvelace, Zoë O'Brien"
    assert about["CreationDate"].startswith("D:20251017")


def test_notebook_without_metadata():
    assert pdf_text(export(notebook(nbformat.v4.new_markdown_cell("# Own heading")))) == "NotebookOwnheading"


def test_character_without_glyph_stops_the_export():
    with pytest.raises(typst.TypstError, match="漢"):
        export(notebook(nbformat.v4.new_markdown_cell("a 漢 b")))


def test_nothing_leaves_the_page(sample):
    """Every character lies inside the margins, however long its word."""
    for page in pypdfium2.PdfDocument(export(sample)):
        text = page.get_textpage()
        boxes = [text.get_charbox(at) for at in range(text.count_chars())]
        assert min(box[0] for box in boxes) > 50 and max(box[2] for box in boxes) < page.get_width() - 50


def test_latex_loses_no_letter(sample, monkeypatch):
    """The way through LaTeX, started from the root of the repository, with the newer pandoc of the wheel."""
    if not shutil.which("xelatex"):
        pytest.skip("needs XeLaTeX")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(pathlib.Path(PANDOC).parent), prepend=os.pathsep)
    other = nbformat.from_dict(sample)
    other.cells[0].source = re.sub("Greek.*", "", other.cells[0].source)  # not in the fonts of LaTeX
    other.cells[1].source = CODE.replace("→ ≤", "").replace("x" * 250, "x" * 80)  # it breaks no word
    with pytest.raises(LatexFailed, match="Missing character"):
        PDFExporter(latex_count=1).from_notebook_node(sample, {})
    text = pdf_text(PDFExporter(latex_count=1).from_notebook_node(other, {})[0])
    shown = "".join(re.sub(r"\\sigma", "σ", letters(piece)) for piece, _ in pieces(other))
    shown = re.sub(r"\\[A-Za-z]+", "", shown)
    assert Counter(filter(str.isalnum, text)) == Counter(filter(str.isalnum, shown))


def test_html_needs_no_network(sample):
    page, _ = OfflineHTMLExporter().from_notebook_node(sample)
    soup = bs4.BeautifulSoup(page, "html.parser")
    assert not soup(["script", "link", "iframe", "object"])
    assert all(image["src"].startswith("data:") for image in soup("img")) and len(soup("img")) == 1
    assert not re.search(r"@import|url\((?!['\"]?data:)", "".join(style.text for style in soup("style")))
    formulas = [formula.extract() for formula in soup("math")]
    assert [formula["display"] for formula in formulas] == ["inline", "block"]
    assert letters(formulas[0].mrow.text) == letters("σ(z)=1/(1+e−z)")
    assert letters("Inline  and a formula of its own, $not_one$:") in letters(soup.body.text)
