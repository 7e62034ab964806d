"""Export notebooks to PDF without LaTeX: pandoc writes Typst, Typst writes the PDF. Both come as wheels.

python tools/pdf.py NOTEBOOK... [--out FOLDER]                  writes FOLDER/NOTEBOOK.pdf, by default into report/
jupyter nbconvert --to tools.pdf.TypstPDFExporter NOTEBOOK      the same from the root of the repository
"""
import argparse
import calendar
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

import nbformat
import pypandoc
import typst
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi

DESIGN = pathlib.Path(__file__).with_suffix(".typ")
# The pandoc of the wheel, not a newer one of the machine: the same notebook must give the same bytes.
PANDOC = shutil.which("pandoc", path=pathlib.Path(pypandoc.__file__).parent / "files")


def title_block(notebook, name=""):
    """Title, team, authors and date from the metadata of the notebook; `name` stands in for a missing title."""
    given = notebook.metadata
    return {"title": given.get("title", name), "team": given.get("team", ""), "date": given.get("date", ""),
            "authors": [author["name"] for author in given.get("authors", [])]}


def timestamp(date):
    """Seconds since 1970 of a date like 17 October 2025 for the PDF's own data, 0 for anything else: never now."""
    try:
        return calendar.timegm(time.strptime(date, "%d %B %Y"))
    except ValueError:
        return 0


def drop_repeated(cells, block):
    """Drop the heading and the line of the team from the top of the first cell if they only repeat the title block."""
    for cell in cells[:1]:
        for repeated in (f"# {block['title']}", f"{block['team']}: {', '.join(block['authors'])}"):
            line, _, rest = cell.source.partition("\n")
            if line == repeated:
                cell.source = rest.lstrip()


def readable(outputs):
    """The outputs with one form each, an image before formatted text before plain text; plain neighbours are joined."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        kind = min((key for key in data if key.startswith("image/") or key == "text/markdown"), default=None)
        if kind:
            kept.append(nbformat.v4.new_output("display_data", {kind: data[kind]}))
            continue
        text = output.get("text") or data.get("text/plain") or "\n".join(output.get("traceback", []))
        text = strip_ansi(text).rstrip("\n") + "\n"
        if kept and kept[-1].output_type == "stream":
            kept[-1].text += text
        else:
            kept.append(nbformat.v4.new_output("stream", text=text))
    return kept


class TypstPDFExporter(Exporter):
    """Notebook -> PDF through pandoc and Typst; the page is designed in pdf.typ beside this file."""
    file_extension = ".pdf"
    output_mimetype = "application/pdf"
    export_from_notebook = "PDF via Typst"

    def from_notebook_node(self, nb, resources=None, **kwargs):
        """The bytes of the PDF, and the resources. typst.TypstError if Typst's fonts lack a character."""
        notebook, resources = super().from_notebook_node(nb, resources, **kwargs)
        about = resources.get("metadata", {})
        block = title_block(notebook, about.get("name", ""))
        drop_repeated(notebook.cells, block)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = readable(cell.outputs)
        with tempfile.TemporaryDirectory() as folder:
            body = subprocess.run(
                [PANDOC, "--from=ipynb", "--to=typst", "--syntax-highlighting=idiomatic", "--extract-media=.",
                 f"--resource-path={pathlib.Path(about.get('path') or '.').resolve()}"],
                input=nbformat.writes(notebook), cwd=folder, capture_output=True, check=True, encoding="utf-8").stdout
            source = pathlib.Path(folder, "notebook.typ")
            source.write_text(DESIGN.read_text(encoding="utf-8") + body, encoding="utf-8")
            # The archival standard makes a missing glyph an error; without it an empty box would be printed.
            pdf = typst.compile(source, ignore_system_fonts=True, timestamp=timestamp(block["date"]),
                                pdf_standards="a-2u", sys_inputs={"block": json.dumps(block)})
        return pdf, resources


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=pathlib.Path, metavar="NOTEBOOK")
    parser.add_argument("--out", type=pathlib.Path, default="report", metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.notebooks:
        target = arguments.out / path.with_suffix(".pdf").name
        target.write_bytes(TypstPDFExporter().from_filename(str(path))[0])
        print(f"wrote {target}")
