"""Convolutions by Winograd's algorithm: typed, checked, documented; part of :mod:`neurosens_fast.ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _C as _C  # importing the extension defines the operators
from . import _registration as _registration
from ._arguments import check_tensor, detached
from .reference_winograd import packed_shape

_ops = torch.ops.neurosens_fast
_VECTORS = _C.build_info()["instruction_set"] != "baseline"
_MATRICES = bool(torch.cpu._is_amx_tile_supported())
_BFLOAT16 = bool(torch.cpu._is_avx512_bf16_supported())

WINOGRAD_TILES = (2, 4)
"""Results ``tile x tile`` that :func:`winograd_convolution` computes at a time."""

# By trying, against oneDNN (choice of this package).
_LEAST_CHANNELS, _LEAST_OUT_CHANNELS, _LEAST_TILES, _LEAST_USE = 16, 32, {2: 8, 4: 4}, {2: 0.75, 4: 0.5}


def supports_winograd(device: torch.device, dtype: torch.dtype, tile: int = 4) -> bool:
    """Whether :func:`winograd_convolution` can be the faster way: a CPU with AVX2 or AVX-512, float32 or bfloat16.

    Not for bfloat16 where the CPU multiplies matrices of it (AMX), nor in tiles of 2x2 where it multiplies vectors.
    """
    direct = _MATRICES or (_BFLOAT16 and tile == 2)
    suits = dtype == torch.float32 or (dtype == torch.bfloat16 and not direct)
    return _VECTORS and suits and device.type == "cpu"


def enough_channels(channels: int, out_channels: int) -> bool:
    """Whether a Winograd convolution between so many channels can be faster than a direct one."""
    return channels >= _LEAST_CHANNELS and out_channels >= _LEAST_OUT_CHANNELS


def suits_winograd(images: Tensor, out_channels: int, tile: int = 4) -> bool:
    """Whether :func:`winograd_convolution` of ``images`` ``[N, C, H, W]`` is the faster way to ``out_channels``.

    That is where :func:`supports_winograd` holds, with at least 16 input and 32 output channels, and where tiles cover
    the images well.
    """
    if images.dim() != 4:
        return False
    samples, channels, height, width = images.shape
    tiles = -(-height // tile) * -(-width // tile)
    return (
        supports_winograd(images.device, images.dtype, tile)
        and enough_channels(channels, out_channels)
        and samples * tiles >= _LEAST_TILES[tile]
        and height * width >= _LEAST_USE[tile] * tile**2 * tiles
    )


def winograd_weight(weight: Tensor, transposed: bool = False) -> Tensor:
    """``weight`` ``[K, C, 3, 3]``, float32, as :func:`winograd_convolution` reads it: ``[K / 32, C, 9, 32]``.

    ``transposed``: the weight of the gradient for the images, from K to C channels. Not differentiable. Equivalent to::

        if transposed:
            weight = weight.transpose(0, 1).flip(2, 3)
        weight = F.pad(weight.flatten(2), (0, 0, 0, 0, 0, -len(weight) % 32))
        weight.unflatten(0, (-1, 32)).permute(0, 2, 3, 1)
    """
    check_tensor("weight", weight, (torch.float32,))
    if weight.dim() != 4 or weight.shape[2:] != (3, 3):
        raise ValueError(f"weight must be [K, C, 3, 3], got shape {list(weight.shape)}")
    packed: Tensor = _ops.winograd_weight(detached(weight), transposed)
    return packed


def winograd_convolution(images: Tensor, weight: Tensor, bias: Tensor | None, channels: int, tile: int = 4) -> Tensor:
    """Convolution 3x3, stride 1, padding 1 of ``images`` ``[N, C, H, W]``: ``[N, channels, H, W]`` in channels_last.

    Images and result float32 or bfloat16, computed in float32; ``weight`` of :func:`winograd_weight`, ``bias``
    ``[channels]`` or None, both float32. Images in channels_last memory are read as they are. Not differentiable: the
    gradient for the images is this convolution of the output's gradient with the transposed weight.

    ``tile`` 4 takes a quarter of the multiplications, with rounding errors about twice those of PyTorch's direct
    convolution, the largest five times; 2 takes four ninths, with errors no larger than PyTorch's. NaN or infinity
    reaches all results of its tiles. On the CPU a result depends on its own image alone and is the same bits for every
    run, number of threads and instruction set; other devices run PyTorch's convolution. Source: Lavin and Gray, CVPR
    2016; points of tile 4: choice of this package.
    Equivalent, but for rounding, to::

        F.conv2d(images, weight, bias, padding=1)
    """
    check_tensor("images", images, (torch.float32, torch.bfloat16))
    check_tensor("weight", weight, (torch.float32,))
    if images.dim() != 4:
        raise ValueError(f"images must be [N, C, H, W], got shape {list(images.shape)}")
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    if tile not in WINOGRAD_TILES:
        raise ValueError(f"tile must be 2 or 4, got {tile}")
    expected = list(packed_shape(channels, images.shape[1]))
    if list(weight.shape) != expected:
        raise ValueError(
            f"weight must be {expected} for {images.shape[1]} to {channels} channels, as winograd_weight gives it, got "
            f"shape {list(weight.shape)}"
        )
    if bias is not None:
        check_tensor("bias", bias, (torch.float32,))
        if list(bias.shape) != [channels]:
            raise ValueError(f"bias must be [{channels}], got shape {list(bias.shape)}")
    for name, tensor in {"weight": weight, "bias": images if bias is None else bias}.items():
        if tensor.device != images.device:
            raise ValueError(f"{name} is on {tensor.device} but images is on {images.device}")
    given = None if bias is None else detached(bias)
    out: Tensor = _ops.winograd_convolution(detached(images), detached(weight), given, channels, tile)
    return out
