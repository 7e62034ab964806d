"""Export notebooks to PDF without LaTeX: pandoc writes Typst, Typst the PDF. Both are wheels.

python -m tools.pdf NOTEBOOK... [--out FOLDER]              writes FOLDER/NOTEBOOK.pdf, into report/
jupyter nbconvert --to tools.pdf.TypstPDFExporter NOTEBOOK  the same from the root of the repository
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.files import command, join_streams, read_notebook

DESIGN, FILTER = (Path(__file__).resolve().with_suffix(kind) for kind in (".typ", ".lua"))
# The wheel's pandoc, not a newer one of the machine: equal notebooks must give equal bytes.
PANDOC = shutil.which("pandoc", path=Path(pypandoc.__file__).parent / "files")
OFFLINE = os.environ | dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
IPYNB = "ipynb+markdown_in_html_blocks+raw_tex+tex_math_double_backslash"
# Code and other formulas stay; a formula `x` with spaces inside its dollars is none for pandoc.
FORMULA = re.compile(r"(`+).*?\1|\\.|\$\$.*?\$\$|\$ *(?P<x>[^$\n]*[^$\s]) *\$(?!\d)", re.DOTALL)
EMBEDDED = re.compile("<(audio|canvas|embed|iframe|input|object|progress|textarea|video)")


def title_block(notebook, name):
    """Title, by default `name`, team, date and authors; the first cell loses what repeats them."""
    about = {"team": "", "date": "", "authors": [], **notebook.metadata}
    block = {key: str(about[key]) for key in ("team", "date")}
    block["title"] = str(about.get("title") or name)
    block["authors"] = ", ".join(getattr(a, "name", a) for a in about["authors"])
    title, team = re.escape(block["title"]), re.escape(f"{block['team']}: {block['authors']}")
    for cell in notebook.cells[:1]:
        cell.source = re.sub(rf"\A# {title}\n+({team}\n+)?", "", cell.source)
    return block


def best_form(output):
    """(type, content) of the form of an output that a page shows best; TypstError if none."""
    text = output.get("text") or "\n".join(output.get("traceback", []))
    data = dict(output.get("data") or {"text/plain": text})
    if len(data) > 1 and re.fullmatch(r"<[\w.]+ object.*>", data.get("text/plain", "")):
        del data["text/plain"]  # a name; the content is in the other forms
    if "<script" in data.get("text/html", ""):
        del data["text/html"]  # drawn in a browser
    images = sorted(kind for kind in data if kind.startswith("image/"))
    for kind in [*images, "text/markdown", "text/latex", "text/plain", "text/html"]:
        if kind in data:
            return kind, data[kind]
    raise typst.TypstError(f"an output of the type {', '.join(output['data'])}")


def parts(cell, number, figures):
    """The cell as cells that pandoc draws: code with texts, images, HTML; Markdown with TeX."""
    about = cell.metadata
    kind = about.get("format") or about.get("raw_mimetype") or "text/plain"
    if cell.cell_type == "markdown" or kind == "typst":
        return [cell]
    outputs = cell.get("outputs", [{"data": {kind: cell.source}}])  # of a raw cell: itself
    is_shown = cell.cell_type == "code" and "remove-input" not in about.get("tags", [])
    shown = [new_code_cell(cell.source if is_shown else "")]
    captions = re.finditer("^Fig.*", "".join(output.get("text", "") for output in outputs), re.M)
    for output in outputs:
        (kind, content), about = best_form(output), output.get("metadata", {})
        if kind in ("text/markdown", "text/latex"):
            shown += [new_markdown_cell(content), new_code_cell()]
        elif kind == "text/plain":
            text = new_output("stream", text=strip_ansi(content).rstrip("\n") + "\n")
            shown[-1].outputs = join_streams([*shown[-1].outputs, text])
        else:  # an image that says nothing of itself has its printed caption as alt text
            alt, caption = about.get(kind, {}), next(captions, [f"output of cell {number}"])[0]
            alt = {**alt, "alt": alt.get("alt") or caption}
            data = {kind: figures.get(about.get("figure"), content)}
            shown[-1].outputs.append(new_output("display_data", data, metadata={kind: alt}))
    return shown


def pandoc(content, reader, writer, folder, *options):
    """What pandoc writes in the language `writer`; TypstError names what it would leave out."""
    log = Path(folder, "log.json")
    command = [PANDOC, f"--from={reader}", f"--to={writer}", f"--log={log}", "--extract-media=."]
    told = {"input": content, "encoding": "utf-8", "cwd": folder, "env": OFFLINE}
    done = subprocess.run([*command, *options], **told, capture_output=True, check=True)
    for message in json.loads(log.read_text("utf-8")):
        text = message.get("contents", message["pretty"])
        text = text if isinstance(text, str) else text["c"][1]
        if re.match("CouldNot|.*NotRendered", message["type"]) or EMBEDDED.match(text):
            raise typst.TypstError(text.partition("\n")[0])
    return done.stdout


def draw(cells, block, path):
    """The PDF of cells, with images that lie in the folder `path`; TypstError if it lacks any."""
    files = (file.read_bytes() for file in Path(path, "figures").glob("*.png"))
    figures = {hashlib.sha256(f).hexdigest(): base64.b64encode(f).decode() for f in files}
    shown = [part for n, cell in enumerate(cells, 1) for part in parts(cell, n, figures)]
    for cell in shown:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(lambda m: f"${m['x']}$" if m["x"] else m[0], cell.source)
    with tempfile.TemporaryDirectory() as folder:
        book = json.dumps(new_notebook(cells=shown))
        tree = pandoc(book, IPYNB, "json", folder, "--sandbox")
        if re.search(r'"t":"Raw(Block|Inline)","c":\["(?!typst)', tree):  # read HTML as browsers do
            plain = "--sandbox", "--mathjax", "--syntax-highlighting=none"
            page = pandoc(tree, "json", "html", folder, *plain)
            tree = pandoc(page, "html+tex_math_single_backslash", "json", folder, "--sandbox")
        options = f"--resource-path={Path(path).resolve()}", f"--lua-filter={FILTER}"
        body = pandoc(tree, "json", "typst", folder, *options, "--syntax-highlighting=idiomatic")
        source = Path(folder, "notebook.typ")
        source.write_text(DESIGN.read_text(encoding="utf-8") + body, encoding="utf-8")
        # For screen readers; the standard makes a missing glyph an error, not an empty box.
        options = {"ignore_system_fonts": True, "pdf_standards": "ua-1"}
        return typst.compile(source, sys_inputs={"block": json.dumps(block)}, **options)


class TypstPDFExporter(Exporter):
    """Notebook -> PDF through pandoc and Typst; pdf.typ beside this file designs the page."""

    file_extension = ".pdf"
    output_mimetype = "application/pdf"
    export_from_notebook = "PDF via Typst"

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The PDF's bytes, and the resources; TypstError names a cell that cannot be drawn."""
        notebook, resources = super().from_notebook_node(nb, resources, **kwargs)
        about = {"name": "notebook", "path": "", **resources.get("metadata", {})}
        block = title_block(notebook, about["name"])
        try:
            return draw(notebook.cells, block, about["path"]), resources
        except typst.TypstError:
            for number, cell in enumerate(notebook.cells, 1):
                try:
                    draw([cell], block, about["path"])
                except typst.TypstError as error:
                    name = f"{about['name']}.ipynb, cell {number} ({cell.get('id', 'no id')})"
                    text = f"{name} cannot be drawn: {error}; use Markdown or an image instead"
                    raise typst.TypstError(text) from error
            raise


def main():
    parser = argparse.ArgumentParser("python -m tools.pdf", description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="FOLDER")
    arguments = parser.parse_args()
    targets = [arguments.out / f"{path.stem}.pdf" for path in arguments.notebooks]
    if len({str(target).lower() for target in targets}) < len(targets):
        raise ValueError("two notebooks have one name: export them into two folders with --out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path, target in zip(arguments.notebooks, targets, strict=True):
        about = {"metadata": {"name": path.stem, "path": str(path.parent)}}
        pdf, _ = TypstPDFExporter().from_notebook_node(read_notebook(path), about)
        target.write_bytes(pdf)
        print(f"wrote {target}")


if __name__ == "__main__":
    command(main)
