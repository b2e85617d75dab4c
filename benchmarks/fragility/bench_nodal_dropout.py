"""Nodal dropout of one layer, all that a call of ``nodal_dropout`` does, against the loop that is written by hand.

The loop runs the whole network once for each neuron, with a hook that sets its channel to zero, in inference mode, on
contiguous and on channels_last images and weights. A timed call of ours drops many neurons of few images, clean and
"attacked" by an attack that takes no time; the loop drops one, since each takes it equally long. Both times are then
brought to one neuron and 1,000 images, with which they grow. What a call does once (tracing) and once for each batch
(the part before the layer, the network with nothing dropped) counts more than in a call with all neurons and images.

The roof is for the operations of our call. ``bound``: those of the whole network over those of the part that is run
anew, by ``torch.utils.flop_counter``: what cutting alone could gain. Networks have random weights and batch norm
statistics of the images; of a trained one more channels are zero, and are not run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.benchmarking.contest import Contest, agreement
from neurosens_fast.benchmarking.results import OURS
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.benchmarking.tables import three_digits
from neurosens_fast.fragility import nodal_dropout
from neurosens_fast.fragility.dropped import SplitDropped
from neurosens_fast.fragility.place import Place, find_place
from neurosens_fast.fragility.report import FragilityReport
from neurosens_fast.models import load_model

from ..networks import channels_last, flops

IMAGES, BATCH = 1000, 125
ROUNDING = {"cpu": 1e-4, "cuda": 1e-2}
"""How far apart logits may be, of the largest: on CUDA convolutions may take TF32."""


class Case(NamedTuple):
    """A layer, how many of its neurons a call of ours drops, and how many images it sees on a CPU; images of the loop.

    On CUDA both see all images.
    """

    model: str
    layer: str
    neurons: int
    images: int
    of_loop: int


CASES = [
    Case("mnist-cnn", "conv2", 32, 125, 125),
    Case("cifar-resnet18", "conv1", 16, 64, 64),
    Case("cifar-resnet18", "layer3.0.conv1", 32, 64, 64),
    Case("cifar-resnet18", "layer4.0.conv1", 64, 64, 64),
    Case("cifar-resnet18", "layer4.1.conv2", 512, 64, 64),
]
SHAPES_OF = {"mnist-cnn": (1, 28, 28), "cifar-resnet18": (3, 32, 32)}
PARAMETERS = [
    pytest.param(case, id=f"{case.model}-{case.layer}", marks=[pytest.mark.full] * (case.model != "mnist-cnn"))
    for case in CASES
]


def network(name: str, images: Tensor) -> nn.Module:
    """The network in evaluation mode, with the statistics of the images."""
    model = load_model(name).to(images.device).train()
    with torch.no_grad():
        model(images)
    return model.eval()


def unchanged(model: nn.Module, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack that takes no time, so that dropping is what is timed."""
    return lambda x, y: x


def dropped(model: nn.Module, layer: str, neurons: int, images: Tensor, labels: Tensor) -> FragilityReport:
    """Our call."""
    return nodal_dropout(
        *(model, (images, labels), layer, unchanged, [0.0]),
        neurons=range(neurons),
        batch_size=BATCH,
        progress=False,
    )


@torch.inference_mode()
def loop(model: nn.Module, zeroed: str, neurons: int, images: Tensor) -> Tensor:
    """Logits ``[K, N, classes]`` with each neuron dropped, by a hook."""
    found = []
    for neuron in range(neurons):

        def drop(module: nn.Module, inputs: Any, output: Tensor, neuron: int = neuron) -> Tensor:
            output[:, neuron] = 0
            return output

        handle = model.get_submodule(zeroed).register_forward_hook(drop)
        found.append(torch.cat([model(batch) for batch in images.split(BATCH)]))
        handle.remove()
    return torch.stack(found)


def check_equal(model: nn.Module, place: Place, split: SplitDropped, images: Tensor, labels: Tensor) -> str:
    """Logits without a neuron, and what the report counts of them, are those of the loop."""
    neurons, rounding = 2, ROUNDING[images.device.type]
    wanted = loop(model, place.zeroed, neurons, images)
    split.load(images)
    samples = torch.arange(len(images), device=images.device)
    found = torch.stack([split.logits(samples, torch.full_like(samples, neuron)) for neuron in range(neurons)])
    agreed = agreement([found], [wanted], rounding)
    right = (wanted.argmax(2) == labels).sum(1).cpu()
    counted = dropped(model, place.layer, neurons, images, labels).accuracy(clean=True) * len(images)
    best = wanted.topk(2).values
    undecided = (best[..., 0] - best[..., 1] < 2 * rounding * wanted.abs().max()).sum(1).cpu()
    assert bool(((counted - right).abs() <= undecided + 1e-6).all()), f"{counted} right instead of {right}"
    return f"logits {agreed}"


@pytest.mark.parametrize("case", PARAMETERS)
def bench_nodal_dropout(case: Case, device: str, contest: Contest) -> None:
    count, of_loop = (8, 8) if contest.quick else case[3:] if device == "cpu" else (IMAGES, IMAGES)
    images = torch.rand(max(count, of_loop), *SHAPES_OF[case.model], device=device)
    labels = torch.randint(0, 10, (len(images),), device=device)
    model = network(case.model, images[:64])
    last, last_images = channels_last(model, images)
    place = find_place(model, case.layer, "after_norm", images[:3])
    split = SplitDropped(model, place, images[:3], None)
    agreed = check_equal(model, place, split, images[:32], labels[:32])
    few, one = images[:8], torch.zeros(8, dtype=torch.int64, device=device)
    split.load(few)
    rest = flops(lambda: split.logits(torch.arange(8, device=device), one)) / 8
    whole = flops(lambda: loop(model, place.zeroed, 1, few)) / 8
    split.load(images[:count])
    zero = split.unaffected()
    spared = 0.0 if zero is None else float(zero[:, : case.neurons].double().mean())
    contest(
        f"Nodal dropout: one neuron, {IMAGES:,} images",
        {"model": case.model, "layer": case.layer, "neurons of a call": f"{case.neurons} of {place.channels}"},
        lambda: dropped(model, case.layer, case.neurons, images[:count], labels[:count]),
        rivals={
            "loop": lambda: loop(model, place.zeroed, 1, images[:of_loop]),
            "loop, channels_last": lambda: loop(last, place.zeroed, 1, last_images[:of_loop]),
        },
        agreed=agreed,
        work=Work(flops=int(IMAGES * ((1 - spared) * rest + whole / case.neurons))),
        facts={"bound": three_digits(whole / rest), "not run again": f"{spared:.0%}"},
        shares={
            OURS: 2 * case.neurons * count / IMAGES,
            "loop": of_loop / IMAGES,
            "loop, channels_last": of_loop / IMAGES,
        },
        seconds=30.0,
    )
