"""Grade all teams of a course: points in a table, and each question over all teams.

python -m tools.classroom FOLDER [--jobs N]

Each folder, notebook or archive in FOLDER is a team. points.csv and index.html are in
build/classroom/, with a JSON file for each team: a second call goes on from there, and
grades only the teams whose files have changed, and those that a full disk or the end of
their time has stopped. What is there of other teams is deleted. The status is 0 if all
teams were handled, whatever they have handed in. Other people's code runs here; this is
not a sandbox.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tools.files import command
from tools.grade import POSSIBLE, ROOT, one_line, points_of, points_of_checks, total
from tools.pages import write_pages
from tools.team import empty_result
from utils import write_whole

OUT = Path("build/classroom")
TEAM_SECONDS = 900  # grading stops itself earlier, unless something hangs
MOST_CHARACTERS = 60  # of a team's name in a file's name
NO_RESULT = "its process gave no result"
SOURCES = [  # a change of these files may change what is said of a team
    "tests/conftest.py",
    "tests/helpers.py",
    "tests/test_template.py",
    "tools/cells.py",
    "tools/collect.py",
    "tools/definitions.py",
    "tools/files.py",
    "tools/formulas.py",
    "tools/grade.py",
    "tools/team.py",
]


# --- The teams ------------------------------------------------------------------------


def find_teams(folder):
    """{name: path} of the teams in a folder, by name; ValueError if there are none."""
    found = {}
    paths = list(Path(folder).iterdir())
    for path in sorted(paths, key=lambda path: (path.name.casefold(), path.name)):
        is_file_of_team = path.suffix.lower() in (".ipynb", ".zip")
        if path.name.startswith("."):
            continue
        is_lost_link = not path.exists()  # which gets a row, too
        if path.is_dir() or is_file_of_team or is_lost_link:
            found[path.name] = path.absolute()
    if not found:
        raise ValueError(f"{folder} holds no folder, notebook or archive of a team")
    return found


def file_name(team):
    """A name for the files of a team, of plain letters and one for each team."""
    plain = re.sub(r"[^\w-]+", "-", team, flags=re.ASCII).strip("-")
    is_as_made_here = re.search("-[0-9a-f]{8}$", team)  # another team may have it
    if plain == team and len(plain) <= MOST_CHARACTERS and not is_as_made_here:
        return plain
    digest = hashlib.sha256(os.fsencode(team)).hexdigest()
    return f"{plain[:MOST_CHARACTERS]}-{digest[:8]}"


def state_of(path):
    """A digest of names, sizes and times of all files of a team, and of the checks."""
    lines = [str(path)]
    files = []
    if path.is_file():  # the time of a folder changes with hidden files, too
        files.append(path)
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not is_left_out(name)]
        files += [Path(place, name) for name in names if not is_left_out(name)]
    for file in sorted(files):
        try:
            about = file.stat()
        except OSError as error:  # such as a link to nothing
            lines.append(f"{file} {error.strerror}")
            continue
        # ctime is that of a change of its rights, too
        lines.append(f"{file} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}")
    for name in SOURCES:
        lines.append(Path(ROOT, name).read_text("utf-8"))
    text = "\n".join(lines)
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def is_left_out(name):
    """Does a file or folder of this name play no part in what is said of a team?"""
    return name.startswith(".") or name == "__pycache__"


# --- A result for each team -----------------------------------------------------------


def earlier_result(file, state):
    """The result of an earlier call, if the team's files are the same; else None."""
    try:
        result = json.loads(file.read_text("utf-8"))
        is_same = result["state"] == state
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not is_same:
        return None
    return result


def run_team(path, name):
    """What tools.team prints of the team at `path`, or why it prints nothing."""
    call = [sys.executable, "-m", "tools.team", str(path), str(OUT.absolute() / name)]
    child = subprocess.Popen(
        call,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    reason = NO_RESULT
    try:
        printed, errors = child.communicate(timeout=TEAM_SECONDS)
    except subprocess.TimeoutExpired:
        child.terminate()  # it ends what it has started
        printed, _ = child.communicate()
        errors = b""  # they speak of Ctrl-C
        reason = f"stopped after {TEAM_SECONDS} s"
    try:
        return json.loads(printed)
    except ValueError:
        lines = errors.decode("utf-8", "replace").splitlines()
        last_words = "".join(lines[-1:])  # above them, a traceback has paths
        return failed_result(f"{reason}: {last_words[-300:]}".rstrip(": "))


def failed_result(reason):
    """The result of a team whose process gave none; a second call tries again."""
    return {**empty_result(), "reason": reason, "is_incomplete": True}


def grade_teams(teams, jobs):
    """The results of all teams, in their order; each is written at once."""
    OUT.mkdir(parents=True, exist_ok=True)
    results = {}
    waiting = {}
    for team, path in teams.items():
        state = state_of(path)
        result = earlier_result(OUT / f"{file_name(team)}.json", state)
        if result is None:
            waiting[team] = state
        else:
            results[team] = result
    if results:
        print(f"{len(results)} of {len(teams)} teams are done, as nothing has changed")
    start = time.monotonic()
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {}
        for team in waiting:
            future = pool.submit(run_team, teams[team], file_name(team))
            futures[future] = team
        for number, future in enumerate(as_completed(futures), 1):
            team = futures[future]
            try:
                found = future.result()
            except Exception as error:  # one team stops no other
                name = type(error).__name__
                found = failed_result(f"{NO_RESULT}: {name}")
            result = {"team": team, "state": waiting[team], **found}
            if not result["is_incomplete"]:  # else a second call tries again
                write_whole(OUT / f"{file_name(team)}.json", json.dumps(result))
            results[team] = result
            done = f"{len(results)} of {len(teams)}"
            left = (time.monotonic() - start) / number * (len(waiting) - number)
            line = one_line(f"{team}: {summary(result)}{in_minutes(left)}")
            print(f"{done}  {line}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return [results[team] for team in teams]


def delete_others(results):
    """Delete the results, pages and PDFs of teams that are not among the results."""
    files = [result["file"] for result in results]
    for path in OUT.iterdir():
        if path.is_dir() and path.name not in files:
            shutil.rmtree(path)
        elif path.suffix == ".json" and path.stem not in files:
            path.unlink()
        elif path.match("team-*.html") and path.stem[len("team-") :] not in files:
            path.unlink()


def summary(result):
    """One line on a team for the terminal."""
    if result["reason"]:
        return f"not graded: {one_line(result['reason'])[:150]}"
    got, testable = total(result)
    return f"{got} of {testable} points in {result['seconds']:.0f} s"


def in_minutes(seconds):
    """The time left in words, for the end of a line; "" if nothing is left."""
    if seconds == 0:
        return ""
    if seconds < 90:
        return f"; about {seconds:.0f} s left"
    return f"; about {seconds / 60:.0f} min left"


# --- The table ------------------------------------------------------------------------


def names_not_found(result):
    """Names that the template has and that the notebook does not define."""
    text = "\n".join(check["reason"] for check in result["checks"])
    return list(dict.fromkeys(re.findall(r"^(\w+) is not defined", text, re.MULTILINE)))


def load_errors(result):
    """How many cells could not be loaded whole."""
    cells = [problem.partition(":")[0] for problem in result["problems"]]
    return len(set(cells))


def table_row(result):
    """{column: value} of a team; empty is what is not known, as it was not graded."""
    testable = dict.fromkeys(POSSIBLE, 0)
    for task, points in points_of_checks().values():
        testable[task] += points
    is_graded = bool(result["checks"])
    row = {"team": result["team"], "notebook": result["notebook"]}
    for task in POSSIBLE:
        got, _ = points_of(result, task)
        row[f"task {task}"] = got if is_graded else ""
        row[f"testable {task}"] = testable[task]
    got, _ = total(result)
    row["points"] = got if is_graded else ""
    row["testable"] = sum(testable.values())
    row["load errors"] = load_errors(result) if is_graded else ""
    row["output errors"] = result["errors"] if result["notebook"] else ""
    row["seconds"] = result["seconds"]
    row["not found"] = ", ".join(names_not_found(result))
    sentences = [result["reason"], *result["remarks"]]
    row["remarks"] = "; ".join(sentence for sentence in sentences if sentence)
    return row


def write_table(rows, path):
    """Write the rows as CSV, with a byte order mark, without which Excel guesses."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({column: as_text(value) for column, value in row.items()})
    write_whole(path, file.getvalue().encode("utf-8-sig", "replace"))


def as_text(value):
    """A value of the table that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tools.classroom",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="teams at a time; default 2"
    )
    arguments = parser.parse_args()
    if arguments.folder == "":
        parser.error("name the folder of the clones: make classroom CLONES=FOLDER")
    if arguments.jobs < 1:
        parser.error("--jobs takes a number from 1 on")
    teams = find_teams(arguments.folder)
    results = grade_teams(teams, arguments.jobs)
    for result in results:
        result["file"] = file_name(result["team"])
    rows = [table_row(result) for result in results]
    write_table(rows, OUT / "points.csv")
    write_pages(OUT, results, rows)
    delete_others(results)
    ungraded = len([result for result in results if result["reason"]])
    print(f"{len(results)} teams, {ungraded} of them not graded; {OUT / 'index.html'}")


if __name__ == "__main__":
    command(main)
