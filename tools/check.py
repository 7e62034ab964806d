"""Say what differs between two executed notebooks, or between the record and a new run.

python -m tools.check BEFORE AFTER    compares two notebook files
python -m tools.check                 executes the record again and compares it

Exit status 0 if nothing differs, else 1. How a file is written does not count: ids,
execution counts, line ends, the pieces of a print, the metadata of editors.
"""

import argparse
import copy
import difflib
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

import nbdime
import torch

import eurosat
import results
import standin
import utils
from tools import record
from tools.files import command, join_streams, read_notebook
from tools.notebook import EUROSAT, THEORY, execute

SHOWN = {"title", "team", "authors", "date", "tags"}  # a page shows them, or tools obey
WIDTH = 100  # a line that is longer is shown around the place that differs


# --- The content of a notebook, as lines ----------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a text in a notebook. An image is one line: its content in base64."""

    kind: str  # where it stands, such as source, text, text/plain or image/png
    text: str
    alt: str = field(default="", compare=False)  # of an image; its metadata count


class Cell(NamedTuple):
    number: int
    name: str  # in a report
    id: str  # "" if it has none, or not alone
    kind: str
    source: str
    lines: list  # all that it holds


def read_cells(path):
    """(Lines about the whole notebook, its Cells); errors as read_notebook's."""
    notebook = read_notebook(path)
    about = metadata_lines(notebook.metadata)
    about += other_lines(notebook, {"cells", "metadata", "nbformat", "nbformat_minor"})
    uses = Counter(cell.get("id") for cell in notebook.cells)
    cells = []
    for number, cell in enumerate(notebook.cells, 1):
        name = f"cell {number}"
        own_id = cell.get("id", "")
        if uses[own_id] > 1:
            own_id = ""
        if own_id:
            name = f"{own_id}, cell {number}"
        lines = cell_lines(cell)
        cells.append(Cell(number, name, own_id, cell.cell_type, cell.source, lines))
    return about, cells


def cell_lines(cell):
    """The Lines of a cell and of its outputs."""
    lines = [Line("type", cell.cell_type)]
    lines += as_lines("source", cell.source)
    lines += metadata_lines(cell.metadata)
    known = {"cell_type", "source", "metadata", "id", "execution_count"}
    if cell.cell_type != "code":
        return lines + other_lines(cell, known)
    lines += other_lines(cell, known | {"outputs"})
    for output in join_streams(cell.outputs):
        lines += output_lines(output)
    return lines


def output_lines(output):
    """The Lines of one output; the first one keeps it apart from its neighbours."""
    lines = [Line("output", output.output_type)]
    known = {"output_type", "metadata", "execution_count"}
    if output.output_type not in ("display_data", "execute_result"):
        return lines + other_lines(output, known)
    for form in sorted(output.data):
        about = output.metadata.get(form, {})
        lines += as_lines(f"metadata of {form}", about)
        content = output.data[form]
        if form.startswith("image/"):
            # some editors end it with a line, others do not
            content = content.replace("\r\n", "\n").strip()
            alt = str(about.get("alt", "it has no alt text"))
            lines.append(Line(form, content, alt))
        else:
            lines += as_lines(form, content)
    return lines + other_lines(output, known | {"data"})


def metadata_lines(metadata):
    """The Lines of those metadata that are no editor's own."""
    return other_lines(metadata, set(metadata) - SHOWN)


def other_lines(place, known):
    """The Lines of all keys that are not `known`."""
    lines = []
    for key in sorted(place):
        if key not in known:
            lines += as_lines(key, place[key])
    return lines


def as_lines(kind, value):
    """The Lines of a text, or of what JSON holds."""
    if not isinstance(value, str):
        kind = f"{kind} (JSON)"
        value = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    texts = value.replace("\r\n", "\n").split("\n")
    return [Line(kind, text) for text in texts]


# --- Two notebooks --------------------------------------------------------------------


class Change(NamedTuple):
    """What differs at one place."""

    number: int  # of the cell, for the order; 0 if it is none
    place: str
    pairs: list  # (old Line, new Line), None where there is no such line
    what: str = ""  # removed, added or moved


def compare(before, after):
    """The Changes between two notebook files; ValueError names one that is none."""
    old_about, old_cells = read_cells(before)
    new_about, new_cells = read_cells(after)
    changes = []
    if old_about != new_about:
        pairs = pair_lines(old_about, new_about)
        changes.append(Change(0, "the whole notebook", pairs))
    old_lines = [cell.lines for cell in old_cells]
    new_lines = [cell.lines for cell in new_cells]
    if old_lines != new_lines:  # else all cells are equal, whatever their ids
        changes += compare_cells(old_cells, new_cells)
    return sorted(changes, key=lambda change: change.number)


def compare_cells(old, new):
    """The Changes between the Cells of two notebooks."""
    pairs, removed, added = align(old, new)
    changes = []
    for one, other in pairs:
        if one.lines != other.lines:
            lines = pair_lines(one.lines, other.lines)
            changes.append(Change(one.number, one.name, lines))
    for one in removed:
        other = find_again(one, added)
        lines = []
        what = "removed"
        if other is not None:
            added.remove(other)
            lines = pair_lines(one.lines, other.lines)
            what = f"moved, now cell {other.number}"
        changes.append(Change(one.number, one.name, lines, what))
    for other in added:
        changes.append(Change(other.number, other.name, [], "added"))
    return changes


def align(old, new):
    """(pairs, removed, added): Cells in the same order, of one id or, else, alike."""
    removed = []
    added = []
    for entry in nbdime.diff_notebooks(outline(old), outline(new)):
        for part in entry.diff:
            if part.op == "removerange":
                removed += old[part.key : part.key + part.length]
            if part.op == "addrange":
                added += [new[cell["metadata"]["place"]] for cell in part.valuelist]
    kept_old = [cell for cell in old if cell not in removed]
    kept_new = [cell for cell in new if cell not in added]
    return list(zip(kept_old, kept_new, strict=True)), removed, added


def outline(cells):
    """What nbdime is given of a notebook: as much as it needs to align the cells.

    Of two outputs with 200 other lines it would take 5 s to say so, of 2,000 lines 100
    times as long; and a number as JSON data would stop it.
    """
    entries = []
    for place, cell in enumerate(cells):
        entry = {"cell_type": cell.kind, "source": cell.source[:1000], "outputs": []}
        entry["metadata"] = {"place": place}
        if cell.id:
            entry["id"] = cell.id
        entries.append(entry)
    return {"cells": entries}


def find_again(cell, others):
    """The first of the other Cells with its id, or with all that it holds, or None."""
    for other in others:
        if cell.lines == other.lines or (cell.id and cell.id == other.id):
            return other
    return None


def pair_lines(old, new):
    """Pairs of the Lines that differ, None where there is no such line."""
    pairs = []
    matcher = difflib.SequenceMatcher(None, old, new)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag != "equal":
            pairs += zip_longest(old[old_start:old_end], new[new_start:new_end])
    return pairs


# --- The report -----------------------------------------------------------------------


def report(title, words, lines):
    """Print the verdict in `words`, the lines, and the verdict again."""
    print(f"{title}: {words}")
    for line in lines:
        print(f"  {line}")
    if lines:
        print(f"{title}: {words}")


def verdict(changes):
    """Identical, or in how many cells two notebooks differ."""
    if not changes:
        return "identical"
    cells = [change for change in changes if change.number > 0]
    if not cells:
        return "different"
    words = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    return f"different, {words}"


def describe(changes):
    """Changes as lines of a report: old and new line under each other."""
    lines = []
    for change in changes:
        if change.what:
            lines.append(f"{change.place}: {change.what}")
        else:
            lines.append(change.place)
        for pair in change.pairs:
            lines += [f"  {text}" for text in describe_pair(*pair)]
    return lines


def describe_pair(old, new):
    """The old and the new Line as texts; of two images, one sentence."""
    if is_image_pair(old, new):
        return [f"image differs: {new.alt}"]
    old_text = shown_text(old)
    new_text = shown_text(new)
    start = len(os.path.commonprefix([old_text, new_text]))
    differs_visibly = old_text.split() != new_text.split()
    texts = []
    if old is not None:
        texts.append(describe_line("-", old, start, differs_visibly))
    if new is not None:
        texts.append(describe_line("+", new, start, differs_visibly))
    return texts


def describe_line(sign, line, start, differs_visibly):
    """A Line around the place `start`, in quotes where the eye would miss something."""
    text = excerpt(shown_text(line), start)
    can_be_seen = text.isprintable() and text.strip() != ""
    if not differs_visibly or not can_be_seen:
        text = repr(text)
    return f"{sign} {line.kind}: {text}"


def is_image_pair(old, new):
    """Are both Lines images of one type?"""
    if old is None or new is None:
        return False
    return old.kind == new.kind and is_image(old)


def is_image(line):
    """Is the Line an image?"""
    return line.kind.startswith("image/")


def shown_text(line):
    """The text of a Line in a report, "" for None; of an image what it shows."""
    if line is None:
        return ""
    return line.alt if is_image(line) else line.text


def excerpt(text, start):
    """At most WIDTH characters of a text, with some of those before `start`."""
    if len(text) <= WIDTH:
        return text
    first = max(0, min(start - WIDTH // 2, len(text) - WIDTH))
    part = text[first : first + WIDTH]
    if first > 0:
        part = f"...{part}"
    if first + WIDTH < len(text):
        part = f"{part}..."
    return part


# --- The record -----------------------------------------------------------------------

# On another kind of processor two answers of a network may move, and these with them.
MOST = {  # the most that a number may move
    "correct": 2,
    "confusion": 2,
    "right alone": 4,  # it is of two networks
    "Accuracy (train)": 2 / 2000,  # of the images in part 2's sample
    "wrong by all": 2,
    "test accuracy": 2 / 5400,  # of the test list
}
ROUNDED = {  # to three digits
    "Loss (train)",
    "Loss (test)",
    "test loss",
    "calibration error",
    "confidence",
    "noise floor",
    "temperature",
    "most like K_edge",
}
FOLLOWING = {"Accuracy (test)", "interval", "p"}  # computed from counts
MISSING = object()  # in place of a value that is not there


def check_record():
    """Compare the record with a new run of both parts; returns the exit status."""
    recorded = results.read_json(results.RESULTS)
    found = [check_theory()]
    if can_replay():
        found.append(check_replay(recorded))
    else:
        needs = f"EuroSAT with its published lists, and {utils.RECORD}/"
        print(f"{EUROSAT} was not executed again: that takes {needs}")
    found.append(check_tables(recorded))
    return 0 if all(found) else 1


def check_theory():
    """Execute part 1 again and report; True if it is the same."""
    changes = compare(THEORY, execute_again(THEORY))
    report(f"{THEORY}, executed again", verdict(changes), describe(changes))
    return not changes


def execute_again(path):
    """Execute a notebook into another folder; returns the path there."""
    return execute(path, utils.build_folder() / "check" / path)


def can_replay():
    """Does part 2 replay the record here?"""
    folder, _ = eurosat.find_eurosat()
    if folder is None:
        profile = utils.choose_profile("", standin.NOTE, {})
    else:
        profile = utils.choose_profile("", "", eurosat.read_lists(folder))
    return profile == "replay"


def check_replay(recorded):
    """Execute part 2 again and report; True if it and its results are the same."""
    os.environ["PS2_PROFILE"] = "replay"  # whatever a reader has set
    executed = execute_again(EUROSAT)
    processor = torch.backends.cpu.get_cpu_capability()
    is_same_processor = recorded.get("processor") == processor
    is_same_text = True
    if is_same_processor:
        is_same_text = check_text(compare(EUROSAT, executed))
    else:
        print(f"{EUROSAT}: another kind of processor, so its text is not compared")
    replayed = results.read_json(utils.build_folder() / results.RESULTS)
    moved, different = compare_records(recorded, replayed, is_same_processor)
    words = "identical"
    if moved:
        words = "identical but for what may move on another kind of processor"
    if different:
        words = "different"
    report(f"{results.RESULTS} and the new run's", words, different + moved)
    return is_same_text and not different


def check_text(changes):
    """Report the Changes of part 2; True if nothing but images differs.

    The numbers that its images draw stand in the results, which are compared, too.
    """
    counted = [change for change in changes if not holds_images_alone(change)]
    words = verdict(counted)
    if changes and not counted:
        words = f"identical but for images; {results.RESULTS} holds what they show"
    report(f"{EUROSAT}, executed again", words, describe(changes))
    return not counted


def holds_images_alone(change):
    """Does nothing but images differ at the place of a Change?"""
    if change.what:
        return False
    return all(is_image_pair(old, new) for old, new in change.pairs)


def compare_records(recorded, replayed, is_same_processor):
    """(moved, different): lines of a report on two records.

    On the same kind of processor everything is equal, to the digit. On another kind
    `moved` holds what differs within the bounds.
    """
    moved = []
    different = []
    for place, old, new in walk(recorded, replayed):
        if type(old) is type(new) and old == new:
            continue
        line = f"{', '.join(place)}: {in_json(old)}, now {in_json(new)}"
        if not is_same_processor and may_move(place, old, new):
            moved.append(f"{line} (may move)")
        else:
            different.append(line)
    if not is_same_processor and not different:
        different += unfounded(recorded)
        different += unfounded(replayed)
    return moved, different


def walk(old, new, place=()):
    """Yield (place, old, new) for each value in two records, MISSING where it lacks."""
    if isinstance(old, list) and isinstance(new, list):
        old = dict(enumerate(old, 1))
        new = dict(enumerate(new, 1))
    if not isinstance(old, dict) or not isinstance(new, dict):
        yield place, old, new
        return
    for key in {**old, **new}:
        parts = old.get(key, MISSING), new.get(key, MISSING)
        yield from walk(*parts, (*place, str(key)))


def in_json(value):
    """A value of a record as its file has it."""
    if value is MISSING:
        return "missing"
    return json.dumps(value)


def may_move(place, old, new):
    """May another kind of processor find `new` where the record has `old`?"""
    if place == ("processor",):
        return MISSING not in (old, new)
    if not is_number(old) or not is_number(new):
        return False
    for key in reversed(place):  # the next name above a number tells its kind
        if key in MOST:
            return abs(old - new) <= MOST[key] + 1e-9
        if key in ROUNDED:
            return round(old, 3) == round(new, 3)
        if key in FOLLOWING:
            return True  # see unfounded
    return False


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def unfounded(record):
    """Lines of a report: numbers that do not follow from the counts of a record."""
    again = copy.deepcopy(record)
    for row in again["results"].values():
        row["Accuracy (test)"] = row["correct"] / row["total"]
    for row in [*again["results"].values(), *again["neighbours"].values()]:
        row["interval"] = results.wilson_interval(row["correct"], row["total"])
    for row in [*again["mcnemar"], again["mcnemar of tuning"]]:
        only_one, only_two = row["right alone"]
        one = torch.arange(only_one + only_two) < only_one
        row["p"] = results.mcnemar("one", "two", {"one": one, "two": ~one})["p"]
    lines = []
    for place, stored, computed in walk(record, again):
        if stored != computed and not math.isclose(stored, computed, rel_tol=1e-9):
            follows = f"from its counts follows {computed}"
            lines.append(f"{', '.join(place)}: {stored}, but {follows}")
    return lines


def check_tables(recorded):
    """Compare the tables of README.md and part 2 with the record; True if all agree."""
    try:
        table = results.as_text(results.summary_table(recorded))
    except KeyError as error:
        raise ValueError(f"{results.RESULTS} lacks {error}") from error
    shown = {
        str(record.README): record.readme_table(),
        f"{EUROSAT}, its first table": first_table(read_notebook(EUROSAT)),
    }
    changes = []
    for place, text in shown.items():
        if text != table:
            pairs = pair_lines(as_lines("table", text), as_lines("table", table))
            changes.append(Change(0, place, pairs))
    places = " and ".join(shown)
    report(f"{places}, beside {results.RESULTS}", verdict(changes), describe(changes))
    return not changes


def first_table(notebook):
    """The first output of part 2 that is a table of accuracies, as text; "" if none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/plain", "")
            if text.startswith("Accuracy on"):
                return text
    return ""


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="BEFORE AFTER, or none"
    )
    files = parser.parse_args().files
    if len(files) not in (0, 2):
        parser.error("give two notebook files, BEFORE and AFTER, or none")
    if not files:
        return check_record()
    changes = compare(*files)
    report(" and ".join(files), verdict(changes), describe(changes))
    return 1 if changes else 0


if __name__ == "__main__":
    command(main)
