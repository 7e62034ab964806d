"""results.py: exact tests against sums by hand, and tables of made-up records.

Of the real record README.md and part 2 must show the same table.
"""

import math
import re
from math import comb
from pathlib import Path

import nbformat
import pytest
import torch

import results
from tests.helpers import refused
from tests.records import LEDGER, ONE_SEED, THREE_SEEDS

table = pytest.mark.parametrize
case = pytest.param
ROOT = Path(__file__).resolve().parent.parent


# --- Rows and exact tests -------------------------------------------------------------


def wilson_by_hand(correct, total):
    """Wilson's interval by its closed form."""
    z = 1.959963984540054  # the normal distribution has 95 % between -z and z
    share = correct / total
    middle = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    stretch = 1 + z**2 / total
    return [(middle - half) / stretch, (middle + half) / stretch]


ANSWERS = [
    case(9, 10, id="nine of ten"),
    case(0, 10, id="none"),
    case(10, 10, id="all"),
    case(1, 1, id="one image"),
    case(5300, 5400, id="as in the record"),
]


@table("correct, total", ANSWERS)
def test_interval_is_wilsons(correct, total):
    expected = wilson_by_hand(correct, total)
    found = results.wilson_interval(correct, total)
    assert found == pytest.approx(expected, abs=1e-9)


def test_rows_hold_accuracies_losses_and_intervals():
    test_labels = torch.tensor([0] * 9 + [1])
    test_scores = {
        "net": torch.tensor([[0.9, 0.1]] * 10).log(),  # nine of ten are right
        "together": torch.tensor([[0.1, 0.9]] * 10).log(),  # one of ten
    }
    sample_scores = {"net": torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()}
    sample_labels = {"net": torch.tensor([0, 0])}  # right, wrong
    rows = results.model_rows(
        sample_scores,
        sample_labels,
        test_scores,
        test_labels,
        {"net": "1", "together": "1 and 8"},
    )
    assert rows["net"] == {
        "views": "1",
        "training images": 2,
        "Accuracy (train)": 0.5,
        "Loss (train)": pytest.approx(-math.log(0.8 * 0.4) / 2),
        "Accuracy (test)": 0.9,
        "Loss (test)": pytest.approx(-(9 * math.log(0.9) + math.log(0.1)) / 10),
        "correct": 9,
        "total": 10,
        "interval": pytest.approx([0.5958, 0.9821], abs=1e-4),
    }
    assert rows["together"]["views"] == "1 and 8"
    assert rows["together"]["correct"] == 1
    assert "Accuracy (train)" not in rows["together"]


def test_the_ends_of_curves_are_their_last_values():
    curves = {"training": ([3.0, 2.0], [0.1, 0.2]), "test": ([1.0], [0.4])}
    assert results.curve_ends(curves) == {
        "training loss": 2.0,
        "training accuracy": 0.2,
        "test loss": 1.0,
        "test accuracy": 0.4,
    }


def mcnemar_by_hand(only_one, only_two):
    """Probability that coin tosses fall at least as unevenly."""
    tosses = only_one + only_two
    fewer = min(only_one, only_two)
    ways = sum(comb(tosses, heads) for heads in range(fewer + 1))
    return min(1, 2 * ways / 2**tosses)


RIGHT_ALONE = [
    case(0, 0, id="the same answers"),
    case(3, 3, id="as many"),
    case(0, 5, id="one is never right alone"),
    case(7, 2, id="the first more often"),
    case(16, 62, id="as in the record"),
]


@table("only_one, only_two", RIGHT_ALONE)
def test_mcnemar_is_a_sum_of_binomials(only_one, only_two):
    both = 20
    neither = 4
    one = [True] * both + [True] * only_one + [False] * only_two + [False] * neither
    two = [True] * both + [False] * only_one + [True] * only_two + [False] * neither
    right = {"one": torch.tensor(one), "two": torch.tensor(two)}
    assert results.mcnemar("one", "two", right) == {
        "models": ["one", "two"],
        "right alone": [only_one, only_two],
        "p": pytest.approx(mcnemar_by_hand(only_one, only_two)),
    }


def fisher_by_hand(correct, wrong, other_correct, other_wrong):
    """Share of the tables with the same sums that are as unlikely as this one, or more.

    All counts are whole numbers, so nothing is rounded before the end.
    """
    all_correct = correct + other_correct
    all_wrong = wrong + other_wrong
    images = correct + wrong
    ways = []
    for number in range(images + 1):  # of right answers in the first row
        ways.append(comb(all_correct, number) * comb(all_wrong, images - number))
    as_unlikely = [way for way in ways if way <= ways[correct]]
    return sum(as_unlikely) / sum(ways)


TWO_BY_TWO = [
    case(8, 2, 1, 5, id="uneven"),
    case(5, 5, 5, 5, id="even"),
    case(0, 6, 6, 0, id="as uneven as can be"),
    case(3, 7, 7, 3, id="two tails of equal weight"),
    case(12, 0, 30, 5, id="of other sizes"),
]


@table("correct, wrong, other_correct, other_wrong", TWO_BY_TWO)
def test_fisher_is_a_sum_of_tables(correct, wrong, other_correct, other_wrong):
    row = {"correct": correct, "total": correct + wrong}
    found = results.fisher(row, other_correct, other_correct + other_wrong)
    by_hand = fisher_by_hand(correct, wrong, other_correct, other_wrong)
    assert found == pytest.approx(by_hand)


# --- Tables of made-up records --------------------------------------------------------


def test_summary_of_one_seed():
    found = results.summary_table(ONE_SEED)
    assert found.caption == (
        "Accuracy on the validation half, 200 images (Drawn stand-in, not EuroSAT); "
        "quick run."
    )
    assert found.header == ["model", "accuracy", ""]
    assert found.rows == [
        ["template's settings, 1 epoch", "50.00%", "one seed"],
        ["our model, 16 epochs", "60.00%", "one seed"],
        ["our tuned model, 16 epochs", "90.00%", "one seed"],
        ["pretrained model, 6 epochs", "92.00%", "one seed"],
        ["all 2 together", "93.00%", ""],
    ]


def test_summary_of_three_seeds():
    found = results.summary_table(THREE_SEEDS)
    expected = "Accuracy on the test list, 200 images (EuroSAT); full run."
    assert found.caption == expected
    assert found.rows == [
        ["template's settings, 1 epoch", "50.00%", "one seed"],
        ["our model, 16 epochs", "60.00%", "one seed"],
        ["our tuned model, 16 epochs", "91.00%", "± 1.00, 3 seeds"],
        ["pretrained model, 6 epochs", "98.00%", "± 0.00, 3 seeds"],
        ["3 tuned together", "93.00%", ""],
        ["all 6 together", "99.00%", ""],
    ]


TEMPLATE_COLUMNS = [
    case(ONE_SEED, ["60.00%", "92.00%", "90.00%"], id="one seed"),
    case(THREE_SEEDS, ["60.00%", "98.00%", "90.00%"], id="three seeds"),
]


@table("record, accuracies", TEMPLATE_COLUMNS)
def test_the_templates_table_shows_the_first_seed(record, accuracies):
    found = results.template_table(record)
    assert "One seed each. Train: 2,000 images on which that model" in found.caption
    assert f"test: the {record['judged on']}, 200 images" in found.caption
    assert found.header == [
        "",
        "your model",
        "pre-trained model",
        "your tuned model",
    ]
    assert found.rows == [
        ["Accuracy (train)", "87.50%", "87.50%", "87.50%"],
        ["Loss (train)", "0.125", "0.125", "0.125"],
        ["Accuracy (test)", *accuracies],
        ["Loss (test)", "0.250", "0.250", "0.250"],
        ["views", "8", "8", "8"],
    ]


def test_all_results_of_one_seed():
    found = results.results_table(ONE_SEED)
    header = ["model", "views", "accuracy", "right answers", "95 % interval"]
    assert found.header == header
    assert found.rows == [
        [
            "template's settings, one seed",
            "8",
            "50.00%",
            "100 of 200",
            "50.00 to 75.00%",
        ],
        ["our model, one seed", "8", "60.00%", "120 of 200", "50.00 to 75.00%"],
        ["tuned, seed 42", "8", "90.00%", "180 of 200", "50.00 to 75.00%"],
        ["pretrained, seed 42", "8", "92.00%", "184 of 200", "50.00 to 75.00%"],
        ["all 2 together", "8", "93.00%", "186 of 200", "50.00 to 75.00%"],
    ]


def test_all_results_of_three_seeds_have_a_row_for_each_model():
    found = results.results_table(THREE_SEEDS)
    names = [row[0] for row in found.rows]
    assert names == [
        "template's settings, one seed",
        "our model, one seed",
        "tuned, train list alone, one seed",
        "tuned, seed 42",
        "tuned, seed 43",
        "tuned, seed 44",
        "pretrained, seed 42",
        "pretrained, seed 43",
        "pretrained, seed 44",
        "3 tuned together",
        "all 6 together",
    ]


def test_mcnemars_table_of_one_seed():
    found = results.mcnemar_table(ONE_SEED)
    assert "is better is undecided" in found.caption
    assert found.rows == [
        ["tuned, seed 42 / pretrained, seed 42", "4", "8", "0.39"],
        ["our model / tuned, seed 42", "10", "70", "1e-09"],
    ]


def test_mcnemars_table_of_three_seeds():
    found = results.mcnemar_table(THREE_SEEDS)
    sentence = "The pretrained model is better for all 3 seeds"
    verdict = f"{sentence} (McNemar's exact test, p < 0.01)."
    assert found.caption == f"{verdict} The last row is what tuning brings."
    assert found.rows == [
        ["tuned, seed 42 / pretrained, seed 42", "0", "16", "3e-05"],
        ["tuned, seed 43 / pretrained, seed 43", "2", "14", "0.0042"],
        ["tuned, seed 44 / pretrained, seed 44", "3", "17", "0.0026"],
        ["our model / tuned, seed 42", "10", "70", "1e-09"],
    ]


UNDECIDED = (
    "Whether the tuned or the pretrained model is better is undecided "
    "(McNemar's exact test)."
)
PRETRAINED = "The pretrained model is better for"
TUNED = "The tuned model is better for"
BELOW = "(McNemar's exact test, p <"
VERDICTS = [  # p and the images that one of two models alone gets right, for each seed
    case([(0.01, 1, 9)], f"{PRETRAINED} the one seed {BELOW} 0.05).", id="one"),
    case(
        [(0.01, 1, 9), (0.049, 2, 9)],
        f"{PRETRAINED} all 2 seeds {BELOW} 0.05).",
        id="all below 0.05",
    ),
    case(
        [(0.009, 9, 1), (0.002, 9, 0)],
        f"{TUNED} all 2 seeds {BELOW} 0.01).",
        id="the other one",
    ),
    case([(0.01, 1, 9), (0.05, 2, 9)], UNDECIDED, id="one at 0.05"),
    case([(0.7, 4, 5), (0.01, 1, 9)], UNDECIDED, id="one above 0.05"),
    case([(0.01, 1, 9), (0.01, 9, 1)], UNDECIDED, id="each better once"),
]


@table("seeds, sentence", VERDICTS)
def test_the_verdict_needs_every_seed(seeds, sentence):
    rows = []
    for p, tuned, pretrained in seeds:
        rows.append({"p": p, "right alone": [tuned, pretrained]})
    assert results.verdict({"mcnemar": rows}) == sentence


def test_published_figures_beside_one_seed():
    found = results.published_table(ONE_SEED)
    assert found.header == ["published", "tuned, seed 42", "pretrained, seed 42"]
    assert len(found.rows) == len(results.PUBLISHED)
    for row in found.rows:
        assert row[1:] == ["worse", "worse"]


def test_published_figures_beside_three_seeds():
    found = results.published_table(THREE_SEEDS)
    assert found.header == [
        "published",
        "tuned, train list alone",
        "tuned, seed 42",
        "pretrained, seed 42",
    ]
    assert found.rows[0] == ["96.21% of 5,400 [6]", "worse", "worse", "undecided"]
    assert found.rows[-1] == ["99.20% of 2,700 [9]", "worse", "worse", "undecided"]
    for row, figure in zip(found.rows, results.PUBLISHED, strict=True):
        accuracy, images, _ = figure
        correct = round(accuracy * images / 100)
        p_value = fisher_by_hand(196, 4, correct, images - correct)
        expected = "undecided"
        if p_value < 0.05:
            expected = "better" if 98 > accuracy else "worse"
        assert row[-1] == expected


def test_trials_have_a_row_each_with_a_verdict():
    today, earlier = results.trials_tables(LEDGER)
    assert today.caption.startswith("Trials of today's networks")
    about_trial = today.header[:5]
    compared = today.header[5:]
    assert about_trial == ["row", "network", "changes", "images", "accuracy"]
    assert compared == ["against row", "gain", "verdict"]
    first, second, third = [" | ".join(row) for row in today.rows]
    assert first == "1 | own | epochs 5, optimizer Muon | 16,200 | 97.00 |  |  | "
    # 0.35 is the square root of (97 * 3 + 96 * 4) / 5400
    settings = "epochs 5, batch_size 32"
    compared = "96.00 | 1 | −1.00 ± 0.35 | worse"
    assert second == f"2 | own | {settings} | 16,200 | {compared}"
    settings = "epochs 5, batch_size 128"
    compared = "96.80 | 1 | −0.20 ± 0.33 | undecided"
    assert third == f"3 | own | {settings} | 16,200 | {compared}"
    assert earlier.caption.startswith("Earlier trials, which")
    assert [row[4:] for row in earlier.rows] == [
        ["98.00 ± 1.00 (3)", "", "", ""],
        # 0.82 is the square root of 2 * 1 / 3
        ["96.00 ± 1.00 (3)", "4", "−2.00 ± 0.82", "undecided"],
        ["98.00 ± 0.00 (3)", "4", "+0.00 ± 0.58", "undecided"],
        ["90.00 ± 0.10 (3)", "4", "−8.00 ± 0.58", "worse"],
    ]


def test_the_first_trial_of_a_network_is_compared_with_its_family():
    shown = []
    for model, epochs, accuracy in [
        ("pretrained lite2", "6", 0.98),
        ("pretrained lite2", "4", 0.97),
        ("pretrained lite0", "6", 0.99),
        ("own", "8", 0.95),
    ]:
        row = {"model": model, "seeds": [42], "changes": {"epochs": epochs}}
        row.update({"images": 16200, "validation_accuracy": [accuracy]})
        shown.append(row)
    today, _ = results.trials_tables({"trials": shown})
    assert [row[5:] for row in today.rows] == [
        ["", "", ""],
        ["1", "−1.00 ± 0.30", "worse"],
        ["1", "+1.00 ± 0.23", "better"],
        ["", "", ""],
    ]


def test_a_p_value_is_given_by_its_bound():
    assert results.p_text(0.0009) == "p < 0.001"
    assert results.p_text(0.001) == "p < 0.01"
    assert results.p_text(0.05) == "p = 0.05"
    assert results.p_text(0.382) == "p = 0.38"


def test_an_empty_ledger_has_tables_too():
    empty = {"trials": [], "ladder": [], "test": []}
    for found in [*results.trials_tables(empty), results.ladder_table(empty)]:
        assert found.rows == []


def test_the_ladder_says_what_each_rung_brings():
    found = results.ladder_table(LEDGER)
    assert found.rows == [
        ["template's settings", "", "75.00", "one seed", "", ""],
        [
            "Muon",
            "template's settings",
            "97.00",
            "97.50 ± 0.71, 2 seeds",
            "+22.00 ± 0.63",  # the square root of (75 * 25 + 97 * 3) / 5400
            "better",
        ],
        ["averaged", "Muon", "97.25", "one seed", "+0.25 ± 0.32", "undecided"],
        ["plain", "Muon", "96.00", "one seed", "−1.00 ± 0.35", "worse"],
    ]
    assert results.what_pays(LEDGER) == (
        "With seed 42, in points, ahead by more than two standard errors: Muon "
        "(+22.00). Undecided: none. Worse: none. Not in the recipe: averaged (+0.25, "
        "undecided); plain (−1.00, worse). The seeds of one rung lie up to 1.00 points "
        "apart: a gain of that size may be chance."
    )


def test_copies_of_training_images_have_a_table():
    found = results.leak_table(ONE_SEED)
    row = ["split by draw", "25.6%", "180 of 200", "90.00%", "85.00 to 93.75%"]
    assert found.rows == [row]


def test_each_point_of_the_grid_has_a_cell():
    grid = [[0.5, 0.75], [0.9, 0.1]]
    found = results.grid_table(grid, [0.01, 0.02], [16, 32], 5400)
    assert found.header == ["batch size", "0.01", "0.02"]
    assert found.rows == [["16", "50.00%", "75.00%"], ["32", "90.00%", "10.00%"]]
    assert "5,400 validation images" in found.caption


def test_the_calibration_has_a_table_and_an_answer():
    found = results.calibration_table(ONE_SEED)
    assert len(found.header) == 7
    assert len(found.rows) == 4
    assert found.rows[1] == [
        "tuned, seed 42, scaled",
        "0.61",
        "90.50%",
        "90.00%",
        "0.0048",
        "0.0031",
        "0.188",
    ]
    assert results.calibration_answer(ONE_SEED) == (
        "**Is it?** tuned, seed 42, as trained: no (it says 89.00%, and is right in "
        "90.00%); tuned, seed 42, scaled: nearly (it says 90.50%, and is right in "
        "90.00%); pretrained, seed 42, as trained: no (it says 95.00%, and is right in "
        "90.00%); pretrained, seed 42, scaled: nearly (it says 90.10%, and is right in "
        "90.00%). Nearly: the calibration error is at most twice the noise floor."
    )


def test_each_class_has_a_row():
    numbers = {"precision": 0.5, "recall": 1.0, "f1-score": 2 / 3, "support": 30.0}
    report = {"Forest": numbers, "River": numbers, "accuracy": 0.7}
    found = results.class_table(report, ["Forest", "River"], "tuned")
    assert found.rows == [
        ["Forest", "0.500", "1.000", "0.667", "30"],
        ["River", "0.500", "1.000", "0.667", "30"],
    ]


# --- Markdown and text ----------------------------------------------------------------


TABLES = [
    case(results.template_table(ONE_SEED), id="template, one seed"),
    case(results.template_table(THREE_SEEDS), id="template, three seeds"),
    case(results.results_table(ONE_SEED), id="results, one seed"),
    case(results.results_table(THREE_SEEDS), id="results, three seeds"),
    case(results.mcnemar_table(ONE_SEED), id="McNemar, one seed"),
    case(results.mcnemar_table(THREE_SEEDS), id="McNemar, three seeds"),
    case(results.published_table(ONE_SEED), id="published, one seed"),
    case(results.published_table(THREE_SEEDS), id="published, three seeds"),
    case(results.summary_table(ONE_SEED), id="summary, one seed"),
    case(results.summary_table(THREE_SEEDS), id="summary, three seeds"),
    case(results.trials_tables(LEDGER)[0], id="trials"),
    case(results.trials_tables(LEDGER)[1], id="earlier trials"),
    case(results.ladder_table(LEDGER), id="ladder"),
    case(results.leak_table(ONE_SEED), id="copies"),
    case(results.calibration_table(ONE_SEED), id="calibration"),
]


@table("shown", TABLES)
def test_markdown_holds_the_header_and_the_rows(shown):
    *lines, empty, caption = results.as_markdown(shown).split("\n")
    assert empty == ""
    assert caption == f"*{shown.caption}*"
    rows = []
    for line in lines:
        assert line.startswith("| ") and line.endswith(" |")
        rows.append(line[2:-2].split(" | "))
    header, alignment, *others = rows
    assert header == shown.header
    assert len(alignment) == len(header)
    assert others == shown.rows


def test_markdown_puts_columns_of_numbers_to_the_right():
    rows = [["3 together", "98.15%", "", "one seed"], ["first", "7", "−0.25 ± 0.1", ""]]
    shown = results.Table("A caption.", ["model", "accuracy", "gain", "of"], rows)
    _, rule, *_ = results.as_markdown(shown).split("\n")
    assert rule == "| --- | ---: | ---: | --- |"


@table("shown", TABLES)
def test_text_holds_the_same_cells_in_columns(shown):
    caption, *lines = results.as_text(shown).split("\n")
    assert caption == shown.caption
    for line, row in zip(lines, [shown.header, *shown.rows], strict=True):
        assert line == line.rstrip()
        cells = re.split(" {2,}", line.strip())
        assert cells == [cell for cell in row if cell]
    names = [row[0] for row in shown.rows]
    width = max(len(name) for name in names)
    for line, name in zip(lines[1:], names, strict=True):
        assert line[:width] == name.ljust(width)  # to the left
    ends = {
        len(line) for line, row in zip(lines[1:], shown.rows, strict=True) if row[-1]
    }
    assert len(ends) == 1  # the last column, to the right


def test_a_notebook_gets_both_forms():
    shown = results.summary_table(ONE_SEED)
    assert results.bundle(shown) == {
        "text/markdown": results.as_markdown(shown),
        "text/plain": results.as_text(shown),
    }


# --- Files ----------------------------------------------------------------------------


def test_what_is_written_as_json_is_read_again(tmp_path):
    path = tmp_path / "results.json"
    text = results.json_text(THREE_SEEDS)
    path.write_text(text, encoding="utf-8")
    assert text.endswith("}\n")
    assert results.read_json(path) == THREE_SEEDS


@table("number", [math.inf, -math.inf, math.nan])
def test_no_number_that_json_lacks_is_written(number):
    with refused(ValueError, "JSON"):
        results.json_text({"loss": number})


def test_readme_and_part_2_show_the_summary_of_the_record():
    """Three texts are the same: the table, README's block, part 2's first output."""
    record = results.read_json(ROOT / results.RESULTS)
    summary = results.summary_table(record)

    readme = (ROOT / "README.md").read_text("utf-8")
    pattern = re.compile(r"^```text\n(Accuracy on .*?)\n```$", re.MULTILINE | re.DOTALL)
    blocks = pattern.findall(readme)
    assert blocks == [results.as_text(summary)]

    notebook = nbformat.read(ROOT / "ps2_eurosat.ipynb", as_version=4)
    outputs = []
    for cell in notebook.cells:
        outputs += cell.get("outputs", [])
    first = outputs[0]
    assert first.output_type == "display_data"
    assert first.data == results.bundle(summary)
