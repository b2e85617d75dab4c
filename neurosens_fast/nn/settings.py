"""What an SNSLoss is given, checked."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from neurosens_fast import ops
from neurosens_fast.capture import hookable


def innermost(model: nn.Module) -> nn.Module:
    """What DistributedDataParallel and torch.compile were given."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        raise TypeError("nn.DataParallel runs replicas, which an SNSLoss cannot see; use DistributedDataParallel")
    inner = model.module if isinstance(model, DistributedDataParallel) else hookable(model)
    return model if inner is model else innermost(inner)


def batches_per_choice(refresh: str | int) -> int:
    """After how many batches neurons are chosen anew; 0 for never."""
    if isinstance(refresh, int) and not isinstance(refresh, bool) and refresh > 0:
        return refresh
    if refresh not in ("batch", "epoch"):
        raise ValueError(f'refresh must be "batch", "epoch" or a number of batches of at least 1, got {refresh!r}')
    return 1 if refresh == "batch" else 0


def check_settings(k: int | float, norm: int | str, scope: str, weight: float, select_by: str) -> None:
    """Raise one sentence that names the setting that does not fit."""
    if isinstance(k, bool) or not isinstance(k, int):
        ops.neuron_count(k, 1)
    elif k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, value, allowed in (
        ("norm", norm, ops.NORMS),
        ("scope", scope, ("layer", "model")),
        ("select_by", select_by, ("sensitivity", "distance")),
    ):
        if isinstance(value, bool) or value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"weight must be a finite number, got {weight!r}")
