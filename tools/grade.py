"""Points that a program can give, by task of the problem set.

python tools/grade.py              both notebooks of this repository
python tools/grade.py NOTEBOOK     part 2 in a notebook of another team that uses the template's names

Prints a table and writes it to build/grade.md and build/grade.json, and to the job summary on GitHub Actions.
The checks are the tests in tests/grading/. They run with a time limit, in a temporary folder, without a network.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import nbformat

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 30  # seconds for one check
NAMESPACE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
TASKS = {  # task: (title, points possible, points for a person to give, what the person reads)
    "1.1": ("Kernels", 7, 3, "what the kernels do to a picture"),
    "1.2": ("Kernels applied to an image", 10, 6, "the pattern in words, the circled areas, the reason for them"),
    "1.3.1": ("Convolutional layer", 10, 0, ""),
    "1.3.2": ("Pooling layer", 2, 0, ""),
    "1.3.3": ("Discussion", 3, 3, "problems in training"),
    "1.4": ("Pooling as convolution", 8, 2, "the description of kernel and stride"),
    "1.5": ("Dimensions of layers", 10, 0, ""),
    "2.1": ("Transform the data", 10, 1, "comments"),
    "2.2": ("Own network", 15, 1, "comments"),
    "2.3": ("Tuning (optional)", 10, 5, "choice of the grid, judged on validation pictures, comments"),
    "2.4": ("Pretrained model", 10, 8, "loading, new last layer, fine-tuning"),
    "2.5": ("Comparison", 5, 3, "table and discussion"),
}


def run_checks(notebook, parts, limit):
    """Run the checks of `parts` in pytest; returns its report {"checks", "problems", "network"}."""
    namespace = NAMESPACE if _works([*NAMESPACE, "true"]) else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = pathlib.Path(folder, "report.json")
        command = [*namespace, sys.executable, "-m", "pytest", "--capture=no", f"--rootdir={ROOT}",
                   f"--config-file={ROOT}/pyproject.toml", f"--submission={pathlib.Path(notebook).resolve()}", f"--report={report}", f"--limit={limit}",
                   *(f"{ROOT}/tests/grading/{part}.py" for part in parts)]
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "MPLBACKEND": "Agg",
                       "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # and none of the user's secrets
        try:
            output = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, timeout=60 * limit).stdout
        except subprocess.TimeoutExpired as error:
            output = str(error)
        if not report.exists():
            raise RuntimeError(f"the checks did not start:\n{output}")
        network = "refused by a network namespace" if namespace else "refused to Python code only: no network namespace here"
        return {**json.loads(report.read_text()), "network": network}


def _works(command):
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def grade(notebook, parts=("part2",), limit=LIMIT):
    """The report as a dictionary: tasks with their points and checks, totals, and what could not be executed."""
    found = run_checks(notebook, parts, limit)
    tasks = []
    for name, (title, possible, person, reads) in TASKS.items():
        checks = [check for check in found["checks"] if check["task"] == name]
        if checks or f"part{name[0]}" in parts:
            tasks.append({"task": name, "title": title, "reached": sum(check["reached"] for check in checks),
                          "by_program": possible - person, "by_a_person": person, "possible": possible, "to_be_read": reads,
                          "checks": checks})
    total = {key: sum(task[key] for task in tasks) for key in ("reached", "by_program", "by_a_person", "possible")}
    return {"notebook": pathlib.Path(notebook).name, **total, "tasks": tasks, **{key: found[key] for key in ("network", "problems")}}


def markdown(report):
    """The report as two tables: the tasks, and what was checked."""
    lines = [f"# Points of {plain(report['notebook'])}", "", "| task | reached | of | to be read by a person | possible |",
             "|---|---|---|---|---|"]
    for task in report["tasks"]:
        read = f"{task['by_a_person']}: {task['to_be_read']}" if task["by_a_person"] else "0"
        lines.append(f"| {task['task']} {task['title']} | {task['reached']} | {task['by_program']} | {read} | {task['possible']} |")
    lines += [f"| total | {report['reached']} | {report['by_program']} | {report['by_a_person']} | {report['possible']} |", "",
              "| task | points | what was checked | found |", "|---|---|---|---|"]
    for check in (check for task in report["tasks"] for check in task["checks"]):
        found = plain(check["reason"]) or "as asked"
        lines.append(f"| {check['task']} | {check['reached']} of {check['points']} | {check['what']} | {found} |")
    lines += ["", f"Network during the checks: {report['network']}."]
    if report["problems"]:
        lines += ["", "Statements that could not be executed:", "", *(f"- {plain(problem)}" for problem in report["problems"])]
    return "\n".join(lines) + "\n"


def plain(text):
    """A submission's text, so that it cannot break the table or bring in its own markup."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    return text.translate({ord(sign): f"\\{sign}" for sign in "|<[`*\\"})


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    notebook, parts = (sys.argv[1], ["part2"]) if len(sys.argv) == 2 else (ROOT / "ps2_eurosat.ipynb", ["part1", "part2"])
    try:
        nbformat.read(notebook, as_version=4)
    except Exception as error:
        sys.exit(f"{notebook} is no notebook: {error}")
    report = grade(notebook, parts)
    text = markdown(report)
    print(text)
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    (folder / "grade.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "grade.md").write_text(text)
    if "GITHUB_STEP_SUMMARY" in os.environ:
        with open(os.environ["GITHUB_STEP_SUMMARY"], "a") as summary:
            summary.write(text)
