"""Reports and networks made by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurosens_fast.fragility import Counts, FragilityReport


def made_report(
    correct: list[int] | None = None,
    lost: list[list[int]] | None = None,
    gained: list[list[int]] | None = None,
    samples: int = 100,
) -> FragilityReport:
    """A report of three neurons at eps 0.05 and 0.1."""
    counts = Counts(
        torch.tensor(correct or [95, 70, 30]),
        torch.tensor(lost or [[10, 8, 1], [0, 0, 0], [3, 2, 2]]),
        torch.tensor(gained or [[1, 2, 0], [0, 0, 0], [0, 5, 9]]),
        torch.zeros(3, 3, dtype=torch.int64),
        samples,
    )
    counts.joint[:, 0] = counts.lost[:, 0] + counts.gained[:, 0]
    return FragilityReport(
        layer="conv",
        zeroed="norm",
        module_type="Conv2d",
        channels=4,
        neurons=(0, 1, 3),
        eps=(0.05, 0.1),
        counts=counts,
        where="after_norm",
        protocol="fixed",
        model="made",
        attack="FGSM",
        data="made",
        dtype="float32",
        device="cpu",
        seed=0,
        versions={"torch": "2"},
        notes=("made by hand",),
    )


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
