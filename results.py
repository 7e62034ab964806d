"""The record of part 2: a row for each model, exact tests, and tables of both.

Used by ps2_eurosat.ipynb, tools/ and tests/. The record is the dictionary that part 2
writes to report/results.json. Each table is a function of it, in Markdown for the
notebook and as text for README.md, so that all of them say the same.
"""

import json
import math
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
        f"test: the {where(record)}. Views: over how many of an image predictions are "
        "averaged."
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
    caption = f"{verdict(record)} McNemar's exact test."
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
        return "Whether the tuned or the pretrained model is better is undecided."
    seeds = "the one seed"
    if len(record["mcnemar"]) > 1:
        seeds = f"all {len(record['mcnemar'])} seeds"
    largest = max(row["p"] for row in record["mcnemar"])
    bound = min(bound for bound in (0.001, 0.01, SIGNIFICANT) if largest < bound)
    return f"The {better} model is better for {seeds} (p < {bound})."


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
        rows.append([name, accuracy, "one seed"])
    for kind in record["seeds of"]:
        mean, spread = mean_over_seeds(record, kind)
        rows.append([kind, mean, spread])
    for name in record["together"]:
        rows.append([name, percent(results[name]["Accuracy (test)"]), ""])
    caption = f"Accuracy on the {where(record)}; {record['numbers of']}."
    return Table(caption, ["model", "accuracy", ""], rows)


def trials_tables(ledger):
    """Two tables of the ledger: trials of today's networks, and of earlier ones."""
    today = [row for row in ledger["trials"] if "earlier" not in row]
    earlier = [row for row in ledger["trials"] if "earlier" in row]
    about = "judged on the validation list, accuracy in %"
    no_more = "which today's code cannot repeat"
    return [
        trials_table(ledger, today, f"Trials of today's networks, {about}."),
        trials_table(
            ledger, earlier, f"Trials of earlier networks, {no_more}, {about}."
        ),
    ]


def trials_table(ledger, trials, caption):
    """Some trials of the ledger, with accuracies in % and a verdict."""
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
                trial_verdict(row, ledger["trials"]),
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
    return f"{in_a_word(difference, differs)} ({difference:+.2f} ± {error:.2f})"


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
        steps.append(Step(name, row["below"], reached[name], gain, error))
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
            gain = f"{step.gain:+.2f} ± {step.error:.2f}"
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
    """A sentence: which rungs of the ladder pay, and which do not."""
    steps = [step for step in ladder_steps(ledger) if step.below]
    steps.sort(key=lambda step: -step.gain)
    said = {}
    for word in ("better", "undecided", "worse"):
        found = [f"{s.rung} ({s.gain:+.2f})" for s in steps if s.verdict() == word]
        said[word] = ", ".join(found) if found else "none"
    return (
        f"What pays, in points: {said['better']}. Undecided: {said['undecided']}. "
        f"Worse: {said['worse']}."
    )


# --- The discussion -------------------------------------------------------------------


def discussion(record, ledger):
    """The discussion of part 2: paragraphs in Markdown, all numbers from the record."""
    return "\n\n".join(
        [
            which_is_better(record),
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


def which_is_better(record):
    """Accuracies of the three kinds of model, and whether one is better."""
    ours = percent(record["results"]["our model"]["Accuracy (test)"])
    tuned, tuned_spread = mean_over_seeds(record, "our tuned model")
    pretrained, spread = mean_over_seeds(record, "pretrained model")
    text = (
        f"**Which is better?** On the {where(record)}, the pretrained model reaches "
        f"{pretrained} ({spread}), our tuned model {tuned} ({tuned_spread}), and our "
        f"model, the same network trained as long with the template's optimiser, "
        f"{ours} (one seed). {verdict(record)}"
    )
    if len(record["mcnemar"]) > 1:
        text += " ± is the standard deviation over the seeds."
    return text


def why(record, ledger):
    """What sets the three kinds of model apart."""
    own = record["parameters"]["our tuned model"]
    pretrained = record["parameters"]["pretrained model"]
    text = (
        "**Why?** The pretrained model starts from features learnt on the photographs "
        f"of ImageNet, and has {pretrained / own:.0f} times as many parameters; ours "
        "starts on random numbers. Our tuned model and our model are the same network, "
        "trained on the same images for as many epochs; their settings differ."
    )
    if ledger["ladder"]:
        most = max(ladder_steps(ledger), key=lambda step: step.gain)
        text += (
            f" On the ladder of task 3, {most.rung} brings most: {most.gain:.2f} "
            "points on the validation list."
        )
    return text


def which_classes(record):
    """The pairs of classes that are confused most."""
    lines = []
    for model, matrix in record["confusion"].items():
        lines.append(f"{model}: {', '.join(most_confused(matrix, record['classes']))}")
    return (
        "**On which classes?** The pairs that are confused most, with the number of "
        f"images: {'; '.join(lines)}. The matrix below shows all pairs of one model."
    )


def most_confused(matrix, classes, number=3):
    """The pairs of classes that are mistaken for each other most, as texts."""
    matrix = np.array(matrix)
    both_ways = np.triu(matrix + matrix.T, k=1)
    order = np.argsort(-both_ways, axis=None, kind="stable")[:number]
    pairs = []
    for one, other in zip(*np.unravel_index(order, matrix.shape), strict=True):
        images = both_ways[one, other]
        if images > 0:
            pairs.append(f"{classes[one]} with {classes[other]} ({images})")
    return pairs


def what_averaging_brings(record):
    """Models together, beside the mean of their members."""
    sentences = []
    for name, members in record["together"].items():
        accuracy = record["results"][name]["Accuracy (test)"]
        alone = [record["results"][member]["Accuracy (test)"] for member in members]
        gain = f"{100 * (accuracy - np.mean(alone)):+.2f}".replace("-", "−")
        sentences.append(f"{name} {percent(accuracy)} ({gain} points)")
    return (
        "**What averaging brings,** beside the mean of the members: "
        f"{'; '.join(sentences)}. A tenth of a point is "
        f"{round(record['images'] / 1000)} images."
    )


def what_it_costs(record):
    """Sizes, and which model we would use."""
    costs = []
    for kind, parameters in record["parameters"].items():
        size = 2 * parameters / 10**6
        costs.append(
            f"{kind} {parameters / 10**6:.2f} million parameters, {size:.1f} MB in "
            "half precision"
        )
    cost = record["cost"]
    ratio = cost["pretrained model"] / cost["our tuned model"]
    advice = {
        "pretrained": "Where ImageNet weights may be used, we would use the pretrained "
        "model; where every byte counts, our own.",
        "tuned": "We would use our tuned model.",
        "": "While neither is shown to be better, we would use the smaller one.",
    }
    return (
        f"**What it costs:** {'; '.join(costs)}. Training the pretrained model took "
        f"about {ratio:.2g} times as long as training our tuned model, each for its "
        f"own number of epochs. {advice[better_model(record)]}"
    )


def how_far_it_goes(record, ledger):
    """What the accuracies do not say."""
    models = sum(len(names) for names in record["seeds of"].values())
    text = (
        f"**How far it goes:** the {models} tuned and pretrained models all miss the "
        f"same {record['wrong by all']:,} of {record['images']:,} images; their labels "
        "are wrong, or the images hard. Neighbouring tiles of a scene may lie on both "
        "sides of the split, so accuracy in a new region may be lower [15]; that is "
        "not measured here."
    )
    looks = sum(row["looks"] for row in ledger["test"])
    if looks > 0:
        text += (
            f" In the history of this project {looks} scores were taken on the "
            f"published test list ({LEDGER}); settings were chosen on the validation "
            "list."
        )
    return text
