"""Which neurons are masked at each point of a curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast._arguments import share_of

ORDERS = ("most", "random", "least")
"""Largest metric first, shuffled, smallest metric first."""

SCOPES = ("layer", "model")
"""Whether neurons are ranked within their layer, or all together."""

_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


@dataclass
class Plan:
    """Points of a curve as ``(order, repeat, count, index into masks)``; each mask maps layer rows to bool ``[C]``.

    Points that mask the same neurons, such as none and all of them, share one mask.
    """

    points: list[tuple[str, int, int, int]]
    masks: list[dict[str, Tensor]]
    layers: dict[str, int]
    unranked: dict[str, list[int]]


def make_plan(
    values: Mapping[str, Tensor],
    orders: Sequence[str],
    repeats: int,
    scope: str,
    counts: Iterable[int | float] | None,
    seed: int,
) -> Plan:
    """The plan for metric ``values`` (row -> ``[C]`` float64), of which NaN is never masked.

    Random orders have a generator of their own, so that they do not shift what an attack draws.
    """
    joined = torch.cat(list(values.values()))
    sizes = [len(column) for column in values.values()]
    usable = ~joined.isnan()
    if not usable.any():
        raise ValueError(
            "the metric is NaN for every neuron of the chosen layers, so nothing can be ranked; rank by another"
        )
    groups = torch.arange(len(joined)).split(sizes) if scope == "layer" else (torch.arange(len(joined)),)
    groups = tuple(group[usable[group]] for group in groups)
    total = int(usable.sum())
    numbers = _numbers(counts, total)
    generator = torch.Generator().manual_seed(seed)
    index: dict[object, int] = {}
    plan = Plan([], [], {}, {})
    for order in orders:
        for repeat in range(1, repeats + 1 if order == "random" else 2):
            ranked = _ranked(joined, groups, order, generator)
            for count in numbers:
                key = (order, repeat, count) if 0 < count < total else count
                if key not in index:
                    index[key] = len(plan.masks)
                    chosen = torch.zeros(len(joined), dtype=torch.bool)
                    chosen[ranked[:count]] = True
                    parts = zip(values, chosen.split(sizes), strict=True)
                    plan.masks.append({row: mask for row, mask in parts if mask.any()})
                plan.points.append((order, repeat, count, index[key]))
    for row, flags in zip(values, usable.split(sizes), strict=True):
        plan.layers[row] = int(flags.sum())
        if not flags.all():
            plan.unranked[row] = (~flags).nonzero().flatten().tolist()
    return plan


def _ranked(values: Tensor, groups: Sequence[Tensor], order: str, generator: torch.Generator) -> Tensor:
    """Indices into ``values`` in ``order``, ranked within each group; the groups are interleaved by share."""
    ranked, shares = [], []
    for group in groups:
        column = values[group]
        if order == "random":
            places = torch.randperm(len(group), generator=generator)
        else:
            places = ops.topk_neurons(column if order == "most" else -column, len(group))[1]
        ranked.append(group[places])
        shares.append((torch.arange(len(group), dtype=torch.float64) + 0.5) / len(group))
    return torch.cat(ranked)[torch.cat(shares).argsort(stable=True)]


def _numbers(counts: Any, total: int) -> list[int]:
    """Numbers of masked neurons, ascending, each once."""
    if counts is None:
        counts = _SHARES
    if isinstance(counts, str) or not isinstance(counts, Iterable):
        raise TypeError(f"counts must be a list of numbers (int) or shares (float), got {counts!r:.80}")
    numbers = set()
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, Integral | float):
            raise TypeError(f"counts must hold numbers (int) or shares (float), got {count!r:.80}")
        if isinstance(count, float):
            if not 0 <= count <= 1:
                raise ValueError(f"a share in counts must lie in [0, 1], got {count}; use an int for a number")
            numbers.add(share_of(count, total))
        elif not 0 <= int(count) <= total:
            raise ValueError(f"counts must lie in 0..{total}, the neurons of the chosen layers, got {count}")
        else:
            numbers.add(int(count))
    if not numbers:
        raise ValueError("counts is empty; give numbers of neurons, shares, or None for a grid")
    return sorted(numbers)
