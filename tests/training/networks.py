"""Networks and data for the tests of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.attacks.networks import blobs


def network(dropout: float = 0.0, norm: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    """``[N, 3, 4, 4]`` to three logits; seeded."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(80, 3),
    ).to(dtype)


def data(count: int = 96, seed: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and validation samples of three classes."""
    return blobs(count, seed), blobs(48, seed + 1)


QUICK: dict[str, Any] = {"eps": 0.05, "steps": 2, "val_steps": 2, "batch_size": 32, "lr": 0.05, "collapse": "ignore"}
"""Settings under which an epoch takes milliseconds."""
