"""The record: a finished full run takes its place, and all tables say what it holds."""

import hashlib
import shutil
from pathlib import Path

import pytest

import results
import utils
from tests.helpers import refused
from tools import record

ROOT = Path(__file__).parent.parent
README = """\
# Results

```text
Accuracy on the test list
your model  12.34%
```

```text
Another block.
```
"""


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The current folder holds an earlier record, and a full run that has finished."""
    (tmp_path / "report/weights").mkdir(parents=True)
    shutil.copy(ROOT / results.RESULTS, tmp_path / results.RESULTS)
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text(README, "utf-8")
    Path("report/weights/earlier.pt").write_bytes(b"earlier")
    for name in ("net", "answers", "grid/rate 0.1"):
        path = utils.work_folder() / f"{name}.pt"
        utils.save_state(path, f"settings of {name}", {})


def test_a_finished_full_run_becomes_the_record(finished):
    network = Path(utils.work_folder(), "net.pt").read_bytes()
    record.keep()
    names = [path.name for path in sorted(utils.RECORD.iterdir())]
    assert names == ["README.md", "answers.pt", "net.pt"]
    assert Path(utils.RECORD, "net.pt").read_bytes() == network
    digest = hashlib.sha256(network).hexdigest()
    about = Path(utils.RECORD, "README.md").read_text("utf-8")
    assert f"- `net.pt`, SHA-256 `{digest}`: settings of net\n" in about
    assert "rate 0.1" not in about
    table = results.as_text(
        results.summary_table(results.read_json("report/results.json"))
    )
    old_table = "Accuracy on the test list\nyour model  12.34%"
    readme = Path("README.md").read_text("utf-8")
    assert readme == README.replace(old_table, table)
    assert not utils.work_folder().exists()
    assert sorted(path.name for path in Path("report").iterdir()) == [
        "results.json",
        "weights",
    ]


def is_whole(folder):
    """Does the folder hold all files of the earlier record, or all of the new one?"""
    names = {path.name for path in folder.glob("*")}
    return names in ({"earlier.pt"}, {"README.md", "answers.pt", "net.pt"})


STEPS = [  # a call of keep() that fails, the first or the second one
    pytest.param(shutil, "copy", 2, id="second network copied"),
    pytest.param(Path, "rename", 1, id="old folder renamed"),
    pytest.param(Path, "rename", 2, id="new folder renamed"),
    pytest.param(utils, "write_whole", 1, id="list of the networks"),
    pytest.param(utils, "write_whole", 2, id="README.md"),
    pytest.param(shutil, "rmtree", 3, id="old folder removed"),
]


@pytest.mark.parametrize("place, name, number", STEPS)
def test_a_crash_leaves_a_whole_record_and_a_second_start_goes_on(
    finished, place, name, number
):
    original = getattr(place, name)
    calls = []

    def crash(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, crash)
        with pytest.raises(KeyboardInterrupt):
            record.keep()
    assert any(is_whole(folder) for folder in Path("report").glob("weights*"))
    assert utils.work_folder().exists()
    record.keep()
    assert is_whole(utils.RECORD)
    assert not Path(utils.RECORD, "earlier.pt").exists()
    assert len(list(Path("report").glob("weights*"))) == 1


def test_without_a_network_nothing_is_kept(finished):
    shutil.rmtree(utils.work_folder())
    with refused(ValueError, "build/work-full holds no network", "make full"):
        record.keep()
    assert Path("report/weights/earlier.pt").exists()


def test_without_a_place_for_the_table_nothing_is_kept(finished):
    Path("README.md").write_text("# Results\n", "utf-8")
    with refused(ValueError, "README.md", "Accuracy on"):
        record.keep()
    assert Path("report/weights/earlier.pt").exists()
    assert utils.work_folder().exists()
