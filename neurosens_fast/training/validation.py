"""Accuracy on the validation data, clean and under PGD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import PGD, judged
from neurosens_fast.audit.batches import batches, moved
from neurosens_fast.support.processes import rank_and_world, summed

from .settings import Settings


class Validation:
    """Called on a model, gives its clean and its adversarial accuracy on ``data``, both between 0 and 1.

    The attack is PGD of the settings' eps and norm with ``val_steps`` steps, always in float32 and with the same
    draws. Wrong predictions are not attacked. Processes share the batches.
    """

    def __init__(self, data: Any, settings: Settings, device: torch.device) -> None:
        self._data, self._settings, self._device = data, settings, device
        self._attack: PGD | None = None

    def __call__(self, model: nn.Module) -> tuple[float, float]:
        """Both accuracies; ``ValueError`` for data that give no sample."""
        settings = self._settings
        # Without a graph: each batch has another number of samples to attack.
        if self._attack is None or self._attack.model is not model:
            alpha = 2.5 * settings.eps / max(1, settings.val_steps)
            self._attack = PGD(
                model, settings.eps, alpha, settings.val_steps, norm=settings.norm, seed=settings.seed, graph=False
            )
        rank, world = rank_and_world()
        counts = torch.zeros(3, dtype=torch.float64, device=self._device)
        first = 0
        for number, (inputs, labels) in enumerate(batches(self._data, settings.batch_size)):
            if not isinstance(inputs, Tensor):
                raise TypeError(f"val must give images [N, ...] in one tensor, got a {type(inputs).__name__}")
            index = torch.arange(first, first + len(inputs))
            first += len(inputs)
            if number % world == rank:
                images = moved(inputs, self._device)
                assert isinstance(images, Tensor)
                counts += self._counted(model, images, labels.to(self._device).long(), index)
        counts = summed(counts)
        if not counts[2]:
            raise ValueError(
                "the validation data gives no samples; a generator can be read only once, give a DataLoader or tensors"
            )
        return float(counts[0] / counts[2]), float(counts[1] / counts[2])

    def _counted(self, model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        assert self._attack is not None
        right, _ = judged(model, images, labels)
        rows = right.nonzero()[:, 0]
        standing = right.new_zeros(())
        if len(rows):
            attacked = self._attack(images[rows], labels[rows], index[rows.cpu()])
            standing = judged(model, attacked, labels[rows])[0].sum()
        return torch.stack([right.sum(), standing.to(torch.int64), right.new_tensor(len(right), dtype=torch.int64)])
