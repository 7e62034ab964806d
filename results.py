"""The record of part 2: a row for each model, exact tests, and tables of both.

Used by ps2_eurosat.ipynb, tools/ and tests/. The record is the dictionary that part 2
writes to report/results.json. Each table is a function of it, in Markdown for the
notebook and as text for README.md, so that all of them say the same.
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
SIGNIFICANT = 0.05  # p-values below count as a difference
VALIDATION_IMAGES = 5400  # of the published validation list, which judges trials
NOTHING = 0.1  # points; a gain by averaging below it is called nothing
PUBLISHED = [  # accuracy in %, test images, number among the references of part 2
    (96.21, 5400, 6),
    (98.00, 5400, 7),
    (98.57, 5400, 1),
    (98.76, 5400, 6),
    (99.00, 5400, 8),
    (99.20, 5400, 2),
    (99.20, 2700, 9),
]
ADVICE = {  # by the model that is better
    "pretrained": "Its likeliest advantage is what it learnt on ImageNet. Where such "
    "weights may be used, we would use it; where every byte counts, our own.",
    "tuned": "We would use our tuned model.",
    "": "While neither is shown to be better, we would use the smaller one.",
}
IN_BOTH = "inputs standardised"  # the rung that our model shares with our tuned model
LOOK_ALIKE = {  # pairs of classes, and why they may be confused
    ("HerbaceousVegetation", "PermanentCrop"): "both are patches of green and brown",
    ("AnnualCrop", "PermanentCrop"): "both are fields with straight borders",
    ("AnnualCrop", "HerbaceousVegetation"): "either may be fallow land",
    ("Highway", "River"): "both are bands a few pixels wide",
    ("HerbaceousVegetation", "Pasture"): "both are grass",
    ("Industrial", "Residential"): "both are built up",
}


def read_json(path):
    """The content of a JSON file."""
    return json.loads(Path(path).read_text("utf-8"))


def json_text(content):
    """The text of a JSON file; ValueError if a number is infinite or not a number."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


# --- Rows and exact tests -------------------------------------------------------------


def rows(sample_scores, sample_labels, test_scores, test_labels, views_of):
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


def show(table):
    """Show a table in a notebook."""
    display(bundle(table), raw=True)


def show_text(text):
    """Show a text in Markdown in a notebook."""
    display({"text/markdown": text, "text/plain": text}, raw=True)


def percent(share):
    """A share in [0, 1] as a text: 98.15%."""
    return f"{share:.2%}"


def where(record):
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
        f"test: the {where(record)}. Both are measured after training, on whole "
        "images. Labels smoothed in training raise the losses of the last two. Views: "
        "over how many of an image predictions are averaged."
    )
    return Table(caption, ["", *columns], rows)


def results_table(record):
    """Every model's test accuracy, right answers and interval."""
    rows = []
    for name, row in record["results"].items():
        low, high = row["interval"]
        answers = f"{row['correct']:,} of {row['total']:,}"
        interval = f"{100 * low:.2f} to {percent(high)}"
        label = name
        if "seed" not in name and "together" not in name:
            label = f"{name}, one seed"
        accuracy = percent(row["Accuracy (test)"])
        rows.append([label, row["views"], accuracy, answers, interval])
    caption = f"Accuracy on the {where(record)}, with Wilson's interval."
    header = ["model", "views", "accuracy", "right answers", "95 % interval"]
    return Table(caption, header, rows)


def leak_table(record):
    """What copies of training images on the test side do to an accuracy."""
    rows = []
    for name, row in record["neighbours"].items():
        low, high = row["interval"]
        rows.append(
            [
                name,
                f"{row['copies']:.1%}",
                f"{row['correct']:,} of {row['total']:,}",
                percent(row["correct"] / row["total"]),
                f"{100 * low:.2f} to {percent(high)}",
            ]
        )
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
    mean = percent(np.mean(values))
    if len(values) == 1:
        return mean, "one seed"
    deviation = 100 * np.std(values, ddof=1)
    return mean, f"± {deviation:.2f}, {len(values)} seeds"


def mcnemar_table(record):
    """The images that one of two models alone gets right, for each seed and pair."""
    rows = []
    for row in [*record["mcnemar"], record["mcnemar of tuning"]]:
        one, two = row["models"]
        only_one, only_two = row["right alone"]
        pair = f"{one} / {two}"
        rows.append([pair, str(only_one), str(only_two), f"{row['p']:.2g}"])
    caption = verdict(record)
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
    chance = f"McNemar's exact test, {in_bounds(largest)}"
    return f"The {better} model is better for {seeds} ({chance})."


def in_bounds(p_value):
    """p < 0.001, p < 0.01 or p < 0.05, or else its value."""
    for bound in (0.001, 0.01, SIGNIFICANT):
        if p_value < bound:
            return f"p < {bound}"
    return f"p = {p_value:.2f}"


def published_table(record):
    """Published figures beside three of our models, by Fisher's exact test."""
    results = record["results"]
    ours = [name for name in results if name.endswith(("alone", "seed 42"))]
    rows = []
    for accuracy, total, source in PUBLISHED:
        correct = round(accuracy * total / 100)
        verdicts = []
        for name in ours:
            differs = fisher(results[name], correct, total) < SIGNIFICANT
            verdicts.append("differs" if differs else "undecided")
        rows.append([f"{accuracy:.2f}% of {total:,} [{source}]", *verdicts])
    caption = f"Fisher's exact test; it differs where p < {SIGNIFICANT}."
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
    caption = f"Accuracy on the {where(record)}; {record['numbers of']}."
    return Table(caption, ["model", "accuracy", ""], rows)


def with_epochs(record, kind):
    """The name of a kind of model, with the number of its epochs."""
    return f"{kind}, {count(record['epochs'][kind], 'epoch')}"


def trials_tables(ledger):
    """Two tables of the ledger: trials of today's networks, and of earlier ones."""
    today = [row for row in ledger["trials"] if "earlier" not in row]
    earlier = [row for row in ledger["trials"] if "earlier" in row]
    about = "judged on the validation list, accuracy in %"
    no_more = "which today's code cannot repeat"
    return [
        trials_table(today, today, f"Trials of today's networks, {about}."),
        trials_table(earlier, today + earlier, f"Earlier trials, {no_more}, {about}."),
    ]


def trials_table(trials, references, caption):
    """Some trials, with accuracies in % and a verdict by the first of `references`."""
    rows = []
    for row in trials:
        values = 100 * np.array(row["validation_accuracy"])
        settings = [f"{name} {value}" for name, value in row["changes"].items()]
        spread = "one seed"
        if len(values) > 1:
            spread = f"± {values.std(ddof=1):.2f}, {len(values)} seeds"
        rows.append(
            [
                row["model"],
                ", ".join(settings),
                f"{row['images']:,}",
                f"{values.mean():.2f}",
                spread,
                trial_verdict(row, references),
            ]
        )
    header = ["network", "settings", "images", "accuracy", "spread", "verdict"]
    return Table(caption, header, rows)


def trial_verdict(row, trials):
    """How a trial differs from its reference, with the standard error.

    The reference is the first trial of the same network with as many images, epochs
    and seeds. Several seeds are compared by Welch's test; one seed counts as different
    from two standard errors on.
    """
    reference = next(other for other in trials if alike(other) == alike(row))
    if reference is row:
        return "reference"
    ours = 100 * np.array(row["validation_accuracy"])
    theirs = 100 * np.array(reference["validation_accuracy"])
    difference = ours.mean() - theirs.mean()
    if len(ours) == 1:
        error = error_of_difference(ours[0], theirs[0], VALIDATION_IMAGES)
        differs = abs(difference) > 2 * error
    else:
        error = np.hypot(stats.sem(ours), stats.sem(theirs))
        differs = stats.ttest_ind(ours, theirs, equal_var=False).pvalue < SIGNIFICANT
    return f"{in_a_word(difference, differs)} ({signed(difference)} ± {error:.2f})"


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


def in_a_word(difference, differs):
    """better, worse or undecided."""
    if not differs:
        return "undecided"
    return "better" if difference > 0 else "worse"


def alike(row):
    """What two trials have in common that a verdict may compare."""
    network, _, _ = row["model"].partition(",")
    epochs = str(row["changes"].get("epochs", 1))
    return network, row["images"], epochs, len(row["seeds"])


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
        return in_a_word(self.gain, abs(self.gain) > 2 * self.error)


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
        values = 100 * np.array(row["validation_accuracy"])
        spread = "one seed"
        if len(values) > 1:
            spread = f"{values.mean():.2f} ± {values.std(ddof=1):.2f}, {len(values)}"
        gain = ""
        verdict = ""
        if step.below:
            gain = f"{signed(step.gain)} ± {step.error:.2f}"
            verdict = step.verdict()
        accuracy = f"{step.accuracy:.2f}"
        rows.append([step.rung, step.below, accuracy, spread, gain, verdict])
    caption = (
        "The ladder. Accuracy in % on the validation list after 8 epochs on the train "
        "list, with seed 42 and as a mean over several; gain in points, with its "
        "standard error. That is the error of the sampling of images alone: with other "
        "seeds a gain may differ by more."
    )
    header = ["rung", "compared with", "accuracy", "seeds", "gain", "verdict"]
    return Table(caption, header, rows)


def what_pays(ledger):
    """Which rungs of the recipe pay, and what the others would have brought."""
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
    return (
        f"With seed 42, in points, these pay: {in_a_list(said['better'])}. Undecided: "
        f"{in_a_list(said['undecided'])}. Worse: {in_a_list(said['worse'])}. Not in "
        f"the recipe: {in_a_list(unused)}."
    )


def in_a_list(texts):
    """Texts with semicolons between them, or none."""
    return "; ".join(texts) if texts else "none"


# --- The discussion -------------------------------------------------------------------


def discussion(record, ledger):
    """The discussion of part 2, in Markdown: first the answer, then reasons.

    All numbers are from the record and the ledger.
    """
    return "\n\n".join(
        [
            in_short(record),
            why(record, ledger),
            which_classes(record),
            what_averaging_brings(record),
            what_it_costs(record),
            how_far_it_goes(record, ledger),
        ]
    )


def count(number, word):
    """A number with its word: 1 epoch, 3 epochs."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def in_short(record):
    """Which kind of model is better, by how much, why, and which we would use."""
    ours = percent(record["results"]["our model"]["Accuracy (test)"])
    tuned, tuned_spread = mean_over_seeds(record, "our tuned model")
    pretrained, spread = mean_over_seeds(record, "pretrained model")
    sentences = [
        f"**In short:** on the {where(record)}, the pretrained model reaches "
        f"{pretrained} ({spread}), our tuned model {tuned} ({tuned_spread}), and our "
        f"model {ours} (one seed).",
        verdict(record),
    ]
    better = better_model(record)
    if better:
        points = abs(points_ahead(record))
        images = round(points * record["images"] / 100)
        sentences.append(
            f"It is ahead by {points:.2f} points, or {images} images, on average."
        )
    sentences.append(ADVICE[better])
    if len(record["mcnemar"]) > 1:
        sentences.append("± is the standard deviation over the seeds.")
    return " ".join(sentences)


def points_ahead(record):
    """How far the pretrained model is ahead of the tuned one: means over seeds."""
    means = {}
    for kind, names in record["seeds of"].items():
        means[kind] = 100 * np.mean(accuracies_of(record, names))
    return means["pretrained model"] - means["our tuned model"]


def why(record, ledger):
    """What sets the three kinds of model apart."""
    own = record["parameters"]["our tuned model"]
    pretrained = record["parameters"]["pretrained model"]
    tuned = record["results"][record["seeds of"]["our tuned model"][0]]
    ours = record["results"]["our model"]
    gain = 100 * (tuned["Accuracy (test)"] - ours["Accuracy (test)"])
    chance = in_bounds(record["mcnemar of tuning"]["p"])
    learnt = tuned["Accuracy (train)"]
    meaning = "so it hardly lacks capacity"
    if learnt < 0.99:
        meaning = "so it is not trained to its end"
    text = (
        "**Why?** The pretrained model starts from features learnt on the photographs "
        f"of ImageNet, ours from random weights. It also has {pretrained / own:.0f} "
        "times as many parameters, and in a full run sees enlarged images. Without "
        "enlarging, a trial of it in task 3 is still ahead of ours; what it learnt "
        "before and its size we did not separate. Our tuned model gets "
        f"{percent(learnt)} of a sample of its training images right, {meaning}. "
        "It and our model are the same network, trained on the same images "
        "for as many epochs; its settings bring "
        f"{signed(gain)} points (first seed, McNemar's exact test, {chance})."
    )
    paying = [
        step
        for step in ladder_steps(ledger)
        if step.in_recipe
        and step.below
        and step.verdict() == "better"
        and step.rung != IN_BOTH
    ]
    if paying:
        most = max(paying, key=lambda step: step.gain)
        text += (
            " Of the settings in which they differ, the rung that brings most on the "
            f"ladder of task 3 is: {most.rung} ({signed(most.gain)} points on the "
            "validation list)."
        )
    return text


def which_classes(record):
    """The pairs of classes that are confused most, with both kinds of model."""
    matrices = [np.array(matrix) for matrix in record["confusion"].values()]
    both_ways = [np.triu(matrix + matrix.T, k=1) for matrix in matrices]
    total = sum(both_ways)
    order = np.argsort(-total, axis=None, kind="stable")[:4]
    pairs = []
    for place in zip(*np.unravel_index(order, total.shape), strict=True):
        if total[place] == 0:
            continue
        one, other = sorted(record["classes"][label] for label in place)
        counts = " and ".join(str(images[place]) for images in both_ways)
        if (one, other) in LOOK_ALIKE:
            counts += f", {LOOK_ALIKE[one, other]}"
        pairs.append(f"{one} with {other} ({counts})")
    return (
        "**On which classes?** The pairs that are confused most by both together, with "
        f"the number of images ({'; '.join(record['confusion'])}) and what they share "
        f"at ten metres a pixel: {in_a_list(pairs)}."
    )


def what_averaging_brings(record):
    """Models together, beside the mean of their members."""
    sentences = []
    in_vain = []
    for name, members in record["together"].items():
        accuracy = record["results"][name]["Accuracy (test)"]
        alone = np.mean(accuracies_of(record, members))
        gain = 100 * (accuracy - alone)
        sentences.append(f"{name} {percent(accuracy)} ({signed(gain)} points)")
        if gain < NOTHING:
            in_vain.append(name)
    together = {name: record["results"][name]["correct"] for name in record["together"]}
    best, *others = sorted(together, key=together.get, reverse=True)
    text = (
        "**What averaging brings,** beside the mean of the members: "
        f"{in_a_list(sentences)}. The best of these is {best}"
    )
    if others:
        lead = count(together[best] - together[others[0]], "image")
        text += f", {lead} ahead of {others[0]}"
    text += "."
    if in_vain:
        text += (
            f" Below {NOTHING} points, {NOTHING * record['images'] / 100:.0f} images, "
            f"we call a gain nothing: so for {in_a_list(in_vain)}."
        )
    return text


def what_it_costs(record):
    """Sizes, arithmetic and training times."""
    costs = []
    for kind, parameters in record["parameters"].items():
        size = 2 * parameters / 10**6
        millions = record["multiply-adds"][kind] / 10**6
        costs.append(
            f"{kind} {parameters / 10**6:.2f} million parameters, {size:.1f} MB in "
            f"half precision, {millions:.0f} million multiplications to classify an "
            "image"
        )
    own = record["cost"]["our tuned model"]
    pretrained = record["cost"]["pretrained model"]
    ratio = np.median(pretrained) / np.median(own)
    beside = f"roughly {ratio:.1f} times as long"
    if min(own) <= max(pretrained) and min(pretrained) <= max(own):
        beside = "about as long"
    return (
        f"**What it costs:** {in_a_list(costs)}. Training, each for its own number of "
        "epochs, is measured in products of two 1,000×1,000 matrices on the same "
        f"machine: our tuned model took {in_two_digits(own)}, the pretrained model "
        f"{in_two_digits(pretrained)}, {beside}."
    )


def in_two_digits(costs):
    """The range of some costs, to two digits: 160,000 to 170,000."""
    ends = [f"{float(f'{cost:.2g}'):,.0f}" for cost in (min(costs), max(costs))]
    low, high = ends
    return low if low == high else f"{low} to {high}"


def how_far_it_goes(record, ledger):
    """What the accuracies do not say."""
    models = sum(len(names) for names in record["seeds of"].values())
    text = (
        f"**How far it goes:** the {models} tuned and pretrained models all miss the "
        f"same {record['wrong by all']:,} of {record['images']:,} images; their labels "
        "are wrong, or the images are hard. Neighbouring tiles of a scene may lie on "
        "both sides of the split, so accuracy in a new region may be lower [15]; that "
        "is not measured here."
    )
    looks = sum(row["looks"] for row in ledger["test"])
    if looks > 0:
        text += (
            f" In the history of this project {looks} scores were taken on the "
            f"published test list ({LEDGER}); every recorded trial was judged on the "
            "validation list."
        )
    return text
