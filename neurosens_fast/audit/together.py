"""The totals of several processes added up: one all-reduce of sums and one of maxima, at the very end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neurosens_fast.statistics import PairStatistics
from neurosens_fast.support.processes import partners_named

from .per_sample import ClassTotals
from .report import AuditReport, LayerAudit, union

_COUNTS = ("samples", "labelled", "correct_benign", "correct_adversarial")


def combined(report: AuditReport, device: torch.device) -> AuditReport:
    """The report of all processes, in each of them; ``report`` is that of this one's share, its totals on ``device``.

    A layer that any process left out is left out. Raises ``ValueError`` where the processes found different neurons in
    a layer, ``RuntimeError`` where one of them is gone.
    """
    bare = {
        name: LayerAudit(row.module_type, row.channel_dim, row.shape, PairStatistics(0))
        for name, row in report.layers.items()
    }
    mine = replace(report, layers=bare)
    neurons = {name: row.statistics.neurons for name, row in report.layers.items()}
    classes = {name: row.by_class.classes for name, row in report.layers.items() if row.by_class is not None}
    gathered: list[Any] = [None] * dist.get_world_size()
    with partners_named():
        dist.all_gather_object(gathered, (mine, neurons, classes))
    every = [found for found, _, _ in gathered]
    skipped = {name: reason for found in every for name, reason in found.skipped.items()}
    places: dict[str, tuple[LayerAudit, int]] = {}
    for found, sizes, _ in gathered:
        for name, row in found.layers.items():
            if name in skipped:
                continue
            known = places.setdefault(name, (row, sizes[name]))
            if known[1] != sizes[name]:
                raise ValueError(
                    f"layer {name!r} has {known[1]} neurons in one process and {sizes[name]} in another; name its "
                    "channel axis in channel_dims, or leave it out of layers"
                )
    most = max((count for _, _, counts in gathered for count in counts.values()), default=0)
    counts = torch.tensor([getattr(report, name) for name in _COUNTS], dtype=torch.float64)
    layers = _reduced(report, places, most, counts, device)
    some = next((found for found in every if found.samples), report)
    return replace(
        every[0],
        layers=layers,
        **dict(zip(_COUNTS, map(int, counts.tolist()), strict=True)),
        not_run=tuple(name for name in some.not_run if name not in layers),
        functional=union(*(found.functional for found in every)),
        skipped=skipped,
        fused=union(*(found.fused for found in every)),
        not_fused=some.not_fused,
        notes=union(*(found.notes for found in every)),
    )


def _reduced(
    report: AuditReport, places: dict[str, tuple[LayerAudit, int]], classes: int, counts: Tensor, device: torch.device
) -> dict[str, LayerAudit]:
    """The layers with the totals of all processes, for each of ``classes`` classes too where there are any.

    ``counts`` are added up in place.
    """
    rows: dict[str, LayerAudit] = {}
    for name, (place, neurons) in places.items():
        own = report.layers.get(name)
        row = rows[name] = replace(place, statistics=PairStatistics(neurons))
        row.by_class = ClassTotals(classes, neurons) if classes else None
        if own is not None:
            row.statistics.merge(own.statistics)
        if own is not None and row.by_class is not None and own.by_class is not None:
            row.by_class.merge(own.by_class)
    samples = torch.tensor([float(row.statistics.samples) for row in rows.values()], dtype=torch.float64)
    maxima = [row.statistics.maxima for row in rows.values()]
    # Where a maximum is NaN is summed: a maximum of several processes may lose it.
    flags = [peaks.isnan().double() for peaks in maxima]
    by_class = [row.by_class for row in rows.values() if row.by_class is not None]
    by_class_totals = [part for totals in by_class for part in (totals.sums, totals.samples)]
    _all_reduce([counts, *(row.statistics.sums for row in rows.values()), samples, *flags, *by_class_totals], device)
    for peaks in maxima:
        peaks.nan_to_num_(-torch.inf, torch.inf, -torch.inf)
    _all_reduce(maxima, device, dist.ReduceOp.MAX)
    for row, count, flag in zip(rows.values(), samples.tolist(), flags, strict=True):
        row.statistics.samples = int(count)
        row.statistics.maxima[flag > 0] = torch.nan
    return rows


def _all_reduce(parts: list[Tensor], device: torch.device, operation: Any = dist.ReduceOp.SUM) -> None:
    """One all-reduce of all ``parts``, in place."""
    flat = torch.cat([*(part.flatten() for part in parts), torch.empty(0, dtype=torch.float64)]).to(device)
    with partners_named():
        dist.all_reduce(flat, operation)
    for part, total in zip(parts, flat.cpu().split([part.numel() for part in parts]), strict=True):
        part.copy_(total.view_as(part))
