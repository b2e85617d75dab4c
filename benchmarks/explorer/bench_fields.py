"""Exact receptive fields of all positions of a map, against gradients by hand.

Ours carries intervals of pixels through a trace of the network. By hand: one forward, and for each position the pixels
whose gradient is not zero, of the sum over the layer's channels. Gradients miss pixels behind a ReLU that is off;
with random weights and many channels both give the same boxes, which is checked.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.benchmarking.contest import Contest
from neurosens_fast.explorer.neuron_layer import find_neuron_layer
from neurosens_fast.explorer.receptive_field import geometry
from neurosens_fast.models import load_model

CASES = [
    pytest.param("digits-cnn", "conv3", (1, 8, 8), id="digits-cnn"),
    pytest.param("cifar-resnet18", "layer3.0.conv1", (3, 32, 32), id="cifar-resnet18", marks=pytest.mark.full),
]


def by_hand(model: nn.Module, layer: str, image: Tensor) -> Tensor:
    """Boxes ``[P, 4]``: top, left, bottom, right, the last two exclusive."""
    leaf = image.clone().requires_grad_()
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    model(leaf)
    handle.remove()
    boxes = []
    for value in kept[0].sum(1).flatten():
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        rows, columns = (gradient != 0).any(1)[0].nonzero(as_tuple=True)
        boxes.append(torch.stack((rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)))
    return torch.stack(boxes).cpu()


@pytest.mark.parametrize(("name", "layer", "size"), CASES)
def bench_receptive_fields(name: str, layer: str, size: tuple[int, ...], device: str, contest: Contest) -> None:
    model = load_model(name).to(device)
    image = torch.rand(1, *size, device=device)
    neurons = find_neuron_layer(model, layer, image)

    def ours() -> Tensor:
        fields, reason = geometry(model, neurons, image)
        assert fields is not None, reason
        return fields.boxes

    boxes = ours()
    assert torch.equal(boxes, by_hand(model, layer, image)), "other boxes"
    contest(
        "Receptive fields of all positions of a map",
        {"model": name, "layer": layer, "positions": str(len(boxes))},
        ours,
        rivals={"gradients": lambda: by_hand(model, layer, image)},
        agreed="same boxes",
        seconds=3.0,
    )
