"""Reports made of random predictions."""

from __future__ import annotations

from typing import Any

import torch

from neurosens_fast.fragility import Counts, FragilityReport


def made(neurons: int = 3, eps: tuple[float, ...] = (0.1, 0.05), samples: int = 20, **others: Any) -> FragilityReport:
    """A report of ``neurons`` of 8 channels, with counts of random predictions."""
    generator = torch.Generator().manual_seed(neurons)
    counts = Counts.zeros(neurons, 1 + len(eps))
    before = torch.rand(1 + len(eps), samples, generator=generator) < 0.7
    flipped = torch.rand(neurons, 1 + len(eps), samples, generator=generator) < 0.3
    counts.add(before, before ^ flipped)
    fields: dict[str, Any] = {
        "layer": "conv1",
        "zeroed": "bn1",
        "module_type": "Conv2d",
        "channels": 8,
        "neurons": (5, 0, 7, 1, 2)[:neurons],
        "eps": eps,
        "counts": counts,
        "where": "after_norm",
        "protocol": "fixed",
        "model": "Net, 3 parameters",
        "attack": "FGSM",
        "data": "tensors [20, 3]",
        "dtype": "float32",
        "device": "cpu",
        "seed": 3,
        "versions": {"torch": "2.14.1"},
        "notes": ("a note",),
    }
    return FragilityReport(**{**fields, **others})
