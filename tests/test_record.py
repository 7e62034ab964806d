"""The record: what part 2 and README.md show is what report/results.json holds."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest

import utils
from tools import check, record

NOTEBOOK = "ps2_eurosat.ipynb"
PLANTS = [  # a file, what stands before a digit that is changed, and the cell that is named
    ("README.md", "your tuned model {4}", "README.md"),
    (NOTEBOOK, "pretrained model {4}", "first-table"),
    (NOTEBOOK, "tuned, seed 43 {12}", "all-results"),
    (NOTEBOOK, "tuned model ", "discussion"),
    (NOTEBOOK, "p = ", "all-results"),
    (NOTEBOOK, r"Accuracy \(test\) +", "template-table"),
    ("report/results.json", '"correct": ', "all-results"),
    ("report/results.json", '"p": ', "all-results"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with what the record consists of, but for its weights."""
    (tmp_path / "report").mkdir()
    for name in (NOTEBOOK, "README.md", "report/results.json", "report/trials.json"):
        shutil.copy(name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(utils, "WORK", Path("build/work-full"))


@pytest.mark.parametrize("name, before, cell", [("README.md", None, None), *PLANTS])
def test_a_planted_digit_is_named(name, before, cell):
    path = Path(name)
    if before:
        text, found = re.subn(
            f"({before})(\\d)",
            lambda m: m[1] + str(9 - int(m[2])),
            path.read_text("utf-8"),
            count=1,
        )
        assert found
        path.write_text(text, "utf-8")
    named = {row.cell for row in check.record_rows(NOTEBOOK)}
    assert named >= {cell} if cell else not named


def test_a_finished_full_run_becomes_the_record():
    Path("report/weights").mkdir()
    Path("report/weights/old.pt").touch()
    for name in ("net", "answers"):
        utils.save_state(utils.WORK / f"weights/{name}.pt", f"settings of {name}", {})
    readme = Path("README.md").read_text("utf-8")
    Path("README.md").write_text(re.sub(r"\d\d\.\d\d%", "00.00%", readme), "utf-8")
    record.keep(NOTEBOOK)
    assert Path("README.md").read_text("utf-8") == readme and not utils.WORK.exists()
    assert {path.name for path in record.WEIGHTS.iterdir()} == {"net.pt", "answers.pt", "README.md"}
    digest = hashlib.sha256(Path("report/weights/net.pt").read_bytes()).hexdigest()
    about = (record.WEIGHTS / "README.md").read_text("utf-8")
    assert f"`net.pt`, SHA-256 `{digest}`: settings of net" in about
