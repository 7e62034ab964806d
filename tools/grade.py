"""Grade a notebook of part 2: the checks of the template in a child process.

python -m tools.grade FILE      at most 24 lines, the points last

The status is 0 if it was graded, however many points it has, and 1 if it could not be.
tools/collect.py and tools/team.py use the same functions. Other people's code runs
here; this is not a sandbox.
"""

import argparse
import ast
import functools
import os
import re
import signal
import site
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
CHECKS = "tests/test_template.py"
PYTEST = "-P -m pytest -vv --tb=no -rfE --timeout=30 -o timeout_func_only=true".split()
STARTING = "the start of pytest"
SECONDS = 270  # the course's collector ends everything after 300
POSSIBLE = {"1": 10, "2": 15, "3": 10, "4": 10, "5": 5}  # points of each task
FAULT_PREFIX = "the template's own fault, costs nothing: "
NO_NETWORK = "http://127.0.0.1:9"  # nothing answers there
MOST_LINES = 24  # make prints its own one before
COLUMNS = 100
MOST_CHARACTERS = 500  # of one reason
MOST_REPORT = 100_000_000  # bytes


class EndedError(RuntimeError):
    """The child process did not get to its end; `step` is what it was in.

    `step` is the name of a check, or a phrase such as "its definitions"; `timed_out`
    says that the process was stopped because its time was over.
    """

    def __init__(self, sentence, step, timed_out=False):
        super().__init__(sentence)
        self.step = step
        self.timed_out = timed_out


# --- The child process ----------------------------------------------------------------


def run_checks(arguments, seconds):
    """Run pytest with these arguments on another notebook, in a child process.

    Returns {"printed": text, "errors": text, "faults": [those of the template that were
    kept]}. EndedError, a sentence, if the child does not get to its end, or not within
    so many seconds. Whatever else its process group has started is ended with it.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder, "home")
        notes = Path(folder, "notes")
        home.mkdir()
        notes.mkdir()
        printed = notes / "printed"
        errors = notes / "errors"
        step_file = notes / "step"  # tests/conftest.py writes the current step there
        step_file.write_text(STARTING)
        with printed.open("w") as stdout, errors.open("w") as stderr:
            child = subprocess.Popen(
                [sys.executable, *PYTEST, *arguments],
                cwd=ROOT,
                env=child_environment(home, notes, seconds),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                ended = wait_for(child, seconds)
            finally:
                end_group(child)
        text = read_end(printed, 50_000)
        last_words = read_end(errors, 2000).strip()
        last_step = read_end(step_file, 200)
        faults = read_end(notes / "faults", 10_000).splitlines()
    if last_step == "":  # all is done
        return {"printed": text, "errors": last_words, "faults": faults}
    reason = f"the notebook {ended} in {last_step}"
    if last_step == STARTING:  # there, no code of the notebook has run
        reason = f"pytest {ended} before it began"
    sentence = one_line(f"{reason}: {last_words[-300:]}").rstrip(":")
    timed_out = time.monotonic() - start >= seconds
    raise EndedError(sentence, last_step, timed_out)


def child_environment(home, notes, seconds):
    """The environment variables of the child: those it needs, not a person's others.

    Its proxies lead nowhere, which keeps off the network what asks for proxies.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "PS2_NOTES": str(notes),
        "PS2_CHILD": str(seconds),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "MPLBACKEND": "Agg",
        "COLUMNS": "200",
        "PYTHONDONTWRITEBYTECODE": "1",  # the folder of a team stays as it is
        "http_proxy": NO_NETWORK,
        "https_proxy": NO_NETWORK,
        "all_proxy": NO_NETWORK,
        # packages that are installed for this user alone, whatever HOME is
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


def wait_for(child, seconds):
    """Wait for a child process, at most so many seconds; how it ended, in words."""
    try:
        status = child.wait(seconds)
    except subprocess.TimeoutExpired:
        end_group(child)
        child.wait()
        return f"was stopped after {seconds:g} s"
    if status < 0:
        return f"ended the process with signal {-status}"
    return f"ended the process with status {status}"


def end_group(child):
    """End a child process with all that it has started, but for other sessions."""
    if sys.platform == "win32":  # which has no groups
        child.kill()
        return
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all have ended


def end_as_with_ctrl_c():
    """Let what ends this process, or closes its terminal, raise KeyboardInterrupt.

    Then its child is ended, too, and what is temporary is deleted.
    """
    if sys.platform == "win32":
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, signal.default_int_handler)


def read_end(path, most):
    """The last `most` bytes of a file as a text; "" if there is no plain file.

    A pipe of other people's code in its place would never end.
    """
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        return file.read().decode("utf-8", "replace")


# --- From the report to points --------------------------------------------------------


@functools.cache
def points_of_checks():
    """{check: (task, points)} of the checks with points, from the marks."""
    found = {}
    for statement in ast.parse(Path(ROOT, CHECKS).read_text("utf-8")).body:
        for decorator in getattr(statement, "decorator_list", []):
            if ast.unparse(decorator).startswith("points("):
                task, points = map(ast.literal_eval, decorator.args)
                found[statement.name] = (task, points)
    return found


def grade(notebook):
    """What the checks say of the notebook at `notebook`, a dictionary for JSON.

    "checks": for each its words, task, points, and the `reason` why they are lost, ""
    if they are not; "problems": what could not be loaded; "faults": those of the
    template itself that were kept; "seconds"; "is_incomplete": if the time was over
    before all checks had run. A check that ends the process is left out of the next
    run, which has the time that is left. EndedError if the checks cannot come to their
    end.
    """
    start = time.monotonic()
    checks = points_of_checks()
    reasons = {}
    report = None
    left = SECONDS
    while report is None and left > 0:
        try:
            report = run_report(notebook, left, leave_out=reasons)
        except EndedError as error:
            left = int(SECONDS - (time.monotonic() - start))
            if error.step in checks:
                reasons[error.step] = str(error)
            elif left > 0 or not reasons:
                raise
    missing = "not run"
    if report is None:
        report = {"reasons": {}, "problems": [], "faults": []}
    else:  # pytest itself ends at a KeyboardInterrupt, whoever raises it
        missing = "the notebook has ended the checks before this one"
    reasons.update(report["reasons"])
    graded = []
    for name, (task, points) in checks.items():
        reason = reasons.get(name, missing)
        check = {"check": in_words(name), "task": task, "points": points}
        graded.append({**check, "reason": shorten(reason, MOST_CHARACTERS)})
    not_run = [check for check in graded if check["reason"].startswith("not run")]
    return {
        "checks": graded,
        "problems": report["problems"],
        "faults": report["faults"],
        "seconds": round(time.monotonic() - start, 1),
        "is_incomplete": left <= 0 or len(not_run) > 0,
    }


def in_words(name):
    """The name of a check as words: what has to hold."""
    return name.removeprefix("test_").replace("_", " ")


def run_report(notebook, seconds, leave_out):
    """Reasons of all checks but `leave_out`, problems, and faults that were kept.

    EndedError as run_checks, and if code of the notebook has damaged the report.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        arguments = [CHECKS, f"--notebook={Path(notebook).resolve()}"]
        arguments += [f"--junitxml={report}"]
        arguments += [f"--deselect={CHECKS}::{name}" for name in leave_out]
        ran = run_checks(arguments, seconds)
        try:
            if not report.is_file():  # a pipe in its place would never end
                raise EndedError("the report of the checks is missing", "the report")
            if report.stat().st_size > MOST_REPORT:
                raise EndedError("the report of the checks is too large", "the report")
            content = read_report(report)
        except (OSError, ElementTree.ParseError) as error:
            name = type(error).__name__
            sentence = f"the report of the checks cannot be read: {name}"
            raise EndedError(sentence, "the report") from error
    return {**content, "faults": ran["faults"]}


def read_report(report):
    """{"reasons": {check: "" or why it failed}, "problems": [...]} of JUnit XML."""
    reasons = {}
    problems = []
    tree = ElementTree.parse(report)
    for case in tree.iter("testcase"):
        reasons[case.get("name")] = find_reason(case)
    for entry in tree.iterfind("./testsuite/properties/property"):
        problems.append(shorten(entry.get("value"), MOST_CHARACTERS))
    return {"reasons": reasons, "problems": problems}


def find_reason(case):
    """Why the case of a report failed, in one line; "" if it passed."""
    for outcome in case:
        if outcome.tag == "properties":
            continue
        lines = outcome.get("message", "").strip().splitlines()
        reason = lines[0] if lines else outcome.tag
        reason = reason.removeprefix("AssertionError: ").removeprefix("Failed: ")
        too_long = re.match(r"Timeout \(>([\d.]+)s\)", reason)
        if too_long:
            reason = f"it takes longer than {too_long.group(1)} s"
        reason = shorten(reason, MOST_CHARACTERS)
        for entry in case.iter("property"):
            value = shorten(entry.get("value"), MOST_CHARACTERS)
            if value not in reason:
                reason += f" ({value})"
        return reason
    return ""


def points_of(result, task):
    """(points, testable points) of one task in what grade() returns."""
    got = 0
    testable = 0
    for check in result["checks"]:
        if check["task"] == task:
            testable += check["points"]
            if not check["reason"]:
                got += check["points"]
    return got, testable


def total(result):
    """(points, testable points) over all tasks in what grade() returns."""
    all_got = 0
    all_testable = 0
    for task in POSSIBLE:
        got, testable = points_of(result, task)
        all_got += got
        all_testable += testable
    return all_got, all_testable


# --- In the terminal ------------------------------------------------------------------


def report_lines(name, result):
    """At most 24 lines of 100 columns: what failed, then the points."""
    head = [f"{one_line(name)}, graded in {result['seconds']:.0f} s"]
    tail = points_lines(result)
    details = detail_lines(result)
    room = MOST_LINES - len(head) - len(tail)
    wrapped = []
    for line in details:
        wrapped += textwrap.wrap(line, COLUMNS, subsequent_indent="  ")
    if len(wrapped) > room:
        wrapped = details
    if len(wrapped) > room:
        left_out = len(wrapped) - room + 1
        wrapped = wrapped[: room - 1]
        wrapped.append(f"... and {left_out} more; make classroom shows all of them")
    return [shorten(line, COLUMNS) for line in head + wrapped + tail]


def detail_lines(result):
    """A line for each problem, each reason why points are lost, each fault kept."""
    lines = [f"not loaded: {problem}" for problem in result["problems"]]
    failed = {}  # checks by task and reason: one that is missing fails several
    for check in result["checks"]:
        if check["reason"]:
            key = (check["task"], check["reason"])
            failed.setdefault(key, []).append(check["check"])
    for (task, reason), names in failed.items():
        name = names[0]
        if len(names) > 1:
            name = f"{len(names)} checks"
        lines.append(f"task {task}, {name}: {reason}")
    for fault in result["faults"]:
        lines.append(f"{FAULT_PREFIX}{fault}")
    return [one_line(line) for line in lines]


def points_lines(result):
    """A line for each task, and one for all."""
    lines = []
    for task, possible in POSSIBLE.items():
        got, testable = points_of(result, task)
        points = f"{got:2} of {testable:2} testable points"
        lines.append(f"task {task}: {points}; possible {possible:2}")
    got, testable = total(result)
    others = sum(POSSIBLE.values()) - testable
    together = f"together: {got} of {testable} testable points"
    lines.append(f"{together}; a person gives the other {others}")
    return lines


def one_line(text):
    """A text as one line, with "?" for control characters."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in words)


def shorten(text, most):
    """A text of at most so many characters."""
    if len(text) <= most:
        return text
    return text[: most - 3] + "..."


def main():
    from tools.files import read_notebook  # tools.collect runs where nbformat is not

    parser = argparse.ArgumentParser(
        prog="python -m tools.grade",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebook", metavar="FILE")
    path = parser.parse_args().notebook
    end_as_with_ctrl_c()
    read_notebook(path)
    result = grade(path)
    print("\n".join(report_lines(path, result)))


if __name__ == "__main__":
    from tools.files import command

    command(main)
