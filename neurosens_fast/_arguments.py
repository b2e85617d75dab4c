"""The argument checks that all operators share, and what autograd must know of those that mutate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .columns import MAXIMA, SUMS

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

NORMS: tuple[int | str, ...] = (1, "mse", "l2", "cosine")
"""Distances between the rows of a pair."""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensor(name: str, value: object, dtypes: tuple[torch.dtype, ...] = DTYPES) -> None:
    """``value`` must be a tensor of one of ``dtypes``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(_name(d) for d in dtypes)}, got {_name(value.dtype)}")


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """``value`` must have the dtype, shape and device of ``other``."""
    check_tensor(name, value)
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name} is {_name(value.dtype)} but {other_name} is {_name(other.dtype)}; both must have one dtype"
        )
    if value.shape != other.shape:
        raise ValueError(f"{name} has shape {list(value.shape)} but {other_name} has {list(other.shape)}")
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device} but {other_name} is on {other.device}")


def check_channel_dim(x: Tensor, channel_dim: int) -> int:
    """Return ``channel_dim`` counted from the front."""
    if not -x.dim() <= channel_dim < x.dim():
        raise ValueError(f"channel_dim {channel_dim} is out of range for shape {list(x.shape)}")
    front = channel_dim % x.dim()
    if front == 0:
        raise ValueError("channel_dim must not be 0, the sample dimension")
    return front


def check_norm(norm: int | str) -> str:
    """Return ``norm`` as the schemas spell it, where 1 is text."""
    if isinstance(norm, bool) or norm not in NORMS:
        raise ValueError(f'norm must be 1, "mse", "l2" or "cosine", got {norm!r}')
    return "1" if norm == 1 else str(norm)


def check_k(k: int | float) -> None:
    """``k`` must be a count (int), or a share (float) above 0 and at most 1."""
    if isinstance(k, bool) or not isinstance(k, int | float):
        raise TypeError(f"k must be a count (int) or a share (float), got {type(k).__name__}")
    if isinstance(k, float) and not 0 < k <= 1:
        raise ValueError(f"a share k must be above 0.0 and at most 1.0, got {k}; give a count as an int")


def share_of(share: float, neurons: int) -> int:
    """``share`` of ``neurons``, rounded up; 0.07 of 100 is 7, although ``0.07 * 100`` is a little more."""
    return math.ceil(share * neurons - 1e-9)


def check_totals(sums: Tensor, maxima: Tensor, name: str, activation: Tensor, channel_dim: int) -> None:
    """The totals must be contiguous float64 with a line per channel, where the activation called ``name`` is."""
    channels, device = activation.shape[channel_dim], activation.device
    for total_name, total, columns in (("sums", sums, len(SUMS)), ("maxima", maxima, len(MAXIMA))):
        check_tensor(total_name, total, (torch.float64,))
        if total.shape != (channels, columns) or not total.is_contiguous():
            raise ValueError(
                f"{total_name} must be contiguous with shape [{channels}, {columns}], got {list(total.shape)}"
            )
        if total.device != device and not (total.device.type == "cpu" and device.type == "mps"):
            raise ValueError(f"{total_name} is on {total.device} but {name} is on {device}")


def detached(x: Tensor) -> Tensor:
    """``x`` for an operator that takes no gradient."""
    return x.detach() if x.requires_grad else x


def mutated(*tensors: Tensor) -> None:
    """Tell autograd that the values it may have saved are gone; compiled graphs know it from the schema."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(tensors)
