"""The record of part 2: a row for each model, exact tests, and tables of both.

Used by ps2_eurosat.ipynb, discussion.py, tools/ and tests/. The record is the
dictionary that part 2 writes to report/results.json; the ledger, report/trials.json,
holds trials and the ladder. A table is Markdown for the notebook and text for
README.md, so that both say the same.
"""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from IPython.display import display
from scipy import stats

RESULTS = Path("report/results.json")
LEDGER = Path("report/trials.json")
TRAIN_LIST_ALONE = "tuned, train list alone"  # the name of a model
SIGNIFICANT = 0.05  # p-values below count as a difference
VALIDATION_IMAGES = 5400  # of the published validation list, which judges trials
PUBLISHED = [  # accuracy in %, test images, number among the references of part 2
    (96.21, 5400, 6),
    (98.00, 5400, 7),
    (98.57, 5400, 1),
    (98.76, 5400, 6),
    (99.00, 5400, 8),
    (99.20, 5400, 2),
    (99.20, 2700, 9),
]


def read_json(path):
    """The content of a JSON file."""
    return json.loads(Path(path).read_text("utf-8"))


def json_text(content):
    """The text of a JSON file; ValueError if a number is infinite or not a number."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


# --- Rows and exact tests -------------------------------------------------------------


def model_rows(sample_scores, sample_labels, test_scores, test_labels, views_of):
    """{model: what it reached on a sample of its training images and on the test part}.

    Scores (N, n_classes) are logarithms of probabilities, labels (N,). Models averaged
    together have test scores alone; views_of[model] is a text that says over how many
    views predictions were averaged.
    """
    found = {}
    for name, scores in test_scores.items():
        found[name] = test_row(scores, test_labels)
        found[name]["views"] = views_of[name]
        if name in sample_scores:
            found[name].update(training_row(sample_scores[name], sample_labels[name]))
    return found


def training_row(scores, labels):
    """Accuracy and loss on a sample of the training images."""
    right = scores.argmax(1) == labels
    return {
        "training images": len(labels),
        "Accuracy (train)": right.double().mean().item(),
        "Loss (train)": F.cross_entropy(scores, labels).item(),
    }


def test_row(scores, labels):
    """Accuracy, with its interval, and loss on the test part."""
    correct = int((scores.argmax(1) == labels).sum())
    total = len(labels)
    return {
        "Accuracy (test)": correct / total,
        "Loss (test)": F.cross_entropy(scores, labels).item(),
        "correct": correct,
        "total": total,
        "interval": wilson_interval(correct, total),
    }


def curve_ends(curves):
    """The last value of each of the curves (losses, accuracies) that a figure draws."""
    ends = {}
    for name, (losses, accuracies) in curves.items():
        ends[f"{name} loss"] = losses[-1]
        ends[f"{name} accuracy"] = accuracies[-1]
    return ends


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
    columns = zip(table.header, *table.rows, strict=True)
    rules = [column_rule(texts) for _, *texts in columns]
    lines = [markdown_line(row) for row in (table.header, rules, *table.rows)]
    return "\n".join([*lines, "", f"*{table.caption}*"])


def column_rule(texts):
    """What stands below a column's name in Markdown: a colon puts numbers right."""
    are_numbers = all(re.match(r"[\d+−-]|$", text) for text in texts)
    return "---:" if are_numbers else "---"


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


def show_table(table):
    """Show a table in a notebook."""
    display(bundle(table), raw=True)


def show_text(text):
    """Show a text in Markdown in a notebook."""
    display({"text/markdown": text, "text/plain": text}, raw=True)


def count(number, word):
    """A number with its word: 1 epoch, 3 epochs."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def percent(share):
    """A share in [0, 1] as a text: 98.15%."""
    return f"{share:.2%}"


def judged_on(record):
    """What the record was judged on: test list, 5,400 images (EuroSAT)."""
    return f"{record['judged on']}, {record['images']:,} images ({record['data']})"


def template_table(record):
    """The template's table, and how many views were averaged for it."""
    results = record["results"]
    seeds_of = record["seeds of"]
    columns = {
        "your model": results["our model"],
        "pre-trained model": results[seeds_of["pretrained model"][0]],
        "your tuned model": results[seeds_of["our tuned model"][0]],
    }
    rows = []
    for name in ("Accuracy (train)", "Loss (train)", "Accuracy (test)", "Loss (test)"):
        values = [result[name] for result in columns.values()]
        if name.startswith("Accuracy"):
            rows.append([name, *[percent(value) for value in values]])
        else:
            rows.append([name, *[f"{value:.3f}" for value in values]])
    rows.append(["views", *[result["views"] for result in columns.values()]])
    sample = results["our model"]["training images"]
    caption = (
        f"One seed each. Train: {sample:,} images on which that model was trained; "
        f"test: the {judged_on(record)}. Both are measured after training, on whole "
        "images. Labels smoothed in training raise the losses of the last two. Views: "
        "over how many of an image predictions are averaged."
    )
    return Table(caption, ["", *columns], rows)


def results_table(record):
    """Every model's test accuracy, right answers and interval."""
    rows = []
    for name, row in record["results"].items():
        label = name
        if "seed" not in name and "together" not in name:
            label = f"{name}, one seed"
        accuracy = percent(row["Accuracy (test)"])
        answers = right_answers(row)
        rows.append([label, row["views"], accuracy, answers, interval_text(row)])
    caption = f"Accuracy on the {judged_on(record)}, with Wilson's interval."
    header = ["model", "views", "accuracy", "right answers", "95 % interval"]
    return Table(caption, header, rows)


def right_answers(row):
    """How many answers of a row are right, as a text: 5,306 of 5,400."""
    return f"{row['correct']:,} of {row['total']:,}"


def interval_text(row):
    """The interval of a row's accuracy as a text: 97.87 to 98.58%."""
    low, high = row["interval"]
    return f"{100 * low:.2f} to {percent(high)}"


def leak_table(record):
    """What copies of training images on the test side do to an accuracy."""
    rows = []
    for name, row in record["neighbours"].items():
        copies = f"{row['copies']:.1%}"
        accuracy = percent(row["correct"] / row["total"])
        rows.append([name, copies, right_answers(row), accuracy, interval_text(row)])
    caption = "1-nearest-neighbour on frozen features, with Wilson's interval."
    header = ["", "with a copy", "right answers", "accuracy", "95 % interval"]
    return Table(caption, header, rows)


def grid_table(grid, rates, batches, judged):
    """The accuracies of a grid (batch sizes, rates), on `judged` images."""
    rows = []
    for batch_size, accuracies in zip(batches, grid, strict=True):
        rows.append([str(batch_size), *[percent(value) for value in accuracies]])
    caption = (
        f"The same as a table: accuracy on {judged:,} validation images, by batch size "
        "(rows) and learning rate (columns)."
    )
    return Table(caption, ["batch size", *[str(rate) for rate in rates]], rows)


def calibration_table(record):
    """How sure the models are, as trained and with their scores divided by T."""
    rows = []
    for model, kinds in record["calibration"].items():
        for kind, row in kinds.items():
            temperature = f"{row['temperature']:.2f}"
            shares = [percent(row["confidence"]), percent(row["test accuracy"])]
            errors = [
                f"{row[name]:.4f}" for name in ("calibration error", "noise floor")
            ]
            loss = f"{row['test loss']:.3f}"
            rows.append([f"{model}, {kind}", temperature, *shares, *errors, loss])
    caption = (
        f"Calibration on the {judged_on(record)}. Sure: the mean probability of the "
        "class that wins."
    )
    header = ["model", "T", "sure", "right", "calibration error", "noise floor", "loss"]
    return Table(caption, header, rows)


def calibration_answer(record):
    """Is each model as often right as it says, as trained and scaled?"""
    answers = []
    for model, kinds in record["calibration"].items():
        for kind, row in kinds.items():
            says = percent(row["confidence"])
            right = percent(row["test accuracy"])
            word = "no"
            if row["calibration error"] <= 2 * row["noise floor"]:
                word = "nearly"
            answers.append(
                f"{model}, {kind}: {word} (it says {says}, and is right in {right})"
            )
    return (
        f"**Is it?** {in_a_list(answers)}. Nearly: the calibration error is at most "
        "twice the noise floor."
    )


def class_table(report, classes, model):
    """scikit-learn's report of each class, a dictionary, as a table."""
    rows = []
    for name in classes:
        row = report[name]
        values = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1-score")]
        rows.append([name, *values, f"{row['support']:.0f}"])
    caption = f"{model}: precision, recall and F1 of each class."
    return Table(caption, ["class", "precision", "recall", "F1", "images"], rows)


def accuracies_of(record, names):
    """The test accuracies of some models."""
    return [record["results"][name]["Accuracy (test)"] for name in names]


def mean_over_seeds(record, kind):
    """(mean test accuracy, its spread) of a kind of model, as texts."""
    values = accuracies_of(record, record["seeds of"][kind])
    return percent(np.mean(values)), spread_text(values)


def spread_text(accuracies):
    """The standard deviation of accuracies in [0, 1], one for each seed, in points."""
    if len(accuracies) == 1:
        return "one seed"
    deviation = 100 * np.std(accuracies, ddof=1)
    return f"± {deviation:.2f}, {len(accuracies)} seeds"


def mcnemar_table(record):
    """The images that one of two models alone gets right, for each seed and pair."""
    rows = []
    for row in [*record["mcnemar"], record["mcnemar of tuning"]]:
        one, two = row["models"]
        only_one, only_two = row["right alone"]
        pair = f"{one} / {two}"
        rows.append([pair, str(only_one), str(only_two), f"{row['p']:.2g}"])
    caption = f"{verdict(record)} The last row is what tuning brings."
    header = ["models", "first alone right", "second alone right", "p"]
    return Table(caption, header, rows)


def better_model(record):
    """ "tuned" or "pretrained" if McNemar's test of each seed says so, else ""."""
    differences = []
    for row in record["mcnemar"]:
        only_tuned, only_pretrained = row["right alone"]
        differences.append(only_pretrained - only_tuned)
    if max(row["p"] for row in record["mcnemar"]) >= SIGNIFICANT:
        return ""
    if min(differences) > 0:
        return "pretrained"
    if max(differences) < 0:
        return "tuned"
    return ""


def verdict(record):
    """A sentence: which of the tuned and the pretrained model is better, if one is."""
    better = better_model(record)
    if better == "":
        return (
            "Whether the tuned or the pretrained model is better is undecided "
            "(McNemar's exact test)."
        )
    seeds = "the one seed"
    if len(record["mcnemar"]) > 1:
        seeds = f"all {len(record['mcnemar'])} seeds"
    largest = max(row["p"] for row in record["mcnemar"])
    chance = f"McNemar's exact test, {p_text(largest)}"
    return f"The {better} model is better for {seeds} ({chance})."


def p_text(p_value):
    """p < 0.001, p < 0.01 or p < 0.05, or else its value."""
    for bound in (0.001, 0.01, SIGNIFICANT):
        if p_value < bound:
            return f"p < {bound}"
    return f"p = {p_value:.2f}"


def published_table(record):
    """Published figures beside three of our models, by Fisher's exact test."""
    results = record["results"]
    ours = [names[0] for names in record["seeds of"].values()]
    if TRAIN_LIST_ALONE in results:
        ours = [TRAIN_LIST_ALONE, *ours]
    rows = []
    for accuracy, total, source in PUBLISHED:
        correct = round(accuracy * total / 100)
        verdicts = []
        for name in ours:
            gain = results[name]["Accuracy (test)"] - accuracy / 100
            differs = fisher(results[name], correct, total) < SIGNIFICANT
            verdicts.append(verdict_word(gain, differs))
        rows.append([f"{accuracy:.2f}% of {total:,} [{source}]", *verdicts])
    caption = (
        "Our models are better or worse than the published figure where Fisher's exact "
        f"test gives p < {SIGNIFICANT}."
    )
    return Table(caption, ["published", *ours], rows)


def summary_table(record):
    """What README.md and the top of part 2 show."""
    results = record["results"]
    rows = []
    for name in ("template's settings", "our model"):
        accuracy = percent(results[name]["Accuracy (test)"])
        rows.append([with_epochs(record, name), accuracy, "one seed"])
    for kind in record["seeds of"]:
        mean, spread = mean_over_seeds(record, kind)
        rows.append([with_epochs(record, kind), mean, spread])
    for name in record["together"]:
        rows.append([name, percent(results[name]["Accuracy (test)"]), ""])
    caption = f"Accuracy on the {judged_on(record)}; {record['numbers of']}."
    return Table(caption, ["model", "accuracy", ""], rows)


def with_epochs(record, kind):
    """The name of a kind of model, with the number of its epochs."""
    return f"{kind}, {count(record['epochs'][kind], 'epoch')}"


def trials_tables(ledger):
    """Two tables of the ledger: trials of today's networks, and of earlier ones."""
    today = [row for row in ledger["trials"] if "earlier" not in row]
    earlier = [row for row in ledger["trials"] if "earlier" in row]
    trials = [*today, *earlier]
    rows = [trial_row(place, trials) for place in range(len(trials))]
    header = ["row", "network", "changes", "images", "accuracy"]
    header += ["against row", "gain", "verdict"]
    of_today = (
        "Trials of today's networks on EuroSAT's validation list: accuracy in % (where "
        "a number of seeds stands in brackets, mean and deviation); gain in points."
    )
    of_earlier = "Earlier trials, which today's code cannot repeat; columns as above."
    return [
        Table(of_today, header, rows[: len(today)]),
        Table(of_earlier, header, rows[len(today) :]),
    ]


def trial_row(place, trials):
    """The texts of the trial at a place, numbered from 1, with accuracies in %."""
    trial = trials[place]
    accuracies = trial["validation_accuracy"]
    settings = [f"{name} {value}" for name, value in trial["changes"].items()]
    accuracy = f"{100 * np.mean(accuracies):.2f}"
    if len(accuracies) > 1:
        deviation = 100 * np.std(accuracies, ddof=1)
        accuracy += f" ± {deviation:.2f} ({len(accuracies)})"
    return [
        str(place + 1),
        trial["model"].replace("tf_efficientnet_", ""),  # the table is wide enough
        ", ".join(settings),
        f"{trial['images']:,}",
        accuracy,
        *comparison(place, trials),
    ]


def comparison(place, trials):
    """[row of the reference, gain with its standard error, verdict] of a trial.

    Several seeds are compared by Welch's test; one seed counts as different from two
    standard errors on. Without a reference all are empty.
    """
    reference = place_of_reference(place, trials)
    if reference == place:
        return ["", "", ""]
    ours = 100 * np.array(trials[place]["validation_accuracy"])
    theirs = 100 * np.array(trials[reference]["validation_accuracy"])
    gain = ours.mean() - theirs.mean()
    if len(ours) == 1:
        error = error_of_difference(ours[0], theirs[0], VALIDATION_IMAGES)
        differs = abs(gain) > 2 * error
    else:
        error = np.hypot(stats.sem(ours), stats.sem(theirs))
        differs = stats.ttest_ind(ours, theirs, equal_var=False).pvalue < SIGNIFICANT
    gain_text = f"{signed(gain)} ± {error:.2f}"
    return [str(reference + 1), gain_text, verdict_word(gain, differs)]


def place_of_reference(place, trials):
    """The place of the trial that a trial is compared with; its own if there is none.

    It is the first of the same network with as many images, seeds and epochs. That one
    is itself compared with the first of its family, whatever the epochs.
    """
    for key in (trial_key, family_key):
        keys = [key(trial) for trial in trials]
        first = keys.index(keys[place])
        if first != place:
            return first
    return place


def trial_key(trial):
    """What trials have in common that differ in one setting or a few."""
    network, _, _ = trial["model"].partition(",")
    about = trial.get("settings", trial["changes"])  # the earliest have changes alone
    return network, trial["images"], len(trial["seeds"]), str(about["epochs"])


def family_key(trial):
    """What trials of a family have in common: all pretrained networks are one."""
    family, *_ = re.split("[ ,]", trial["model"])
    return family, trial["images"], len(trial["seeds"])


def signed(points):
    """A difference in points with its sign: +0.25 or −0.25."""
    return f"{points:+.2f}".replace("-", "−")


def error_of_difference(one, two, images):
    """The standard error of the difference of two accuracies in %, of so many images.

    It takes their answers for independent. On the same images they are not, so it is
    too large rather than too small.
    """
    variances = [share * (100 - share) / images for share in (one, two)]
    return math.sqrt(sum(variances))


def verdict_word(gain, differs):
    """better, worse or undecided."""
    if not differs:
        return "undecided"
    return "better" if gain > 0 else "worse"


# --- The ladder -----------------------------------------------------------------------


class Step(NamedTuple):
    """What a rung brings beside the one that it changes, by seed 42, in points.

    `gain` and `error`, its standard error, are 0 for the first rung.
    """

    rung: str
    below: str
    in_recipe: bool
    accuracy: float
    gain: float
    error: float

    def verdict(self):
        """better, worse or undecided: it takes two standard errors to decide."""
        return verdict_word(self.gain, abs(self.gain) > 2 * self.error)


def ladder_steps(ledger):
    """The Steps of the ladder, from the lowest rung up."""
    reached = {}
    steps = []
    for row in ledger["ladder"]:
        name = row["rung"]
        reached[name] = 100 * row["validation_accuracy"][0]  # of seed 42
        gain = 0.0
        error = 0.0
        if row["below"]:
            below = reached[row["below"]]
            gain = reached[name] - below
            error = error_of_difference(reached[name], below, row["judged images"])
        step = Step(name, row["below"], row["in recipe"], reached[name], gain, error)
        steps.append(step)
    return steps


def ladder_table(ledger):
    """The ladder: each rung, what it is compared with, and what it brings."""
    rows = []
    for row, step in zip(ledger["ladder"], ladder_steps(ledger), strict=True):
        accuracies = row["validation_accuracy"]
        spread = spread_text(accuracies)
        if len(accuracies) > 1:
            spread = f"{100 * np.mean(accuracies):.2f} {spread}"
        gain = ""
        verdict = ""
        if step.below:
            gain = f"{signed(step.gain)} ± {step.error:.2f}"
            verdict = step.verdict()
        accuracy = f"{step.accuracy:.2f}"
        rows.append([step.rung, step.below, accuracy, spread, gain, verdict])
    caption = (
        "The ladder. Accuracy in % on EuroSAT's validation list after 8 epochs on the "
        "train list, with seed 42, and the mean over several; gain in points, with its "
        "standard error. That is the error of the sampling of images alone: with other "
        "seeds a gain may differ by more."
    )
    header = ["rung", "compared with", "accuracy", "all seeds", "gain", "verdict"]
    return Table(caption, header, rows)


def what_pays(ledger):
    """Which rungs of the recipe pay, and what the others would have brought.

    Also how far the seeds of a rung lie apart, since most rungs have one.
    """
    steps = [step for step in ladder_steps(ledger) if step.below]
    steps.sort(key=lambda step: -step.gain)
    said = {"better": [], "undecided": [], "worse": []}
    unused = []
    for step in steps:
        gain = signed(step.gain)
        if step.in_recipe:
            said[step.verdict()].append(f"{step.rung} ({gain})")
        else:
            unused.append(f"{step.rung} ({gain}, {step.verdict()})")
    apart = [np.ptp(row["validation_accuracy"]) for row in ledger["ladder"]]
    return (
        "With seed 42, in points, ahead by more than two standard errors: "
        f"{in_a_list(said['better'])}. Undecided: {in_a_list(said['undecided'])}. "
        f"Worse: {in_a_list(said['worse'])}. Not in the recipe: {in_a_list(unused)}. "
        f"The seeds of one rung lie up to {100 * max(apart):.2f} points apart: a gain "
        "of that size may be chance."
    )


def in_a_list(texts):
    """Texts with semicolons between them, or none."""
    return "; ".join(texts) if texts else "none"
