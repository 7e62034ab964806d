"""The record of part 2: a row for each model, exact tests, and tables of both.

Used by ps2_eurosat.ipynb, tools/ and tests/. The record is the dictionary that part 2
writes to report/results.json. Each table is a function of it, in Markdown for the
notebook and as text for README.md, so that all of them say the same.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from IPython.display import display
from scipy import stats

RESULTS = Path("report/results.json")
LEDGER = Path("report/trials.json")
SIGNIFICANT = 0.05  # p-values below count as a difference
PUBLISHED = [  # accuracy in %, test images; the sources stand in part 2
    (96.21, 5400),
    (98.00, 5400),
    (98.57, 5400),
    (98.76, 5400),
    (99.00, 5400),
    (99.20, 5400),
    (99.20, 2700),
]


def read_json(path):
    """The content of a JSON file."""
    return json.loads(Path(path).read_text("utf-8"))


def json_text(content):
    """The text of a JSON file; ValueError if a number is infinite or not a number."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


# --- Rows and exact tests -------------------------------------------------------------


def result_row(sample_scores, sample_labels, test_scores, test_labels):
    """What a model reached on a sample of its training images and on the test part.

    Scores (N, n_classes) are logarithms of probabilities; labels (N,).
    """
    sample_right = sample_scores.argmax(1) == sample_labels
    test_right = test_scores.argmax(1) == test_labels
    correct = int(test_right.sum())
    total = len(test_right)
    return {
        "Accuracy (train)": sample_right.double().mean().item(),
        "Loss (train)": F.cross_entropy(sample_scores, sample_labels).item(),
        "Accuracy (test)": correct / total,
        "Loss (test)": F.cross_entropy(test_scores, test_labels).item(),
        "correct": correct,
        "total": total,
        "interval": wilson_interval(correct, total),
    }


def wilson_interval(correct, total):
    """[low, high]: Wilson's interval, at 95 %, of `correct` answers of `total`."""
    found = stats.binomtest(correct, total)
    interval = found.proportion_ci(0.95, method="wilson")
    return [interval.low, interval.high]


def mcnemar(one, two, right):
    """McNemar's exact test of two models; right[model] (N,) says where it is right."""
    only_one = int((right[one] & ~right[two]).sum())
    only_two = int((right[two] & ~right[one]).sum())
    p_value = 1.0
    if only_one + only_two > 0:
        p_value = stats.binomtest(only_one, only_one + only_two).pvalue
    return {"models": [one, two], "right alone": [only_one, only_two], "p": p_value}


def fisher(row, correct, total):
    """Fisher's exact test: p-value of a row against `correct` right of `total`."""
    ours = [row["correct"], row["total"] - row["correct"]]
    theirs = [correct, total - correct]
    return stats.fisher_exact([theirs, ours]).pvalue


# --- Tables ---------------------------------------------------------------------------


class Table(NamedTuple):
    """A caption, the names of the columns, and rows of texts."""

    caption: str
    header: list
    rows: list


def as_markdown(table):
    """The table in Markdown, its caption in italics below it; numbers to the right."""
    lines = [markdown_line(table.header)]
    lines.append(markdown_line(["---", *["---:"] * (len(table.header) - 1)]))
    for row in table.rows:
        lines.append(markdown_line(row))
    return "\n".join([*lines, "", f"*{table.caption}*"])


def markdown_line(texts):
    """One line of a table in Markdown."""
    return f"| {' | '.join(texts)} |"


def as_text(table):
    """The table as text: the caption, then a line for each row."""
    lines = [table.caption]
    rows = [table.header, *table.rows]
    widths = [max(len(text) for text in column) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = row
        line = first.ljust(widths[0])
        for text, width in zip(others, widths[1:], strict=True):
            line += "  " + text.rjust(width)
        lines.append(line.rstrip())
    return "\n".join(lines)


def bundle(table):
    """Both forms of a table, for IPython's display."""
    return {"text/markdown": as_markdown(table), "text/plain": as_text(table)}


def show(table):
    """Show a table in a notebook."""
    display(bundle(table), raw=True)


def percent(share):
    """A share in [0, 1] as a text: 98.15%."""
    return f"{share:.2%}"


def where(record):
    """What the record was judged on: test list, 5,400 images (EuroSAT)."""
    return f"{record['judged on']}, {record['images']:,} images ({record['data']})"


def template_table(record):
    """The template's table: four rows, and a column for each kind of model."""
    results = record["results"]
    seeds_of = record["seeds of"]
    columns = {
        "your model": "your model",
        "pre-trained model": seeds_of["pretrained model"][0],
        "your tuned model": seeds_of["your tuned model"][0],
    }
    rows = []
    for name in ("Accuracy (train)", "Loss (train)", "Accuracy (test)", "Loss (test)"):
        values = [results[model][name] for model in columns.values()]
        if name.startswith("Accuracy"):
            rows.append([name, *[percent(value) for value in values]])
        else:
            rows.append([name, *[f"{value:.3f}" for value in values]])
    caption = f"One seed each; test is the {record['judged on']}."
    return Table(caption, ["", *columns], rows)


def results_table(record):
    """Every model's test accuracy, right answers and interval."""
    rows = []
    for name, row in record["results"].items():
        low, high = row["interval"]
        answers = f"{row['correct']} of {row['total']}"
        interval = f"{100 * low:.2f} to {percent(high)}"
        label = name
        if "seed" not in name and "together" not in name:
            label = f"{name}, one seed"
        rows.append([label, percent(row["Accuracy (test)"]), answers, interval])
    caption = f"Accuracy on the {where(record)}, with Wilson's interval."
    return Table(caption, ["model", "accuracy", "right answers", "95 % interval"], rows)


def mean_over_seeds(record, kind):
    """(mean test accuracy, its spread) of a kind of model, as texts."""
    names = record["seeds of"][kind]
    values = [record["results"][name]["Accuracy (test)"] for name in names]
    mean = percent(np.mean(values))
    if len(values) == 1:
        return mean, "one seed"
    deviation = 100 * np.std(values, ddof=1)
    return mean, f"± {deviation:.2f}, {len(values)} seeds"


def mcnemar_table(record):
    """For each seed: the images that one of two models alone gets right."""
    rows = []
    for row in record["mcnemar"]:
        one, two = row["models"]
        only_one, only_two = row["right alone"]
        pair = f"{one} / {two}"
        rows.append([pair, str(only_one), str(only_two), f"{row['p']:.2g}"])
    caption = f"Tuned against pretrained is {verdict(record)}: McNemar's exact test."
    header = ["models", "first alone right", "second alone right", "p"]
    return Table(caption, header, rows)


def verdict(record):
    """What McNemar's tests of all seeds say of tuned against pretrained."""
    largest = max(row["p"] for row in record["mcnemar"])
    if largest < SIGNIFICANT:
        return "more than chance in the images"
    return "undecided"


def published_table(record):
    """Published figures beside three of our models, by Fisher's exact test."""
    results = record["results"]
    ours = [name for name in results if name.endswith(("alone", "seed 42"))]
    rows = []
    for accuracy, total in PUBLISHED:
        correct = round(accuracy * total / 100)
        verdicts = []
        for name in ours:
            differs = fisher(results[name], correct, total) < SIGNIFICANT
            verdicts.append("differs" if differs else "undecided")
        rows.append([f"{accuracy:.2f}% of {total:,}", *verdicts])
    caption = f"Fisher's exact test; it differs where p < {SIGNIFICANT}."
    return Table(caption, ["published", *ours], rows)


def summary_table(record):
    """What README.md and the top of part 2 show."""
    results = record["results"]
    accuracy = percent(results["your model"]["Accuracy (test)"])
    rows = [["your model", accuracy, "one seed"]]
    for kind in record["seeds of"]:
        mean, spread = mean_over_seeds(record, kind)
        rows.append([kind, mean, spread])
    for name in record["together"]:
        rows.append([name, percent(results[name]["Accuracy (test)"]), ""])
    caption = f"Accuracy on the {where(record)}; {record['numbers of']}."
    return Table(caption, ["model", "accuracy", ""], rows)


def trials_table(ledger):
    """Every trial of the ledger, with its accuracy on the validation list in %."""
    rows = []
    for row in ledger["trials"]:
        values = 100 * np.array(row["validation_accuracy"])
        settings = [f"{name} {value}" for name, value in row["changes"].items()]
        spread = "one seed"
        if len(values) > 1:
            spread = f"± {values.std(ddof=1):.2f}, {len(values)} seeds"
        images = f"{row['images']:,}"
        mean = f"{values.mean():.2f}"
        rows.append([row["model"], ", ".join(settings), images, mean, spread])
    caption = f"{len(rows)} trials on record, judged on the validation list."
    return Table(caption, ["network", "settings", "images", "accuracy", "spread"], rows)


def discussion(record, ledger):
    """The discussion of part 2: paragraphs in Markdown."""
    results = record["results"]
    ours = percent(results["your model"]["Accuracy (test)"])
    tuned = " ".join(mean_over_seeds(record, "your tuned model"))
    pretrained = " ".join(mean_over_seeds(record, "pretrained model"))
    averaged = []
    for name in record["together"]:
        averaged.append(f"{name} {percent(results[name]['Accuracy (test)'])}")
    together = ", ".join(averaged)
    looks = sum(row["looks"] for row in ledger["test"])
    return f"""\
On the {record["images"]:,} images of the {record["judged on"]}, your model with the
template's settings reaches {ours}, your tuned model {tuned}, the pretrained model
{pretrained}. Tuned against pretrained: {verdict(record)}. Averaged predictions:
{together}.

In the history of this project {looks} scores were taken on the published test list
(report/trials.json), so it is not untouched; no setting was chosen on it.

A random split puts neighbouring tiles of one scene on both sides, so accuracy on a new
region would be lower: frozen features reach 96.5% on a spatial split [12].
"""
