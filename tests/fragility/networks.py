"""Networks made by hand, and data that they are right on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneClassPerNeuron(nn.Module):
    """Images ``[N, 4, 1, 1]``: neuron k of ``conv`` is pixel k and the logit of class k; pixel 3 is read by none.

    Dropping neuron k < 3 takes class k away; ``conv`` puts out zero for channel 3, whose neuron is dead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
            self.conv.weight[3] = 0
            self.linear.weight.copy_(torch.eye(4)[:3])
            self.linear.bias.copy_(torch.tensor([0.0, 0.0, 1e-3]))  # nothing at all is class 2

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, 3]``."""
        logits: Tensor = self.linear(self.relu(self.conv(images)).flatten(1))
        return logits


def one_class_each(samples: int = 30) -> tuple[Tensor, Tensor]:
    """Images whose pixel of their class is 1 and all others 0, the classes in turn."""
    labels = torch.arange(samples) % 3
    images = torch.zeros(samples, 4, 1, 1)
    images[torch.arange(samples), labels] = 1
    return images, labels
