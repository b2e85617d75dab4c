"""The numbers of a report that follow from its counts."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from neurosens_fast.fragility import FragilityReport

from .reports import made_report


def judged() -> FragilityReport:
    lost, gained = [[9, 12, 2], [0, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 1, 0], [0, 8, 11]]
    return made_report(correct=[90, 60, 40], lost=lost, gained=gained)


def test_scores_are_changes_of_accuracy() -> None:
    report = judged()
    assert report.clean_accuracy == 0.9
    assert (report.adversarial_accuracy(0.05), report.adversarial_accuracy()) == (0.6, 0.4)
    assert report.accuracy(clean=True).tolist() == pytest.approx([0.81, 0.9, 0.89])
    assert report.accuracy(0.05).tolist() == pytest.approx([0.48, 0.6, 0.68])
    assert report.score("clean").tolist() == pytest.approx([-0.09, 0, -0.01])
    assert report.score("adversarial", 0.05).tolist() == pytest.approx([-0.12, 0, 0.08])
    assert report.score().tolist() == pytest.approx([-0.02, 0, 0.10])
    assert report.score("difference", 0.05).tolist() == pytest.approx([-0.03, 0, 0.09])


def test_classes_follow_the_threshold() -> None:
    report = judged()
    error = sqrt(0.6 * 0.4 / 100)
    assert report.threshold("adversarial", 0.05) == pytest.approx(error)
    assert report.threshold("difference", 0.05) == pytest.approx(sqrt(error**2 + 0.9 * 0.1 / 100))
    assert report.classes("adversarial", 0.05) == ("fragile", "robust", "antifragile")
    assert report.classes("adversarial", 0.05, threshold=0.1) == ("fragile", "robust", "robust")
    assert report.classes("adversarial", 0.05, threshold=0.08) == ("fragile", "robust", "robust"), "at it is within it"
    assert report.classes("adversarial", 0.05, threshold=0.0) == ("fragile", "robust", "antifragile")
    assert report.classes("clean") == ("fragile", "robust", "robust")


def test_table_has_a_row_for_each_neuron_and_eps() -> None:
    report = made_report()
    table = report.to_pandas()
    assert list(zip(table.neuron, table.eps, strict=True)) == [(k, e) for e in report.eps for k in report.neurons]
    for eps in report.eps:
        rows = table[table.eps == eps]
        for score in ("clean", "adversarial", "difference"):
            assert rows[score].tolist() == report.score(score, eps).tolist()
            assert rows[f"{score}_class"].tolist() == list(report.classes(score, eps))
            assert rows[f"{score}_standard_error"].tolist() == report.standard_error(score, eps).tolist()
    assert bool(torch.isnan(report.p_value("difference")).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda report: report.score("robustness"), "score must be one of clean, adversarial, difference"),
        (lambda report: report.score("clean", 0.3), "eps 0.3 was not measured; choose one of 0.05, 0.1"),
        (lambda report: report.classes(threshold=-0.1), "threshold must be a number of at least 0"),
        (lambda report: report.classes(threshold=float("nan")), "threshold must be a number of at least 0"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(made_report())  # type: ignore[operator]
