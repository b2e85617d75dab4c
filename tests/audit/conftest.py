"""A small model, its data, and a report of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit

MEASURED = ["convolutions", "norms", "linear", "activations"]


def build() -> Any:
    """Convolution, batch norm, ReLU with a dead and a never-moving neuron, linear; in training mode."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4))
    with torch.no_grad():
        model[1].bias.fill_(0.5)
        model[1].bias[2] = -100
        model[0].weight[4] = 0
        model[0].bias[4] = 0.5
    return model.train()


@pytest.fixture
def model() -> Any:
    """See :func:`build`."""
    return build()


@pytest.fixture(scope="session")
def data() -> tuple[Tensor, Tensor]:
    """Images ``[17, 1, 6, 6]`` and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(17, 1, 6, 6, generator=generator), torch.randint(0, 4, (17,), generator=generator)


@pytest.fixture(scope="session")
def report(data: tuple[Tensor, Tensor]) -> AuditReport:
    """An audit of :func:`build` under FGSM; tests do not change it."""
    model = build()
    return audit(model, data, FGSM(model, eps=0.1), MEASURED, batch_size=5, seed=3, data_description="random images")
