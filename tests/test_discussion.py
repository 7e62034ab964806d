"""discussion.py: sentences of made-up records, number by number."""

import pytest

import discussion
from tests.records import LEDGER, ONE_SEED, THREE_SEEDS, made_up_row

table = pytest.mark.parametrize
case = pytest.param
UNDECIDED = (
    "Whether the tuned or the pretrained model is better is undecided "
    "(McNemar's exact test)."
)


def test_a_discussion_without_a_ledger_says_nothing_of_looks():
    text = discussion.in_markdown(ONE_SEED, {"trials": [], "ladder": [], "test": []})
    assert "scores were taken" not in text


def test_a_loss_by_averaging_has_a_minus():
    record = {**ONE_SEED, "results": {**ONE_SEED["results"]}}
    record["results"]["all 2 together"] = made_up_row(183)  # the better has 184
    assert "(−0.50 points)" in discussion.in_markdown(record, LEDGER)


def test_a_small_gain_by_averaging_is_called_nothing():
    record = {**ONE_SEED, "results": {**ONE_SEED["results"]}}
    record["results"]["all 2 together"] = made_up_row(184)  # as the better one
    text = discussion.in_markdown(record, LEDGER)
    assert "Less than 0.1 points, 0 images, we call nothing: so for all 2" in text
    assert "nothing" not in discussion.what_averaging_brings(ONE_SEED)


def test_costs_that_overlap_are_about_the_same():
    costs = {"our tuned model": [20_000, 30_000], "pretrained model": [25_000]}
    text = discussion.what_it_costs({**ONE_SEED, "cost": costs})
    assert text.endswith("the pretrained model 25,000, about as long.")


def test_without_a_rung_that_pays_the_discussion_names_none():
    ledger = {**LEDGER, "ladder": [LEDGER["ladder"][0]]}
    assert "ladder" not in discussion.in_markdown(ONE_SEED, ledger)


def test_trials_without_enlarged_images_are_named_if_there_are_any():
    trials = []
    for model, changes, accuracy in [
        ("own", {"epochs": "16"}, 0.97),
        ("pretrained lite2", {"epochs": "6", "pixels": "64"}, 0.9855),
    ]:
        row = {"model": model, "changes": changes, "validation_accuracy": [accuracy]}
        trials.append(row)
    text = discussion.why(ONE_SEED, {**LEDGER, "trials": trials})
    assert "Without enlarging, it reaches 98.55% on the validation list" in text
    assert "in a trial of task 3, and ours 97.00%." in text
    assert "enlarging" not in discussion.why(ONE_SEED, LEDGER)


ONE_SEED_SAYS = [
    "**In short:** on the validation half, 200 images (Drawn stand-in, not EuroSAT), "
    "the pretrained "
    "model reaches 92.00% (one seed), our tuned model 90.00% (one seed), and our "
    "model 60.00% (one seed). Their losses, one seed each, are 0.250, 0.250, 0.250;",
    UNDECIDED,
    "This is a quick run: it shows that the code runs, not which model is better.",
    "It also has 6 times as many parameters",
    "gets 87.50% of a sample of its training images right",
    "its settings bring +30.00 points (first seed, McNemar's exact test, p < 0.001)",
    "the rung that brings most on the ladder of task 3 is: Muon (+22.00 points, seed "
    "42, on EuroSAT's validation list)",
    "(pretrained, seed 42; tuned, seed 42) and, where we see one, a likely reason: "
    "Highway with River (9 and 3); Forest with Highway (1 and 7); Forest with River "
    "(2 and 0).",
    "all 2 together 93.00% (+1.00 points).\n\n",
    "our tuned model 0.50 million parameters, 1.0 MB in half precision, 60 million "
    "multiplications to classify an image",
    "our tuned model took 19,000 to 20,000, the pretrained model 25,000, roughly 1.2 "
    "times as long",
    "the 2 tuned and pretrained models all miss the same 7 of 200 images; after so",
    "13 scores were taken on the published test list",
]
THREE_SEEDS_SAY = [
    "the pretrained model reaches 98.00% (± 0.00, 3 seeds)",
    "our tuned model 91.00% (± 1.00, 3 seeds)",
    "± is the standard deviation over the seeds",
    "The pretrained model is better for all 3 seeds (McNemar's exact test, p < 0.01). "
    "It is ahead by 7.00 points, or 14 images.",
    "Where such weights may be used we would use it, unless memory is short: ours has "
    "1/6 of its parameters and 0.2 times its multiplications.",
    "Highway with River (9 and 3, both are bands a few pixels wide)",
    "3 tuned together 93.00% (+2.00 points); all 6 together 99.00% (+1.00 points)",
    "The best of these is all 6 together, 12 images ahead of 3 tuned together.",
]


@table(
    "record, parts",
    [
        case(ONE_SEED, ONE_SEED_SAYS, id="one seed"),
        case(THREE_SEEDS, THREE_SEEDS_SAY, id="three seeds"),
    ],
)
def test_the_discussion_says_the_numbers_of_the_record(record, parts):
    text = discussion.in_markdown(record, LEDGER)
    for part in parts:
        assert part in text
