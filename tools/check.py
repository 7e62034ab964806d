"""Say what differs between two executed notebooks: by cell, with the value before and after.

python -m tools.check                 compares the record with a new run, and with README.md
python -m tools.check BEFORE AFTER    compares two notebook files

Exit status 0 if nothing differs, or only losses and images within the tolerance; otherwise 1.
Noise, one line of the report, is how a file is written: ids, execution counts, line ends, the
pieces of a print, all metadata but SHOWN.
"""

import argparse
import base64
import difflib
import io
import json
import os
import re
import sys
from collections import Counter, namedtuple
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import utils
from tools import record
from tools.files import command, join_streams, read_notebook
from tools.notebook import PARTS, execute

# A loss may move by less than this share of itself, an image in less of its pixels; but no square
# of BLOCK x BLOCK pixels may change as a whole: it would be a field of a confusion matrix.
EXACT, TOLERANCE, BLOCK = 0.0, 0.02, 8
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)
LOSS = re.compile(r"(loss|entropy)\W*(\(\w+\)\W*)?\0|\0\s*(loss|entropy),? [a-z]", re.IGNORECASE)
LINE, SENTENCE = re.compile("\n"), re.compile(r"(?<=[.:;?!])(?= )|(?<=\n)")  # where texts are split
SHOWN = {"title", "team", "authors", "date", "tags"}  # metadata that a page shows or a tool obeys
REST, MISSING = "the notebook", ...  # the name of what is no cell; the value that is not there
Cell = namedtuple("Cell", "number id name text content")
Difference = namedtuple("Difference", "cell what before after note allowed", defaults=("", False))


def read(path):
    """(Cells, all else, noise) of a notebook file: the noise counts (name, value) taken out."""
    book, noise = read_notebook(path), Counter()
    try:
        outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
        for place in [book, *book.cells, *outputs]:  # an output has metadata under image/png, too
            about = place.get("metadata", {})
            written = [(about, key) for key in about if key not in SHOWN and "/" not in key]
            written += [(place, key) for key in ("execution_count", "nbformat", "nbformat_minor")]
            noise.update((key, json.dumps(held.pop(key, None))) for held, key in written)
        cells = []
        for number, cell in enumerate(book.pop("cells"), 1):
            cell.outputs = join_streams(cell.get("outputs", []))
            name, text = str(cell.pop("id", "")), f"{cell.cell_type} {cell.source}"
            cells.append(Cell(number, name, name or f"cell {number}", text, cell))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no notebook: {error}") from error
    return cells, book, noise


def pair(old, new):
    """Pairs of Cells, None for no partner: by ids that both lists hold once, else by content."""
    ids = [Counter(cell.id for cell in cells) for cells in (old, new)]
    known = {name for name in ids[0] if name and ids[0][name] == ids[1][name] == 1}
    pairs = [(cell, other) for cell in old for other in new if cell.id == other.id in known]
    rest = [[cell for cell in cells if cell.id not in known] for cells in (old, new)]
    texts = [[cell.text.replace("\r\n", "\n") for cell in cells] for cells in rest]
    for _, a, b, c, d in difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
        pairs += zip_longest(rest[0][a:b], rest[1][c:d])
    return sorted(pairs, key=lambda both: (both[0] or both[1]).number)


def compare(before, after, tolerance=TOLERANCE):
    """The Differences between two notebook files; ValueError names a file that is no notebook."""
    (old_cells, old, noise), (new_cells, new, other_noise) = read(before), read(after)
    pairs = pair(old_cells, new_cells)
    common = [both for both in pairs if None not in both]
    moved = sorted(common, key=lambda both: both[1].number)
    orders = (" ".join(cell.name for cell, _ in cells) for cells in (common, moved))
    rows = list(differences(REST, "order of cells", *orders))
    for both in pairs:
        contents = [getattr(cell, "content", MISSING) for cell in both]
        rows += differences((both[0] or both[1]).name, "", *contents, tolerance)
    rows += differences(REST, "", old, new)
    written = {key for key, _ in (noise - other_noise) | (other_noise - noise)}
    written |= {"id" for cell, other in common if cell.id != other.id}
    if written or (not rows and Path(before).read_bytes() != Path(after).read_bytes()):
        rows.append(Difference(REST, "noise", "", "", ", ".join(sorted(written)) or "layout", True))
    return rows


def differences(cell, what, old, new, tolerance=EXACT):
    """Rows for the value at one place of both notebooks, MISSING where there is none."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old, 1)), dict(enumerate(new, 1))
    if MISSING not in (old, new) and len({json.dumps(v, sort_keys=True) for v in (old, new)}) == 1:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            values = old.get(key, MISSING), new.get(key, MISSING)
            yield from differences(cell, f"{what} {key}".strip(), *values, tolerance)
    elif not isinstance(old, str) or not isinstance(new, str):
        yield Difference(cell, what or "cell", *excerpts(old, new))
    elif what.endswith(("image/png", "image/jpeg")):
        yield compare_images(cell, what, old, new, tolerance)
    else:
        yield from compare_texts(cell, what, old, new, tolerance)


def compare_texts(cell, what, old, new, tolerance):
    """Rows for lines, or for sentences; in outputs the numbers are named one by one."""
    split = SENTENCE.split if what == "source" else LINE.split
    old, new = (split(text.replace("\r\n", "\n")) for text in (old, new))
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for lines in zip_longest(old[a:b], new[c:d], fillvalue=MISSING) if tag != "equal" else ():
            is_printed = what.startswith("outputs") and MISSING not in lines
            numbers = compare_numbers(cell, *lines, tolerance) if is_printed else []
            yield from numbers or [Difference(cell, what, *excerpts(*lines))]


def compare_numbers(cell, left, right, tolerance):
    """A row for each number that moved; none if more differs between the lines than numbers."""
    parts, others = NUMBER.split(left), NUMBER.split(right)
    same = [part.split() for part in parts] == [part.split() for part in others]
    if not same or (parts != others and len(left) != len(right)):
        return []
    rows, is_loss, label = [], False, " ".join(parts[0].split())[:30] or "#"
    pairs = zip(NUMBER.findall(left), NUMBER.findall(right), strict=True)
    for place, (old, new) in enumerate(pairs, 1):
        earlier, later = parts[place - 1 : place + 1]
        if place == 1 or earlier.strip():  # else the word further left counts for this one too
            is_loss = bool(LOSS.search(f"{earlier}\0{later}")) and "acc" not in earlier.lower()
        a, b = (float(number.replace(",", "")) for number in (old, new))
        share = abs(a - b) / max(abs(a), abs(b), sys.float_info.min)
        fraction = "." in old and "." in new and not later.lstrip().startswith("%")
        allowed = share < tolerance and (share == 0 or is_loss and fraction)
        if old != new:
            what, note = f"number {place} of '{label}'", f"moved by {share:.2%}"
            rows.append(Difference(cell, what, old, new, note, allowed))
    return rows


def compare_images(cell, what, old, new, tolerance):
    try:
        images = [Image.open(io.BytesIO(base64.b64decode(code))) for code in (old, new)]
        pixels = [np.asarray(image.convert("RGBA"), dtype=int) for image in images]
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for a broken file
        return Difference(cell, what, *excerpts(old, new), f"broken: {error}")
    sizes = [f"{image.width} x {image.height}" for image in images]
    if sizes[0] != sizes[1]:
        return Difference(cell, what, *sizes, "another size")
    moved = abs(pixels[0] - pixels[1]).max(axis=2)
    squares = np.lib.stride_tricks.sliding_window_view(moved > 0, np.minimum(BLOCK, moved.shape))
    note = f"{(moved > 0).sum():,} of {moved.size:,} pixels differ, by up to {moved.max()} of 255"
    allowed = (moved > 0).mean() < tolerance and not squares.all(axis=(2, 3)).any()
    return Difference(cell, what, *sizes, note, bool(allowed))


def excerpts(*values, width=60):
    """Both values as text, from shortly before the place where they part."""
    texts = [v if isinstance(v, str) else json.dumps(v, default=str) for v in values]
    start = max(0, len(os.path.commonprefix(texts)) - 20)
    for value, text in zip(values, texts, strict=True):
        shown = "..." * bool(start) + text[start:][:width] + "..." * (len(text) > start + width)
        yield "missing" if value is MISSING else shown.strip() or repr(text)


def report(title, rows):
    """Print the verdict, the table, the verdict; returns 0 or 1, the exit status."""
    status = int(not all(row.allowed for row in rows))
    same = "equal but for what is allowed" if rows else "identical, byte for byte"
    verdict = f"{title}: {'different' if status else same}"
    table = [("cell", "what", "before", "after", "note")] if rows else []
    table += [(*row[:4], row.note + " (allowed)" * row.allowed) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(verdict)
    for line in table:
        print("  " + "  ".join(map(str.ljust, line, widths)).rstrip())
    if rows:
        print(verdict)
    return status


def record_rows(network):
    """Rows where part 2 or README.md shows another result than report/results.json holds."""
    cells = read_notebook(network).cells
    shown = {cell.id: "".join(o.get("text", "") for o in cell.get("outputs", [])) for cell in cells}
    (table,) = (o.data["text/plain"] for o in cells[1].outputs if "data" in o)
    texts = record.printed(network)
    for name, text in texts.items():
        yield from compare_texts(name, "outputs", shown[name] or f"{table}\n", text, EXACT)
    readme = record.TABLE.search(record.README.read_text("utf-8"))
    table = texts["first-table"].rstrip()
    yield from compare_texts("README.md", "outputs", readme[0] if readme else "", table, EXACT)


def check_all():
    """Part 1 and, where it replays, part 2 executed again; then what report/results.json says."""
    theory, network = PARTS
    execute(theory, f"build/check/{theory}")
    status = report(f"{theory}, executed again", compare(theory, f"build/check/{theory}", EXACT))
    if utils.choose_profile("", utils.load_eurosat()) == "replay":
        execute(network, f"build/check/{network}")  # it fails where more than two answers moved
        if record.read()["processor"] == torch.backends.cpu.get_cpu_capability():
            rows = compare(network, f"build/check/{network}")
            status |= report(f"{network}, executed again", rows)
        else:
            print(f"{network}: another kind of processor, so only each model's answers count")
    else:
        print(f"{network} was not executed: that takes EuroSAT and report/weights/")
    return report("results.json, part 2 and README.md", list(record_rows(network))) | status


def main():
    parser = argparse.ArgumentParser("python -m tools.check", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="BEFORE AFTER", help="two notebook files")
    files = parser.parse_args().files
    if len(files) not in (0, 2):
        parser.error("give two notebook files, or none")
    return report(" and ".join(files), compare(*files)) if files else check_all()


if __name__ == "__main__":
    command(main)
