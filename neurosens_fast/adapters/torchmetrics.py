"""Neuron sensitivity as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neurosens_fast import statistics
from neurosens_fast.attacks.arguments import check_count
from neurosens_fast.support.packages import import_package

from .names import metric_names

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = import_package("torchmetrics", "neurosens_fast.adapters.torchmetrics needs").Metric


class NeuronSensitivity(Metric):
    """A metric of ``statistics.METRICS`` for each of a layer's ``neurons``, over pairs of activations.

    ``update(benign, adversarial)`` takes activations ``[N, C, *S]`` with C = ``neurons`` at ``channel_dim`` and reads
    them once. ``compute()`` gives ``metric`` per neuron, ``[C]`` float64 (which torchmetrics makes ``[]`` for one
    neuron), or for a list of metrics a dict by name; NaN where nothing was seen. ``forward`` adds a batch and gives
    the metric of that batch alone.

    The states are the totals of :class:`~neurosens_fast.statistics.PairStatistics`: ``sums`` ``[C, 14]``,
    ``maxima`` ``[C, 3]``, ``samples`` ``[]``. They merge over batches and processes, and stay float64 when a module
    around them goes to another dtype. ``options`` are those of ``torchmetrics.Metric``.

    Raises ``ValueError`` or ``TypeError``, naming the argument, for an unknown metric, and in ``update`` for
    activations of another number of neurons, on another device, or that do not fit each other.
    """

    is_differentiable = False
    full_state_update = False

    sums: Tensor
    maxima: Tensor
    samples: Tensor

    def __init__(
        self, neurons: int, metric: str | Sequence[str] = "sensitivity", channel_dim: int = 1, **options: Any
    ) -> None:
        super().__init__(**options)
        self.neurons = check_count("neurons", neurons, 1)
        self.metrics = metric_names(metric)
        self.channel_dim = channel_dim
        self._single = isinstance(metric, str)
        sums, maxima = statistics.new_totals(neurons)
        self.add_state("sums", sums, "sum")
        self.add_state("maxima", maxima, "max")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, benign: Tensor, adversarial: Tensor) -> None:
        """Add a batch of activations ``[N, C, *S]``."""
        self._check(benign)
        batch = statistics.PairStatistics(self.neurons, self.sums.device)
        batch.update(benign, adversarial, self.channel_dim)
        # New tensors, not changes in place: a state may be an inference tensor, or that of a loaded state dict.
        self.sums = self.sums + batch.sums
        self.maxima = torch.maximum(self.maxima, batch.maxima)
        self.samples = self.samples + batch.samples

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The metric per neuron ``[C]`` float64, or a dict of several."""
        totals = self.sums, self.maxima, int(self.samples)
        values = {name: statistics.metric(name, *totals) for name in self.metrics}
        return values[self.metrics[0]] if self._single else values

    def _check(self, benign: Tensor) -> None:
        """What the operator could only say of the totals; the rest it says of the activations."""
        if not isinstance(benign, Tensor) or not -benign.dim() <= self.channel_dim < benign.dim():
            return
        shape, axis = list(benign.shape), self.channel_dim
        if shape[axis] != self.neurons:
            raise ValueError(
                f"benign {shape} has {shape[axis]} neurons on axis {axis}, the metric was made for {self.neurons}; "
                "give it that number, or another channel_dim"
            )
        if benign.device != self.sums.device:
            ours, theirs = str(self.sums.device), str(benign.device)
            raise ValueError(f"benign is on {theirs}, the metric on {ours}; move it: metric.to({theirs!r})")

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any) -> NeuronSensitivity:
        """Follows the module around it to a device, but not to a dtype in which totals would be rounded."""

        def keeping_dtype(state: Tensor) -> Tensor:
            moved = fn(state)
            return moved if moved.dtype == state.dtype else state.to(moved.device)

        super()._apply(keeping_dtype, *arguments)
        return self
