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


def test_a_row_holds_accuracies_losses_and_the_interval():
    sample_scores = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    sample_labels = torch.tensor([0, 0])  # right, wrong
    test_scores = torch.tensor([[0.9, 0.1]] * 10).log()
    test_labels = torch.tensor([0] * 9 + [1])  # nine of ten are right
    row = results.result_row(sample_scores, sample_labels, test_scores, test_labels)
    assert row == {
        "Accuracy (train)": 0.5,
        "Loss (train)": pytest.approx(-math.log(0.8 * 0.4) / 2),
        "Accuracy (test)": 0.9,
        "Loss (test)": pytest.approx(-(9 * math.log(0.9) + math.log(0.1)) / 10),
        "correct": 9,
        "total": 10,
        "interval": pytest.approx([0.5958, 0.9821], abs=1e-4),
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


def made_up_row(correct):
    """A model that has `correct` of 200 answers right; the other numbers are fixed."""
    return {
        "Accuracy (train)": 0.875,
        "Loss (train)": 0.125,
        "Accuracy (test)": correct / 200,
        "Loss (test)": 0.25,
        "correct": correct,
        "total": 200,
        "interval": [0.5, 0.75],
    }


ONE_SEED = {
    "data": "Drawn stand-in, not EuroSAT",
    "numbers of": "quick run",
    "judged on": "validation half",
    "images": 200,
    "seeds of": {
        "your tuned model": ["tuned, seed 42"],
        "pretrained model": ["pretrained, seed 42"],
    },
    "together": ["all 2 together"],
    "results": {
        "your model": made_up_row(120),
        "tuned, seed 42": made_up_row(180),
        "pretrained, seed 42": made_up_row(184),
        "all 2 together": made_up_row(186),
    },
    "mcnemar": [
        {
            "models": ["tuned, seed 42", "pretrained, seed 42"],
            "right alone": [4, 8],
            "p": 0.3877,
        },
    ],
}
THREE_SEEDS = {
    "data": "EuroSAT",
    "numbers of": "full run",
    "judged on": "test list",
    "images": 200,
    "seeds of": {
        "your tuned model": ["tuned, seed 42", "tuned, seed 43", "tuned, seed 44"],
        "pretrained model": [
            "pretrained, seed 42",
            "pretrained, seed 43",
            "pretrained, seed 44",
        ],
    },
    "together": ["3 tuned together", "all 6 together"],
    "results": {
        "your model": made_up_row(120),
        "tuned, train list alone": made_up_row(170),
        "tuned, seed 42": made_up_row(180),
        "tuned, seed 43": made_up_row(184),
        "tuned, seed 44": made_up_row(182),
        "pretrained, seed 42": made_up_row(196),
        "pretrained, seed 43": made_up_row(196),
        "pretrained, seed 44": made_up_row(196),
        "3 tuned together": made_up_row(186),
        "all 6 together": made_up_row(198),
    },
    "mcnemar": [
        {
            "models": ["tuned, seed 42", "pretrained, seed 42"],
            "right alone": [0, 16],
            "p": 0.0000305,
        },
        {
            "models": ["tuned, seed 43", "pretrained, seed 43"],
            "right alone": [2, 14],
            "p": 0.00418,
        },
        {
            "models": ["tuned, seed 44", "pretrained, seed 44"],
            "right alone": [3, 17],
            "p": 0.00258,
        },
    ],
}
LEDGER = {
    "trials": [
        {
            "model": "own",
            "changes": {"epochs": 5, "optimizer": "Muon"},
            "images": 16200,
            "validation_accuracy": [0.97],
        },
        {
            "model": "pretrained",
            "changes": {"epochs": 2},
            "images": 2000,
            "validation_accuracy": [0.98, 0.97, 0.99],
        },
    ],
    "test": [{"what": "full run", "looks": 10}, {"what": "earlier", "looks": 3}],
}


def test_summary_of_one_seed():
    found = results.summary_table(ONE_SEED)
    assert found.caption == (
        "Accuracy on the validation half, 200 images (Drawn stand-in, not EuroSAT); "
        "quick run."
    )
    assert found.header == ["model", "accuracy", ""]
    assert found.rows == [
        ["your model", "60.00%", "one seed"],
        ["your tuned model", "90.00%", "one seed"],
        ["pretrained model", "92.00%", "one seed"],
        ["all 2 together", "93.00%", ""],
    ]


def test_summary_of_three_seeds():
    found = results.summary_table(THREE_SEEDS)
    expected = "Accuracy on the test list, 200 images (EuroSAT); full run."
    assert found.caption == expected
    assert found.rows == [
        ["your model", "60.00%", "one seed"],
        ["your tuned model", "91.00%", "± 1.00, 3 seeds"],
        ["pretrained model", "98.00%", "± 0.00, 3 seeds"],
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
    assert found.caption == f"One seed each; test is the {record['judged on']}."
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
    ]


def test_all_results_of_one_seed():
    found = results.results_table(ONE_SEED)
    assert found.header == ["model", "accuracy", "right answers", "95 % interval"]
    assert found.rows == [
        ["your model, one seed", "60.00%", "120 of 200", "50.00 to 75.00%"],
        ["tuned, seed 42", "90.00%", "180 of 200", "50.00 to 75.00%"],
        ["pretrained, seed 42", "92.00%", "184 of 200", "50.00 to 75.00%"],
        ["all 2 together", "93.00%", "186 of 200", "50.00 to 75.00%"],
    ]


def test_all_results_of_three_seeds_have_a_row_for_each_model():
    found = results.results_table(THREE_SEEDS)
    names = [row[0] for row in found.rows]
    assert names == [
        "your model, one seed",
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
    assert "Tuned against pretrained is undecided" in found.caption
    assert found.rows == [["tuned, seed 42 / pretrained, seed 42", "4", "8", "0.39"]]


def test_mcnemars_table_of_three_seeds():
    found = results.mcnemar_table(THREE_SEEDS)
    assert "Tuned against pretrained is more than chance" in found.caption
    assert found.rows == [
        ["tuned, seed 42 / pretrained, seed 42", "0", "16", "3e-05"],
        ["tuned, seed 43 / pretrained, seed 43", "2", "14", "0.0042"],
        ["tuned, seed 44 / pretrained, seed 44", "3", "17", "0.0026"],
    ]


P_VALUES = [
    case([0.01, 0.049], "more than chance in the images", id="all below 0.05"),
    case([0.01, 0.05], "undecided", id="one at 0.05"),
    case([0.7, 0.01], "undecided", id="one above 0.05"),
]


@table("p_values, words", P_VALUES)
def test_the_verdict_needs_every_seed(p_values, words):
    record = {"mcnemar": [{"p": p_value} for p_value in p_values]}
    assert results.verdict(record) == words


def test_published_figures_beside_one_seed():
    found = results.published_table(ONE_SEED)
    assert found.header == ["published", "tuned, seed 42", "pretrained, seed 42"]
    assert len(found.rows) == len(results.PUBLISHED)
    for row in found.rows:
        assert row[1:] == ["differs", "differs"]


def test_published_figures_beside_three_seeds():
    found = results.published_table(THREE_SEEDS)
    assert found.header == [
        "published",
        "tuned, train list alone",
        "tuned, seed 42",
        "pretrained, seed 42",
    ]
    assert found.rows[0] == ["96.21% of 5,400", "differs", "differs", "undecided"]
    assert found.rows[-1] == ["99.20% of 2,700", "differs", "differs", "undecided"]
    for row, (accuracy, images) in zip(found.rows, results.PUBLISHED, strict=True):
        correct = round(accuracy * images / 100)
        p_value = fisher_by_hand(196, 4, correct, images - correct)
        expected = "differs" if p_value < 0.05 else "undecided"
        assert row[-1] == expected


def test_trials_have_a_row_each():
    found = results.trials_table(LEDGER)
    assert found.caption == "2 trials on record, judged on the validation list."
    assert found.header == ["network", "settings", "images", "accuracy", "spread"]
    assert found.rows == [
        ["own", "epochs 5, optimizer Muon", "16,200", "97.00", "one seed"],
        ["pretrained", "epochs 2", "2,000", "98.00", "± 1.00, 3 seeds"],
    ]


def test_an_empty_ledger_has_a_table_too():
    found = results.trials_table({"trials": [], "test": []})
    assert found.rows == []
    assert "0 trials" in results.as_text(found)


def test_the_discussion_of_one_seed_says_its_numbers():
    text = " ".join(results.discussion(ONE_SEED, LEDGER).split())
    assert "On the 200 images of the validation half" in text
    assert "reaches 60.00%, your tuned model 90.00% one seed" in text
    assert "the pretrained model 92.00% one seed" in text
    assert "Tuned against pretrained: undecided" in text
    assert "all 2 together 93.00%" in text
    assert "13 scores were taken on the published test list" in text


def test_the_discussion_of_three_seeds_says_its_numbers():
    text = " ".join(results.discussion(THREE_SEEDS, LEDGER).split())
    assert "your tuned model 91.00% ± 1.00, 3 seeds" in text
    assert "the pretrained model 98.00% ± 0.00, 3 seeds" in text
    assert "Tuned against pretrained: more than chance in the images" in text
    assert "3 tuned together 93.00%, all 6 together 99.00%" in text


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
    case(results.trials_table(LEDGER), id="trials"),
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
    assert alignment == ["---"] + ["---:"] * (len(header) - 1)
    assert others == shown.rows


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
