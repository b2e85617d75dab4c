"""Small networks for explorations, and data for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pooled(nn.Module):
    """Images ``[N, bands, H, W]``: two convolutions, global average pooling, a linear layer; every place has a name."""

    def __init__(self, bands: int = 3, neurons: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, neurons, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.linear = nn.Linear(neurons, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        maps = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def pooled(bands: int = 3, neurons: int = 8) -> Pooled:
    """:class:`Pooled` with the same random weights every time, large enough for attacks to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Pooled(bands, neurons)
        with torch.no_grad():
            model.linear.weight.mul_(8)
    return model.eval()


def images(count: int = 24, bands: int = 3, side: int = 9, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Random images in 0..1 and labels, the classes in turn."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, bands, side, side, generator=generator), torch.arange(count) % classes
