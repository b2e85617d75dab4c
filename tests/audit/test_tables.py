"""Reports as tables, and the notes on them."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console, RenderableType
from torch import nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.tables import (
    accuracies,
    by_reason,
    counted,
    layer_table,
    neuron_table,
    number,
    report_notes,
    text_table,
)
from neurosens_fast.statistics import METRICS


def lines(table: RenderableType) -> list[str]:
    """The table in 80 columns."""
    stream = io.StringIO()
    Console(file=stream, width=80, highlight=False, markup=False).print(table)
    return stream.getvalue().splitlines()


def test_one_row_per_layer(report: AuditReport) -> None:
    rows = [line.split() for line in lines(layer_table(report))[3:]]
    assert [row[0] for row in rows] == list(report.layers)
    for row, summary in zip(rows, report.summary(), strict=True):
        dead = str(len(summary.dead)) if summary.dead else "-"
        assert row[1:4] == [summary.module_type, str(summary.neurons), dead]
        assert row[4:7] == [f"{summary.score:.4f}", f"{summary.maximum:.4f}", str(summary.most_sensitive)]
    longest = max(report.summary(), key=lambda summary: summary.score).layer
    bars = {row[0]: row[7] if len(row) > 7 else "" for row in rows}
    assert bars[longest] == "█" * 11
    assert all(set(bar) <= {"█"} and len(bar) <= 11 for bar in bars.values())


def test_another_metric_and_one_layer(report: AuditReport) -> None:
    table = lines(layer_table(report, "relative_l2", "2"))
    assert table[0].startswith("Relative l2 of one layer")
    assert len(table) == 4
    assert table[3].split()[4] == f"{float(report.metric('relative_l2')['2'].mean()):.4f}"


def test_neurons_with_their_rank_in_the_layer(report: AuditReport) -> None:
    for by in ("sensitivity", "cosine_distance"):
        rows = [line.split() for line in lines(neuron_table(report, 7, by))[3:10]]
        assert [(row[0], int(row[1]), row[5]) for row in rows] == [
            (neuron.layer, neuron.neuron, f"{neuron.value:.4f}") for neuron in report.top(7, by=by)
        ]
        for row in rows:
            inside = report.top(1.0, by=by, layer=row[0])
            assert [neuron.neuron for neuron in inside].index(int(row[1])) + 1 == int(row[2])
            assert int(row[4]) == len(inside)
            shift = float(report.metric("mean_activation_adversarial")[row[0]][int(row[1])])
            assert row[8] == number(shift, 3)


@pytest.mark.parametrize("by", METRICS)
def test_every_metric_fits_with_long_names(by: str, report: AuditReport) -> None:
    names = [f"encoder.layers.{place}.some.very.long.path.to.a.module" for place in range(len(report.layers))]
    long = replace(report, layers=dict(zip(names, report.layers.values(), strict=True)))
    for table in (layer_table(long, by), neuron_table(long, 1.0, by)):
        printed = lines(table)
        assert max(map(len, printed)) <= 80
        assert "…" not in "".join(printed).replace("BatchNorm2…", "")
    assert "".join(line[:26].strip() for line in lines(layer_table(long, by))[3:]).startswith(names[0][:26])


def test_notes_tell_what_is_odd(report: AuditReport) -> None:
    assert report_notes(report) == [
        f"dead, 0 for every sample: 1 of {report.neurons} neurons, 2 1",
    ]
    broken = replace(
        report,
        labelled=0,
        functional=("F.relu in 'a' (Block)",),
        skipped={
            "b": "layer 'b' puts out a tuple, not a tensor; tap a module inside it",
            "c#2": "layer 'c' puts out a tuple, not a tensor; tap a module inside it",
            "d": "layer 'd': channel axis 3 does not fit its output [2]; give another",
        },
        not_run=("e", "f"),
    )
    assert report_notes(broken)[1:] == [
        "functions cannot be tapped: F.relu in 'a' (Block); write it as a module (nn.ReLU() for F.relu) to tap it, "
        "or tap the layer before it",
        "left out b, c#2: puts out a tuple, not a tensor",
        "left out d: channel axis 3 does not fit its output [2]",
        "never ran as modules: e, f",
        "accuracy is unknown, as there are no labels or the model puts out no logits [N, classes]",
    ]
    assert accuracies(broken) == "unknown"


def test_notes_name_neurons_that_are_not_finite() -> None:
    model = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 2))
    images = torch.rand(3, 4)
    report = audit(model, (images, torch.zeros(3, dtype=torch.int64)), FGSM(model), "linear", progress=False)
    report.layers["0"].statistics.sums[[1, 8]] = torch.nan
    assert report_notes(report) == ["NaN or infinite: 2 neurons, 0 1, 8"]
    report.layers["0"].statistics.sums[:] = torch.inf
    assert report_notes(report) == ["NaN or infinite: 9 neurons, 0 0, 1, 2, 3, 4, 5 and 3 more"]
    assert lines(layer_table(report))[3].split()[4] in ("inf", "nan")


def test_small_parts() -> None:
    assert [number(value) for value in (0.0, 0.12345, -3.0, 9999.0, 1e4, 1.24e-5, -5e-4, math.inf, math.nan)] == [
        *("0.0000", "0.1235", "-3.0000", "9999.0000", "1.0e+04", "1.2e-05", "-5.0e-04", "inf", "nan")
    ]
    assert number(0.0625, 3) == "0.062"
    assert [counted(count, "layer") for count in (0, 1, 2345)] == ["0 layers", "1 layer", "2,345 layers"]
    assert by_reason(dict.fromkeys("abcdefgh", "too odd")) == ["a, b, c, d, e, f and 2 more: too odd"]
    empty = lines(text_table("Nothing", "layer", [], ("number",)))
    assert empty[1].split() == ["layer", "number"]
