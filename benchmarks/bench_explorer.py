"""Swaps of the neuron explorer against the loops that are written by hand, which take one neuron after another.

Activations: the loop puts one neuron's adversarial value into the benign ones and runs the linear layer and softmax
on all samples. Pixels: the loop builds one image, with adversarial pixels inside one mask, and runs the network on it,
in inference mode. Both are checked to give the same numbers first. The network, CIFAR ResNet-18, has random weights
and batch norm statistics of the images; its "adversarial" images are noise, which changes no time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.explorer.reference import activation_swap_loop, pixel_swap_loop
from neurosens_fast.explorer.swaps import activation_swap, pixel_swap
from neurosens_fast.models import load_model

from .interleaved import ratio, run_interleaved

SECONDS = 30.0
ACTIVATIONS = [(128, 512, 10), (128, 512, 100), (8, 1024, 1000)]
"""Samples, neurons and classes."""
PIXELS = (4, 16)
"""Images, and masks of each."""


@pytest.mark.parametrize(("samples", "neurons", "classes"), ACTIVATIONS)
def bench_activation_swap(samples: int, neurons: int, classes: int, device: str, benchmark: Any, table: Any) -> None:
    linear = nn.Linear(neurons, classes).requires_grad_(False).to(device)
    values, adversarial = torch.randn(2, samples, neurons, device=device).relu()
    labels, others = torch.randint(classes, (2, samples), device=device)

    def ours() -> tuple[Tensor, Tensor]:
        return activation_swap(linear(values), values, adversarial, linear.weight, labels, others)

    def loop() -> tuple[Tensor, Tensor]:
        return activation_swap_loop(linear, values, adversarial, labels, others)

    for found, wanted in zip(ours(), loop(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    times = run_interleaved(benchmark, ours, {"loop": loop}, device, SECONDS)
    gain = ratio(times["loop"], times["ours"])
    benchmark.extra_info["loop_over_ours"] = gain.median
    table(
        f"Swap of one activation, all neurons, {device}",
        {
            "samples x neurons x classes": f"{samples} x {neurons:,} x {classes:,}",
            "ms": f"{sorted(times['ours'])[len(times['ours']) // 2] * 1e3:.1f}",
            "loop / ours": str(gain),
        },
    )


def bench_pixel_swap(device: str, benchmark: Any, table: Any) -> None:
    images, count = PIXELS
    model = load_model("cifar-resnet18").to(device).train()
    benign, adversarial = torch.rand(2, images, 3, 32, 32, device=device)
    with torch.no_grad():
        model(torch.rand(64, 3, 32, 32, device=device))
    model.eval()
    masks = torch.rand(images, count, 32, 32, device=device) < 0.2
    labels, others = torch.randint(10, (2, images), device=device)

    def ours() -> tuple[Tensor, Tensor]:
        return pixel_swap(model, benign, adversarial, masks, labels, others)

    def loop() -> tuple[Tensor, Tensor]:
        return pixel_swap_loop(model, benign, adversarial, masks, labels, others)

    for found, wanted in zip(ours(), loop(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    times = run_interleaved(benchmark, ours, {"loop": loop}, device, SECONDS)
    gain = ratio(times["loop"], times["ours"])
    benchmark.extra_info["loop_over_ours"] = gain.median
    per_swap = sorted(times["ours"])[len(times["ours"]) // 2] / (images * count)
    table(
        f"Swap of pixels inside a mask, CIFAR ResNet-18, {device}",
        {
            "images x masks": f"{images} x {count}",
            "ms per swap": f"{per_swap * 1e3:.2f}",
            "loop / ours": str(gain),
        },
    )
