"""The discussion of part 2, in sentences: first the answer, then its reasons.

Used by ps2_eurosat.ipynb and tests/. All numbers are from the record and the ledger, so
that a new run changes the sentences with the tables.
"""

import numpy as np

from results import (
    LEDGER,
    accuracies_of,
    better_model,
    count,
    in_a_list,
    judged_on,
    ladder_steps,
    mean_over_seeds,
    p_text,
    percent,
    signed,
    verdict,
)

SMALLEST_GAIN = 0.1  # points; what averaging brings below it is called nothing
IN_BOTH = "inputs standardised"  # the rung that our model shares with our tuned model
LOOK_ALIKE = {  # pairs of classes, and why they may be confused
    ("HerbaceousVegetation", "PermanentCrop"): "both are patches of green and brown",
    ("AnnualCrop", "PermanentCrop"): "both are fields with straight borders",
    ("AnnualCrop", "HerbaceousVegetation"): "either may be fallow land",
    ("Highway", "River"): "both are bands a few pixels wide",
    ("HerbaceousVegetation", "Pasture"): "both are grass",
    ("Industrial", "Residential"): "both are built up",
}


def in_markdown(record, ledger):
    """The six paragraphs of the discussion, in Markdown."""
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


def in_short(record):
    """Which kind of model is better, by how much, why, and which we would use."""
    ours = percent(record["results"]["our model"]["Accuracy (test)"])
    tuned, tuned_spread = mean_over_seeds(record, "our tuned model")
    pretrained, spread = mean_over_seeds(record, "pretrained model")
    sentences = [
        f"**In short:** on the {judged_on(record)}, the pretrained model reaches "
        f"{pretrained} ({spread}), our tuned model {tuned} ({tuned_spread}), and our "
        f"model {ours} (one seed).",
        losses_in_short(record),
        verdict(record),
    ]
    if better_model(record):
        points = abs(points_ahead(record))
        images = round(points * record["images"] / 100)
        sentences.append(f"It is ahead by {points:.2f} points, or {images} images.")
    sentences.append(advice(record))
    if len(record["mcnemar"]) > 1:
        sentences.append("± is the standard deviation over the seeds.")
    return " ".join(sentences)


def is_quick(record):
    """Is it the record of a quick run, whose numbers only show that the code runs?"""
    return record["numbers of"] == "quick run"


def advice(record):
    """Which model we would use, and why."""
    if is_quick(record):
        return (
            "This is a quick run: it shows that the code runs, not which model is "
            "better."
        )
    better = better_model(record)
    if better == "tuned":
        return "We would use our tuned model."
    if better == "":
        return "While neither is shown to be better, we would use the smaller one."
    sizes = record["parameters"]
    smaller = sizes["pretrained model"] / sizes["our tuned model"]
    work = record["multiply-adds"]
    more = work["our tuned model"] / work["pretrained model"]
    return (
        "It starts from ImageNet, is larger and sees enlarged images; which of these "
        "helps most we did not test. Where such weights may be used we would use it, "
        f"unless memory is short: ours has 1/{smaller:.0f} of its parameters and "
        f"{more:.1f} times its multiplications."
    )


def losses_in_short(record):
    """The losses of the template's table, in a sentence."""
    models = [
        record["seeds of"]["pretrained model"][0],
        record["seeds of"]["our tuned model"][0],
        "our model",
    ]
    losses = [f"{record['results'][name]['Loss (test)']:.3f}" for name in models]
    return (
        f"Their losses, one seed each, are {', '.join(losses)}; smoothed labels raise "
        "the first two."
    )


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
    chance = p_text(record["mcnemar of tuning"]["p"])
    learnt = tuned["Accuracy (train)"]
    meaning = "so it hardly lacks capacity"
    if learnt < 0.99:
        meaning = "so it is not trained to its end"
    text = (
        "**Why?** The pretrained model starts from features learnt on the photographs "
        f"of ImageNet, ours from random weights. It also has {pretrained / own:.0f} "
        "times as many parameters, and in a full run sees enlarged images."
        f"{without_enlarging(record, ledger)} What it learnt before and its size we "
        "did not separate. Our tuned model gets "
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
            f"ladder of task 3 is: {most.rung} ({signed(most.gain)} points, seed 42, "
            "on EuroSAT's validation list)."
        )
    return text


def without_enlarging(record, ledger):
    """A sentence on trials without enlarged images, "" if they are not on record."""
    epochs = {kind: str(number) for kind, number in record["epochs"].items()}
    theirs = accuracy_of_trial(
        ledger,
        f"pretrained {record['pretrained']}",
        {"epochs": epochs["pretrained model"], "pixels": "64"},
    )
    ours = accuracy_of_trial(ledger, "own", {"epochs": epochs["our tuned model"]})
    if theirs is None or ours is None:
        return ""
    return (
        f" Without enlarging, it reaches {percent(theirs)} on the validation list in a "
        f"trial of task 3, and ours {percent(ours)}."
    )


def accuracy_of_trial(ledger, model, changes):
    """The mean accuracy of the first such trial of the ledger, None without one."""
    for trial in ledger["trials"]:
        if trial["model"] == model and trial["changes"] == changes:
            return np.mean(trial["validation_accuracy"])
    return None


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
        if (one, other) in LOOK_ALIKE and record["data"] == "EuroSAT":
            counts += f", {LOOK_ALIKE[one, other]}"
        pairs.append(f"{one} with {other} ({counts})")
    return (
        "**On which classes?** The pairs that are confused most by both together, with "
        f"the number of images ({'; '.join(record['confusion'])}) and, where we see "
        f"one, a likely reason: {in_a_list(pairs)}."
    )


def what_averaging_brings(record):
    """Models together, beside the mean of their members of the better kind."""
    sentences = []
    in_vain = []
    for name, members in record["together"].items():
        accuracy = record["results"][name]["Accuracy (test)"]
        gain = 100 * (accuracy - best_alone(record, members))
        sentences.append(f"{name} {percent(accuracy)} ({signed(gain)} points)")
        if abs(gain) < SMALLEST_GAIN:
            in_vain.append(name)
    together = {name: record["results"][name]["correct"] for name in record["together"]}
    best, *others = sorted(together, key=together.get, reverse=True)
    text = (
        "**What averaging brings,** beside the mean of the members, of the better kind "
        f"where there are two: {in_a_list(sentences)}."
    )
    if others:
        lead = count(together[best] - together[others[0]], "image")
        text += f" The best of these is {best}, {lead} ahead of {others[0]}."
    if in_vain:
        images = SMALLEST_GAIN * record["images"] / 100
        text += (
            f" Less than {SMALLEST_GAIN} points, {images:.0f} images, we call nothing: "
            f"so for {in_a_list(in_vain)}."
        )
    return text


def best_alone(record, members):
    """The mean accuracy of some models; of two kinds, that of the better one."""
    means = []
    for names in record["seeds of"].values():
        kind = [name for name in names if name in members]
        if kind:
            means.append(np.mean(accuracies_of(record, kind)))
    return max(means)


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
    meaning = "their labels are wrong, or the images are hard"
    if is_quick(record):
        meaning = "after so short a training that says little of their labels"
    text = (
        f"**How far it goes:** the {models} tuned and pretrained models all miss the "
        f"same {record['wrong by all']:,} of {record['images']:,} images; {meaning}. "
        "Neighbouring tiles of a scene may lie on "
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
