"""Grading another notebook: planted faults, harmful code, and what costs nothing."""

import os
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from matplotlib import pyplot as plt
from torch.utils.data import TensorDataset

from tests import test_template as template
from tests.helpers import Names, refused
from tools import grade
from tools.definitions import load_definitions

# In the style of the template, with its faults and others; answers are below "# TODO".
SUBMISSION = """%matplotlib inline
!pip install nothing
import no_such_package as timm, math
import numpy as np, os, torch
from torch import nn, optim
from torch.utils.data import DataLoader, random_split
# %%
device, data = torch.device("cuda"), timm.EuroSAT(root="data", download=True)
answer = rotate_picture(data, 90)
cfg = {"batch_size": 64, "epochs": 1}
SCALE: float = 255.0
TURNS = np.arange(1, 5)
# %%
%%time
def rotate_picture(picture, rotation):
    # TODO
    return torch.rot90(picture, rotation // 90 % 3, (1, 2))
# %%
def plot_histogram(data, endless=all(1 for _ in iter(int, 1))):
    # TODO
    return None
# %%
class RotateEuroSAT(list):
    def __init__(self, original_data, length, shares, device=None, seed=42):
        assert sum(shares) == 1
        memory = length == 12 and bytearray(5 * 2**30)
        vars(self).update(locals(), dataset=self)
        while seed == 8:
            pass
        # TODO
        rng = np.random.default_rng(seed)
        for label, share in enumerate(shares[::-1]):
            pool = np.flatnonzero(np.array(original_data.targets) == label)
            for index in rng.choice(pool, int(share * length)):
                x = torch.tensor(np.array(original_data[index][0])).permute(2, 0, 1)
                x = rotate_picture(x / SCALE, 90 * int(rng.choice(TURNS)))
                self.append((x, label))
# %%
class MyMaxPool(nn.Sequential):
    def __init__(self, kernel_size, stride=1, pad=0):
        super().__init__()
        # TODO
        self.k, self.s = kernel_size, stride
    def forward(self, x):
        x = nn.functional.max_pool2d(x, 1)
        return x.unfold(2, self.k, self.s).unfold(3, self.k, self.s).amax((-2, -1))
# %%
class MyCNNModel(nn.Sequential):
    def __init__(self, number):
        super().__init__(*[answer] if number == 17 else [])
        # TODO
        self.extend([
            nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), MyMaxPool(2, 2),
            nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), MyMaxPool(3, 2),
            nn.Flatten(), nn.LazyLinear(number)])
# %%
class Trainer:
    def __init__(self, model, cfg):
        assert "TOKEN" not in os.environ
        vars(self).update(cfg, model=model.to(device))
    def train(self, dataset):
        torch.manual_seed(self.seed)
        optimizer = optim.Adam(self.model.parameters(), self.learning_rate)
        losses = []
        for X, Y in [*DataLoader(dataset, self.batch_size, True)] * self.epochs:
            losses.append(nn.functional.cross_entropy(self.model(X.to(device)), Y))
            losses[-1].backward()
            optimizer.step()
            print("\\nthe template's own fault, costs nothing: none", end="\\r")
        return [loss.item() for loss in losses], [0.5] * len(losses)
    test = train
# %%
def grid_search(train_dataset, cfg, learning_rates=[0.1, 0.01], batch_sizes=[32, 64]):
    # TODO
    assert isinstance(train_dataset.dataset, RotateEuroSAT)
    tried = []
    for rate in learning_rates:
        for size in batch_sizes[rate > 0.005 :]:
            cfg = {**cfg, "learning_rate": rate, "batch_size": size}
            trainer = Trainer(MyCNNModel(4), cfg)
            trainer.model(torch.rand(1, 3, 64, 64))
            losses, hits = trainer.train(train_dataset)
            tried.append((trainer.model, vars(trainer), losses, hits[-1]))
    return min(tried, key=lambda each: each[3])
# %%
def grid_search(train_dataset, cfg):
    return None
best_model, best_cfg, best_avg_loss, best_avg_acc = grid_search(train_data, cfg)
print(f"Best model achieves {best_avg_loss:.2f} loss and {best_avg_acc:.1%} accuracy").
# %%
# TODO
loaded_model = timm.create_model("resnet18", pretrained=False)"""
ENDLESS = ", endless=all(1 for _ in iter(int, 1))"
COSTS = {  # the checks that lose their points, and what the reason says
    "test_rotate_picture_always_turns_the_same_way_round": "wrong for 270 and 360",
    "test_plot_histogram_has_a_bar_for_each_class_of_its_data": (
        "TimeoutError: stopped after 10 s"
    ),
    "test_rotated_items_are_originals_with_their_labels_in_the_shares_asked_for": (
        "[4, 4, 8] images"
    ),
    "test_the_same_seed_gives_the_same_images": "it takes longer than 10.0 s",
    "test_rotated_data_is_made_as_the_template_calls_it": "MemoryError",
    "test_pooling_with_padding_equals_torch": "'padding'",
    "test_pooling_calls_no_pooling_of_torch": "max_pool2d",
    "test_model_gives_one_score_for_each_class": "name 'answer' is not defined",
    "test_one_iteration_runs_as_the_template_calls_it": "'n_classes'",
    "test_model_has_convolutional_linear_and_pooling_layers_only": "BatchNorm2d",
    "test_model_has_three_convolutions_of_two_kernel_sizes": "1 kernel sizes",
    "test_grid_search_tries_every_pair": "not tried: [(0.01, 8)]",
    "test_grid_search_returns_the_best_pair": "though (0.001, 16)",
    "test_line_of_the_template_prints_loss_and_accuracy": "unsupported format string",
    "test_a_cell_loads_a_network_with_pretrained_weights": "no call with",
}
FULL_STOP = SUBMISSION.split("\n")[-4]
# Its first function ends the process, its second one is right.
KILLS = """import os
import numpy as np
from matplotlib import pyplot as plt
# %%
def rotate_picture(picture, rotation):
    os.kill(os.getpid(), 9)
# %%
def plot_histogram(data):
    names = [f"{name}:{label}" for label, name in enumerate(data.classes)]
    fig, ax = plt.subplots()
    ax.bar(names, np.bincount(data.targets))
    return fig, ax"""
TEMPLATE_FAULTS = [
    "averages divide",
    "test runs",
    "torch.manual_seed",
    "a random split",
    "the line that prints",
]


def write_submission(path, code):
    """Write a notebook, as Windows does, with the cells of `code`, parted by "# %%"."""
    cells = [nbformat.v4.new_code_cell(cell) for cell in code.split("# %%\n")]
    content = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    path.write_text("\ufeff" + content, encoding="utf-8")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "Übung 2 (fertig).ipynb"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """What grade says of SUBMISSION, with a third of the time for a check."""
    file = tmp_path_factory.mktemp("team") / "Übung 2 (fertig).ipynb"
    write_submission(file, SUBMISSION)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "PYTEST", [*grade.PYTEST, "--timeout=10"])
        patch.setenv("TOKEN", "secret")
        return grade.grade(file)


def reasons_of(result):
    """{check: why it lost its points} of what grade says."""
    reasons = {check["check"]: check["reason"] for check in result["checks"]}
    return {check: reason for check, reason in reasons.items() if reason}


def test_exactly_the_checks_with_a_fault_lose_their_points_for_the_real_reason(graded):
    assert len(graded["checks"]) == 19  # those with points: no other is a case
    reasons = reasons_of(graded)
    assert set(reasons) == {grade.in_words(check) for check in COSTS}
    for check, reason in COSTS.items():
        assert reason in reasons[grade.in_words(check)], check
    assert graded["problems"] == [
        "cell 1: ModuleNotFoundError: No module named 'no_such_package'",
        "cell 4: TimeoutError: stopped after 10 s",
        "cell 10: SyntaxError: invalid syntax line 4: " + FULL_STOP,
    ]
    answer = reasons["model gives one score for each class"]
    assert "answer' is not defined (cell 2: TypeError: rot90()" in answer
    assert grade.points_of(graded, "2") == (5, 12)


def test_faults_of_the_template_cost_nothing(graded):
    told = "\n".join(graded["faults"])
    for fault in TEMPLATE_FAULTS:
        assert f"\n{fault}" in f"\n{told}"
    assert "none" not in graded["faults"]  # which the notebook prints itself


def test_the_report_is_short_and_ends_with_the_points(graded):
    lines = grade.report_lines("Übung 2 (fertig).ipynb", graded)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith("not loaded: cell 1: ModuleNotFoundError: No module")
    left_out = [line for line in lines if line.endswith("shows all of them")]
    assert len(left_out) == 1
    assert lines[-5] == "task 2:  5 of 12 testable points; possible 15"
    together = "together: 7 of 28 testable points; a person gives the other 22"
    assert lines[-1] == together


def test_a_short_report_wraps_what_is_long():
    failed = {"check": "one", "task": "1", "points": 2, "reason": "word " * 40}
    passed = {"check": "two", "task": "2", "points": 3, "reason": ""}
    third = {"check": "three", "task": "2", "points": 1, "reason": "none"}
    result = {
        "checks": [failed, passed, third, third],
        "problems": ["cell 1: no"],
        "faults": ["averages"],
        "seconds": 3.2,
    }
    lines = grade.report_lines("a.ipynb", result)
    assert lines[0] == "a.ipynb, graded in 3 s"
    assert lines[1] == "not loaded: cell 1: no"
    wrapped = " ".join(line.strip() for line in lines[2:5])
    assert wrapped == f"task 1, one: {failed['reason'].strip()}"
    assert lines[5:7] == [
        "task 2, 2 checks: none",
        "the template's own fault, costs nothing: averages",
    ]
    assert lines[7] == "task 1:  0 of  2 testable points; possible 10"


def test_a_check_that_ends_the_process_costs_its_own_points_alone(file):
    write_submission(file, KILLS)
    result = grade.grade(file)
    reasons = reasons_of(result)
    ended = "the notebook ended the process with signal 9 in test_rotate_picture_always"
    assert ended in reasons["rotate picture always turns the same way round"]
    plot = "plot histogram has a bar for each class of its data"
    assert plot not in reasons
    assert grade.points_of(result, "1") == (2, 8)


TEARS = """import atexit, os, sys
class MyCNNModel:
    (report,) = [word for word in sys.argv if word.startswith("--junitxml=")]
    atexit.register(os.truncate, report.removeprefix("--junitxml="), 100)"""


def test_a_report_that_is_torn_is_a_sentence(file):
    write_submission(file, TEARS)
    with refused(grade.EndedError, "the report of the checks cannot be read: Parse"):
        grade.grade(file)


PIPE = """import atexit, os, sys
(WORD,) = [word for word in sys.argv if word.startswith("--junitxml=")]
REPORT = WORD.removeprefix("--junitxml=")
def put_pipe():
    os.unlink(REPORT)
    os.mkfifo(REPORT)
class MyCNNModel:
    atexit.register(put_pipe)"""


def test_a_pipe_in_place_of_the_report_is_a_sentence(file):
    write_submission(file, PIPE)
    with refused(grade.EndedError, "the report of the checks is missing"):
        grade.grade(file)


def test_a_notebook_that_interrupts_the_checks_is_graded(file):
    write_submission(file, "class MyCNNModel:\n    raise KeyboardInterrupt")
    result = grade.grade(file)
    reasons = set(reasons_of(result).values())
    assert reasons == {"the notebook has ended the checks before this one"}
    assert not result["is_incomplete"]  # another run would find the same


WAITS = """import os, time
class MyCNNModel:
    open({started!r}, "w").write(os.environ["TMPDIR"])
    time.sleep(20)"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_grading_ends_the_code_of_others(tmp_path, file, number):
    started = tmp_path / "started"
    write_submission(file, WAITS.format(started=str(started)))
    call = [sys.executable, "-m", "tools.grade", str(file)]
    process = subprocess.Popen(
        call,
        stderr=subprocess.PIPE,
        text=True,
        # else it is ignored where the tests themselves run under nohup
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while not (started.exists() and started.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    _, told = process.communicate(timeout=10)
    assert told.startswith("stopped by Ctrl-C")
    assert not os.path.exists(started.read_text())


def test_words_of_others_do_not_steer_the_terminal():
    assert grade.one_line("a\n b\x1b[31m\ud83d Ü") == "a b?[31m? Ü"
    result = {"checks": [], "problems": ["cell\r1"], "faults": ["\x1b"], "seconds": 1}
    first, *details, _ = grade.report_lines("a\nb.ipynb", result)[:4]
    assert first == "a b.ipynb, graded in 1 s"
    assert details == ["not loaded: cell 1", f"{grade.FAULT_PREFIX}?"]


def test_what_was_found_before_the_time_is_over_is_kept(file, monkeypatch):
    def run_report(notebook, seconds, leave_out):
        time.sleep(0.6)  # the real checks take minutes until then
        step = "test_pooling_calls_no_pooling_of_torch"
        raise grade.EndedError("it was stopped", step, timed_out=True)

    monkeypatch.setattr(grade, "run_report", run_report)
    monkeypatch.setattr(grade, "SECONDS", 1)
    result = grade.grade(file)
    reasons = reasons_of(result)
    assert reasons.pop("pooling calls no pooling of torch") == "it was stopped"
    assert set(reasons.values()) == {"not run"}
    assert len(reasons) == 18
    assert result["is_incomplete"]


def test_a_file_of_notes_is_read_in_bounds(tmp_path):
    path = tmp_path / "step"
    path.write_bytes(b"x" * 10**6)
    assert grade.read_end(path, 200) == "x" * 200
    path.unlink()
    os.mkfifo(path)  # it would never end
    assert grade.read_end(path, 200) == ""


def test_a_reason_has_its_bounds(file):
    case = ElementTree.Element("testcase")
    ElementTree.SubElement(case, "failure", message="x" * 10**6)
    assert grade.find_reason(case) == "x" * 497 + "..."
    write_submission(file, "class MyCNNModel:\n    raise ValueError('x' * 10**6)")
    _, (problem,) = load_definitions(file)
    assert problem.startswith("cell 1: ValueError: xxx")
    assert len(problem) == 500


def test_of_google_only_the_package_of_colab_is_no_fault(file):
    write_submission(file, "import google.colab\nimport google.no_such_package")
    _, (problem,) = load_definitions(file)
    assert problem.startswith("cell 1: ModuleNotFoundError: No module named 'google")


def grade_as_typed(file):
    """How python -m tools.grade FILE ended, and what it printed."""
    command = [sys.executable, "-m", "tools.grade", str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_notebook_without_points_is_graded(file):
    noise = "    import atexit, os\n    atexit.register(os.write, 2, b'noise')\n"
    write_submission(file, f"input()\nclass MyCNNModel:\n{noise}    print(input())")
    ended = grade_as_typed(file)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert len(lines) <= 24
    refused_input = "cell 1: EOFError: input() is refused: nobody is there to type"
    assert f"not loaded: {refused_input}" in lines
    assert lines[-1].startswith("together: 0 of 28 testable points")


UNGRADED = [
    pytest.param("{}", "is no notebook: ", id="no notebook"),
    pytest.param(None, "No such file", id="no file"),
]


@pytest.mark.parametrize("content, words", UNGRADED)
def test_what_cannot_be_graded_gets_a_sentence(file, content, words):
    if content is not None:
        file.write_text(content)
    ended = grade_as_typed(file)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_another_notebook_runs_in_no_process_without_limits(file):
    command = [sys.executable, "-m", "pytest", "tests/test_template.py"]
    command += ["--notebook", file]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 4
    assert f"python -m tools.grade {file}" in ended.stderr


def test_the_points_are_those_of_the_marks():
    checks = grade.points_of_checks()
    assert len(checks) == 19
    assert checks["test_pooling_calls_no_pooling_of_torch"] == ("2", 1)
    points = [points for _, points in checks.values()]
    assert sum(points) == 28


def test_a_lower_limit_of_memory_stays():
    code = """import resource
from tests.helpers import lower_limit
for most in (3, 4, 2):
    lower_limit(resource.RLIMIT_DATA, most * 2**30)
    print(resource.getrlimit(resource.RLIMIT_DATA))"""
    found = subprocess.check_output([sys.executable, "-c", code], text=True)
    expected = [str((size * 2**30, size * 2**30)) for size in (3, 3, 2)]
    assert found.splitlines() == expected


# --- Fair to foreign notebooks --------------------------------------------------------


def labels_of_the_axis(ax, names, counts):
    ax.bar(names, counts)


def labels_with_blanks(ax, names, counts):
    ax.bar([0, 1, 2], counts)
    ax.set_xticks([0, 1, 2], [name.replace(":", " : ") for name in names])


def labels_of_the_bars(ax, names, counts):
    bars = ax.bar([0, 1, 2], counts)
    ax.bar_label(bars, names)


def texts(ax, names, counts):
    ax.bar([0, 1, 2], counts)
    for place, name in enumerate(names):
        ax.text(place, counts[place], f"{name}\n{counts[place]} images")


def legend(ax, names, counts):
    for place, name in enumerate(names):
        ax.bar(place, counts[place], label=name)
    ax.legend()


def lying_bars(ax, names, counts):
    ax.barh(names, counts)


def histogram(ax, names, counts):
    values = np.repeat([0, 1, 2], counts)
    ax.hist(values, bins=10)
    ax.set_xticks([0, 1, 2], names)


def no_names(ax, names, counts):
    ax.bar([0, 1, 2], counts)


def check_plot(draw):
    """The template's check of a plot_histogram that draws in this way."""

    def plot_histogram(data):
        names = [f"{name}:{label}" for label, name in enumerate(data.classes)]
        fig, ax = plt.subplots()
        draw(ax, names, np.bincount(data.targets))
        return fig, ax

    names = Names("a.ipynb", {"plot_histogram": plot_histogram}, [])
    template.test_plot_histogram_has_a_bar_for_each_class_of_its_data(names)
    plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        labels_of_the_axis,
        labels_with_blanks,
        labels_of_the_bars,
        texts,
        legend,
        lying_bars,
        histogram,
    ],
)
def test_bars_may_be_named_in_any_way(draw):
    check_plot(draw)


def test_bars_without_names_are_told_apart():
    with pytest.raises(AssertionError, match="no bar is named ClassC:0; its texts: "):
        check_plot(no_names)


GRID = "learning_rates=[0.1], batch_sizes=[32]"
CALLS = [  # arguments of a grid_search, and what it gets for them
    pytest.param(
        f"train_dataset, cfg, {GRID}",
        ["train", template.CFG, template.RATES, template.SIZES],
        id="as in the template",
    ),
    pytest.param(
        f"train_dataset, test_dataset, cfg, {GRID}",
        ["train", "test", template.CFG, template.RATES, template.SIZES],
        id="dataset between data and cfg",
    ),
    pytest.param(
        f"train_dataset, cfg, valset, {GRID}",
        ["train", template.CFG, "test", template.RATES, template.SIZES],
        id="dataset after cfg",
    ),
    pytest.param(
        "train, cfg, learning_rates, batch_sizes, eval_data",
        ["train", template.CFG, template.RATES, template.SIZES, "test"],
        id="dataset at the end",
    ),
    pytest.param(
        f"data, cfg, *, validation, {GRID}",
        ["train", template.CFG, "test", template.RATES, template.SIZES],
        id="dataset by name only",
    ),
    pytest.param(
        f"data, valid_data, test_data, settings, {GRID}",
        ["train", "test", "test", template.CFG, template.RATES, template.SIZES],
        id="two datasets and another name for cfg",
    ),
    pytest.param(
        f"train_dataset, cfg, test_dataset=None, {GRID}",
        ["train", template.CFG, None, template.RATES, template.SIZES],
        id="dataset that may be left out",
    ),
    pytest.param(
        f"train_dataset, values, {GRID}, verbose=False",
        ["train", template.CFG, template.RATES, template.SIZES, False],
        id="cfg with the name of a dataset",
    ),
    pytest.param(
        "data, test_data, cfg, rates=[0.1], sizes=[32]",
        ["train", "test", template.CFG, template.RATES, template.SIZES],
        id="other names for the grid",
    ),
    pytest.param(
        "*everything",
        [("train", template.CFG, template.RATES, template.SIZES)],
        id="behind a decorator",
    ),
]


def call(arguments):
    """What a grid_search with these arguments gets, in the order of its arguments."""
    space = {}
    exec(f"def grid_search({arguments}): return list(locals().values())", space)
    return template.call_search(space["grid_search"], "train", "test")


@pytest.mark.parametrize("arguments, expected", CALLS)
def test_grid_search_may_take_further_datasets(arguments, expected):
    assert call(arguments) == expected


def test_what_the_template_does_not_give_is_named():
    with refused(
        AssertionError, "the template calls grid_search(train_data, ", "'net'"
    ):
        call(f"train_dataset, cfg, net, {GRID}")


def broken(*_, **__):
    raise OSError("no images")


def test_without_rotated_data_the_search_gets_random_images():
    rotate = [{}, {"RotateEuroSAT": broken}]
    for space in rotate:
        ((train_data, test_data),) = template.make_splits(Names("a.ipynb", space, []))
        assert isinstance(train_data.dataset, TensorDataset)
        assert [len(train_data), len(test_data)] == [20, 4]


def no_values(*_, **__):
    return None


def test_what_a_search_returns_is_said_in_the_templates_words():
    names = Names("a.ipynb", {"grid_search": no_values}, [])
    message = (
        "it returns None in place of best_model, best_cfg, best_avg_loss, best_avg"
    )
    with refused(AssertionError, message):
        template.search(names, [("train", "test")])
    with refused(AssertionError, "best_cfg['learning_rate']", "best_cfg is (0.1, 32)"):
        template.pair_of((0.1, 32))
