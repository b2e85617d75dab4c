"""The totals of several processes added up: one all-reduce of sums and one of maxima, at the very end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neurosens_fast.columns import MAXIMA, SUMS
from neurosens_fast.statistics import PairStatistics, new_totals

from .report import AuditReport, LayerAudit

_COUNTS = ("samples", "labelled", "correct_benign", "correct_adversarial")


def combined(report: AuditReport, device: torch.device) -> AuditReport:
    """The report of all processes, in each of them; ``report`` is that of this one's share, its totals on ``device``.

    A layer that any process left out is left out. Raises ``ValueError`` where the processes found different neurons in
    a layer, ``RuntimeError`` where one of them is gone.
    """
    try:
        return _combined(report, device)
    except RuntimeError as error:
        raise RuntimeError(
            "another process of this audit ended before all were done; what it says tells why"
        ) from error


def _combined(report: AuditReport, device: torch.device) -> AuditReport:
    mine = replace(report, layers={name: replace(row, statistics=None) for name, row in report.layers.items()})  # type: ignore[arg-type]
    neurons = {name: row.statistics.neurons for name, row in report.layers.items()}
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (mine, neurons))
    every = [found for found, _ in gathered]
    skipped = {name: reason for found in every for name, reason in found.skipped.items()}
    places: dict[str, tuple[LayerAudit, int]] = {}
    for found, sizes in gathered:
        for name, row in found.layers.items():
            if name in skipped:
                continue
            known = places.setdefault(name, (row, sizes[name]))
            if known[1] != sizes[name]:
                raise ValueError(
                    f"layer {name!r} has {known[1]} neurons in one process and {sizes[name]} in another; name its "
                    "channel axis in channel_dims, or leave it out of layers"
                )
    layers = _reduced(report, places, device)
    counts = torch.tensor([getattr(report, name) for name in _COUNTS], dtype=torch.int64, device=device)
    dist.all_reduce(counts)
    some = next((found for found in every if found.samples), report)
    return replace(
        every[0],
        layers=layers,
        **dict(zip(_COUNTS, counts.tolist(), strict=True)),
        not_run=some.not_run,
        functional=_union(found.functional for found in every),
        skipped=skipped,
        fused=_union(found.fused for found in every),
        not_fused=some.not_fused,
        notes=_union(found.notes for found in every),
    )


def _reduced(
    report: AuditReport, places: dict[str, tuple[LayerAudit, int]], device: torch.device
) -> dict[str, LayerAudit]:
    sums, maxima, samples = [], [], []
    for name, (_, neurons) in places.items():
        own = report.layers.get(name)
        totals = (own.statistics.sums, own.statistics.maxima) if own is not None else new_totals(neurons)
        sums.append(totals[0].flatten())
        maxima.append(totals[1].flatten())
        samples.append(float(own.statistics.samples) if own is not None else 0.0)
    peaks = _joined(maxima)
    # Sample counts, and where a maximum is NaN, which a maximum of several processes may lose.
    counts = torch.tensor(samples, dtype=torch.float64)
    everything = torch.cat((_joined(sums), counts, peaks.isnan().double())).to(device)
    peaks = peaks.nan_to_num(-torch.inf, torch.inf, -torch.inf).to(device)
    dist.all_reduce(everything)
    dist.all_reduce(peaks, dist.ReduceOp.MAX)
    everything, peaks = everything.cpu(), peaks.cpu()
    peaks[everything[len(everything) - len(peaks) :] > 0] = torch.nan
    layers: dict[str, LayerAudit] = {}
    at = at_peak = 0
    counts = everything[sum(map(len, sums)) :]
    for number, (name, (row, neurons)) in enumerate(places.items()):
        statistics = PairStatistics(neurons)
        size, peak_size = neurons * len(SUMS), neurons * len(MAXIMA)
        statistics.sums = everything[at : at + size].reshape(neurons, len(SUMS)).clone()
        statistics.maxima = peaks[at_peak : at_peak + peak_size].reshape(neurons, len(MAXIMA)).clone()
        statistics.samples = int(counts[number])
        at, at_peak = at + size, at_peak + peak_size
        layers[name] = replace(row, statistics=statistics)
    return layers


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([*parts, torch.empty(0, dtype=torch.float64)])


def _union(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for part in parts for text in part))
