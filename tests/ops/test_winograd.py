"""Winograd convolutions against direct ones in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from neurosens_fast import ops, reference

# N, C, K, H, W: whole tiles and ragged ones, channels that fill registers, chunks and panels, and that do not.
SHAPES = [
    *((2, 1, 1, 1, 1), (1, 3, 5, 2, 7), (3, 16, 32, 4, 4), (2, 17, 33, 5, 6), (1, 40, 40, 9, 9), (5, 64, 64, 8, 8)),
    *((1, 65, 31, 3, 13), (2, 130, 96, 7, 7), (3, 7, 100, 12, 4), (40, 24, 48, 8, 8), (1, 8, 8, 61, 66)),
    *((1, 512, 300, 4, 4), (20, 130, 40, 10, 10)),  # the last in several blocks of tiles
]

# The transforms enlarge magnitudes up to 60 times with tiles of 4x4 and 5 times with 2x2, and with them, in the worst
# case, the rounding of each sum.
BOUND = {2: 3, 4: 12}


def example(shape: tuple[int, ...], transposed: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Images of ``shape``, a weight whose convolution, or whose gradient, takes them, and a bias."""
    samples, channels, out_channels, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    images = torch.randn(samples, channels, height, width, generator=generator)
    sizes = (channels, out_channels) if transposed else (out_channels, channels)
    return images, torch.randn(*sizes, 3, 3, generator=generator), torch.randn(out_channels, generator=generator)


def largest_error(result: Tensor, images: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    """In units of float32's rounding of the sum of all magnitudes."""
    wide = None if bias is None else bias.double()
    expected = F.conv2d(images.double(), weight.double(), wide, padding=1)
    size = F.conv2d(images.abs().double(), weight.abs().double(), None if wide is None else wide.abs(), padding=1)
    assert result.shape == expected.shape
    return float(((result - expected).abs() / (size.amax() * 2.0**-24)).amax())


@pytest.mark.parametrize("tile", ops.WINOGRAD_TILES)
def test_agrees_with_the_direct_convolution(tile: int) -> None:
    for shape in SHAPES:
        images, weight, bias = example(shape)
        for given in (bias, None):
            result = ops.winograd_convolution(images, ops.winograd_weight(weight), given, len(bias), tile)
            assert result.is_contiguous(memory_format=torch.channels_last)
            assert largest_error(result, images, weight, given) < BOUND[tile], shape


@pytest.mark.parametrize("tile", ops.WINOGRAD_TILES)
def test_bfloat16_images_are_computed_in_float32_and_rounded_once(tile: int) -> None:
    for shape in SHAPES:
        images, weight, bias = example(shape)
        images = images.bfloat16()
        packed = ops.winograd_weight(weight)
        result = ops.winograd_convolution(images, packed, bias, len(bias), tile)
        wide = ops.winograd_convolution(images.float(), packed, bias, len(bias), tile)
        assert torch.equal(result, wide.bfloat16())


def test_bfloat16_results_that_are_no_numbers() -> None:
    images = torch.zeros(1, 1, 4, 24, dtype=torch.bfloat16)
    images[0, 0, 1, 1], images[0, 0, 1, 13] = torch.nan, torch.finfo(torch.bfloat16).max
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    result = ops.winograd_convolution(images, ops.winograd_weight(weight), torch.tensor([9e35]), 1, 2)
    assert result[0, 0, 1, 1].isnan()
    assert result[0, 0, 1, 13].isposinf()  # what the bias adds rounds up


@pytest.mark.parametrize("tile", ops.WINOGRAD_TILES)
def test_the_transposed_weight_gives_the_gradient_for_the_images(tile: int) -> None:
    for shape in SHAPES:
        gradient, weight, bias = example(shape, transposed=True)
        result = ops.winograd_convolution(gradient, ops.winograd_weight(weight, True), None, len(bias), tile)
        size = (len(gradient), len(bias), *gradient.shape[2:])
        expected = conv2d_input(size, weight.double(), gradient.double(), padding=1)
        allowed = conv2d_input(size, weight.abs().double(), gradient.abs().double(), padding=1).amax()
        assert (result - expected).abs().amax() < BOUND[tile] * 2.0**-24 * allowed, shape


def test_memory_formats_and_threads_do_not_matter() -> None:
    threads = torch.get_num_threads()
    for shape in SHAPES:
        images, weight, bias = example(shape)
        packed = ops.winograd_weight(weight)
        expected = ops.winograd_convolution(images, packed, bias, len(bias))
        wide = torch.zeros(*images.shape[:3], 2 * images.shape[3])
        wide[..., ::2] = images
        assert torch.equal(ops.winograd_weight(weight.contiguous(memory_format=torch.channels_last)), packed)
        for given in (images.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
            assert torch.equal(ops.winograd_convolution(given, packed, bias, len(bias)), expected)
        try:
            for count in (1, 2, 3, 7, 40):
                torch.set_num_threads(count)
                assert torch.equal(ops.winograd_convolution(images, packed, bias, len(bias)), expected), shape
        finally:
            torch.set_num_threads(threads)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    for shape in SHAPES:
        images, weight, bias = example(shape)
        packed = ops.winograd_weight(weight)
        together = ops.winograd_convolution(images, packed, bias, len(bias))
        alone = ops.winograd_convolution(images[-1:], packed, bias, len(bias))
        assert torch.equal(together[-1:], alone)


def test_nan_stays_with_its_sample_and_the_tiles_that_read_it() -> None:
    images, weight, bias = example((3, 20, 40, 16, 12))
    clean = ops.winograd_convolution(images, ops.winograd_weight(weight), bias, 40)
    images[1, 7, 5, 6] = torch.nan
    seen = ops.winograd_convolution(images, ops.winograd_weight(weight), bias, 40)
    spoiled = seen.isnan().all(1)
    assert torch.equal(spoiled, seen.isnan().any(1))
    assert spoiled[1, 4:7, 5:8].all()
    spoiled[1, :8, 4:8] = False
    assert not spoiled.any()
    assert torch.equal(seen[[0, 2]], clean[[0, 2]])


def test_weights_are_packed_as_documented() -> None:
    for shape in SHAPES:
        for transposed in (False, True):
            _, weight, _ = example(shape)
            packed = ops.winograd_weight(weight, transposed)
            assert torch.equal(packed, reference.winograd_weight(weight, transposed))
            assert packed.is_contiguous()


def test_the_reference_is_the_direct_convolution() -> None:
    images, weight, bias = example((2, 17, 33, 5, 6))
    packed = reference.winograd_weight(weight)
    result = reference.winograd_convolution(images, packed, bias, 33)
    torch.testing.assert_close(result, F.conv2d(images, weight, bias, padding=1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3, 5, 4, 4), (2, 3, 5, 0, 4), (2, 0, 5, 4, 4)])
def test_nothing_to_read(shape: tuple[int, ...]) -> None:
    images, weight, bias = example(shape)
    result = ops.winograd_convolution(images, ops.winograd_weight(weight), bias, 5)
    assert torch.equal(result, bias.view(1, 5, 1, 1).expand(shape[0], 5, *shape[3:]))


def test_the_rule_of_where_it_is_faster() -> None:
    def suits(
        channels: int, out_channels: int, samples: int, size: int, tile: int = 4, dtype: torch.dtype = torch.float32
    ) -> bool:
        return ops.suits_winograd(torch.empty(samples, channels, size, size, dtype=dtype), out_channels, tile)

    fast = ops.supports_winograd(torch.device("cpu"), torch.float32)
    assert suits(64, 64, 16, 32) == suits(16, 32, 1, 8) == suits(512, 512, 16, 7) == suits(64, 64, 16, 7, 2) == fast
    assert suits(64, 64, 16, 32, 4, torch.bfloat16) == ops.supports_winograd(torch.device("cpu"), torch.bfloat16)
    assert not suits(3, 64, 16, 32)  # few channels
    assert not suits(64, 16, 16, 32)
    assert not suits(64, 64, 1, 4)  # few tiles
    assert not suits(64, 64, 1, 4, 2)
    assert not suits(64, 64, 16, 5)  # 25 of 64 results are of use
    assert not suits(64, 64, 16, 5, 2)  # 25 of 36
    assert not suits(64, 64, 16, 32, 4, torch.float64)
    assert suits(64, 64, 16, 32, 2, torch.bfloat16) == ops.supports_winograd(torch.device("cpu"), torch.bfloat16, 2)
    assert not ops.suits_winograd(torch.empty(16, 64, 32, 32, device="meta"), 64)
    assert not ops.suits_winograd(torch.empty(64, 32, 32), 64)
