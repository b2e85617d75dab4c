"""Swaps of the neuron explorer against loops over neurons or masks, and against batches, in plain PyTorch.

Activations: the loop puts one neuron's adversarial value into the benign ones and runs the linear layer and softmax
on all samples; "eager" adds to all logits at once what each neuron changes, ``[N, K, C]``, and takes the softmax of
that. Ours must read both activations, weights and logits, write two numbers for each of N x C, and do four
operations (multiply-add, exponential, sum) for each of N x K x C.

Pixels: the loop builds one image, with adversarial pixels inside one mask, and runs the network on it; "batches" runs
it on all of them, as many at once as ours does, in contiguous and in channels_last memory. All in inference mode. The
networks have random weights, and batch norm statistics of the images where they have batch norm; their "adversarial"
images are noise, which changes no time. The operations are those of the forwards: none of them can be left out, so how
far a loop can be beaten is what one image at a time leaves of the machine, little in CIFAR ResNet-18 and most in the
small network.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.benchmarking.contest import NOT_RUN, Contest, Side, agreement, compiled
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.explorer.reference import activation_swap_loop, pixel_swap_loop
from neurosens_fast.explorer.swaps import activation_swap, pixel_swap
from neurosens_fast.models import load_model

from ..networks import flops, in_channels_last

Both = tuple[Tensor, Tensor]
ACTIVATIONS = [(128, 512, 10), (128, 512, 100), (8, 1024, 1000)]
"""Samples, neurons and classes."""
NETWORKS = [("digits-cnn", (1, 8, 8)), ("cifar-resnet18", (3, 32, 32))]
BATCH = 128


def eager_swap(
    logits: Tensor, values: Tensor, adversarial: Tensor, weights: Tensor, labels: Tensor, others: Tensor
) -> Both:
    """Fall of p_y and rise of p_y' ``[N, C]``, all neurons at once."""
    after = (logits[:, :, None] + weights * (adversarial - values)[:, None]).softmax(1)
    before = logits.softmax(1)[:, :, None]
    rows = torch.arange(len(logits), device=logits.device)
    return (before[rows, labels] - after[rows, labels]), (after[rows, others] - before[rows, others])


@pytest.mark.parametrize(("samples", "neurons", "classes"), ACTIVATIONS)
def bench_activation_swap(
    samples: int, neurons: int, classes: int, device: str, contest: Contest, compiling: bool
) -> None:
    if contest.quick:
        samples, neurons = 8, 32
    linear = nn.Linear(neurons, classes).requires_grad_(False).to(device)
    values, adversarial = torch.randn(2, samples, neurons, device=device).relu()
    labels, others = torch.randint(classes, (2, samples), device=device)
    kernel = compiled(eager_swap, run=compiling)

    def ours() -> Both:
        return activation_swap(linear(values), values, adversarial, linear.weight, labels, others)

    @torch.inference_mode()
    def loop() -> Both:
        return activation_swap_loop(linear, values, adversarial, labels, others)

    def side(swap: Callable[..., Both]) -> Side:
        @torch.inference_mode()
        def run() -> Both:
            return swap(linear(values), values, adversarial, linear.weight, labels, others)

        return run

    wanted = loop()
    agreement(side(eager_swap)(), wanted, rtol=1e-4)
    cells = samples * neurons
    contest(
        "Swap of one activation, all neurons",
        {"samples x neurons x classes": f"{samples}x{neurons}x{classes}"},
        ours,
        rivals={"loop": loop, "eager": side(eager_swap), "torch.compile": side(kernel) if kernel else NOT_RUN},
        agreed=agreement(ours(), wanted, rtol=1e-4),
        work=Work(
            reads=4 * (2 * cells + neurons * classes + samples * classes),
            writes=4 * 2 * cells,
            flops=4 * cells * classes,
        ),
        memory=("ours", "loop", "eager"),
        seconds=5.0,
    )


@torch.inference_mode()
def batched_pixel_swap(
    model: nn.Module, benign: Tensor, adversarial: Tensor, masks: Tensor, labels: Tensor, others: Tensor
) -> Both:
    """Fall of p_y and rise of p_y' ``[J, S]``, in batches of images with adversarial pixels inside a mask."""
    images, sets = masks.shape[:2]
    mixed = torch.where(masks[:, :, None], adversarial[:, None], benign[:, None]).flatten(0, 1)
    after = torch.cat([model(part).softmax(1) for part in mixed.split(BATCH)]).view(images, sets, -1)
    before, rows = model(benign).softmax(1)[:, None], torch.arange(images, device=benign.device)
    return (before - after)[rows, :, labels], (after - before)[rows, :, others]


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def bench_pixel_swap(name: str, size: tuple[int, int, int], device: str, contest: Contest) -> None:
    images, sets = (1, 3) if contest.quick else (8, 32)
    model = load_model(name).to(device).train()
    benign, adversarial = torch.rand(2, images, *size, device=device)
    with torch.no_grad():
        model(torch.rand(4 if contest.quick else 64, *size, device=device))
    model.eval()
    last = in_channels_last(model)
    last_pair = [half.contiguous(memory_format=torch.channels_last) for half in (benign, adversarial)]
    masks = torch.rand(images, sets, *size[1:], device=device) < 0.2
    labels, others = torch.randint(10, (2, images), device=device)

    def ours() -> Both:
        return pixel_swap(model, benign, adversarial, masks, labels, others, BATCH)

    @torch.inference_mode()
    def loop() -> Both:
        return pixel_swap_loop(model, benign, adversarial, masks, labels, others)

    def batches() -> Both:
        return batched_pixel_swap(model, benign, adversarial, masks, labels, others)

    rounding = 1e-3 if device == "cpu" else 2e-2  # on CUDA convolutions may take TF32
    wanted = loop()
    agreement(batches(), wanted, rounding)
    contest(
        "Swap of pixels inside a mask",
        {"network": name, "images x masks": f"{images}x{sets}"},
        ours,
        rivals={
            "loop": loop,
            "batches": batches,
            "batches, channels_last": lambda: batched_pixel_swap(
                last, last_pair[0], last_pair[1], masks, labels, others
            ),
        },
        agreed=agreement(ours(), wanted, rounding),
        work=Work(flops=flops(batches)),
        memory=("ours", "batches"),
        seconds=15.0,
    )
