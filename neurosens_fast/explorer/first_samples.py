"""The first samples of the data, which are kept one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosens_fast.capture import Inputs, leaves, mapped, pair_inputs

from .neuron_layer import Reading

MOST_VALUES = 64_000_000
"""Numbers of single samples' neurons that are kept at most, 256 MB (a choice of this package)."""

NOT_SHOWN = "inputs are not shown: they are several tensors, or differ in size"

MOST_INPUTS = 2**28
"""Numbers of single samples' inputs, benign and at every level, that are kept at most, 1 GB (likewise)."""


class FirstSamples:
    """The first ``shown`` samples and what the model made of them, benign and at each of ``levels`` levels.

    Neurons' values are kept of fewer samples where those of all would be more than ``MOST_VALUES`` numbers.
    """

    def __init__(self, shown: int, levels: int, neurons: int) -> None:
        self.taken = 0
        self._asked = self._shown = shown
        self._levels = levels
        self._most = min(shown, max(1, MOST_VALUES // ((1 + levels) * neurons)))
        self._single = True
        self._labels: list[Tensor] = []
        self._inputs: list[Tensor] = []  # [1 + E, n, ...] each
        self._sizes: list[Tensor] = []  # [2, E, n]
        self._logits: list[Tensor] = []  # [1 + E, n, K]
        self._values: list[Tensor] = []  # [1 + E, n, C]

    @property
    def wants_more(self) -> bool:
        """Whether there is room for a further sample."""
        return self.taken < self._shown

    def add(self, benign: Inputs, adversarial: Sequence[Inputs], labels: Tensor, readings: Sequence[Reading]) -> None:
        """Take those of a batch that are still wanted; ``readings`` are of ``benign`` and each of ``adversarial``."""
        if not self.taken:
            numbers = sum(leaf[0].numel() for leaf in leaves(benign))
            self._shown = min(self._shown, max(1, MOST_INPUTS // ((1 + self._levels) * max(numbers, 1))))
        count = min(self._shown - self.taken, len(labels))
        if count <= 0:
            return
        few = [mapped(inputs, lambda leaf: leaf[:count].detach()) for inputs in (benign, *adversarial)]
        self._labels.append(labels[:count].cpu())
        self._sizes.append(torch.stack([_sizes(few[0], level) for level in few[1:]], 1))
        self._logits.append(torch.stack([reading.logits[:count].float().cpu() for reading in readings]))
        wanted = min(self._most - self.taken, count)
        if wanted > 0:
            self._values.append(torch.stack([reading.values[:wanted].float().cpu() for reading in readings]))
        single = [inputs for inputs in few if isinstance(inputs, Tensor)]
        if len(single) < len(few) or (self._inputs and self._inputs[0].shape[2:] != single[0].shape[1:]):
            self._single = False
            self._inputs.clear()
        if self._single:
            self._inputs.append(torch.stack([inputs.cpu() for inputs in single]))
        self.taken += count

    def collected(self) -> dict[str, Any]:
        """All of it, by the names of the fields of :class:`~neurosens_fast.explorer.collected.Collected`."""
        inputs = torch.cat(self._inputs, 1) if self._single else None
        linf, l2 = torch.cat(self._sizes, 2).numpy()
        return {
            "numbers": np.arange(self.taken),
            "labels": torch.cat(self._labels).numpy(),
            "inputs": None if inputs is None else inputs[0],
            "adversarial": None if inputs is None else inputs[1:],
            "linf": linf,
            "l2": l2,
            "logits": torch.cat(self._logits, 1).numpy(),
            "values": torch.cat(self._values, 1).numpy(),
        }

    def notes(self) -> tuple[str, ...]:
        """What of the samples is not kept, and why."""
        notes = []
        if not self._single:
            notes.append(NOT_SHOWN)
        if self.taken == self._shown < self._asked:
            notes.append(
                f"the first {self.taken:,} of {self._asked:,} images that were asked for are shown: the inputs of all, "
                f"at every level, would be more than {MOST_INPUTS / 2**28:.0f} GB"
            )
        if self._most < self.taken:
            notes.append(
                f"values of single neurons are shown for the first {self._most} of {self.taken} samples; those of all "
                f"would be more than {MOST_VALUES / 1e6:.0f} million numbers"
            )
        return tuple(notes)


def _sizes(benign: Inputs, adversarial: Inputs) -> Tensor:
    """Largest and Euclidean size of the perturbation of each sample, ``[2, N]`` float64 on the CPU."""
    pair = leaves(pair_inputs(benign, adversarial))
    halves = [leaf.cpu().double().reshape(2, len(leaf) // 2, -1) for leaf in pair]
    change = torch.cat([half[1] - half[0] for half in halves], 1)
    return torch.stack((change.abs().amax(1), change.norm(dim=1)))
