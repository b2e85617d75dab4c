"""A small network to try things on, and the wrapper for networks that want normalised input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class DigitsCNN(nn.Module):
    """Three convolutions with batch norm and ReLU, then two linear layers, for digits ``[N, 1, 8, 8]``.

    Returns logits ``[N, classes]``. About 58,000 parameters; learns scikit-learn's digits to 99 % in
    seconds on a CPU. Every activation is a module with a name of its own.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.fc4 = nn.Linear(64 * 2 * 2, 128)
        self.relu4 = nn.ReLU()
        self.logits = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 1, 8, 8]``."""
        x = self.relu1(self.bn1(self.conv1(images)))
        x = self.pool2(self.relu2(self.bn2(self.conv2(x))))
        x = self.pool3(self.relu3(self.bn3(self.conv3(x))))
        logits: Tensor = self.logits(self.relu4(self.fc4(x.flatten(1))))
        return logits


class Normalized(nn.Module):
    """``model((x - mean) / std)``: lets attacks work on ``[0, 1]`` when the network wants normalised input.

    ``mean`` and ``std`` hold one number per channel of ``x`` ``[N, C, *S]``, or one for all. They are
    buffers: they move with the module and follow the dtype of the input. The network's layers get the
    prefix ``model.``.

    Raises ``ValueError`` if the lengths differ or a ``std`` is not positive and finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] | float, std: Sequence[float] | float) -> None:
        super().__init__()
        means, stds = (torch.as_tensor(value, dtype=torch.float64).flatten() for value in (mean, std))
        if means.shape != stds.shape or not means.numel():
            raise ValueError(f"mean and std need one number per channel each, got {means.numel()} and {stds.numel()}")
        if not (means.isfinite().all() and stds.isfinite().all() and (stds > 0).all()):
            raise ValueError(f"mean must be finite and std positive, got {means.tolist()} and {stds.tolist()}")
        self.model = model
        self.register_buffer("mean", means.float(), persistent=False)
        self.register_buffer("std", stds.float(), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """The model's output for the normalised ``x`` ``[N, C, *S]``; ``ValueError`` for another number of channels."""
        channels = self.mean.numel()
        if x.dim() < 2 or channels not in (1, x.shape[1]):
            raise ValueError(f"mean and std hold {channels} channels, the input is {list(x.shape)}")
        shape = (1, -1, *(1,) * (x.dim() - 2))
        return self.model((x - self.mean.to(x.dtype).view(shape)) / self.std.to(x.dtype).view(shape))
