"""Inputs that a GPU's cache does not hold when their turn comes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
BEYOND = 3
"""How many times the cache the inputs of one turn through all copies fill."""


def copies(tensors: Sequence[Tensor], device: str) -> list[tuple[Tensor, ...]]:
    """The tensors, and on CUDA as many copies of them as fill the second-level cache :data:`BEYOND` times.

    On the CPU there is one: activations come to an operator as the layer before left them, in the cache where they
    fit it. Strides and ``requires_grad`` are kept.
    """
    count = 1
    if device == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        count = 1 + BEYOND * cache // max(1, sum(tensor.nbytes for tensor in tensors))
    return [tuple(tensors)] + [
        tuple(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors)
        for _ in range(min(count, 512) - 1)
    ]


def rotating(function: Callable[..., T], inputs: Sequence[tuple[Any, ...]]) -> Callable[[], T]:
    """``function`` of the next inputs at every call."""
    turns: Iterator[tuple[Any, ...]] = cycle(inputs)
    return lambda: function(*next(turns))
