"""The benchmark: marks, ratios, and the committed report."""
import pathlib
import re
import time

import pytest

from tools import bench


def test_a_missed_aim_is_marked():
    report = bench.Report()
    report.ratio("step", "7 %", "5 %", met=False)
    report.ratio("loading", "40 x", "30 x", met=True)
    assert "| step | 7 % | 5 % | **missed** |" in report.text() and "| loading | 40 x | 30 x | met |" in report.text()


def test_seconds_are_those_of_one_call():
    short, long = bench.seconds(lambda: time.sleep(0.002), lambda: time.sleep(0.01), rounds=3, least=0.05)
    assert 0.002 <= short < 0.008 < long < 0.04


def test_a_section_that_fails_in_its_own_process_is_an_error():
    with pytest.raises(Exception, match="exit status 1"):
        bench.apart("raise SystemExit(1)")


@pytest.mark.parametrize("what", ["loading: tensor, as ToTensor gives it", "loading: tensor, as Trainer takes it", "training step above", "arithmetic of",
                                  "MyMaxPool at worst", "numpy convolution", "own CNN: training to 90", "own CNN: training to 95",
                                  "own CNN: training to 97", "pretrained: training to 97", "epoch time is linear", "peak memory"])
def test_the_committed_report_names_every_ratio(what):
    text = pathlib.Path("report/benchmark.md").read_text()
    assert re.search(rf"^\| {what}.* \| (met|\*\*missed\*\*) \|$", text, re.M) and "Gflop/s" in text
