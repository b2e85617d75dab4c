"""Which neurons the loss acts on, and when they are chosen anew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neurosens_fast import ops


class Choice:
    """The ``k`` highest scores, of each layer or of the model, as places in one vector ``[M]`` that joins all rows.

    ``every`` is after how many uses they are chosen anew, 0 for never. With ``sync`` the scores are the means over
    the pairs of all processes.
    """

    def __init__(self, k: int | float, scope: str, every: int, sync: bool, process_group: Any) -> None:
        self._k, self._scope, self._every = k, scope, every
        self._sync, self._process_group = sync, process_group
        self._layout: dict[str, int] = {}
        self._counts: list[int] = []
        self._starts = self._weights = torch.empty(0)  # [K] each
        self._places: Tensor | None = None
        self._places_layout: dict[str, int] = {}
        self._uses = 0

    def fit(self, layout: dict[str, int]) -> None:
        """Choose among rows of so many neurons from now on; ``ValueError`` where they have too few."""
        if layout == self._layout:
            return
        if self._scope == "model":
            self._counts = [ops.neuron_count(self._k, sum(layout.values()))]
        else:
            self._counts = [_count(name, self._k, neurons) for name, neurons in layout.items()]
        self._layout = layout
        starts = [0] if self._scope == "model" else [0, *accumulate(layout.values())][:-1]
        counts = torch.tensor(self._counts)
        self._starts = torch.tensor(starts).repeat_interleave(counts)
        self._weights = (1 / counts.double()).repeat_interleave(counts)

    def renew(self) -> None:
        """Choose anew at the next use."""
        self._places = None

    def places(self, scores: Tensor, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """For ``scores`` ``[M]`` of so many pairs per row: what to choose, ``[K]`` int64, and its share in the loss."""
        with torch.inference_mode(False):  # later training could not use what is made there
            self._starts, self._weights = self._starts.to(scores.device), self._weights.to(scores.device)
            if self._places is None or (self._every and self._uses >= self._every):
                self._places = self._choose(scores, samples)
                self._places_layout, self._uses = self._layout, 0
            self._places = self._places.to(scores.device)
        if self._places_layout != self._layout or len(self._places) != len(self._weights):
            raise ValueError(
                f"the neurons were chosen for other layers or another k ({_sizes(self._places_layout)}), now there are "
                f"{_sizes(self._layout)}; call sns.refresh() to choose anew"
            )
        self._uses += 1
        return self._places, self._weights.to(scores.dtype)

    def neurons(self) -> dict[str, Tensor]:
        """The chosen neurons of each row, ``[k]`` int64, most sensitive first; waits for the device."""
        found: dict[str, Tensor] = {}
        if self._places is None:
            return found
        start = 0
        for name, neurons in self._places_layout.items():
            own = (self._places >= start) & (self._places < start + neurons)
            found[name] = self._places[own] - start
            start += neurons
        return found

    def _choose(self, scores: Tensor, samples: Sequence[int]) -> Tensor:
        sizes = list(self._layout.values())
        if self._sync and dist.is_available() and dist.is_initialized():
            scores = _over_processes(scores, samples, sizes, self._process_group)
        rows = scores.split(sizes) if self._scope == "layer" else [scores]
        chosen = [ops.topk_neurons(row, count)[1] for row, count in zip(rows, self._counts, strict=True)]
        return torch.cat(chosen) + self._starts

    def state(self) -> dict[str, Any]:
        """What :meth:`load` takes: tensors and plain data."""
        return {"places": self._places, "layout": dict(self._places_layout), "uses": self._uses}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where the choice was that ``state`` came from."""
        self._places, self._places_layout, self._uses = state["places"], dict(state["layout"]), state["uses"]


def _over_processes(scores: Tensor, samples: Sequence[int], sizes: Sequence[int], group: Any) -> Tensor:
    """The mean of ``scores`` over all pairs of all processes, in float64; -1 for a layer that ran in none."""
    if dist.get_world_size(group) == 1:
        return scores
    pairs = torch.cat(
        [scores.new_full((size,), count, dtype=torch.float64) for size, count in zip(sizes, samples, strict=True)]
    )
    totals = torch.cat((torch.where(pairs > 0, scores * pairs, 0), pairs))
    dist.all_reduce(totals, group=group)
    total, pairs = totals.chunk(2)
    return torch.where(pairs > 0, total / pairs, -1)


def _count(name: str, k: int | float, neurons: int) -> int:
    try:
        return ops.neuron_count(k, neurons)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from None


def _sizes(layout: dict[str, int]) -> str:
    return ", ".join(f"{name}: {neurons} neurons" for name, neurons in layout.items())
