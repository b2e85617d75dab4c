"""Which neurons the loss acts on, and when they are chosen anew."""

from __future__ import annotations

from collections.abc import Sequence
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

    def renew(self) -> None:
        """Choose anew at the next use."""
        self._places = None

    def places(self, scores: Tensor, samples: Sequence[int]) -> Tensor:
        """``[K]`` int64, one layer behind the other, for ``scores`` ``[M]`` of so many pairs per row."""
        due = self._places is None or (self._every and self._uses >= self._every)
        if due:
            with torch.inference_mode(False):  # what is chosen there could not be used in later training
                self._choose(scores, samples)
        assert self._places is not None
        if self._places_layout != self._layout or len(self._places) != sum(self._counts):
            raise ValueError(
                f"the neurons were chosen for other layers or another k ({_sizes(self._places_layout)}), now there are "
                f"{_sizes(self._layout)}; call sns.refresh() to choose anew"
            )
        self._uses += 1
        self._places = self._places.to(scores.device)
        return self._places

    def weights(self, like: Tensor) -> Tensor:
        """``[K]``, the share of each chosen neuron in the loss."""
        return torch.cat([like.new_full((count,), 1 / count) for count in self._counts])

    def neurons(self) -> dict[str, Tensor]:
        """The chosen neurons of each row, ``[k]`` int64, most sensitive first; waits for the device."""
        found: dict[str, Tensor] = {}
        start = 0
        for name, neurons in self._places_layout.items():
            places = self._places if self._places is not None else torch.empty(0, dtype=torch.int64)
            found[name] = places[(places >= start) & (places < start + neurons)] - start
            start += neurons
        return found if self._places is not None else {}

    def _choose(self, scores: Tensor, samples: Sequence[int]) -> None:
        sizes = list(self._layout.values())
        if self._sync and dist.is_available() and dist.is_initialized():
            scores = _over_processes(scores, samples, sizes, self._process_group)
        if self._scope == "model":
            self._places = ops.topk_neurons(scores, self._counts[0])[1]
        else:
            chosen, start = [], 0
            for layer, count in zip(scores.split(sizes), self._counts, strict=True):
                chosen.append(ops.topk_neurons(layer, count)[1] + start)
                start += len(layer)
            self._places = torch.cat(chosen)
        self._places_layout, self._uses = self._layout, 0

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
