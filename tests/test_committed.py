"""The committed notebooks: one run from top to bottom, nothing of a machine in them, and no number that was typed."""
import json
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

from tools.check import EXACT, compare

PUBLISHED = {"98.57", "96.67", "96.21", "0.58"}  # figures of others, quoted in the discussion
NOTEBOOKS = ["ps2_theory.ipynb", "ps2_eurosat.ipynb"]


def printed(notebook):
    return "\n".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_one_run_from_top_to_bottom_with_text_and_png_alone(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {kind for output in outputs for kind in output.get("data", {})} <= {"text/plain", "image/png"}
    assert pathlib.Path(path).stat().st_size < 2_000_000


def test_the_discussion_quotes_only_printed_numbers():
    notebook = nbformat.read("ps2_eurosat.ipynb", as_version=4)
    text = next(cell.source for cell in notebook.cells if cell.id == "discussion")
    numbers = set(re.findall(r"\d+\.\d+", text)) - PUBLISHED
    assert numbers and not {number for number in numbers if number not in printed(notebook)}


def test_the_readme_shows_the_results_of_the_run():
    report, readme = (pathlib.Path(path).read_text() for path in ("report/results.json", "README.md"))
    for result in json.loads(report)["results"]:
        low, high = result["interval"]
        assert (f"| {result['model']} | {result['parameters']:,} | {result['epochs']} | {100 * result['accuracy']:.2f} % | "
                f"{100 * low:.2f} to {100 * high:.2f} % |") in readme


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_no_path_of_a_machine(path):
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/\w+", pathlib.Path(path).read_text())


def test_part_1_is_the_same_to_the_byte_with_the_arithmetic_of_an_older_processor(tmp_path):
    again = tmp_path / "again.ipynb"
    subprocess.run([sys.executable, "tools/notebook.py", "ps2_theory.ipynb", "--out", str(again)], check=True,
                   env={**os.environ, "OPENBLAS_CORETYPE": "Prescott"})  # no fused products, other orders of sums
    assert compare("ps2_theory.ipynb", again, EXACT) == []
