"""Small networks for tests of receptive fields and swaps, and ways to look at them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class PixelPerNeuron(nn.Module):
    """Images ``[N, 1, H, W]`` of C pixels: neuron k is pixel k and the logit of class k; ``dead`` neurons are zero."""

    def __init__(self, pixels: int, dead: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(pixels, pixels, bias=False)
        self.alive = nn.Buffer(torch.ones(pixels).index_fill(0, torch.tensor(dead, dtype=torch.int64), 0.0))
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.linear.weight.copy_(torch.eye(pixels))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, C]``."""
        values = self.relu(self.conv(images)).flatten(1) * self.alive
        logits: Tensor = self.linear(values)
        return logits


class Pooled(nn.Module):
    """Convolution, batch norm, ReLU in place, convolution, mean over positions, linear: neurons have a map."""

    def __init__(self, bands: int = 3, neurons: int = 6, classes: int = 4, linear: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(5)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(5, neurons, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(neurons, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        x = self.relu2(self.conv2(self.relu1(self.bn(self.conv1(images)))))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def pooled(bands: int = 3, neurons: int = 6, classes: int = 4, dtype: torch.dtype = torch.float64) -> Pooled:
    """:class:`Pooled` with batch norm statistics that are not those it begins with, in evaluation mode."""
    model = Pooled(bands, neurons, classes)
    with torch.no_grad():
        model.get_buffer("bn.running_mean").uniform_(-0.2, 0.2)
        model.get_buffer("bn.running_var").uniform_(0.5, 2.0)
    return model.to(dtype).eval()


def state(model: nn.Module) -> tuple[Any, ...]:
    """What must be as before afterwards: values, modes, gradients, flags, number of hooks."""
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    flags = [one.requires_grad for one in model.parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return copy.deepcopy((values, modes, gradients, flags, hooks))


@contextmanager
def same_after(model: nn.Module) -> Iterator[None]:
    """Asserts that ``model`` is afterwards as it was, also after an exception."""
    before = state(model)
    try:
        yield
    finally:
        after = state(model)
        assert before[1] == after[1]
        assert before[3:] == after[3:]
        for first, second in zip(before[2], after[2], strict=True):
            assert (first is None) == (second is None)
            assert first is None or torch.equal(first, second)
        for name, value in before[0].items():
            assert torch.equal(value, after[0][name]), name
