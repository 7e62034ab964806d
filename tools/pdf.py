"""Export notebooks to PDF without LaTeX: pandoc writes Typst, Typst the PDF.

python -m tools.pdf NOTEBOOK... [--out FOLDER]              writes into report/
jupyter nbconvert --to tools.pdf.TypstPDFExporter NOTEBOOK  typed beside tools/

Both programs come as wheels. pdf.lua and pdf.typ, beside this file, design the page.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pypandoc
import typst
from bs4 import BeautifulSoup
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import (
    InvalidNotebook,
    IPythonRenderer,
    MarkdownWithMath,
)
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from tools.files import command, join_streams, read_notebook
from utils import write_whole

FOLDER = Path(__file__).resolve().parent
DESIGN = FOLDER / "pdf.typ"
FILTER = FOLDER / "pdf.lua"
# The wheel's pandoc, not a newer one of the machine: equal notebooks give equal bytes.
PANDOC = shutil.which("pandoc", path=Path(pypandoc.__file__).parent / "files")
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
IPYNB = (
    "ipynb-pandoc_title_block+markdown_in_html_blocks+raw_tex+tex_math_double_backslash"
)
# A formula in a line, among what may look like one. With spaces inside its dollars it
# is a formula for Jupyter, but not for pandoc.
FORMULA = re.compile(
    r"""
    (`+).*?\1                                      # code
    | \\.                                          # an escaped character
    | \$\$.*?\$\$                                  # a formula of its own
    | \$[ ]*(?P<formula>[^$\n]*[^$\s])[ ]*\$(?!\d)
    """,
    re.DOTALL | re.VERBOSE,
)
# HTML that a browser draws and pandoc does not. Boxes of Markdown's tasks are signs.
EMBEDDED = (
    "audio, canvas, embed, iframe, input:not(.task-list-item-checkbox), meter, object, "
    "progress, select, textarea, video"
)
# In pandoc's tree: HTML or TeX that it has not read.
UNREAD = re.compile(r'"t":"Raw(Block|Inline)","c":\["(?!typst)')
# Where two readings of a cell are compared: what may be a mark of Markdown or TeX for
# one and a text for the other, such as the line below a table's head; and an image.
MARKS = re.compile(r"^[ :-]*\|[ :|-]*$|[\s$\\()\[\]*_~`|#¶]", re.MULTILINE)
IMAGE = "(image)"
# Nodes of pandoc's tree that end in a text.
VERBATIM = ("Code", "CodeBlock", "Math")


# --- What of a notebook is drawn ------------------------------------------------------


def title_block(notebook, name):
    """Title (default: `name`), team, date and authors, of the notebook's metadata.

    The first cell loses the lines that repeat them.
    """
    about = notebook.metadata
    authors = []
    for author in about.get("authors", []):
        authors.append(str(getattr(author, "name", author)))
    title = str(about.get("title", ""))
    if title == "":
        title = name
    block = {
        "title": title,
        "team": str(about.get("team", "")),
        "date": str(about.get("date", "")),
        "authors": ", ".join(authors),
    }
    if notebook.cells:
        first = notebook.cells[0]
        team = f"{block['team']}: {block['authors']}"
        repeated = rf"\A# {re.escape(title)}\n+({re.escape(team)}\n+)?"
        first.source = re.sub(repeated, "", first.source)
    return block


def content_of(output):
    """{media type: content} of an output; a print and an error are plain text."""
    if output.get("data"):
        return dict(output.data)
    if output.get("text"):
        return {"text/plain": output.text}
    traceback = output.get("traceback", [])
    if not traceback:
        traceback = [f"{output.get('ename', '')}: {output.get('evalue', '')}"]
    return {"text/plain": "\n".join(traceback)}


def best_form(output):
    """(media type, content) that a page shows best; TypstError if it can show none."""
    content = content_of(output)
    text = content.get("text/plain", "")
    is_name = re.fullmatch(r"<[\w.]+ .*(object|at 0x).*>", text)
    if is_name and len(content) > 1:
        del content["text/plain"]  # the content is in the other forms
    if "<script" in content.get("text/html", ""):
        del content["text/html"]  # drawn in a browser
    images = sorted(kind for kind in content if kind.startswith("image/"))
    texts = ["text/markdown", "text/latex", "text/plain", "text/html"]
    for kind in [*images, *texts]:
        if kind in content:
            return kind, content[kind]
    raise typst.TypstError(f"an output of the type {', '.join(output['data'])}")


def drawable_cells(cell, number, figures):
    """The cell as cells that pandoc draws.

    Code with its texts, images and HTML; each output in Markdown or LaTeX is a cell of
    its own. `number` is the cell's, `figures` {SHA-256: PNG} the sharper images.
    """
    if cell.cell_type == "markdown":
        return [cell]
    if cell.cell_type == "raw":
        kind = raw_format(cell)
        if kind == "typst":
            return [cell]
        source = ""
        outputs = [NotebookNode(data={kind: cell.source})]
    else:
        tags = cell.metadata.get("tags", [])
        is_hidden = isinstance(tags, list) and "remove-input" in tags
        source = "" if is_hidden else cell.source
        outputs = cell.outputs
    prints = "".join(output.get("text", "") for output in outputs)
    captions = iter(re.findall("^Fig.*", prints, re.MULTILINE))
    cells = [new_code_cell(source)]
    for output in outputs:
        kind, content = best_form(output)
        if kind in ("text/markdown", "text/latex"):
            cells.append(new_markdown_cell(content))
            cells.append(new_code_cell())
        elif kind == "text/plain":
            text = strip_ansi(content).rstrip("\n") + "\n"
            printed = new_output("stream", text=text)
            cells[-1].outputs = join_streams([*cells[-1].outputs, printed])
        else:
            caption = next(captions, f"output of cell {number}")
            image = described_image(output, kind, content, caption, figures)
            cells[-1].outputs.append(image)
    return cells


def raw_format(cell):
    """The media type of a raw cell, or another name for its language."""
    for key in ("format", "raw_mimetype"):
        if cell.metadata.get(key):
            return str(cell.metadata[key])
    return "text/plain"


def described_image(output, kind, content, caption, figures):
    """An output with one image, or with HTML, and an alt text; at worst the caption."""
    about = output.get("metadata", {})
    described = {**about.get(kind, {})}
    if not described.get("alt"):
        described["alt"] = caption
    sharper = figures.get(str(about.get("figure")), content)
    return new_output("display_data", {kind: sharper}, metadata={kind: described})


def without_spaces(match):
    """A match of FORMULA, a formula without the spaces inside its dollars."""
    if match["formula"]:
        return f"${match['formula']}$"
    return match[0]


def read_figures(folder):
    """{SHA-256: PNG in base64} of the images in the folder figures/ below `folder`."""
    figures = {}
    for path in Path(folder, "figures").glob("*.png"):
        content = path.read_bytes()
        name = hashlib.sha256(content).hexdigest()
        figures[name] = base64.b64encode(content).decode()
    return figures


# --- How it is drawn ------------------------------------------------------------------


def pandoc(text, reader, writer, folder, *options):
    """`text` in the language `writer`; TypstError names what pandoc would leave out.

    OSError if the disk is full, or the process is killed.
    """
    log = Path(folder, "log.json")
    languages = [f"--from={reader}", f"--to={writer}"]
    done = subprocess.run(
        [PANDOC, *languages, f"--log={log}", "--extract-media=.", *options],
        input=text,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, **NO_NETWORK},
        capture_output=True,
    )
    told = " ".join(done.stderr.split())
    if done.returncode < 0:
        told = signal.strsignal(-done.returncode)
    if done.returncode < 0 or "resource exhausted" in told:
        raise OSError(f"pandoc was stopped: {told}")  # no cell is to blame
    if done.returncode != 0:
        raise typst.TypstError(told)
    for message in json.loads(log.read_text(encoding="utf-8")):
        check_message(message)
    return done.stdout


def check_message(message):
    """TypstError if a message of pandoc's log says that something is not drawn."""
    text = message.get("contents", message["pretty"])
    if isinstance(text, dict):  # a raw part of pandoc's tree
        _language, text = text["c"]
    if re.match("CouldNot|.*NotRendered", message["type"]):
        first_line, *_ = text.split("\n")
        raise typst.TypstError(first_line)


# --- What pandoc has left out without a word ------------------------------------------


def browser_html(cell):
    """The HTML that a browser shows of a cell that drawable_cells gave.

    TypstError if an image is missing that should be in the cell itself.
    """
    if cell.cell_type == "markdown":
        attachments = cell.get("attachments", {})
        renderer = IPythonRenderer(escape=False, attachments=attachments)
        try:
            return MarkdownWithMath(renderer).render(cell.source)
        except InvalidNotebook as error:  # without an image that it shows
            raise typst.TypstError(str(error)) from None
    parts = []
    for output in cell.get("outputs", []):
        parts.append(output.get("data", {}).get("text/html", ""))
    return "".join(parts)


def nodes(part):
    """Yield each node of a part of pandoc's tree, in the order of the page."""
    if isinstance(part, list):
        for inner in part:
            yield from nodes(inner)
    elif isinstance(part, dict):
        yield part
        yield from nodes(part.get("c"))


def without_marks(text):
    """The characters of a text that every reading of it keeps."""
    return MARKS.sub("", text)


def read_text(part):
    """The text in a part of pandoc's tree, without marks."""
    texts = []
    for node in nodes(part):
        kind = node.get("t")
        if kind == "Str":
            texts.append(node["c"])
        elif kind == "Image":
            texts.append(IMAGE)
        elif kind in VERBATIM:
            *_about, text = node["c"]
            texts.append(text)
    return without_marks("".join(texts))


def check_is_read(cell, part):
    """TypstError names the first thing that a browser shows and pandoc's part lacks.

    Such as block HTML in a table's cell, which pandoc's Markdown does not allow there.
    """
    page = BeautifulSoup(browser_html(cell), "html.parser")
    embedded = page.select_one(EMBEDDED)
    if embedded:
        first_line, *_ = str(embedded).split("\n")
        raise typst.TypstError(first_line)
    for image in page.select("img, svg"):
        image.replace_with(IMAGE)
    rest = read_text(part)
    for piece in page.stripped_strings:
        wanted = without_marks(piece)
        start = rest.find(wanted)
        if start < 0:
            first_line, *_ = piece.split("\n")
            raise typst.TypstError(f"the part '{first_line}'")
        rest = rest[start + len(wanted) :]


# --- The whole page -------------------------------------------------------------------


def draw(cells, block, path):
    """The PDF of cells, with images of the folder `path`; TypstError if it fails."""
    figures = read_figures(path)
    shown = []
    for number, cell in enumerate(cells, 1):
        shown += drawable_cells(cell, number, figures)
    for cell in shown:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(without_spaces, cell.source)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "notebook.typ")
        body = typst_source(shown, path, folder)
        source.write_text(DESIGN.read_text(encoding="utf-8") + body, encoding="utf-8")
        return typst.compile(
            source,
            sys_inputs={"block": json.dumps(block)},
            ignore_system_fonts=True,
            # For screen readers. It also makes a missing glyph an error, not a box.
            pdf_standards="ua-1",
        )


def typst_source(cells, path, folder):
    """The cells in Typst, without the design; their images are written to `folder`."""
    named = {}  # pandoc names each cell's part of its tree by the cell's id
    for number, cell in enumerate(cells):
        name = f"shown-{number}"
        named[name] = NotebookNode({**cell, "id": name})
    # Not new_notebook, which refuses ids and metadata that no page shows.
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    notebook["cells"] = list(named.values())
    tree = pandoc(json.dumps(notebook), IPYNB, "json", folder, "--sandbox")
    if UNREAD.search(tree):
        tree = read_html(tree, folder)
    parts = {}
    for node in nodes(json.loads(tree)["blocks"]):
        if node.get("t") == "Div":
            (name, _classes, _more), blocks = node["c"]
            parts[name] = blocks
    for name, cell in named.items():
        check_is_read(cell, parts.get(name, []))
    return pandoc(
        tree,
        "json",
        "typst",
        folder,
        f"--resource-path={Path(path).resolve()}",
        f"--lua-filter={FILTER}",
        "--syntax-highlighting=idiomatic",
    )


def read_html(tree, folder):
    """pandoc's tree with the HTML in it read as a browser reads it: as a whole page."""
    plain = ["--sandbox", "--mathjax", "--syntax-highlighting=none"]
    page = pandoc(tree, "json", "html", folder, *plain)
    reader = "html+tex_math_single_backslash"
    return pandoc(page, reader, "json", folder, "--sandbox")


def export(notebook, name, path):
    """The PDF's bytes of a notebook with this name that lies in the folder `path`.

    TypstError names a cell that cannot be drawn, or the file if each cell alone can.
    """
    block = title_block(notebook, name)
    try:
        return draw(notebook.cells, block, path)
    except typst.TypstError as error:
        draw_each_cell(notebook, name, path, block)
        text = f"{name}.ipynb cannot be drawn as a whole: {error}"
        raise typst.TypstError(text) from error


def draw_each_cell(notebook, name, path, block):
    """Draw each cell alone; TypstError names the one that cannot be drawn."""
    for number, cell in enumerate(notebook.cells, 1):
        try:
            draw([cell], block, path)
        except typst.TypstError as error:
            where = f"{name}.ipynb, cell {number} ({cell.get('id', 'no id')})"
            advice = "use Markdown or an image instead"
            text = f"{where} cannot be drawn: {error}; {advice}"
            raise typst.TypstError(text) from error


class TypstPDFExporter(Exporter):
    """export() for nbconvert."""

    file_extension = ".pdf"
    output_mimetype = "application/pdf"
    export_from_notebook = "PDF via Typst"

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The PDF's bytes, and nbconvert's resources; TypstError as in export."""
        notebook, resources = super().from_notebook_node(nb, resources, **kwargs)
        about = {"name": "notebook", "path": "", **resources.get("metadata", {})}
        return export(notebook, about["name"], about["path"]), resources


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.pdf",
        description="Export notebooks to PDF without LaTeX.",
    )
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="FOLDER")
    arguments = parser.parse_args()
    names = [path.stem.lower() for path in arguments.notebooks]
    for name in names:
        if names.count(name) > 1:
            advice = "export them into two folders with --out"
            raise ValueError(f"two notebooks have one name, {name}: {advice}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.notebooks:
        target = arguments.out / f"{path.stem}.pdf"
        pdf = export(read_notebook(path), path.stem, path.parent)
        write_whole(target, pdf)
        print(f"wrote {target}")


if __name__ == "__main__":
    command(main)
