"""Nodal dropout of one layer: all that a call of ``nodal_dropout`` does, against the loop that is written by hand.

The loop runs the whole network once for each neuron, with a hook that sets its channel to zero, in inference mode, on
contiguous and on channels_last images and weights. Times are per neuron and per image; the call is given fewer
neurons than the layer has, which counts the work that is done once for each batch too high. ``bound`` is the number of
operations of the whole network over those of the part that is run anew, by ``torch.utils.flop_counter``: what cutting
alone could gain. The network has random weights and batch norm statistics of the images; of a trained one more
channels are zero, and are not run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neurosens_fast.fragility import nodal_dropout
from neurosens_fast.fragility.dropped import SplitDropped
from neurosens_fast.fragility.place import find_place
from neurosens_fast.models import load_model

from .interleaved import ratio, run_interleaved

IMAGES = 1000
BATCH = 125
CASES = {"conv1": 4, "layer2.0.conv1": 4, "layer3.0.conv1": 8, "layer4.0.conv1": 16, "layer4.1.conv2": 16}
"""Layers of the network, and how many of their neurons a timed call drops."""


def network(images: Tensor, device: str) -> nn.Module:
    """CIFAR ResNet-18 in evaluation mode."""
    model = load_model("cifar-resnet18").to(device).train()
    with torch.no_grad():
        for batch in images.split(BATCH):
            model(batch)
    return model.eval()


def unchanged(model: nn.Module, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack that takes no time, so that dropping is what is timed."""
    return lambda x, y: x


def loop(model: nn.Module, zeroed: str, neurons: range, images: Tensor) -> Tensor:
    """Logits ``[K, N, classes]`` with each neuron dropped, by a hook."""
    found = []
    with torch.inference_mode():
        for neuron in neurons:

            def drop(module: nn.Module, inputs: Any, output: Tensor, neuron: int = neuron) -> Tensor:
                output[:, neuron] = 0
                return output

            handle = model.get_submodule(zeroed).register_forward_hook(drop)
            found.append(torch.cat([model(batch) for batch in images.split(BATCH)]))
            handle.remove()
    return torch.stack(found)


def flops(run: Callable[[], Any]) -> int:
    """Operations of a forward."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def check_equal(model: nn.Module, split: SplitDropped, zeroed: str, images: Tensor) -> int:
    """Every prediction of the loop comes out, but where its two best logits are within 1e-4; returns how many were."""
    neurons = range(3)
    theirs = loop(model, zeroed, neurons, images)
    close = 0
    split.load(images)
    for neuron, wanted in zip(neurons, theirs, strict=True):
        samples = torch.arange(len(images), device=images.device)
        ours = split.logits(samples, torch.full_like(samples, neuron))
        best = wanted.topk(2).values
        other = ours.argmax(1) != wanted.argmax(1)
        assert not bool((other & (best[:, 0] - best[:, 1] >= 1e-4)).any())
        close += int(other.sum())
    return close


@pytest.mark.parametrize("layer", list(CASES))
def bench_nodal_dropout(layer: str, device: str, benchmark: Any, table: Any) -> None:
    torch.manual_seed(0)
    images = torch.rand(IMAGES, 3, 32, 32, device=device)
    labels = torch.randint(0, 10, (IMAGES,), device=device)
    model = network(images, device)
    last = network(images, device).to(memory_format=torch.channels_last)
    last_images = images.contiguous(memory_format=torch.channels_last)
    place = find_place(model, layer, "after_norm", images[:3])
    split = SplitDropped(model, place, images[:3], None)
    check_equal(model, split, place.zeroed, images[:250])
    split.load(images[:8])
    rest = flops(lambda: split.logits(torch.arange(8, device=device), torch.zeros(8, dtype=torch.int64, device=device)))
    whole = flops(lambda: loop(model, place.zeroed, range(1), images[:8]))
    neurons = CASES[layer]
    notes: list[str] = []

    def ours() -> None:
        report = nodal_dropout(
            *(model, (images, labels), layer, unchanged, [0.0]),
            neurons=range(neurons),
            batch_size=BATCH,
            progress=False,
        )
        notes[:] = report.notes[1:]

    others = {
        "loop": lambda: loop(model, place.zeroed, range(1), images),
        "loop, channels_last": lambda: loop(last, place.zeroed, range(1), last_images),
    }
    times = run_interleaved(benchmark, ours, others, device, seconds=60.0)
    dropped = [seconds / (2 * neurons) for seconds in times["ours"]]  # clean and "attacked" images
    gains = {way: ratio(times[way], dropped) for way in others}
    benchmark.extra_info.update({f"{way}_over_ours": gain.median for way, gain in gains.items()})
    table(
        f"Nodal dropout of CIFAR ResNet-18, {device}, {IMAGES:,} images, batches of {BATCH}",
        {
            "layer": layer,
            "neurons": f"{neurons} of {place.channels}",
            "ms per neuron": f"{sorted(dropped)[len(dropped) // 2] * 1e3:.0f}",
            "bound": f"{whole / rest:.2f}",
            **{f"{way} / ours": str(gain) for way, gain in gains.items()},
            "not run again": notes[0].partition(" ")[0] if notes else "0%",
        },
    )
