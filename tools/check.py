"""Say what differs between two executed notebooks: by cell, with the value before and after.

python tools/check.py                 executes both notebooks again, in the quick profile, and compares with the earlier results
python tools/check.py BEFORE AFTER    compares two notebook files

Exit status 0 if nothing differs, or only numbers and pictures within the tolerance; otherwise 1.
"""
import base64
import dataclasses
import difflib
import io
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import numpy as np
from PIL import Image

EXACT, TOLERANCE = 0.0, 0.02  # a number may move by this share of itself, a picture may change this share of its pixels
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.:;?!])\s+|\n+")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One row of the table; `within` is True if the tolerance covers it."""
    cell: str
    what: str
    before: str
    after: str
    note: str = ""
    within: bool = False


def read(path):
    """The notebook in a file; a cell without an id gets its number, where nbformat would draw a random id."""
    book = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    if book.get("nbformat_minor", 0) >= 5:
        for number, cell in enumerate(book["cells"]):
            cell.setdefault("id", f"number-{number}")
    return nbformat.reads(json.dumps(book), as_version=4)


def compare(before, after, tolerance=TOLERANCE):
    """The Differences between two notebook files; cells are paired by their ids."""
    notebooks = [read(path) for path in (before, after)]
    old, new = ({cell.get("id", f"number {n}"): cell for n, cell in enumerate(book.cells)} for book in notebooks)
    found = [row for name in {**old, **new} for row in compare_cells(name, old.get(name), new.get(name), tolerance)]
    orders = [[name for name in cells if name in old and name in new] for cells in (old, new)]
    if orders[0] != orders[1]:
        place = next(n for n, (a, b) in enumerate(zip(*orders)) if a != b)
        found.append(Difference(orders[1][place], "order of cells", f"{orders[0][place]} stood here", "moved"))
    for book in notebooks:
        del book["cells"]
    found += compare_values("notebook", "metadata", *notebooks)
    sizes = [pathlib.Path(path).read_bytes() for path in (before, after)]
    if not found and sizes[0] != sizes[1]:
        found = [Difference("notebook", "file", *(f"{len(size)} bytes" for size in sizes), "equal content, written differently")]
    return found


def compare_cells(name, old, new, tolerance):
    if old is None or new is None:
        return [Difference(name, "cell", *("missing" if cell is None else cell.cell_type for cell in (old, new)))]
    prose = old.cell_type == new.cell_type == "markdown"
    rows = compare_texts(name, "sentence" if prose else "code", *(SENTENCE_END.split(cell.source) if prose
                         else cell.source.split("\n") for cell in (old, new)))
    rows += compare_values(name, "", *({key: value for key, value in cell.items() if key not in ("source", "outputs")}
                                               for cell in (old, new)))
    pairs = itertools.zip_longest(old.get("outputs", []), new.get("outputs", []), fillvalue={})
    return rows + [row for pair in pairs for row in compare_outputs(name, *map(parts, pair), tolerance)]


def parts(output):
    """An output as a flat dictionary: stdout, text/plain, image/png and so on."""
    flat = {key: value for key, value in output.items() if key not in ("data", "name", "text")} | dict(output.get("data", {}))
    return flat | ({output["name"]: output["text"]} if "text" in output else {})


def compare_outputs(name, old, new, tolerance):
    if old.keys() != new.keys():
        kinds = (", ".join(sorted(flat.keys() - {"metadata", "output_type"})) for flat in (old, new))
        return [Difference(name, "output", *(text or "missing" for text in kinds))]
    rows = []
    for kind in old:
        if kind in ("image/png", "image/jpeg"):
            rows += compare_pictures(name, old[kind], new[kind], tolerance)
        elif isinstance(old[kind], str) and isinstance(new[kind], str):
            rows += compare_texts(name, "text", *(flat[kind].split("\n") for flat in (old, new)), tolerance)
        else:
            rows += compare_values(name, "output", {kind: old[kind]}, {kind: new[kind]})
    return rows


def compare_values(name, what, old, new):
    """Rows for the keys under which two dictionaries differ."""
    texts = [{key: json.dumps(value, sort_keys=True) for key, value in values.items()} for values in (old, new)]
    return [Difference(name, f"{what} {key}".strip(), *excerpts(*(text.get(key, "") for text in texts)))
            for key in {**old, **new} if texts[0].get(key) != texts[1].get(key)]


def compare_texts(name, what, old, new, tolerance=None):
    """Rows for two lists of lines or sentences; numbers are named one by one where a tolerance is given."""
    rows = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for left, right in itertools.zip_longest(old[a:b], new[c:d], fillvalue="") if tag != "equal" else ():
            same = [" ".join(NUMBER.sub("#", text).split()) for text in (left, right)]
            if tolerance is not None and same[0] == same[1] and left.split() != right.split():
                rows += compare_numbers(name, left, right, tolerance)
            else:
                rows.append(Difference(name, what, *excerpts(left, right)))
    return rows


def compare_numbers(name, left, right, tolerance):
    label = " ".join(NUMBER.split(left)[0].split())[:30]
    for place, (old, new) in enumerate(zip(NUMBER.findall(left), NUMBER.findall(right)), 1):
        if old != new:
            a, b = (float(number.replace(",", "")) for number in (old, new))
            share = abs(a - b) / max(abs(a), abs(b), sys.float_info.min)
            yield Difference(name, f"number {place} of '{label or '#'}'", old, new, f"moved by {share:.2%}", share <= tolerance)


def compare_pictures(name, old, new, tolerance):
    if old == new:
        return []
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGBA"), dtype=int) for code in (old, new)]
    sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in pixels]
    if sizes[0] != sizes[1]:
        return [Difference(name, "picture", *sizes, "another size")]
    moved = abs(pixels[0] - pixels[1]).max(axis=2)
    note = f"{(moved > 0).sum():,} of {moved.size:,} pixels differ, by up to {moved.max()} of 255"
    return [Difference(name, "picture", *sizes, note, (moved > 0).mean() <= tolerance)]


def excerpts(left, right, width=60):
    """Both texts from shortly before the place where they part."""
    start = max(0, len(os.path.commonprefix([left, right])) - 20)
    return [("..." if start else "") + text[start:start + width] + ("..." if len(text) > start + width else "") if text
            else "missing" for text in (left, right)]


def report(title, rows, tolerance):
    """Print the table; returns 0 or 1, the exit status."""
    status = int(not all(row.within for row in rows))
    outcome = "different" if status else "equal within the tolerance" if rows else "identical, byte for byte"
    print(f"{title}: {outcome}")
    notes = [f"{row.note} (within {tolerance:.0%})" if row.within else row.note for row in rows]
    table = [("cell", "what", "before", "after", "note")]
    table += [(row.cell, row.what, row.before, row.after, note) for row, note in zip(rows, notes)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table if rows else ():
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    return status


def run(notebook, out):
    """Execute a notebook of this repository in the quick profile."""
    subprocess.run([sys.executable, "tools/notebook.py", notebook, "--out", out], check=True,
                   env={**os.environ, "PS2_PROFILE": "quick"})


def sources(path):
    return [(cell.get("id"), cell.source) for cell in nbformat.read(path, as_version=4).cells]


def check_all():
    """Part 1 against the committed notebook, part 2 against the last quick run in build/, which is made if need be."""
    theory, network = "ps2_theory.ipynb", "ps2_eurosat.ipynb"
    run(theory, f"build/check/{theory}")
    status = report(f"{theory}, committed and run again", compare(theory, f"build/check/{theory}", EXACT), EXACT)
    earlier = pathlib.Path("build", network)
    if not earlier.is_file() or sources(earlier) != sources(network):
        print(f"{earlier} is missing or has other cells than {network}: making it first", flush=True)
        run(network, earlier)
    run(network, f"build/check/{network}")
    return report(f"{network}, quick run and run again", compare(earlier, f"build/check/{network}"), TOLERANCE) or status


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(check_all())
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(report(" and ".join(sys.argv[1:]), compare(*sys.argv[1:]), TOLERANCE))
