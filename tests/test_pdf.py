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

import nbformat
import pypdfium2
import pytest
import typst
from bs4 import BeautifulSoup
from nbconvert.exporters import HTMLExporter, LatexExporter
from nbconvert.filters import strip_ansi
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from PIL import Image
from pypdfium2 import raw

from tests.helpers import refused
from tools import pdf as exporter
from tools.pdf import PANDOC, TypstPDFExporter

CODE = f"%config A = 1\ntotal = 0  # {'x' * 250}\n\n\ndef f(x):\n\t'Ünïcode → ≤'\n    return x - -1"
TEXT = r"""# A title with 100 % & $ # _ { } \ ~ ^

The team: Ada Løvelace, Zoë O'Brien

Dashes - -- and "quotes", *stars*, <3, a_b_c, e.g. [1] @home, 3*4*5, [a heading](#Elsewhere)
äöüßéñçøå αβγδΩ Привет; a formula of its own:
$$\left\lfloor \frac{H - K + 2P}{S} \right\rfloor + 1$$

| accuracy | remark |
|--:|---|
| 97.87 % | longer than a line of the page can be, so that it is wrapped within the table |
"""
ABOUT = {"title": TEXT.split("\n")[0][2:], "team": "The team", "date": "17 October 2025"}
ABOUT |= {"authors": [{"name": "Ada Løvelace"}, "Zoë O'Brien"]}


# In Markdown: commands of TeX, targets of links, comments, tags
UNSEEN = r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|\]\(.*?\)|<!--.*?-->|</?[a-z].*?>"
Image.new("RGB", (1800, 300), "navy").save(NAVY := io.BytesIO(), "png")
GONE = "https://example.org/a.png"
CELLS = [  # what a cell holds, the text and the number of images that show it; or a word, and None
    ("text", 'an <img src="a.png"> image', "animage", 1),
    ("text", "<table><tr><td>left<td>right</table>", "leftright", 0),
    ("text", "<details><summary>More</summary>\n\n*within* $x$\n\n</details>", "Morewithinx", 0),
    ("text", "<!-- BEGIN QUESTION -->\n\nH<sub>2</sub>O <foo>bar</foo>", "H2Obar", 0),
    ("text", "so $ x^2 $, $y $, `$ z $` and $5 or $6", "sox2,y,$z$and$5or$6", 0),
    ("text", "\\begin{equation}\nx = 1\n\\end{equation}", "x=1", 0),
    ("raw", "*raw* <b>text", "*raw*<b>text", 0),
    ("text/html", "<b>bold</b>", "bold", 0),
    ("text/latex", r"$\displaystyle x^2$", "x2", 0),
    ("text/markdown", "**bold** $ x $", "boldx", 0),
    ("image/png", base64.b64encode(NAVY.getvalue()).decode(), "", 1),
    ("text", "![a](gone.png)", "gone.png", None),
    ("text", f"![a]({GONE})", GONE, None),
    ("text", "<video src='a.mp4'></video>", '<video src="a.mp4">', None),
    ("text", r"\cite{a}", r"\cite{a}", None),
    ("text", r"$\unknown{x}$", r"\unknown{x}", None),
    ("text", "a 漢 b", "漢", None),
    ("raw text/x-rst", "*a*", "text/x-rst", None),
    ("text/html", "<div></div><script>draw()</script>", "text/html", None),
    ("image/png", "AAAA", "decode", None),
]


def make_cell(kind, content):
    """A cell of text or raw text, or one whose code is left out and whose output is of a type."""
    if kind == "text":
        return new_markdown_cell(content, id="it")
    if kind.startswith("raw"):
        return new_raw_cell(content, id="it", metadata={"format": kind[4:]})
    outputs = [new_output("display_data", {"text/plain": "<a.B object at 0x1>", kind: content})]
    return new_code_cell("1", id="it", outputs=outputs, metadata={"tags": ["remove-input"]})


@pytest.fixture
def sample():
    """A notebook with everything that our notebooks hold, and more."""
    png, alt = base64.b64encode(NAVY.getvalue()).decode(), {"image/png": {"alt": "A navy area"}}
    outputs = [
        new_output("stream", text="  indented ``` text\n\n" + "wide " * 40 + "y" * 300 + "\n"),
        new_output("display_data", {"text/plain": "<Figure>", "image/png": png}, metadata=alt),
        new_output("stream", name="stderr", text="\x1b[31ma warning\x1b[0m\n"),
        new_output("execute_result", {"text/plain": "array([1.])", "text/html": "<b>array</b>"}),
    ]
    cells = [new_markdown_cell(TEXT), new_code_cell(CODE, outputs=outputs)]
    return new_notebook(cells=cells, metadata=ABOUT | {"language_info": {"name": "python"}})


def export(given):
    return TypstPDFExporter().from_notebook_node(given)[0]


def letters(text):
    """The text without spaces; typographic forms of one character count as that character."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def pdf_text(pdf):
    """The letters of a PDF, without the page numbers."""
    pages = [page.get_textpage().get_text_bounded() for page in pypdfium2.PdfDocument(pdf)]
    shown = [letters(text).removesuffix(str(number)) for number, text in enumerate(pages, 1)]
    return "".join(shown).replace("\x02", "-")  # the reader's sign for a hyphen at a line's end


def count(pdf, kind="IMAGE"):
    """Objects of a kind on the first page: images, or paths, of which boxes consist."""
    number = getattr(raw, f"FPDF_PAGEOBJ_{kind}")
    return len(list(pypdfium2.PdfDocument(pdf)[0].get_objects(filter=[number])))


def tags(pdf):
    """[(type, alt text)] of what a screen reader is told of a PDF, in order."""

    def read(get, element):
        text = ctypes.create_string_buffer(get(element, None, 0))
        get(element, text, len(text))
        return text.raw.decode("utf-16-le").rstrip("\0")

    def walk(node):
        kind, alt = raw.FPDF_StructElement_GetType, raw.FPDF_StructElement_GetAltText
        yield read(kind, node), read(alt, node)
        for number in range(raw.FPDF_StructElement_CountChildren(node)):
            if part := raw.FPDF_StructElement_GetChildAtIndex(node, number):
                yield from walk(part)

    trees = map(raw.FPDF_StructTree_GetForPage, pypdfium2.PdfDocument(pdf))
    return [tag for tree in trees for tag in walk(raw.FPDF_StructTree_GetChildAtIndex(tree, 0))]


def pieces(given):
    """[(text, is it in a formula?)]: the words of Markdown; each code and output as a whole."""
    about = given.metadata
    authors = ", ".join(getattr(author, "name", author) for author in about["authors"])
    found = [("".join((about["title"], about["team"], authors, about["date"])), 0)]
    top = f"# {about['title']}\n\n{about['team']}: {authors}\n"
    for cell in given.cells:
        if cell.cell_type == "markdown":
            source = re.sub(UNSEEN, " ", cell.source.removeprefix(top))
            for number, part in enumerate(re.split(r"(\$\$.+?\$\$|\$.+?\$)", source)):
                found += [(word, number % 2) for word in re.findall(r"[^\W_]+", part)]
        elif "remove-input" not in cell.metadata.get("tags", []):
            found.append((cell.source, 0))
        outputs = [output for output in cell.get("outputs", []) if "image/png" not in str(output)]
        found += [(strip_ansi(o.get("text") or o["data"]["text/plain"]), 0) for o in outputs]
    return [(letters(text), is_formula) for text, is_formula in found]


def check_text(pdf, given):
    """Fails unless the PDF holds the text, in order, and no letter or digit more."""
    text, found = pdf_text(pdf), pieces(given)
    drawn, held = (re.findall("[0-9A-Za-z]", part) for part in (text, "".join(p for p, _ in found)))
    assert sorted(drawn) == sorted(held)
    for piece, is_formula in found:  # the parts of a formula may be in any order
        _, there, after = text.partition(piece)
        assert there or is_formula, piece
        text = text if is_formula else after


def test_text_and_title_are_there_and_equal_notebooks_give_equal_bytes(sample, tmp_path):
    check_text(pdf := export(sample), sample)
    nbformat.write(sample, tmp_path / "a.ipynb")
    words = [sys.executable, "-m", "nbconvert", "--to=tools.pdf.TypstPDFExporter"]
    subprocess.run([*words, tmp_path / "a.ipynb"], check=True, capture_output=True)
    assert (tmp_path / "a.pdf").read_bytes() == pdf
    about = pypdfium2.PdfDocument(pdf).get_metadata_dict()
    assert about["Title"] == ABOUT["title"] and about["Author"] == "Ada Løvelace, Zoë O'Brien"
    for page in pypdfium2.PdfDocument(pdf):  # nothing leaves it, however long a word
        text = page.get_textpage()
        boxes = [text.get_charbox(at) for at in range(text.count_chars())]
        assert all(50 < left and right < page.get_width() - 50 for left, _, right, _ in boxes)


@pytest.mark.parametrize("name", ["ps2_theory", "ps2_eurosat"])
def test_report_and_web_page_hold_what_the_notebook_holds(name):
    """A failure may mean that the notebook is newer than its PDF: run make pdf."""
    pdf, given = open(f"report/{name}.pdf", "rb").read(), nbformat.read(f"{name}.ipynb", 4)
    check_text(pdf, given)
    outputs = [output for cell in given.cells for output in cell.get("outputs", [])]
    images = [out.metadata["image/png"]["alt"] for out in outputs if "image/png" in str(out)]
    text = "\n".join(cell.source for cell in given.cells if cell.cell_type == "markdown")
    formulas = re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.DOTALL)
    assert [alt for kind, alt in tags(pdf) if kind == "Figure"] == images
    assert [alt for kind, alt in tags(pdf) if kind == "Formula"] == ["".join(f) for f in formulas]
    page = BeautifulSoup(HTMLExporter().from_notebook_node(given)[0], "html.parser")
    assert [image["alt"] for image in page.select("img")] == images


def test_images_without_alt_text_have_words_too_and_the_sharper_file_is_drawn(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(NAVY.getvalue())
    Image.new("RGB", (180, 30)).save(small := io.BytesIO(), "png")
    cell = make_cell("image/png", base64.b64encode(small.getvalue()).decode())
    cell.outputs += [new_output("stream", text="Fig. 1"), *copy.deepcopy(cell.outputs)]
    cell.outputs[0].metadata["figure"] = hashlib.sha256(NAVY.getvalue()).hexdigest()
    text = new_markdown_cell("![*b* $c$](figures/a.png) ![](figures/a.png)\n\n### x\n\n##### y")
    given = new_notebook(cells=[text, cell]), {"metadata": {"name": "a", "path": str(tmp_path)}}
    found = tags(pdf := TypstPDFExporter().from_notebook_node(*given)[0])
    words = ["b c", "image figures/a.png", "Fig. 1", "output of cell 2"]
    assert [alt for kind, alt in found if kind == "Figure"] == words
    assert [kind for kind, _ in found if kind[0] == "H"] == ["H1", "H2", "H3"]
    drawn = pypdfium2.PdfDocument(pdf)[0].get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE])
    assert [image.get_px_size()[0] for image in drawn] == [1800, 1800, 1800, 180]


@pytest.mark.parametrize("kind, content, text, images", CELLS)
def test_a_cell_is_drawn_or_named(tmp_path, kind, content, text, images):
    (tmp_path / "a.png").write_bytes(NAVY.getvalue())
    cells = [new_markdown_cell("first"), make_cell(kind, content)]
    cells += [new_markdown_cell("![](a.png) last")]
    given = new_notebook(cells=cells), {"metadata": {"name": "a", "path": str(tmp_path)}}
    if images is None:
        with pytest.raises(typst.TypstError, match=re.escape(text)) as caught:
            TypstPDFExporter().from_notebook_node(*given)
        assert str(caught.value).startswith("a.ipynb, cell 2 (it) cannot be drawn: ")
    else:
        pdf = TypstPDFExporter().from_notebook_node(*given)[0]
        assert pdf_text(pdf) == f"afirst{text}last" and count(pdf) == images + 1
        assert count(pdf, "PATH") == 0 or "raw" in kind or "<table" in content  # no empty box


def test_latex_says_the_title_once_and_stops_at_what_it_cannot_draw(sample, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(PANDOC), prepend=os.pathsep)
    source = LatexExporter().from_notebook_node(sample)[0]
    assert r"\author{The team\\Ada Løvelace, Zoë O'Brien}" in source and "lostchars=3" in source
    assert source.count("A title with") == 2 and source.count("Zoë") == 2  # once for the file


def test_two_notebooks_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pdf", "a.ipynb", "b/A.ipynb", "--out", str(tmp_path)])
    with refused(ValueError, "two notebooks have one name"):
        exporter.main()
    assert not list(tmp_path.iterdir())
