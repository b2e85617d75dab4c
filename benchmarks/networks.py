"""Networks that the suites run, in the layouts in which they run them, and what they cost."""

from __future__ import annotations

import copy
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from neurosens_fast.benchmarking.contest import Side, compiled
from neurosens_fast.models import load_model


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices by instructions of its own.

    ``NEUROSENS_FAST_BENCH_BF16=1`` says yes for a CPU without them, where bfloat16 is slow.
    """
    if device == "cuda" or os.environ.get("NEUROSENS_FAST_BENCH_BF16") == "1":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def with_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """``model`` in evaluation mode, its batch norms with the statistics of ``images``: no layer dies or explodes."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model(images)
    return model.eval()


def subject(device: str, count: int, quick: bool) -> tuple[str, nn.Module, Tensor, Tensor]:
    """CIFAR ResNet-18 with random weights, ``count`` images, and the labels that it gives them.

    For a quick run the digits network, and 4 images. The name comes first.
    """
    name, shape, count = ("digits-cnn", (1, 8, 8), 4) if quick else ("cifar-resnet18", (3, 32, 32), count)
    images = torch.rand(count, *shape).to(device)
    model = with_statistics(load_model(name).to(device), images)
    with torch.no_grad():
        return name, model, images, model(images).argmax(1)


def in_channels_last(model: nn.Module) -> nn.Module:
    """A copy with its weights in the memory format in which convolutions may be faster."""
    return copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def channels_last(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Copies of both in that layout."""
    return in_channels_last(model), images.contiguous(memory_format=torch.channels_last)


def compiled_for_images(model: nn.Module, *, run: bool) -> nn.Module | None:
    """``torch.compile`` of a copy, or None where it is not to run.

    Its parameters ask for no gradients: those of a compiled model are computed whether or not anybody wants them.
    """
    fused = compiled(copy.deepcopy(model).requires_grad_(False), run=run)
    assert fused is None or isinstance(fused, nn.Module)
    return fused


def full_float32() -> AbstractContextManager[Any]:
    """Convolutions on a GPU without TF32, and the same from run to run: for comparing two ways to compute."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)  # type: ignore[no-any-return]


@register_flop_formula(torch.ops.neurosens_fast.winograd_convolution)  # type: ignore[untyped-decorator]
def _direct_flops(images: torch.Size, weight: torch.Size, bias: Any, channels: int, *others: Any, **named: Any) -> int:
    """Of the direct convolution, which it stands for."""
    return 2 * images.numel() * 9 * channels


def flops(run: Side) -> int:
    """Arithmetic operations of the convolutions and products of a forward; one back to the images has as many."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
