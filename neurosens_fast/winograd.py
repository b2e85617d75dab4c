"""Convolutions by Winograd's algorithm: typed, checked, documented; part of :mod:`neurosens_fast.ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _C as _C  # importing the extension defines the operators
from . import _registration as _registration
from ._arguments import check_tensor, detached

_ops = torch.ops.neurosens_fast
_VECTORS = _C.build_info()["instruction_set"] != "baseline"

# By trying, against oneDNN (choice of this package): results are computed for 4x4 pixels and 32 channels at a time.
_LEAST_CHANNELS, _LEAST_OUT_CHANNELS, _LEAST_TILES, _LEAST_USE = 16, 32, 4, 0.5


def supports_winograd(images: Tensor) -> bool:
    """Whether there is a kernel of :func:`winograd_convolution` for ``images``: float32, a CPU with AVX2 or AVX-512."""
    return _VECTORS and images.dtype == torch.float32 and images.device.type == "cpu"


def enough_channels(channels: int, out_channels: int) -> bool:
    """Whether a Winograd convolution between so many channels can be faster than a direct one."""
    return channels >= _LEAST_CHANNELS and out_channels >= _LEAST_OUT_CHANNELS


def suits_winograd(images: Tensor, out_channels: int) -> bool:
    """Whether :func:`winograd_convolution` of ``images`` ``[N, C, H, W]`` is the faster way to ``out_channels``.

    That is where :func:`supports_winograd` holds, from 16 to 32 channels on, and where 4x4 tiles cover the images well.
    """
    samples, channels, height, width = images.shape
    tiles = (height + 3) // 4 * ((width + 3) // 4)
    return (
        supports_winograd(images)
        and enough_channels(channels, out_channels)
        and samples * tiles >= _LEAST_TILES
        and height * width >= _LEAST_USE * 16 * tiles
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


def winograd_convolution(images: Tensor, weight: Tensor, bias: Tensor | None, channels: int) -> Tensor:
    """Convolution 3x3, stride 1, padding 1 of ``images`` ``[N, C, H, W]``: ``[N, channels, H, W]`` in channels_last.

    All float32; ``weight`` of :func:`winograd_weight`, ``bias`` ``[channels]`` or None. Images in channels_last memory
    are read as they are. Not differentiable: the gradient for the images is this convolution of the output's gradient
    with the transposed weight. F(4x4, 3x3): a quarter of the multiplications; rounding errors are about five times
    those of a direct convolution, and NaN or infinity reaches all pixels of its 4x4 tiles. A result depends on its
    own image alone and is the same bits for every run, number of threads and instruction set.
    Source: Lavin and Gray, CVPR 2016; points chosen by this package. Equivalent, but for rounding, to::

        F.conv2d(images, weight, bias, padding=1)
    """
    check_tensor("images", images, (torch.float32,))
    check_tensor("weight", weight, (torch.float32,))
    if images.dim() != 4:
        raise ValueError(f"images must be [N, C, H, W], got shape {list(images.shape)}")
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    expected = [(channels + 31) // 32, images.shape[1], 9, 32]
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
    lanes = detached(images).permute(0, 2, 3, 1)
    out: Tensor = _ops.winograd_convolution(lanes, detached(weight), None if bias is None else detached(bias), channels)
    return out.permute(0, 3, 1, 2)
