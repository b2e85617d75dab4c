"""What a document of a report says, as plain text; how it looks is up to the formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neurosens_fast.audit.plot import unit
from neurosens_fast.audit.tables import counted, in_words, neuron_rows, number, report_notes
from neurosens_fast.statistics import METRICS, NOTATION

if TYPE_CHECKING:
    from neurosens_fast.audit.report import AuditReport


@dataclass(frozen=True)
class Table:
    """Rows of text under ``headers``; columns whose place is in ``numbers`` hold numbers.

    ``bars`` gives each row a share in 0..1 to draw, ``note`` is a sentence below.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int]
    note: str = ""
    bars: tuple[float, ...] = ()


@dataclass(frozen=True)
class Content:
    """The parts of a document in their order."""

    title: str
    key_figures: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    caption: str
    tables: tuple[Table, ...]


def content(report: AuditReport, by: str, top: int | float) -> Content:
    """The content for metric ``by``, with the ``top`` neurons; the errors are those of ``AuditReport.top``."""
    words = in_words(by)
    metrics = Table(
        "Metrics",
        ("metric", "definition", "source"),
        tuple((metric.name, metric.description, metric.source) for metric in METRICS.values()),
        frozenset(),
        NOTATION,
    )
    tables = _layers(report, by), _neurons(report, by, top), metrics
    return Content(
        title=f"Neuron sensitivity: {report.model.split(',')[0]}",
        key_figures=(
            ("clean accuracy", _accuracy(report.clean_accuracy)),
            ("adversarial accuracy", _accuracy(report.adversarial_accuracy)),
            ("samples", f"{report.samples:,}"),
            ("layers", f"{len(report.layers):,}"),
            ("neurons", f"{report.neurons:,}"),
        ),
        facts=_facts(report),
        notes=tuple(report_notes(report)),
        caption=f"{words.capitalize()} of each layer (left) and of its neurons, sorted (right).",
        tables=tuple(table for table in tables if table.rows),
    )


def _facts(report: AuditReport) -> tuple[tuple[str, str], ...]:
    labelled = f"{report.labelled:,} with labels" if report.labelled else "without labels"
    return (
        ("Model", report.model),
        ("Attack", report.attack),
        ("Data", "; ".join(report.data)),
        ("Samples", f"{counted(report.samples, 'pair')} of a benign and an adversarial input, {labelled}"),
        ("Clean accuracy", _share_right(report.correct_benign, report.labelled)),
        ("Adversarial accuracy", _share_right(report.correct_adversarial, report.labelled)),
        ("Layers", f"{report.layer_choice}: {counted(len(report.layers), 'layer')}"),
        ("Dtype", report.dtype),
        ("Device", report.device),
        ("Seed", ", ".join(map(str, report.seeds))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    )


def _accuracy(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{share:.1%}"


def _share_right(right: int, labelled: int) -> str:
    return f"{right / labelled:.1%}, {right:,} of {labelled:,}" if labelled else "unknown"


def _layers(report: AuditReport, by: str) -> Table:
    rows = report.summary(by)
    highest = max((row.score for row in rows if math.isfinite(row.score)), default=0.0)
    return Table(
        f"{in_words(by).capitalize()} of each layer",
        ("layer", "type", "output", "neurons", "dead", "mean", "median", "largest", "of neuron"),
        tuple(
            (
                row.layer,
                row.module_type,
                " × ".join(map(str, row.shape)),
                str(row.neurons),
                str(len(row.dead)),
                number(row.score),
                number(row.median),
                number(row.maximum),
                "-" if row.most_sensitive is None else str(row.most_sensitive),
            )
            for row in rows
        ),
        frozenset(range(3, 9)),
        f"In the order of execution; {' '.join(unit(by).split())}. Dead neurons are 0 for every sample.",
        tuple(
            min(1.0, row.score / highest) if highest > 0 and math.isfinite(row.score) and row.score > 0 else 0.0
            for row in rows
        ),
    )


def _neurons(report: AuditReport, by: str, top: int | float) -> Table:
    rows = neuron_rows(report, top, by)
    return Table(
        f"The {counted(len(rows), 'neuron')} with the largest {in_words(by)}",
        ("rank", "layer", "neuron", "in its layer", in_words(by), "relative", "benign", "adversarial"),
        tuple(
            (str(row.rank), row.layer, str(row.neuron), place, number(row.value), *others)
            for row, place, others in rows
        ),
        frozenset({0, 2, 3, 4, 5, 6, 7}),
        "Relative: change over size (relative_l1). Benign, adversarial: mean activation.",
    )
