"""What targeting, repair and weight filters found, as tables of a document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from neurosens_fast.audit.document.content import Table

from .evaluation import label
from .filter_report import KINDS
from .judging import CLASSES

if TYPE_CHECKING:
    from .filter_report import FilterReport
    from .sweep import RepairReport
    from .targeting_report import TargetingReport


def signed(share: float) -> str:
    """``-1.25``: a change of accuracy in points."""
    return f"{100 * share:+.2f}"


def number(value: float) -> str:
    """Two digits, or ``-`` for what is not defined."""
    return "-" if math.isnan(value) else f"{value:.2g}"


def hit_table(report: TargetingReport, top: int = 10) -> Table:
    """The neurons that are hit most, over all strengths."""
    total = report.histogram.sum(0)
    order = total.argsort(descending=True, stable=True)[:top]
    rows = tuple(
        (str(neuron), *(f"{share:.1%}" for share in report.share[:, neuron].tolist())) for neuron in order.tolist()
    )
    most = "changes most" if report.top == 1 else f"is among the {report.top} that change most"
    unhit = ", ".join(f"{count:,} at eps {eps:g}" for eps, count in zip(report.eps, report.unhit.tolist(), strict=True))
    return Table(
        "Where the attack hits",
        ("neuron", *(f"eps {eps:g}" for eps in report.eps)),
        rows,
        frozenset(range(1 + len(report.eps))),
        f"Share of samples in which the activation of the neuron {most} for its size. Samples in which none changes: "
        f"{unhit}.",
    )


def correlation_table(report: TargetingReport) -> Table:
    """Rank correlations of how often a neuron is hit."""
    rows = tuple(
        (
            f"{row.eps:g}",
            row.with_what,
            f"{row.correlation:+.2f}" if not math.isnan(row.correlation) else "-",
            "-" if math.isnan(row.low) else f"{row.low:+.2f} to {row.high:+.2f}",
            number(row.p_value),
            number(row.p_value_holm),
        )
        for row in report.correlations
    )
    return Table(
        "Are the most hit neurons the fragile ones",
        ("eps", "with", "Spearman", "95 % interval", "p", "p by Holm"),
        rows,
        frozenset({0, 2, 3, 4, 5}),
        "Rank correlation of how often a neuron is hit with what is named, over neurons. A fragile neuron has a "
        "negative score, so that hits on fragile neurons show as a negative correlation.",
    )


def repair_table(report: RepairReport) -> Table:
    """The picked repair on data that neither classified neurons nor picked it."""
    test = report.test
    columns = (test.before, test.after, test.change, test.standard_error, test.p_value)
    rows = tuple(
        (label(*condition), f"{before:.1%}", f"{after:.1%}", f"{signed(change)} ± {100 * error:.2f}", number(p))
        for condition, before, after, change, error, p in zip(
            test.conditions, *(column.tolist() for column in columns), strict=True
        )
    )
    what = "no repair" if report.picked == 1 else f"compressing robust neurons to {report.picked:g}"
    tried = ", ".join(f"{factor:g}" for factor in report.validation)
    return Table(
        "Repair",
        ("inputs", "before", "after", "change", "p"),
        rows,
        frozenset(range(1, 5)),
        f"Of the factors {tried}, {what} was picked on validation data by accuracy under {report.pick_by}; shown are "
        f"{test.samples:,} other samples. Each model is attacked itself. Change in points with one standard error, "
        f"paired; p: exact McNemar test.{_told('Warnings', test.warnings)}",
    )


def no_repair_table(reason: str) -> Table:
    """That there was nothing to repair."""
    return Table("Repair", ("outcome",), (("no repair",),), frozenset(), reason)


def filter_table(report: FilterReport) -> Table:
    """Scores and classes of every curve at the largest eps."""
    scores = [report.score(score) for score in ("clean", "adversarial", "difference")]
    changes = [report.change(score) for score in ("clean", "adversarial")]
    classes = [report.classes(score) for score in ("clean", "adversarial")]
    numbers = torch.stack([*scores, *changes], 1).tolist()
    rows = tuple(
        (
            curve,
            f"{weights:,}",
            *(f"{value:+.3f}" for value in values[:3]),
            *(f"{signed(value)} {kind}" for value, kind in zip(values[3:], kinds, strict=True)),
        )
        for curve, weights, values, *kinds in zip(report.curves, report.weights, numbers, *classes, strict=True)
    )
    return Table(
        f"Weights filtered by size: {report.kind}",
        ("layer", "weights", "clean", "adversarial", "difference", "clean change", "adversarial change"),
        rows,
        frozenset(range(1, 7)),
        f"{report.kind} {KINDS[report.kind]}. Scores: integral of accuracy minus the share of surviving weights over "
        f"the threshold, at eps {max(report.eps):g}. Change: mean accuracy over the filtered points less that without "
        f"a filter, in points, and the class by it ({', '.join(CLASSES)}).{_told('Notes', report.notes)}",
    )


def _told(label: str, sentences: Sequence[str]) -> str:
    return f" {label}: {'; '.join(sentences)}." if sentences else ""
