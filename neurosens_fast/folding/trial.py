"""Whether a private copy computes what its model does: both run on a few samples first."""

from __future__ import annotations

import torch
from torch import Tensor

TRIAL_SAMPLES = 2

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2}  # of the largest value: folding changes the rounding
_TOLERANCE_16_BITS = 0.1


def tolerance(dtype: torch.dtype) -> float:
    """How far the copy may be off, as a share of the largest value, where the model computes in ``dtype``."""
    return _TOLERANCE.get(dtype, _TOLERANCE_16_BITS)


def agreement(ours: Tensor, theirs: Tensor, allowed: float) -> Tensor:
    """Whether no value of ``ours`` is off by more than ``allowed`` of the largest of ``theirs``: a bool on the device.

    NaN or infinity in ``theirs`` is the model's own affair: nothing is held against the copy then.
    """
    near = (ours - theirs).abs() <= allowed * theirs.abs().amax().clamp(min=1e-30)
    return near.all() | ~theirs.isfinite().all()


def suits_channels_last(images: Tensor) -> bool:
    """Whether a copy that has 2-D convolutions is to run on these in channels_last memory: images ``[N, C, H, W]``."""
    return images.dim() == 4
