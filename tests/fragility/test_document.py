"""A fragility report as a document, and the tables of targeting, repair and weight filters."""

from __future__ import annotations

import re
from math import nan
from typing import Any

import pytest
import torch
from torch import nn

from neurosens_fast.fragility import Counts, FragilityReport
from neurosens_fast.fragility.correlations import Correlation
from neurosens_fast.fragility.document import class_table, neuron_table, to_markdown
from neurosens_fast.fragility.document_tables import (
    correlation_table,
    filter_table,
    hit_table,
    no_repair_table,
    number,
    repair_table,
    signed,
)
from neurosens_fast.fragility.evaluation import RepairEvaluation
from neurosens_fast.fragility.filter_report import FilterReport
from neurosens_fast.fragility.sweep import RepairReport
from neurosens_fast.fragility.targeting_report import TargetingReport

from .reports import made_report

MADE: Any = {"model": "made", "attack": "FGSM", "data": "made", "dtype": "float32", "device": "cpu", "seed": 0}
MADE["versions"] = {"torch": "2"}


def judged(eps: tuple[float, ...] = (0.1, 0.05)) -> FragilityReport:
    """Neurons 0, 1 and 3 of a report with the larger strength first."""
    lost, gained = [[9, 2, 12], [0, 1, 1], [1, 1, 0]], [[0, 0, 0], [0, 0, 1], [0, 11, 8]]
    report = made_report(correct=[90, 40, 60], lost=lost, gained=gained)
    report.eps = eps
    return report


def test_classes_and_thresholds() -> None:
    table = class_table(judged())
    assert table.title == "Classes of 3 neurons of conv"
    assert table.headers == ("inputs", "accuracy", "threshold", "fragile", "robust", "antifragile", "most fragile")
    assert table.rows == (
        ("clean", "90.0%", "3.00", "1", "2", "0", "0 (-9.00)"),
        ("eps 0.1", "40.0%", "4.90", "0", "2", "1", "0 (-2.00)"),
        ("eps 0.05", "60.0%", "4.90", "1", "1", "1", "0 (-12.00)"),
    )
    assert "binomial standard error" in table.note
    given = class_table(judged(), 0.015)
    assert [row[2:6] for row in given.rows] == [
        ("1.50", "1", "2", "0"),
        ("1.50", "1", "1", "1"),
        ("1.50", "1", "1", "1"),
    ]
    assert given.note.endswith("is as it was given.")


def test_most_fragile_neurons_come_first_by_the_largest_strength() -> None:
    report = judged()
    table = neuron_table(report, 2)
    assert table.title == "The 2 most fragile neurons at eps 0.1"
    assert table.headers == ("neuron", "clean", "eps 0.1", "eps 0.05", "p at eps 0.1")
    assert [row[0] for row in table.rows] == ["0", "1"]
    # lost 2 and gained none of 100: mean -0.02, mean square 0.02; McNemar of 2 against 0 is 2 / 2^2
    assert table.rows[0][2] == f"-2.00 ± {100 * ((0.02 - 0.0004) / 100) ** 0.5:.2f}"
    assert [row[4] for row in table.rows] == ["0.5", "1"]
    assert table.rows[1][1] == "+0.00 ± 0.00"
    assert neuron_table(report, 9).title == "The 3 most fragile neurons at eps 0.1"
    assert neuron_table(report, 1).title == "The most fragile neuron at eps 0.1"
    for each in (table, class_table(report)):
        assert all(len(row) == len(each.headers) for row in each.rows)
        assert max(each.numbers) == len(each.headers) - 1


def test_document() -> None:
    report = judged()
    report.model = "Net_1 <b>, of *mine*"
    more = no_repair_table("nothing to repair: all 3 are robust")
    text = to_markdown(report, 2, "a picture.png", [more], {"Repair": "repair.png"}, threshold=0.5)
    assert text.startswith("# Fragile neurons: conv of Net_1 \\<b\\>\n\n- **Model**: Net_1 \\<b\\>, of \\*mine\\*\n")
    assert "- **Layer**: conv (Conv2d): 3 of 4 neurons, each set to zero at the output of norm (after_norm)\n" in text
    assert "- **Attack**: FGSM on the whole model, once (fixed)\n" in text
    assert "- **Data**: tensors \\[20, 3\\]; 100 samples\n" in text
    assert "- **Computed**: a note\n" in text
    assert "- **Versions**: torch 2.14.1\n" in text
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == ["a%20picture.png", "repair.png"]
    titles = ["Classes of 3 neurons of conv", "The 2 most fragile neurons at eps 0.1", "Repair"]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == titles
    assert "| clean | 90.0% | 50.00 | 0 | 3 | 0 | 0 (-9.00) |" in text
    assert text.endswith("| outcome |\n| --- |\n| no repair |\n\nnothing to repair: all 3 are robust\n")
    assert report.to_markdown(top=2).count("![") == 0
    report.zeroed, report.protocol = "conv", "adaptive"
    assert "each set to zero at its own output (after_norm)" in report.to_markdown()
    assert "- **Attack**: FGSM on every model without a neuron (adaptive)\n" in report.to_markdown()


@pytest.mark.parametrize(("value", "text"), [(0.0123, "0.012"), (1.0, "1"), (nan, "-"), (1.5e-7, "1.5e-07")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert (signed(0.0125), signed(-0.5)) == ("+1.25", "-50.00")


def targeted(top: int) -> TargetingReport:
    histogram = torch.tensor([[0, 5, 3], [2, 4, 3]])
    correlations = (
        Correlation(0.1, "fragility: clean", -0.456, 0.034, 0.068, low=-0.9, high=0.12, neurons=3),
        Correlation(0.1, "fragility: adversarial", nan, nan, nan, low=nan, high=nan, neurons=2),
    )
    return TargetingReport(
        *("conv", "norm", "Conv2d", 3, (0.1, 0.2), top, histogram, histogram[:, None], torch.tensor([10])),
        *(torch.tensor([2, 1]), torch.zeros(2, 3), torch.zeros(2, 3), correlations, 10, "after_norm"),
        **MADE,
    )


def test_targeting() -> None:
    table = hit_table(targeted(1), 2)
    assert table.headers == ("neuron", "eps 0.1", "eps 0.2")
    assert table.rows == (("1", "50.0%", "40.0%"), ("2", "30.0%", "30.0%"))
    assert "the activation of the neuron changes most for its size." in table.note
    assert table.note.endswith("none changes: 2 at eps 0.1, 1 at eps 0.2.")
    assert "is among the 2 that change most for its size" in hit_table(targeted(2)).note
    assert len(hit_table(targeted(1)).rows) == 3
    assert correlation_table(targeted(1)).rows == (
        ("0.1", "fragility: clean", "-0.46", "-0.90 to +0.12", "0.034", "0.068"),
        ("0.1", "fragility: adversarial", "-", "-", "-", "-"),
    )


def evaluated(lost: int, gained: int, *warnings: str) -> RepairEvaluation:
    counts = Counts.zeros(1, 2)
    counts.correct += torch.tensor([80, 40])
    counts.lost[0, 1], counts.gained[0, 1], counts.samples = lost, gained, 100
    return RepairEvaluation((("clean", 0.0), ("FGSM", 0.1)), counts, "made", 0, warnings)


def swept(picked: float, test: RepairEvaluation) -> RepairReport:
    return RepairReport(
        *({1.0: evaluated(0, 0), 0.5: evaluated(1, 3)}, test, picked, "FGSM", "conv", "after_norm", "adversarial"),
        *(0.05, "norm", False, "made", {"FGSM": "FGSM"}, nn.Identity()),
    )


def test_repair() -> None:
    table = repair_table(swept(0.5, evaluated(0, 4, "the gradient is zero")))
    assert table.rows == (
        ("clean", "80.0%", "80.0%", "+0.00 ± 0.00", "1"),
        ("FGSM 0.1", "40.0%", "44.0%", f"+4.00 ± {100 * ((0.04 - 0.0016) / 100) ** 0.5:.2f}", "0.12"),
    )
    assert "Of the factors 1, 0.5, compressing robust neurons to 0.5 was picked" in table.note
    assert "shown are 100 other samples" in table.note
    assert table.note.endswith(" Warnings: the gradient is zero.")
    unchanged = repair_table(swept(1.0, evaluated(0, 0)))
    assert "no repair was picked" in unchanged.note
    assert unchanged.note.endswith("exact McNemar test.")


def test_filters() -> None:
    # Right of 10 at thresholds 0 and 1: clean, then eps 0.1 and 0.2; of 4 weights all and then none are left.
    report = FilterReport(
        *("high", "layer", ("conv",), (4,), (2.0,), ("conv",), ((0.0, 0.0), (0.0, 1.0)), (0.1, 0.2)),
        *(torch.tensor([[0, 4]]), torch.tensor([[[9, 6, 5], [3, 2, 3]]]), torch.tensor([9, 6, 5]), 10),
        notes=("left out head: it is a norm", "another"),
        **MADE,
    )
    table = filter_table(report)
    assert table.title == "Weights filtered by size: high"
    # Trapezoids: clean (0.9 - 1 + 0.3 - 0) / 2; at eps 0.2 (0.5 - 1 + 0.3 - 0) / 2. Change: 0.3 - 0.9 and 0.3 - 0.5.
    assert table.rows == (("conv", "4", "+0.100", "-0.100", "-0.200", "-60.00 fragile", "-20.00 fragile"),)
    assert "at eps 0.2" in table.note
    assert table.note.endswith(" Notes: left out head: it is a norm; another.")
