"""Winograd convolutions in pure PyTorch: what :mod:`neurosens_fast.reference` holds for them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

_PANEL = 32


def packed_shape(out_channels: int, channels: int) -> tuple[int, int, int, int]:
    """The shape of :func:`winograd_weight` from ``channels`` to ``out_channels``."""
    return -(-out_channels // _PANEL), channels, 9, _PANEL


def winograd_weight(weight: Tensor, transposed: bool = False) -> Tensor:
    """``[K, C, 3, 3]`` as ``[K / 32, C, 9, 32]``, zeros behind the last channel."""
    if transposed:
        weight = weight.transpose(0, 1).flip(2, 3)
    weight = F.pad(weight.flatten(2), (0, 0, 0, 0, 0, -len(weight) % _PANEL))
    return weight.unflatten(0, (-1, _PANEL)).permute(0, 2, 3, 1).contiguous()


def winograd_convolution(images: Tensor, weight: Tensor, bias: Tensor | None, channels: int, tile: int = 4) -> Tensor:
    """The direct convolution of images ``[N, C, H, W]`` with a packed weight, in channels_last memory."""
    plain = weight.permute(0, 3, 1, 2).flatten(0, 1)[:channels].unflatten(2, (3, 3))
    out = F.conv2d(images.to(weight.dtype), plain, bias, padding=1).to(images.dtype)
    return out.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
