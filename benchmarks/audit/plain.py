"""The audit in plain PyTorch, and whether ours found the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast import reference_audit
from neurosens_fast.benchmarking.contest import agreement
from neurosens_fast.statistics import PairStatistics
from neurosens_fast.statistics import metric as metric_of

Totals = dict[str, tuple[Tensor, Tensor]]
"""Row -> ``sums`` and ``maxima``, as ``reference_audit.audit_pass`` gives them."""

CHANGES = ("sensitivity", "rms_change", "peak_change")
LEVELS = tuple(f"{kind}_activation_{side}" for kind in ("mean", "max") for side in ("benign", "adversarial"))
"""Metrics that rounding alone does not move far, as it does shares and quotients of small numbers."""


def plain_audit(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: Any,
    layers: Collection[str],
    overwritten: Collection[str],
) -> Totals:
    """Attack every batch, run both halves together, and add up the statistics of what ``layers`` put out."""
    found: Totals = {}
    for images, labels in batches:
        adversarial = attack(images, labels)
        totals = reference_audit.audit_pass(model, images, adversarial, list(layers), overwritten=overwritten)
        for row, (sums, maxima) in totals.items():
            if row in found:
                found[row] = found[row][0] + sums, torch.maximum(found[row][1], maxima)
            else:
                found[row] = sums, maxima
    return found


def same_statistics(found: Mapping[str, PairStatistics], wanted: Totals, samples: int, rtol: float) -> str:
    """Assert that every neuron of every row has the same metrics.

    Relative to the largest change of a row, and to its largest activation: the mean of a norm's output is near zero.
    """
    assert list(found) == list(wanted)
    assert {row.samples for row in found.values()} == {samples}
    sides: tuple[list[Tensor], list[Tensor]] = [], []
    for row, totals in wanted.items():
        for names in (*((name,) for name in CHANGES), LEVELS):
            sides[0].append(torch.stack([found[row].metric(name) for name in names]))
            sides[1].append(torch.stack([metric_of(name, *totals, samples) for name in names]))
    return agreement(*sides, rtol)


def sensitivity_of(totals: Totals, samples: int) -> dict[str, Tensor]:
    """Row -> sensitivity of every neuron, on the CPU, as reports have it."""
    return {row: metric_of("sensitivity", *pair, samples).cpu() for row, pair in totals.items()}
