"""Every number that a sentence of part 2 or README.md states is in the record.

Those of the discussion are computed again here, one by one. The other Markdown cells
state no results, so each of their numbers must stand in FACTS.
"""

import re
import statistics
from pathlib import Path

import nbformat
import pytest

import discussion
import results

RECORD = results.read_json(results.RESULTS)
LEDGER = results.read_json(results.LEDGER)
CELLS = nbformat.read("ps2_eurosat.ipynb", as_version=4).cells
NUMBER = re.compile(r"[+−]?\d[\d,]*(?:\.\d+)?")


def numbers(text):
    """The numbers in a text, as texts, without the commas of thousands."""
    found = []
    for number in NUMBER.findall(text):
        found.append(number.rstrip(",").replace(",", ""))
    return found


def signed(number):
    """A number with two digits and its sign."""
    return f"{number:+.2f}".replace("-", "−")


# --- The discussion, by hand ----------------------------------------------------------


def accuracy(name):
    """The test accuracy of a model in %."""
    row = RECORD["results"][name]
    return 100 * row["correct"] / row["total"]


def mean_and_spread(kind):
    """[mean accuracy, standard deviation, seeds] of a kind of model, as texts."""
    values = [accuracy(name) for name in RECORD["seeds of"][kind]]
    mean = statistics.mean(values)
    return [f"{mean:.2f}", f"{statistics.stdev(values):.2f}", str(len(values))]


def bound_of(p_value):
    """The smallest usual bound above a p-value, as a text."""
    return str(min(bound for bound in (0.001, 0.01, 0.05) if p_value < bound))


def ahead():
    """How far the pretrained model is ahead on average: points, images."""
    means = {}
    for kind, names in RECORD["seeds of"].items():
        means[kind] = statistics.mean(
            RECORD["results"][name]["correct"] for name in names
        )
    images = abs(means["pretrained model"] - means["our tuned model"])
    return [f"{100 * images / RECORD['images']:.2f}", f"{images:.0f}"]


def advice():
    """One over the ratio of the parameters, and the ratio of the multiplications."""
    ratios = {}
    for name in ("parameters", "multiply-adds"):
        both = RECORD[name]
        ratios[name] = both["pretrained model"] / both["our tuned model"]
    fewer = f"{ratios['parameters']:.0f}"
    return ["1", fewer, f"{1 / ratios['multiply-adds']:.1f}"]


def in_short():
    largest = max(row["p"] for row in RECORD["mcnemar"])
    losses = []
    for name in ("pretrained, seed 42", "tuned, seed 42", "our model"):
        losses.append(f"{RECORD['results'][name]['Loss (test)']:.3f}")
    verdict = []
    if largest < 0.05:
        verdict = [str(len(RECORD["mcnemar"])), bound_of(largest), *ahead(), *advice()]
    return [
        str(RECORD["images"]),
        *mean_and_spread("pretrained model"),
        *mean_and_spread("our tuned model"),
        f"{accuracy('our model'):.2f}",
        *losses,
        *verdict,
    ]


def why():
    parameters = RECORD["parameters"]
    ratio = parameters["pretrained model"] / parameters["our tuned model"]
    first = RECORD["seeds of"]["our tuned model"][0]
    learnt = 100 * RECORD["results"][first]["Accuracy (train)"]
    settings = accuracy(first) - accuracy("our model")
    chance = bound_of(RECORD["mcnemar of tuning"]["p"])
    reached = {}
    gains = []
    for row in LEDGER["ladder"]:
        reached[row["rung"]] = 100 * row["validation_accuracy"][0]
        if row["below"] and row["in recipe"] and row["rung"] != "inputs standardised":
            gains.append((reached[row["rung"]] - reached[row["below"]], row["rung"]))
    gain, rung = max(gains)
    ladder = ["3", *numbers(rung), signed(gain), "42"]  # the ladder is in task 3
    return [
        f"{ratio:.0f}",
        *without_enlarging(),
        f"{learnt:.2f}",
        signed(settings),
        chance,
        *ladder,
    ]


def without_enlarging():
    trials = {}
    for row in LEDGER["trials"]:
        changes = " ".join(f"{name} {value}" for name, value in row["changes"].items())
        trials[row["model"], changes] = 100 * row["validation_accuracy"][0]
    pretrained = trials["pretrained tf_efficientnet_lite2", "epochs 6 pixels 64"]
    ours = trials["own", "epochs 16"]
    return [f"{pretrained:.2f}", "3", f"{ours:.2f}"]  # trials stand in task 3


def which_classes():
    found = []
    for name in RECORD["confusion"]:
        found += numbers(name)
    totals = {}  # of both matrices, by the pair of classes
    for one in range(10):
        for other in range(one + 1, 10):
            counts = []
            for matrix in RECORD["confusion"].values():
                counts.append(matrix[one][other] + matrix[other][one])
            totals[one, other] = counts
    most = sorted(totals.values(), key=sum, reverse=True)[:4]  # the first, if equal
    for counts in most:
        found += [str(count) for count in counts]
    return found


def what_averaging_brings():
    found = []
    best, second, _ = sorted(RECORD["together"], key=accuracy, reverse=True)
    correct = [RECORD["results"][name]["correct"] for name in (best, second)]
    in_vain = []
    for name, members in RECORD["together"].items():
        means = []
        for names in RECORD["seeds of"].values():
            if names[0] in members:
                means.append(statistics.mean(accuracy(member) for member in names))
        gain = accuracy(name) - max(means)
        found += [*numbers(name), f"{accuracy(name):.2f}", signed(gain)]
        if gain < 0.1:
            in_vain += numbers(name)
    found += [*numbers(best), str(correct[0] - correct[1]), *numbers(second)]
    if in_vain:
        found += ["0.1", f"{RECORD['images'] / 1000:.0f}", *in_vain]
    return found


def what_it_costs():
    found = []
    for kind, parameters in RECORD["parameters"].items():
        found += [f"{parameters / 1e6:.2f}", f"{2 * parameters / 1e6:.1f}"]
        found.append(f"{RECORD['multiply-adds'][kind] / 1e6:.0f}")
    found += ["1000", "1000"]  # rows and columns of a matrix
    own = RECORD["cost"]["our tuned model"]
    pretrained = RECORD["cost"]["pretrained model"]
    for costs in (own, pretrained):
        ends = [f"{float(f'{cost:.2g}'):.0f}" for cost in (min(costs), max(costs))]
        found += sorted(set(ends), key=float)
    assert max(own) > min(pretrained) and max(pretrained) > min(own)  # as long
    return found


def how_far_it_goes():
    models = sum(len(names) for names in RECORD["seeds of"].values())
    looks = sum(row["looks"] for row in LEDGER["test"])
    wrong = RECORD["wrong by all"]
    return [str(models), str(wrong), str(RECORD["images"]), "15", str(looks)]


PARAGRAPHS = [
    in_short,
    why,
    which_classes,
    what_averaging_brings,
    what_it_costs,
    how_far_it_goes,
]


@pytest.mark.parametrize("place", range(len(PARAGRAPHS)))
def test_the_discussion_says_what_the_record_gives(place):
    paragraphs = discussion.in_markdown(RECORD, LEDGER).split("\n\n")
    assert len(paragraphs) == len(PARAGRAPHS)
    assert numbers(paragraphs[place]) == PARAGRAPHS[place]()


def test_the_answer_on_calibration_says_what_the_record_gives():
    expected = []
    for name, kinds in RECORD["calibration"].items():
        for row in kinds.values():
            says = f"{100 * row['confidence']:.2f}"
            expected += [*numbers(name), says, f"{accuracy(name):.2f}"]
    assert numbers(results.calibration_answer(RECORD)) == expected


def test_what_is_said_of_the_settings_follows_from_the_ledger():
    """The answer of the cell about-trials, which is typed."""
    verdicts = {step.rung: step.verdict() for step in results.ladder_steps(LEDGER)}
    for name in ("inputs standardised", "random windows", "smoothed labels"):
        assert verdicts[name] == "better"
    assert verdicts["Muon, its rate and decay"] == "better"
    verdicts = {}
    for table in results.trials_tables(LEDGER):
        for _, network, changes, *_, verdict in table.rows:
            verdicts[network, changes] = verdict
    assert verdicts["own", "epochs 8, warmup 0, max_grad_norm inf"] == "worse"
    assert verdicts["own", "epochs 8"] == "undecided"  # beside 16
    assert verdicts["own", "epochs 8, batch_size 16"] == "undecided"
    for network, changes in verdicts:
        if network == "own" and ("augment" in changes or "ema_decay" in changes):
            assert verdicts[network, changes] == "undecided"


def test_three_pretrained_trials_are_behind_and_undecided():  # as task 4 says
    today, _ = results.trials_tables(LEDGER)
    verdicts = {}
    for _, network, settings, *_, gain, verdict in today.rows:
        verdicts[network, settings] = (gain[:1], verdict)
    for network, settings in [
        ("pretrained lite2", "epochs 6, pixels 64"),
        ("pretrained lite2", "epochs 4"),
        ("pretrained lite0", "epochs 6"),
    ]:
        assert verdicts[network, settings] == ("−", "undecided")


# --- Every other sentence -------------------------------------------------------------


# Numbers of the Markdown cells, with what they are. None of them is a result: those are
# outputs, made by code.
FACTS = {
    "title": (
        "course, parts, size of EuroSAT, points, minutes of profiles, dates",
        "2 2 1394 2 1 27000 2 64 64 10 15 10 10 5 3 14 512 4 5 17 2025 30 2026 5",
    ),
    "about-parameters": ("a reference", "2"),
    "about-classes": ("the width of a pixel in metres", "10"),
    "task-1": ("the assignment's", "1 10 90 360 90"),
    "about-rotated": ("an angle", "90"),
    "about-leak-accuracy": ("a task, a number of neighbours", "4 1"),
    "leak-meaning": ("a formula", "1"),
    "task-2": ("the assignment's", "2 15"),
    "about-symmetry": ("a name, references", "4 13 14"),
    "about-model": ("a reference, sizes of the network", "3 6 6 2 60 16 40"),
    "about-final-part": ("what SIZES holds out", "600"),
    "about-template": ("the template's settings, a task", "0.001 64 1"),
    "about-our-model": ("tasks", "3 3"),
    "task-3": ("points, a reference, names of number formats", "3 10 4 16 32"),
    "about-choice": ("batch sizes", "16 64 64"),
    "about-ladder": ("epochs of a rung", "8 8"),
    "about-trials": ("a task, a bound", "4 0.05"),
    "about-earlier": ("channels of a network", "48"),
    "about-filters": ("a part, a question of it", "1 1.2"),
    "task-4": ("points, a question's number, a task", "4 10 2 1"),
    "about-pretrained": ("names, a reference, sizes", "2 5 0 6 96 96 3 64 64 0"),
    "task-5": ("points, the level of an interval", "5 5 95"),
    "beyond": ("the name of a number format", "16"),
    "about-published": (
        "published figures, see PUBLISHED in results.py, and references",
        "96.21 50 6 98.0 0.29 7 98.57 50 80 1 98.76 50 6 99.00 8 99.20 50 2 99.2 14 9 "
        "2 7 5400 9 2700 7 0.05",
    ),
    "about-calibration": ("an example, a reference", "90 10"),
    "about-doubtful": ("published figures", "12 62 5400 1.1"),
    "about-grad-cam": ("a reference", "11"),
    "about-tile": ("the size of an image in metres", "640 640"),
}


def typed_numbers(cell):
    """The numbers of a Markdown cell, but for addresses and code."""
    text = re.sub(r"\]\([^)]*\)", "]", cell.source)
    return numbers(re.sub(r"`[^`]*`", "", text))


def test_no_number_of_a_markdown_cell_is_a_result():
    for cell in CELLS:
        if cell.cell_type == "markdown" and cell.id != "references":
            _, expected = FACTS.get(cell.id, ("", ""))
            assert typed_numbers(cell) == expected.split(), cell.id


def test_the_published_figures_are_those_of_the_table():
    _, text = FACTS["about-published"]
    figures = [number for number in text.split() if number.startswith("9")]
    accuracies = [accuracy for accuracy, _, _ in results.PUBLISHED]
    assert [float(figure) for figure in figures if "." in figure] == accuracies


def test_readme_names_the_size_of_our_network():
    parameters = RECORD["parameters"]["our tuned model"]
    sentence = f"Our tuned model is a CNN of {parameters / 1e6:.2f} million parameters"
    assert sentence in Path("README.md").read_text("utf-8")
