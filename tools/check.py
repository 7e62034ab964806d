"""Say what differs between two executed notebooks: by cell, with the value before and after.

python -m tools.check                 executes both notebooks again and compares with the record
python -m tools.check BEFORE AFTER    compares two notebook files

Exit status 0 if nothing differs, or only numbers and images within the tolerance; otherwise 1.
What an editor writes into the metadata is noise: one line of the report, and no difference.
"""

import argparse
import base64
import difflib
import io
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

# A number may move by less than this share of itself, an image in less of its pixels.
EXACT, TOLERANCE = 0.0, 0.02
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.:;?!])\s+|\n+")
EDITORS = {"kernelspec", "language_info", "widgets", "colab", "vscode", "ExecuteTime", "execution"}
EDITORS |= {"collapsed", "scrolled", "jupyter", "editable", "deletable", "trusted"}
REST = "the notebook"  # a name that no cell can have
# A row of the table; `allowed` if the tolerance covers it, or an editor wrote it.
FIELDS = "cell what before after note allowed"
Difference = namedtuple("Difference", FIELDS, defaults=("", False))


def read(path):
    """{name: cell} of a notebook file, all else under REST, and the noise that was taken out."""
    book = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        cells = {}
        for number, cell in enumerate(book.pop("cells"), 1):
            kind = "sentence" if cell["cell_type"] == "markdown" else "code"
            cells[str(cell.pop("id", f"number {number}"))] = {kind: cell.pop("source"), **cell}
        cells[REST] = book
        places = [cell["metadata"] for cell in cells.values()]
        noise = [(key, place.pop(key)) for place in places for key in list(place) if key in EDITORS]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook") from error
    return cells, noise


def compare(before, after, tolerance=TOLERANCE):
    """The Differences between two notebook files; cells are paired by their ids."""
    (old, noise), (new, other_noise) = read(before), read(after)
    both = old.keys() & new.keys() - {REST}
    orders = [" ".join(name for name in cells if name in both) for cells in (old, new)]
    rows = list(differences(REST, "order of cells", *orders))
    for name in {**old, **new}:
        rows += differences(name, "", old.get(name), new.get(name), tolerance)
    sizes = [f"{Path(path).stat().st_size} bytes" for path in (before, after)]
    if noise != other_noise:
        rows.append(Difference(REST, "editors", *excerpts(noise, other_noise), "noise", True))
    elif not rows and Path(before).read_bytes() != Path(after).read_bytes():
        rows.append(Difference(REST, "file", *sizes, "equal content, written differently"))
    return rows


def plain(value):
    """A list of lines as one text, any other list as a dictionary, all else as it is."""
    if isinstance(value, list):
        lines = value and all(isinstance(line, str) for line in value)
        return "".join(value) if lines else dict(enumerate(value, 1))
    return value


def differences(cell, what, old, new, tolerance=EXACT):
    """Rows for the value at one place of both notebooks, None where there is none."""
    old, new = plain(old), plain(new)
    kinds = {type(old), type(new)}
    if old == new:
        return
    if kinds == {dict}:
        for key in {**old, **new}:
            inner = f"{what} {key}".strip()
            yield from differences(cell, inner, old.get(key), new.get(key), tolerance)
    elif kinds == {str} and what.endswith(("image/png", "image/jpeg")):
        yield compare_images(cell, what, old, new, tolerance)
    elif kinds == {str}:
        yield from compare_texts(cell, what, old, new, tolerance)
    else:
        yield Difference(cell, what or "cell", *excerpts(old, new))


def compare_texts(cell, what, old, new, tolerance):
    """Rows for lines or sentences; in outputs the numbers are named one by one."""
    old, new = (SENTENCE_END.split(t) if what == "sentence" else t.split("\n") for t in (old, new))
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for left, right in zip_longest(old[a:b], new[c:d], fillvalue="") if tag != "equal" else ():
            same = len({" ".join(NUMBER.sub("#", text).split()) for text in (left, right)}) == 1
            if what.startswith("outputs") and same and left.split() != right.split():
                yield from compare_numbers(cell, left, right, tolerance)
            else:
                yield Difference(cell, what, *excerpts(left, right))


def compare_numbers(cell, left, right, tolerance):
    label = " ".join(NUMBER.split(left)[0].split())[:30] or "#"
    pairs = zip(NUMBER.findall(left), NUMBER.findall(right), strict=True)
    for place, (old, new) in enumerate(pairs, 1):
        if old != new:
            a, b = (float(number.replace(",", "")) for number in (old, new))
            share = abs(a - b) / max(abs(a), abs(b), sys.float_info.min)
            what, note = f"number {place} of '{label}'", f"moved by {share:.2%}"
            yield Difference(cell, what, old, new, note, share < tolerance)


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
    note = f"{(moved > 0).sum():,} of {moved.size:,} pixels differ, by up to {moved.max()} of 255"
    return Difference(cell, what, *sizes, note, bool((moved > 0).mean() < tolerance))


def excerpts(*values, width=60):
    """Both values as text, from shortly before the place where they part."""
    texts = [v if isinstance(v, str) else json.dumps(v) if v is not None else "" for v in values]
    start = max(0, len(os.path.commonprefix(texts)) - 20)
    for text in texts:
        end = "..." if len(text) > start + width else ""
        yield "..." * bool(start) + text[start : start + width] + end if text else "missing"


def report(title, rows):
    """Print the table; returns 0 or 1, the exit status."""
    status = int(not all(row.allowed for row in rows))
    same = "equal but for what is allowed" if rows else "identical, byte for byte"
    print(f"{title}: {'different' if status else same}")
    table = [("cell", "what", "before", "after", "note")]
    table += [(*row[:4], row.note + " (allowed)" * row.allowed) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table if rows else ():
        print("  " + "  ".join(map(str.ljust, line, widths)).rstrip())
    return status


def execute(notebook, out):
    subprocess.run([sys.executable, "-m", "tools.notebook", notebook, "--out", out], check=True)


def state(path):
    """The line "profile: ..." that a notebook printed, and the code of its cells."""
    cells = list(read(path)[0].values())
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    printed = "".join(line for output in outputs for line in output.get("text", []))
    return re.findall("^profile: .*", printed, re.M)[:1], [cell.get("code") for cell in cells]


def check_all():
    """Part 1 against the record; part 2 too if the profile is the same, else against build/."""
    theory, network = "ps2_theory.ipynb", "ps2_eurosat.ipynb"
    execute(theory, f"build/check/{theory}")
    status = report(f"{theory}, executed again", compare(theory, f"build/check/{theory}", EXACT))
    again = f"build/check/{network}"
    execute(network, again)
    profile, code = state(again)
    earlier = network if profile and state(network)[0] == profile else f"build/{network}"
    if earlier != network and not (Path(earlier).is_file() and state(earlier) == (profile, code)):
        print(f"{earlier} is missing, or of other code or profile: making it", flush=True)
        execute(network, earlier)
    return report(f"{earlier}, executed again", compare(earlier, again)) or status


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tools.check", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="BEFORE AFTER", help="two notebook files")
    files = parser.parse_args().files
    if len(files) not in (0, 2):
        parser.error("give two notebook files, or none")
    sys.exit(report(" and ".join(files), compare(*files)) if files else check_all())
