"""The pages of tools/classroom.py: a table, a page a team, each question over all.

They are plain HTML that opens from the disk: the style is part of each page, and
nothing is loaded. The cells in them are sanitised by tools/cells.py.
"""

import base64
import hashlib
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from tools.grade import POSSIBLE, points_of
from utils import write_whole

TEMPLATES = Path(__file__).with_name("templates")
NO_BREAK = "\u00a0"
SAME = 3  # teams with the same cell, from which on it is folded
MOST_PART = 5_000_000  # characters of a team's cells on a page of all teams
MENU = [("index", "All teams")]
MENU += [(f"task-{task}", f"Task {task}") for task in POSSIBLE]
MENU += [("theory", "Theory")]
COLUMNS = {  # of the table, with short headings; points.csv has more
    "team": "Team",
    "task 1": "1",
    "task 2": "2",
    "task 3": "3",
    "task 4": "4",
    "task 5": "5",
    "points": "Points",
    "load errors": "Load errors",
    "output errors": "Output errors",
    "seconds": "Seconds",
    "not found": "Not found",
    "remarks": "Remarks",
}


def write_pages(folder, results, rows):
    """Write all pages to `folder`; `rows` are those of the table."""
    environment = make_environment()
    teams = list(zip(rows, results, strict=True))
    columns = headings_with_testable(rows[0])
    table = {"teams": teams, "columns": columns, "rows": rows}
    write_page(environment, folder, "index", "index", **table)
    for result in results:
        name = f"team-{result['file']}"
        write_page(environment, folder, name, "team", **team_content(result))
    for task in POSSIBLE:
        content = task_content(task, results)
        write_page(environment, folder, f"task-{task}", "question", **content)
    write_page(environment, folder, "theory", "question", **theory_content(results))


def make_environment():
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "sort.js").read_text("utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment.globals.update(
        style=Markup((TEMPLATES / "style.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=f"'sha256-{base64.b64encode(digest).decode()}'",
        menu=MENU,
    )
    return environment


def write_page(environment, folder, page, template, **content):
    """Write one page; a file's name may hold what is no character in UTF-8."""
    text = environment.get_template(f"{template}.html.j2").render(page=page, **content)
    write_whole(folder / f"{page}.html", text.encode("utf-8", "replace"))


def headings_with_testable(row):
    """(column, heading) of the table: the testable points are part of the heading."""
    headings = []
    for column, heading in COLUMNS.items():
        if column.startswith("task "):
            testable = row[column.replace("task", "testable")]
            if testable == 0:
                continue
            heading = f"Task{NO_BREAK}{heading} (of{NO_BREAK}{testable})"
        if column == "points":
            heading = f"Points (of{NO_BREAK}{row['testable']})"
        headings.append((column, heading))
    return headings


def team_content(result):
    """What the page of a team shows."""
    points = []
    for task, possible in POSSIBLE.items():
        got, testable = points_of(result, task)
        points.append((task, got, testable, possible))
    lists = [
        ("Remarks", result["remarks"]),
        ("Cells that could not be loaded", result["problems"]),
        ("Faults of the template itself, which cost no points", result["faults"]),
    ]
    failed = [check for check in result["checks"] if check["reason"]]
    return {"result": result, "points": points, "failed": failed, "lists": lists}


def task_content(task, results):
    """What the page of a task shows: the cells of all teams, below each other."""
    counts = count_teams(results, "cells")
    answers = []
    for result in results:
        cells = [cell for cell in result["cells"] if cell["task"] == task]
        got, testable = points_of(result, task)
        summary = ""
        if testable > 0:
            summary = f"{got} of {testable} testable points"
        elif result["reason"]:
            summary = f"Not graded: {result['reason']}"
        answers.append(answer_of(result, cells, counts, summary=summary))
    note = (
        "What each team has handed in, with its outputs. Code and text that are the "
        f"same in {SAME} teams or more are folded, as most often they are the "
        "template's; functions and classes that the task asks for never are."
    )
    heading = f"Task {task}"
    return {"heading": heading, "note": note, "answers": answers, "groups": []}


def theory_content(results):
    """What the page of part 1 shows: each question over all teams, and all PDFs."""
    counts = count_teams(results, "theory")
    found = set()
    for result in results:
        found.update(cell["question"] for cell in result["theory"])
    groups = []
    for question in sorted(found - {""}):
        groups.append((f"Question {question}", answers_to(question, results, counts)))
    if "" in found:
        groups.append(("Answers without a number", answers_to("", results, counts)))
    documents = []
    for result in results:
        if result["pdfs"]:
            documents.append(answer_of(result, [], counts, pdfs=result["pdfs"]))
    groups.append(("PDFs", documents))
    note = (
        "What a notebook of part 1 has between the comments BEGIN QUESTION and END "
        "QUESTION, or else below headings with a number from 1.1 to 1.5. A team that "
        "is not below a question has no answer to it in a notebook. The PDFs of all "
        "teams are linked at the end."
    )
    return {"heading": "Theory", "note": note, "answers": [], "groups": groups}


def answers_to(question, results, counts):
    """The answers of those teams that have any."""
    answers = []
    for result in results:
        cells = [cell for cell in result["theory"] if cell["question"] == question]
        if cells:
            answers.append(answer_of(result, cells, counts))
    return answers


def answer_of(result, cells, counts, summary="", pdfs=()):
    """What a template needs to show the answer of one team."""
    first = first_cells(cells)
    return {
        "team": result["team"],
        "file": result["file"],
        "summary": summary,
        "cells": [(cell, folded(cell, counts)) for cell in first],
        "left_out": len(cells) - len(first),
        "pdfs": pdfs,
    }


def first_cells(cells):
    """As many of the cells as a page of all teams has room for."""
    first = []
    size = 0
    for cell in cells:
        size += len(cell["source"]) + len(cell["outputs"])
        if size > MOST_PART:
            break
        first.append(cell)
    return first


def count_teams(results, key):
    """{digest of a cell: how many teams have it}."""
    counts = Counter()
    for result in results:
        counts.update({cell["digest"] for cell in result[key]})
    return counts


def folded(cell, counts):
    """Why the source of a cell is folded, "" if it is not."""
    digest = cell["digest"]
    if digest == "":  # what a task asks for, or a cell that cannot be shown
        return ""
    number = counts[digest]
    if number < SAME:
        return ""
    return f"The same in {number} teams"
