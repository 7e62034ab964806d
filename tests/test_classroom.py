"""Many teams at once: their points in a table, and each question over all of them.

The submissions are made up: a right one in the template's style, and for each habit of
real ones a change of it.
"""

import base64
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest
from matplotlib import pyplot as plt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.helpers import ROOT, copy_notebook, refused
from tests.test_pages import check_page
from tools import classroom, team
from tools.cells import questions
from tools.classroom import as_text, file_name, find_teams
from tools.files import read_notebook

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="limits and groups of processes are those of Unix"
)

# --- Submissions ----------------------------------------------------------------------

# In the template's style, with all points that a program can give.
RIGHT = """## Setup
# %%
%matplotlib inline
!pip install timm
from google.colab import drive
import os, torch, numpy as np, matplotlib.pyplot as plt
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, random_split
# %%
drive.mount("/content/drive")
data = EuroSAT(root="data", download=True)
device = torch.device("cuda")
# %%
## 1. Transform the data (10 pt)
# %%
def rotate_picture(picture, rotation):
    return torch.rot90(picture, rotation // 90, (1, 2))
# %%
def plot_histogram(data):
    names = [f"{name}:{label}" for label, name in enumerate(data.classes)]
    fig, ax = plt.subplots()
    ax.bar(names, np.bincount(data.targets))
    return fig, ax
# %%
class RotateEuroSAT(Dataset):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        self.original_data, self.length, self.shares = original_data, length, shares
        self.device, self.seed = device, seed
        self.dataset = self._create_rotated_dataset()
    def _create_rotated_dataset(self):
        rng = np.random.default_rng(self.seed)
        items = []
        for label, share in enumerate(self.shares):
            pool = np.flatnonzero(np.array(self.original_data.targets) == label)
            for index in rng.choice(pool, round(share * self.length)):
                picture, _ = self.original_data[index]
                x = torch.tensor(np.array(picture)).permute(2, 0, 1) / 255
                items.append((rotate_picture(x, 90 * int(rng.integers(4))), label))
        return items
    def __len__(self):
        return len(self.dataset)
    def __getitem__(self, index):
        return self.dataset[index]
# %%
## 2. Implement your Convolutional Neural Network (15 pt)
# %%
class MyMaxPool(nn.Sequential):
    def __init__(self, kernel_size, stride=1, padding=0):
        super().__init__()
        self.k, self.s, self.p = kernel_size, stride, padding
    def forward(self, x):
        x = nn.functional.pad(x, 4 * [self.p], value=-torch.inf)
        return x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))
# %%
class MyCNNModel(nn.Sequential):
    def __init__(self, n_classes):
        super().__init__(
            nn.Conv2d(3, 4, 5), nn.ReLU(), MyMaxPool(2, 2),
            nn.Conv2d(4, 4, 3), nn.ReLU(), MyMaxPool(2, 2),
            nn.Conv2d(4, 4, 3), nn.ReLU(), MyMaxPool(2, 2),
            nn.Flatten(), nn.Linear(144, n_classes))
# %%
cfg = {"batch_size": 64, "criterion": "CrossEntropyLoss", "epochs": 1,
       "learning_rate": 0.001, "optimizer": "Adam", "seed": 42}
# %%
class Trainer:
    def __init__(self, model, cfg):
        self.model = model.to(device)
        for key, value in cfg.items():
            setattr(self, key, value)
        self.optimizer = getattr(optim, self.optimizer)(
            self.model.parameters(), self.learning_rate)
        self.criterion = getattr(nn, self.criterion)()
    def iter_step(self, X, Y):
        scores = self.model(X.to(device))
        return self.criterion(scores, Y), (scores.argmax(1) == Y).float().mean()
    def train(self, dataset):
        torch.manual_seed(self.seed)
        avg_loss, avg_acc = [], []
        for X, Y in [*DataLoader(dataset, self.batch_size, True)] * self.epochs:
            loss, acc = self.iter_step(X, Y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            avg_loss.append(loss.item())
            avg_acc.append(acc.item())
        return avg_loss, avg_acc
    def test(self, dataset):
        pairs = [self.iter_step(X, Y) for X, Y in DataLoader(dataset, self.batch_size)]
        return [loss.item() for loss, _ in pairs], [acc.item() for _, acc in pairs]
# %%
## 3. Tune the model hyperparameters (optional, max 10 pt)
# %%
def grid_search(train_dataset, cfg, learning_rates=[0.1, 0.01], batch_sizes=[32, 64]):
    tried = []
    for rate in learning_rates:
        for size in batch_sizes:
            own = {**cfg, "learning_rate": rate, "batch_size": size}
            model = MyCNNModel(len(train_dataset.dataset.original_data.classes))
            losses, accs = Trainer(model, own).train(train_dataset)
            tried.append((model, own, np.mean(losses), np.mean(accs)))
    return min(tried, key=lambda each: each[2])
# %%
## 4. Load and fine-tune a pre-trained model (10 pt)
# %%
loaded_model = timm.create_model("resnet18", pretrained=True, num_classes=10)
# %%
## 5. Compare models and discuss results (5 pt)

The pretrained one is better: 96 % of the test images are right."""

ALL = {"task 1": 8, "task 2": 12, "task 3": 6, "task 4": 2, "task 5": 0}
HABITS = {  # changes of RIGHT, and what they cost
    "argument names": (
        [("n_classes", "num_classes"), (", padding=0", ""), (", padding\n", ", 0\n")],
        {"task 2": -2},  # n_classes=3, and pooling with padding
    ),
    "pooling of torch": (
        [("x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))",
          "nn.functional.max_pool2d(x, self.k, self.s)")],
        {"task 2": -1},
    ),
    "other layers": (
        [("nn.Conv2d(4, 4, 3), nn.ReLU(), MyMaxPool(2, 2),\n            nn.Flatten(), "
          "nn.Linear(144, n_classes)", "nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), "
          "nn.Dropout(), nn.Flatten(), nn.LazyLinear(n_classes)")],
        {"task 2": -2},
    ),
    "own trainer": (
        [("def train(", "def fit("), (").train(", ").fit("),
         ("## 3. Tune", "# %%\ncfg = {}\n# %%\n## 3. Tune")],
        {"task 2": -1, "task 3": -1},
    ),
    "packages and a full stop": (
        [("class MyCNNModel", "import tensorboard, easydict\nclass MyCNNModel"),
         ("# %%\n## 4.", "best = grid_search(train_data, cfg)\n"
          "print(f\"Best model achieves {best[2]:.2f} loss\").\n# %%\n## 4.")],
        {},
    ),
}  # fmt: skip


def write_notebook(path, code, number=0):
    """Write the cells of `code` as a notebook with outputs; "##" starts Markdown."""
    cells = []
    for source in code.split("# %%\n"):
        source = source.rstrip("\n")
        if source.startswith("## "):
            cells.append(new_markdown_cell(source))
        else:
            cells.append(new_code_cell(source))
    codes = [cell for cell in cells if cell.cell_type == "code"]
    if codes:
        text = f"accuracy of team {number}: 9{number} %\n"
        image = {"image/png": figure(number), "text/plain": "<Figure>"}
        outputs = [new_output("stream", text=text)]
        outputs.append(new_output("display_data", data=image))
        codes[-1].outputs = outputs
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def figure(number):
    """A small figure as base64."""
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([number, 1, 2])
    file = io.BytesIO()
    fig.savefig(file, format="png")
    plt.close(fig)
    return base64.b64encode(file.getvalue()).decode()


def with_habit(habit):
    """RIGHT with the changes of a habit, each of which is there."""
    code = RIGHT
    changes, _ = HABITS[habit]
    for old, new in changes:
        assert old in code, old
        code = code.replace(old, new)
    return code


BODY = r"^( *)(def .*:)\n(?:\1 .*\n|\n)+"
OPEN = r"\1\2\n\1    pass  # TODO\n"  # in its place


def untouched():
    """The template as it is handed out: what is to be written is left open."""
    before, trainer, after = re.split("(?=class Trainer)|(?=## 3. Tune)", RIGHT)
    before = re.sub(BODY, OPEN, before, flags=re.MULTILINE)
    after = re.sub(BODY, OPEN, after, flags=re.MULTILINE)
    return before + trainer + after.replace("pretrained=True", "pretrained=...")


# --- A classroom ----------------------------------------------------------------------


def run_classroom(folder, *arguments):
    """Run the tool beside `folder`; what it printed."""
    call = [sys.executable, "-m", "tools.classroom", folder.name, *arguments]
    temporary = folder.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    done = subprocess.run(
        call, cwd=folder.parent, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(temporary) == []
    return done.stdout


def read_table(folder):
    """{team: row} of points.csv."""
    text = (folder.parent / "build/classroom/points.csv").read_text("utf-8-sig")
    return {row["team"]: row for row in csv.DictReader(io.StringIO(text))}


def points_in(row):
    return {f"task {task}": int(row[f"task {task}"]) for task in range(1, 6)}


KILLER = RIGHT.replace(
    "    def forward(self, x):",
    "    os.kill(os.getpid(), 9)\n    def forward(self, x):",
)
(TRAINER,) = re.findall("class Trainer:.*?\n# %%", RIGHT, re.DOTALL)
NOISY = f"""import os, subprocess, sys
subprocess.Popen(["sleep", "98765{os.getpid()}"])
class MyCNNModel:
    subprocess.Popen(["sleep", "98765{os.getpid()}"])
    sys.stdout.write("x" * 10**8)
    os.write(1, b"x" * 10**8)
    open("here", "w").write("x" * 10**8)
    input("?")
# %%
{TRAINER}
class Window:
    import tkinter
    tkinter.Tk()"""


@pytest.fixture(scope="module")
def teams(tmp_path_factory):
    """A folder of teams, the short ones of them, after a run; what it printed."""
    folder = tmp_path_factory.mktemp("course") / "Übung 2 (teams)"
    right = folder.parent / "right.ipynb"
    write_notebook(right, with_habit("packages and a full stop"), 1)
    folder.mkdir()
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.write(right, "b-main/part 2/ps2.ipynb")
    write_notebook(folder / "a/ps2.ipynb", "import own\n# %%\n" + untouched(), 2)
    (folder / "a/own.py").write_text("x = 1")
    (folder / "a/theory.pdf").write_bytes(b"%PDF-1.4")
    theory = "## 1.1 Kernels\n# %%\n## 1.4 Pooling\n\nWith a stride of 2."
    write_notebook(folder / "a/theory.ipynb", theory, 2)
    write_notebook(folder / "c=1/ps2.ipynb", NOISY, 3)
    write_notebook(folder / "c=1/x/ps2.ipynb", KILLER, 3)
    write_notebook(folder / "killer/ps2.ipynb", KILLER, 4)
    write_notebook(folder / "names/ps2.ipynb", with_habit("argument names"), 5)
    for name in ("empty", "merge", ".hidden"):
        (folder / name).mkdir()
    (folder / "empty/readme.md").write_text("Nothing.")
    text = right.read_text("utf-8")
    (folder / "utf-16.ipynb").write_text(text, encoding="utf-16")
    (folder / "merge/ps2.ipynb").write_text(f"<<<<<<< HEAD\n{text}")
    (folder / "torn.zip").write_bytes(b"PK")
    return folder, run_classroom(folder)


KILLED = "the notebook ended the process with signal 9 in its definitions"
UNGRADED = [
    pytest.param("killer", KILLED, id="killer"),
    pytest.param("empty", "no notebook defines MyCNNModel: there is no", id="empty"),
    pytest.param(
        "utf-16.ipynb", "utf-16.ipynb is no notebook: it is not in UTF-8", id="UTF-16"
    ),
    pytest.param("merge", "ps2.ipynb is no notebook: line 1 is a marker", id="merge"),
    pytest.param("torn.zip", "torn.zip cannot be opened", id="torn archive"),
]


@pytest.mark.parametrize("name, words", UNGRADED)
def test_a_team_that_cannot_be_graded_is_a_row_with_a_sentence(teams, name, words):
    folder, printed = teams
    row = read_table(folder)[name]
    assert words in row["remarks"]
    assert row["points"] == row["task 1"] == row["load errors"] == ""
    assert row["testable"] == "28"
    assert f"{name}: not graded: {row['remarks'][:40]}" in printed


def test_every_team_is_a_row_in_one_order(teams):
    folder, printed = teams
    names = ["a", "b.zip", "c=1", "empty", "killer", "merge", "names", "torn.zip"]
    assert list(read_table(folder)) == [*names, "utf-16.ipynb"]
    assert printed.splitlines()[-1].startswith("9 teams, 5 of them not graded; ")


def test_the_untouched_template_has_no_points(teams):
    folder, _ = teams
    row = read_table(folder)["a"]
    assert points_in(row) == dict.fromkeys(ALL, 0)
    assert row["points"] == "0"


def test_a_right_submission_in_an_archive_has_all_points(teams):
    folder, _ = teams
    row = read_table(folder)["b.zip"]
    assert points_in(row) == ALL
    assert row["notebook"] == "b-main/part 2/ps2.ipynb"
    # a cell with packages that are not installed, and one with a full stop
    assert row["load errors"] == "2"


def test_a_habit_costs_what_it_should(teams):
    folder, _ = teams
    _, costs = HABITS["argument names"]
    points = points_in(read_table(folder)["names"])
    assert points == {**ALL, "task 2": ALL["task 2"] + costs["task 2"]}


def test_harmful_definitions_are_survived(teams):
    folder, _ = teams
    row = read_table(folder)["c=1"]
    assert row["points"] == "0"
    assert row["not found"].startswith("rotate_picture, plot_histogram")
    remark = "x/ps2.ipynb defines MyCNNModel, too; it is not graded"
    assert row["remarks"] == remark
    page = folder.parent / f"build/classroom/team-{file_name('c=1')}.html"
    text = page.read_text("utf-8")
    assert "EOFError: input() is refused: nobody is there to type" in text
    processes = subprocess.check_output(["ps", "-eo", "args"], text=True)
    assert f"sleep 98765{os.getpid()}" not in processes


FORMULAS = [
    ("=1+1", "'=1+1"),
    ("@a", "'@a"),
    ("-x", "'-x"),
    ("\t=1", "'\t=1"),
    ("\r=1", "'\r=1"),
    ("a=1", "a=1"),
    (-1, -1),
]


@pytest.mark.parametrize("value, written", FORMULAS)
def test_no_text_of_a_team_is_a_formula_of_a_spreadsheet(value, written):
    assert as_text(value) == written


def test_each_team_has_files_of_its_own():
    names = ["team-1", "team 1", "team/1", "Übung", "übung", "..", "=1+1"]
    names += ["n" * 255, "n" * 254]
    files = [file_name(name) for name in names]
    assert files[0] == "team-1"
    assert len(set(files)) == len(names)
    for file in files:
        assert re.fullmatch(r"[\w-]{1,80}", file, re.ASCII)


def test_pages_show_what_was_handed_in(teams):
    folder, _ = teams
    pages = folder.parent / "build/classroom"
    paths = list(pages.glob("*.html"))
    assert len(paths) == 16  # the table, theory, 5 tasks, 9 teams
    for path in paths:
        check_page(path)
    task = (pages / "task-4.html").read_text("utf-8")
    assert "accuracy of team 1: 91 %" in task
    assert f"data:image/png;base64,{figure(1)}" in task
    network = (pages / "task-2.html").read_text("utf-8")
    trainer = "The same in 5 teams: <code>class Trainer:</code>"
    assert trainer in network
    theory = (pages / "theory.html").read_text("utf-8")
    assert '<h2 id="group-2">Question 1.4</h2>' in theory
    assert "With a stride of 2." in theory
    assert '<a href="a/1.pdf">theory.pdf</a>' in theory
    assert sorted(path.name for path in (folder / "a").iterdir()) == [
        "own.py",
        "ps2.ipynb",
        "theory.ipynb",
        "theory.pdf",
    ]
    failed = (pages / "team-a.html").read_text("utf-8")
    assert "it gives None in place of an image" in failed


def test_no_team_takes_the_files_of_another():
    made = file_name("a b")
    assert made.startswith("a-b-")
    assert file_name(made) != made


def test_the_order_of_teams_does_not_hang_on_the_disk(tmp_path):
    names = ["B", "a", "A", "b", "é"]
    for name in names:
        (tmp_path / name).mkdir()
    assert list(find_teams(tmp_path)) == ["A", "a", "B", "b", "é"]


def test_a_link_that_leads_nowhere_is_a_row(tmp_path):
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    reasons = []
    for path in find_teams(tmp_path).values():
        reasons.append(team.team_result(path, tmp_path / "pdfs")["reason"])
    lost, circle = reasons
    assert lost == "it cannot be read: No such file or directory"
    assert circle == "it cannot be read: Too many levels of symbolic links"


def test_a_change_of_rights_is_a_change(tmp_path):
    (tmp_path / "ps2.ipynb").write_text("{}")
    before = classroom.state_of(tmp_path)
    assert classroom.state_of(tmp_path) == before
    (tmp_path / "ps2.ipynb").chmod(0)
    assert classroom.state_of(tmp_path) != before


def test_no_team_is_a_sentence(tmp_path):
    (tmp_path / "notes.txt").write_text("Nothing.")
    with refused(ValueError, "holds no folder, notebook or archive of a team"):
        find_teams(tmp_path)


def test_only_a_team_whose_files_changed_is_run_again(tmp_path):
    folder = tmp_path / "teams"
    for name in ("a", "b", "gone"):
        (folder / name).mkdir(parents=True)
    (folder / "gone/a.pdf").write_bytes(b"%PDF-1.4")
    run_classroom(folder)
    before = read_table(folder)
    (folder / "b/.DS_Store").write_text("Nothing.")
    (folder / "a/readme.md").write_text("Nothing.")
    shutil.rmtree(folder / "gone")
    printed = run_classroom(folder, "--jobs", "1")
    assert "1 of 2 teams are done" in printed
    assert "2 of 2  a: not graded" in printed
    del before["gone"]
    after = read_table(folder)
    before["a"].pop("seconds")
    after["a"].pop("seconds")
    assert after == before
    names = [path.name for path in (tmp_path / "build/classroom").iterdir()]
    assert not [name for name in names if "gone" in name]


def test_what_a_circumstance_has_stopped_is_not_kept(tmp_path, monkeypatch):
    folder = tmp_path / "teams"
    (folder / ("n" * 255)).mkdir(parents=True)
    with zipfile.ZipFile(folder / "full.zip", "w") as archive:
        archive.writestr("n" * 300, "")  # no disk takes this name
    monkeypatch.chdir(tmp_path)
    full, named = classroom.grade_teams(find_teams(folder), 1)
    assert full["reason"] == "it cannot be read: File name too long"
    assert named["reason"] == "no notebook defines MyCNNModel: there is no notebook"
    (kept,) = (tmp_path / "build/classroom").glob("*.json")
    assert kept.stem == file_name("n" * 255)


def test_a_team_whose_process_fails_stops_no_other(tmp_path, monkeypatch):
    def no_process(path, name):
        raise BlockingIOError  # as of a machine with too many processes

    monkeypatch.setattr(classroom, "run_team", no_process)
    monkeypatch.chdir(tmp_path)
    results = classroom.grade_teams({"a": tmp_path, "b": tmp_path}, 1)
    reasons = [result["reason"] for result in results]
    assert reasons == 2 * ["its process gave no result: BlockingIOError"]


def test_a_team_that_hangs_is_stopped_with_a_sentence(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    os.mkfifo(archive)  # nobody writes there, so that reading never ends
    monkeypatch.setattr(classroom, "TEAM_SECONDS", 20)
    monkeypatch.chdir(tmp_path)
    (result,) = classroom.grade_teams({"a\nb": archive}, 1)
    assert result["reason"] == "stopped after 20 s"
    assert result["is_incomplete"]


def test_what_could_not_be_shown_in_time_costs_no_points(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt  # as SIGTERM of the parent does

    monkeypatch.setattr(team, "fill_in_cells", stop)
    result = team.team_result(tmp_path, tmp_path / "pdfs")
    remark = "not all that was handed in can be shown: its time was over"
    assert result["remarks"] == [remark]
    assert result["is_incomplete"]


def test_the_memory_of_a_team_is_limited_and_a_lower_limit_stays():
    code = """import resource
from tools.team import limit_memory
for most in (3, 1):
    resource.setrlimit(resource.RLIMIT_DATA, (most * 2**30, 3 * 2**30))
    limit_memory()
    print(resource.getrlimit(resource.RLIMIT_DATA)[0] / 2**30)"""
    found = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert found.splitlines() == ["2.0", "1.0"]


# --- What was handed in ---------------------------------------------------------------


def test_an_archive_with_a_torn_file_is_a_sentence(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.ipynb", os.urandom(100) * 100)
    content = bytearray(path.read_bytes())
    content[40:60] = b"x" * 20
    path.write_bytes(content)
    with refused(ValueError, "a.zip cannot be opened: "):
        team.unpack(path, tmp_path)


def odd_archive(method, old=b"", new=b""):
    """The bytes of an archive that is packed with a method, with a change."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("aü.ipynb", bytes(range(256)))
    content = file.getvalue()
    if old:
        return content.replace(old, new)
    return content[:100] + b"\xff" * 20 + content[120:]


ODD_ARCHIVES = [
    pytest.param(odd_archive(zipfile.ZIP_LZMA), id="LZMA"),
    pytest.param(odd_archive(zipfile.ZIP_BZIP2), id="bzip2"),
    pytest.param(odd_archive(0, "ü".encode(), b"\xff\xff"), id="no name in UTF-8"),
    pytest.param(b"", id="empty"),
]


@pytest.mark.parametrize("content", ODD_ARCHIVES)
def test_whatever_is_wrong_with_an_archive_it_is_a_sentence(tmp_path, content):
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    result = team.team_result(path, tmp_path / "pdfs")
    assert result["reason"].startswith("a.zip cannot be opened: ")
    assert not result["is_incomplete"]


def test_only_documents_of_the_team_are_copied(tmp_path, monkeypatch):
    folder = tmp_path / "team"
    names = ["a.pdf", "x/b.pdf", "z.pdf", ".hidden.pdf", "__MACOSX/._a.pdf"]
    for name in [*names, "venv/c.pdf", "lib/site-packages/c.pdf"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%PDF-1.4")
    (tmp_path / "secret.pdf").write_bytes(b"%PDF-1.4")
    (folder / "link.pdf").symlink_to(tmp_path / "secret.pdf")
    monkeypatch.setattr(team, "MOST_PDFS", 20)
    remarks = []
    copied = team.copy_pdfs(folder, tmp_path / "copies", remarks)
    assert [pdf["name"] for pdf in copied] == ["a.pdf", "z.pdf"]
    assert remarks == ["x/b.pdf is too large to be copied"]


def test_part_1_that_is_not_shown_is_a_remark(tmp_path):
    path = tmp_path / "ps2.ipynb"
    write_notebook(path, "## 1.1 Kernels\n# %%\n" + RIGHT)
    (tmp_path / "theory.ipynb").write_text("{}")
    result = team.empty_result()
    team.fill_in_cells(result, [path], tmp_path)
    assert len(result["cells"]) > 10
    first, second = result["remarks"]
    assert first == "answers to part 1 in the notebook of part 2 are not shown"
    assert second.startswith("theory.ipynb is no notebook: ")


def test_the_fences_of_part_2_are_no_answers_to_part_1():
    assert not any(questions(read_notebook(ROOT / "ps2_eurosat.ipynb").cells))
    assert any(questions(read_notebook(ROOT / "ps2_theory.ipynb").cells))


# --- All habits, and our own notebook -------------------------------------------------


@pytest.mark.soak
def test_each_habit_costs_what_it_should(tmp_path):
    folder = tmp_path / "teams"
    expected = {}
    for habit in HABITS:
        _, costs = HABITS[habit]
        write_notebook(folder / habit / "ps2.ipynb", with_habit(habit))
        points = {task: ALL[task] + costs.get(task, 0) for task in ALL}
        expected[habit] = points
    (folder / "ours").mkdir()
    copy_notebook("ps2_eurosat.ipynb", folder / "ours")
    expected["ours"] = ALL
    run_classroom(folder)
    table = read_table(folder)
    found = {name: points_in(row) for name, row in table.items()}
    assert found == expected


ENDLESS = """import time
class MyCNNModel:
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass"""


@pytest.mark.soak
def test_a_definition_that_never_ends_is_stopped(tmp_path):
    folder = tmp_path / "teams"
    write_notebook(folder / "a.ipynb", f"## 1. Transform\n# %%\n{ENDLESS}")
    run_classroom(folder)
    row = read_table(folder)["a.ipynb"]
    assert row["remarks"] == "the notebook was stopped after 270 s in its definitions"
