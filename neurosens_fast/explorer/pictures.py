"""Inputs as pictures of 8 bits, and which of them are looked at in detail."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .exploration import Array

NOT_IMAGES = "The model's inputs are no images [N, channels, height, width], so there are no pictures to show"


def is_pictures(inputs: object) -> bool:
    """Whether ``inputs`` are a floating-point tensor ``[N, B, H, W]``."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.is_floating_point() and inputs[0].numel() > 0


class Pictures:
    """Turns inputs ``[*, B, H, W]`` into uint8 ``[*, H, W, 1 or 3]``.

    Inputs in 0..1 are taken as they are. Others are stretched from the smallest to the largest number of ``benign``,
    and channels other than 1 or 3 are averaged to grey (choices of this package), which ``notes`` say.
    """

    def __init__(self, benign: Tensor) -> None:
        self.notes: list[str] = []
        self._low, self._high = (float(value) for value in benign.aminmax())
        if self._low >= 0 and self._high <= 1:
            self._low, self._high = 0.0, 1.0
        else:
            self.notes.append(f"pictures show inputs from {self._low:.3g} (black) to {self._high:.3g} (white)")
        self._grey = benign.shape[-3] not in (1, 3)
        if self._grey:
            self.notes.append(f"pictures show the mean of the {benign.shape[-3]} channels of an input")

    def __call__(self, inputs: Tensor) -> Array:
        """The pictures of ``inputs``; those that are uint8 stand for 0..1."""
        if inputs.dim() > 4:  # one level at a time, since numbers take more room than pictures
            return np.stack([self(level) for level in inputs])
        shown = inputs.detach().float().cpu()
        if inputs.dtype == torch.uint8:
            shown = shown / 255
        if self._grey:
            shown = shown.mean(-3, keepdim=True)
        width = self._high - self._low
        shown = (shown - self._low) / width if width > 0 else torch.zeros_like(shown)
        found: Array = shown.clamp(0, 1).mul(255).round().to(torch.uint8).movedim(-3, -1).contiguous().numpy()
        return found


def images_to_swap(labels: Array, predictions: Array, count: int) -> Array:
    """Rows of up to ``count`` samples to look at in detail: class by class in turn, those that the attack turned first.

    ``predictions`` ``[2, N]`` are the benign and the adversarial classes. Turned samples are right without the attack
    and wrong with it; then come those that are merely right, then the rest. A choice of this package.
    """
    right, fooled = predictions[0] == labels, predictions[1] != labels
    rank = np.where(right & fooled, 0, np.where(right, 1, 2))
    turn = np.zeros(len(labels), np.int64)  # how many of the same class and rank come before
    seen: dict[tuple[int, int], int] = {}
    for row, key in enumerate(zip(labels.tolist(), rank.tolist(), strict=True)):
        turn[row] = seen[key] = seen.get(key, -1) + 1
    order = np.lexsort((np.arange(len(labels)), labels, turn, rank))
    return np.sort(order[:count])
