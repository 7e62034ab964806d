"""Export notebooks to PDF without LaTeX: pandoc writes Typst, Typst the PDF. Both are wheels.

python -m tools.pdf NOTEBOOK... [--out FOLDER]              writes FOLDER/NOTEBOOK.pdf, into report/
jupyter nbconvert --to tools.pdf.TypstPDFExporter NOTEBOOK  the same from the root of the repository
"""

import argparse
import calendar
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nbformat
import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi

DESIGN = Path(__file__).with_suffix(".typ")
# The wheel's pandoc, not a newer one of the machine: equal notebooks must give equal bytes.
PANDOC = shutil.which("pandoc", path=Path(pypandoc.__file__).parent / "files")


def title_block(about, name):
    """Title, team, date and authors from metadata; `name` stands in for a missing title."""
    block = {key: about.get(key, "") for key in ("title", "team", "date")}
    authors = [author["name"] for author in about.get("authors", [])]
    return block | {"title": about.get("title", name), "authors": authors}


def timestamp(date):
    """Seconds since 1970 of a date like 17 October 2025, 0 for anything else: never now."""
    try:
        return calendar.timegm(time.strptime(date, "%d %B %Y"))
    except ValueError:
        return 0


def drop_repeated(source, block):
    """The text of the first cell without a heading and a team that repeat the title block."""
    for repeated in (f"# {block['title']}", f"{block['team']}: {', '.join(block['authors'])}"):
        line, _, rest = source.partition("\n")
        source = rest.lstrip() if line == repeated else source
    return source


def readable(outputs):
    """One form of each output: image, else Markdown, else text; neighbouring texts are joined."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        drawn = sorted(key for key in data if key.startswith(("image/", "text/markdown")))
        if drawn:
            kept.append(nbformat.v4.new_output("display_data", {drawn[0]: data[drawn[0]]}))
            continue
        text = output.get("text") or data.get("text/plain")
        text = strip_ansi(text or "\n".join(output.get("traceback", []))).rstrip("\n") + "\n"
        if kept and kept[-1].output_type == "stream":
            kept[-1].text += text
        else:
            kept.append(nbformat.v4.new_output("stream", text=text))
    return kept


def typst_source(notebook, path, folder):
    """The notebook in Typst's language; its images lie beside `path` or are put into `folder`."""
    command = [PANDOC, "--from=ipynb", "--to=typst", "--syntax-highlighting=idiomatic"]
    command += ["--extract-media=.", f"--resource-path={Path(path or '.').resolve()}"]
    told = {"input": nbformat.writes(notebook), "encoding": "utf-8", "cwd": folder}
    return subprocess.run(command, **told, capture_output=True, check=True).stdout


class TypstPDFExporter(Exporter):
    """Notebook -> PDF through pandoc and Typst; pdf.typ beside this file designs the page."""

    file_extension = ".pdf"
    output_mimetype = "application/pdf"
    export_from_notebook = "PDF via Typst"

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The PDF's bytes, and the resources. typst.TypstError if the fonts lack a character."""
        notebook, resources = super().from_notebook_node(nb, resources, **kwargs)
        about = resources.get("metadata", {})
        block = title_block(notebook.metadata, about.get("name", ""))
        for cell in notebook.cells[:1]:
            cell.source = drop_repeated(cell.source, block)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = readable(cell.outputs)
        with tempfile.TemporaryDirectory() as folder:
            body = typst_source(notebook, about.get("path"), folder)
            source = Path(folder, "notebook.typ")
            source.write_text(DESIGN.read_text(encoding="utf-8") + body, encoding="utf-8")
            pdf = typst.compile(
                source,
                ignore_system_fonts=True,
                timestamp=timestamp(block["date"]),
                pdf_standards="a-2u",  # makes a missing glyph an error, not an empty box
                sys_inputs={"block": json.dumps(block)},
            )
        return pdf, resources


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tools.pdf", description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.notebooks:
        target = arguments.out / path.with_suffix(".pdf").name
        target.write_bytes(TypstPDFExporter().from_filename(str(path))[0])
        print(f"wrote {target}")
