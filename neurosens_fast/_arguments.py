"""The argument checks that all operators share, and what autograd must know of those that mutate."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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


def mutated(*tensors: Tensor) -> None:
    """Tell autograd that the values it may have saved are gone; compiled graphs know it from the schema."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(tensors)
