"""Every number that a sentence of part 2 or README.md states is in the record.

Those of the discussion are computed again here, one by one. Any other number must be a
value of report/results.json or report/trials.json, as it is written there or rounded,
or stand in FACTS.
"""

import re
import statistics

import nbformat
import pytest

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


def which_is_better():
    largest = max(row["p"] for row in RECORD["mcnemar"])
    bound = min(bound for bound in (0.001, 0.01, 0.05) if largest < bound)
    return [
        str(RECORD["images"]),
        *mean_and_spread("pretrained model"),
        *mean_and_spread("our tuned model"),
        f"{accuracy('our model'):.2f}",
        str(len(RECORD["mcnemar"])),
        str(bound),
    ]


def why():
    parameters = RECORD["parameters"]
    ratio = parameters["pretrained model"] / parameters["our tuned model"]
    reached = {}
    gains = []
    for row in LEDGER["ladder"]:
        reached[row["rung"]] = 100 * row["validation_accuracy"][0]
        if row["below"]:
            gains.append(reached[row["rung"]] - reached[row["below"]])
    return [f"{ratio:.0f}", "3", f"{max(gains):.2f}"]  # the ladder is in task 3


def which_classes():
    found = []
    for name, matrix in RECORD["confusion"].items():
        pairs = []
        for one in range(10):
            for other in range(one):
                pairs.append(matrix[one][other] + matrix[other][one])
        most = sorted(pairs, reverse=True)[:3]
        found += [*numbers(name), *[str(images) for images in most]]
    return found


def what_averaging_brings():
    found = []
    for name, members in RECORD["together"].items():
        alone = statistics.mean(accuracy(member) for member in members)
        gain = accuracy(name) - alone
        found += [*numbers(name), f"{accuracy(name):.2f}", signed(gain)]
    return found


def what_it_costs():
    found = []
    for parameters in RECORD["parameters"].values():
        found += [f"{parameters / 1e6:.2f}", f"{2 * parameters / 1e6:.1f}"]
    cost = RECORD["cost"]
    ratio = cost["pretrained model"] / cost["our tuned model"]
    return [*found, f"{ratio:.2g}"]


def how_far_it_goes():
    looks = sum(row["looks"] for row in LEDGER["test"])
    wrong = RECORD["wrong by all"]
    return ["6", str(wrong), str(RECORD["images"]), str(looks)]


PARAGRAPHS = [
    which_is_better,
    why,
    which_classes,
    what_averaging_brings,
    what_it_costs,
    how_far_it_goes,
]


@pytest.mark.parametrize("place", range(len(PARAGRAPHS)))
def test_the_discussion_says_what_the_record_gives(place):
    paragraphs = results.discussion(RECORD, LEDGER).split("\n\n")
    assert len(paragraphs) == len(PARAGRAPHS)
    assert numbers(paragraphs[place]) == PARAGRAPHS[place]()


# --- Every other sentence -------------------------------------------------------------


FACTS = {}  # number: where it comes from, if it is no result


def leaves(value):
    """All numbers in a record."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def written(value):
    """The texts that stand for a number, as it is or rounded."""
    digits = [f"{value:.{places}f}" for places in range(4)]
    in_percent = [f"{100 * value:.{places}f}" for places in range(3)]
    in_millions = [f"{value / 1e6:.2f}", f"{2 * value / 1e6:.1f}"]
    return {str(value), *digits, *in_percent, *in_millions}
