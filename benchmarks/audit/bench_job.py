"""The whole job: the sensitivity of every ReLU of a network under PGD, from images to a report.

Ours is one call of :func:`neurosens_fast.audit.audit` with an attack that is made for it: checks, private copies, the
attack, the joined pass and the report. ``plain PyTorch`` is the loop that one would write: the attack of
``benchmarks.attacks.plain``, which differentiates for the images alone, then one pass in inference mode that stores
what the ReLUs put out and computes the same statistics, layer by layer; in either layout of images and weights, and
with the model of the attack compiled (on a CPU not ResNet-50, which takes minutes to compile there). It is spared the
search for the layers and for what is overwritten in place, and makes no report. Both start from the same images
without a random draw. With the attack in exact mode every neuron must have the same sensitivity; with the settings
that are timed the mean of every layer, since the rounding of a folded copy turns the sign of some gradients near zero,
and the perturbation of a network with random weights with it. Operations are those of the convolutions and products of
N images forward and, as many, back to the images in every step, and of 2N forward at the end.

What ours does once for each audit, to check the layers and to make and try the private copies, is most of an audit of
one image, which stands beside it; in an audit of few batches, as here, it weighs more than in one of a whole data set.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference_audit
from neurosens_fast.attacks import PGD
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.benchmarking.contest import NOT_RUN, Contest, agreement
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.capture import select_layers
from neurosens_fast.models import load_model

from ..attacks.plain import ALPHA, EPS, plain_pgd
from ..networks import channels_last, compiled_for_images, flops, full_float32, with_statistics
from .plain import Totals, plain_audit, sensitivity_of

STEPS = 3
LAYERS = "activations"
CASES = {
    "digits-cnn": ((1, 8, 8), 512, 8192),
    "cifar-resnet18": ((3, 32, 32), 32, 512),
    "torchvision:resnet50": ((3, 224, 224), 8, 64),
}
"""Model -> shape of an image, and how many in a batch on the CPU and on a GPU; the first for quick runs too.

Powers of two: the loop takes the mean of the losses, exact mode their sum, and signs must not hang on the difference.
"""
BATCHES = 3
"""Of those images in what is timed."""
EXACT, TIMED = {"cpu": 1e-3, "cuda": 5e-3}, 0.05
"""Tolerances, relative to the largest neuron of a layer, and to the mean of one."""
ONCE = "ours of one image"


@pytest.mark.parametrize(
    "name", ["digits-cnn", *(pytest.param(name, marks=pytest.mark.full) for name in list(CASES)[1:])]
)
def bench_job(name: str, device: str, contest: Contest, compiling: bool) -> None:
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
    shape, on_cpu, on_cuda = CASES[name]
    count = 4 if contest.quick else on_cpu if device == "cpu" else on_cuda
    images = torch.rand(count, *shape).to(device)
    model = with_statistics(load_model(name).to(device), images)
    with torch.no_grad():
        labels = model(images).argmax(1)
    many = images.repeat(BATCHES, 1, 1, 1)
    other, many_last = channels_last(model, many)
    layers = list(select_layers(model, LAYERS).modules)
    overwritten = reference_audit.overwritten_rows(model, images[:1], layers)

    def ours(images: Tensor = images, **options: Any) -> AuditReport:
        attack = PGD(model, EPS, ALPHA, STEPS, **options)
        targets = labels.repeat(BATCHES)[: len(images)]
        return audit(model, (images, targets), attack, LAYERS, batch_size=count, progress=False)

    def plain(
        model: nn.Module = model,
        images: Tensor = images,
        attacked: nn.Module | None = None,
        random_start: bool = True,
    ) -> Totals:
        attack = plain_pgd(model if attacked is None else attacked, EPS, ALPHA, STEPS, random_start)
        batches = [(batch, labels) for batch in images.split(count)]
        return plain_audit(model, batches, attack, layers, overwritten)

    fused = compiled_for_images(model, run=compiling and not (device == "cpu" and "resnet50" in name))

    with full_float32():
        wanted = sensitivity_of(plain(random_start=False), count)
        exact = ours(random_start=False, exact=True).sensitivity
    report = ours(random_start=False)
    assert list(exact) == list(report.sensitivity) == list(wanted)
    agreed = f"exact: every neuron {agreement(exact.values(), wanted.values(), EXACT[device])}; as timed: layer means "
    agreed += agreement(map(torch.mean, report.sensitivity.values()), map(torch.mean, wanted.values()), TIMED)

    contest(
        "A whole audit under PGD, all ReLUs",
        {
            "model": name.rpartition(":")[2],
            "images": f"{BATCHES} batches of {count} of {'x'.join(map(str, shape))}",
            "steps": STEPS,
        },
        lambda: ours(many, seed=0),
        rivals={
            "plain PyTorch": lambda: plain(model, many),
            "plain PyTorch, channels_last": lambda: plain(other, many_last),
            "torch.compile": NOT_RUN if fused is None else lambda: plain(model, many, fused),
        },
        floors={ONCE: lambda: ours(images[:1], seed=0)},
        agreed=agreed,
        work=Work(flops=BATCHES * (2 * STEPS + 2) * flops(lambda: model(images))),
        memory=("ours", "plain PyTorch"),
        facts={"measured": f"{len(report.layers)} layers, {report.neurons:,} neurons"},
        seconds=10.0,
    )
