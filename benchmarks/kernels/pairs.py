"""Pairs of activations that the kernels are measured on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
LAYOUTS = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
CHANNEL_LAST = "channels last by nature"
"""Rows of one element and tokens ``[N, T, C]`` have no other layout."""

COMPILED = ((64, 64, 32, 32), (128, 64, 56, 56), (64, 3, 32, 32))
"""Shapes on which torch.compile takes part: compiling takes many times as long as measuring."""


def channel_dim(shape: tuple[int, ...]) -> int:
    """The dimension of the neurons: 2 of tokens, 1 of all else."""
    return 2 if len(shape) == 3 else 1


def layout_of(shape: tuple[int, ...], layout: str) -> str:
    """The layout as a table names it; a shape that has one only is measured once."""
    if len(shape) == 4:
        return layout
    if layout == "contiguous":
        pytest.skip("has its channels last by nature")
    return CHANNEL_LAST


def make_pair(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str) -> tuple[Tensor, Tensor]:
    """Activations as a ReLU before batch norm would see them: half of them negative."""
    z = torch.randn(shape, device=device)
    z_adv = (z + 0.05 * torch.randn(shape, device=device)).to(dtype)
    z = z.to(dtype)
    if layout == "channels_last" and z.dim() == 4:
        return z.contiguous(memory_format=torch.channels_last), z_adv.contiguous(memory_format=torch.channels_last)
    return z, z_adv


def labels(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> dict[str, str]:
    """The first columns of a table."""
    return {
        "shape": "x".join(map(str, shape)),
        "layout": layout_of(shape, layout),
        "dtype": str(dtype).removeprefix("torch."),
    }
