"""Winograd convolutions of a layer, packing of the weight included, against PyTorch's direct one: 3x3, C to C channels.

Least work: images and weight are read once and the result is written once; products are those of the algorithm, 9 / 4
(tiles of 4x4) or 4 for an output and pair of channels in the place of 9, and transforms are left out.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neurosens_fast import ops
from neurosens_fast.benchmarking.contest import Contest, Side, agreement
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.roof import Work

SHAPES = [
    *((64, 64, 32, 32), (64, 128, 16, 16), (64, 256, 8, 8), (64, 512, 4, 4)),
    *((8, 64, 56, 56), (8, 128, 28, 28), (8, 256, 14, 14), (8, 512, 7, 7), (1, 128, 28, 28)),
]
QUICK_SHAPES = [(4, 32, 9, 9)]
ALLOWED = {torch.float32: {2: 2e-6, 4: 1e-5}, torch.bfloat16: {2: 1e-2, 4: 1e-2}}


def work(shape: tuple[int, ...], tile: int, element_size: int) -> Work:
    samples, channels, height, width = shape
    elements = samples * channels * height * width
    tiles = samples * -(-height // tile) * -(-width // tile)
    flops = 2 * tiles * (tile + 2) ** 2 * channels**2
    return Work(reads=elements * element_size + 4 * 9 * channels**2, writes=elements * element_size, flops=flops)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tile", ops.WINOGRAD_TILES)
def bench_convolution(shape: tuple[int, ...], tile: int, dtype: torch.dtype, device: str, contest: Contest) -> None:
    if device != "cpu":
        pytest.skip("only on the CPU")
    if len(shape) != 4:
        pytest.skip("convolutions are of [N, C, H, W]")
    channels = shape[1]
    images = torch.randn(shape)
    weight = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)
    exact = F.conv2d(images.double(), weight.double(), padding=1)
    packed = ops.winograd_weight(weight)
    last = images.to(dtype).contiguous(memory_format=torch.channels_last)
    inputs = copies((last,), device)
    agreed = agreement(
        [ops.winograd_convolution(last, packed, None, channels, tile)], [exact], rtol=ALLOWED[dtype][tile]
    )

    def direct(layout: torch.memory_format) -> Side:
        plain = weight.to(dtype).contiguous(memory_format=layout)
        given = [(x.contiguous(memory_format=layout),) for (x,) in inputs]
        return rotating(lambda x: F.conv2d(x, plain, padding=1), given)

    def ours(x: Tensor) -> Tensor:
        return ops.winograd_convolution(x, ops.winograd_weight(weight), None, channels, tile)

    contest(
        "Winograd convolutions",
        {"shape": "x".join(map(str, shape)), "tile": f"{tile}x{tile}", "dtype": str(dtype).removeprefix("torch.")},
        rotating(ours, inputs),
        rivals={"eager, channels_last": direct(torch.channels_last), "eager": direct(torch.contiguous_format)},
        floors={"packed before": rotating(lambda x: ops.winograd_convolution(x, packed, None, channels, tile), inputs)},
        agreed=agreed,
        work=work(shape, tile, last.element_size()),
        memory=("ours", "eager, channels_last"),
        seconds=1.0,
    )
