"""Small networks for these tests: the same one with every kind of tap, a residual one, batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neurosens_fast.nn import SensitivityTap, Tapped, TappedReLU

KINDS: dict[str, Callable[[], nn.Module]] = {
    "hook": nn.ReLU,
    "hook, in place": lambda: nn.ReLU(inplace=True),
    "TappedReLU": TappedReLU,
    "TappedReLU, in place": lambda: TappedReLU(inplace=True),
    "Tapped": lambda: Tapped(nn.ReLU()),
    "SensitivityTap": lambda: nn.Sequential(nn.ReLU(), SensitivityTap()),
}
"""Ways to measure a ReLU."""


class Small(nn.Module):
    """Two convolutions with batch norm and ReLU, a linear layer with ReLU; ``[N, 2, 6, 6]`` to logits ``[N, 3]``."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU, replay: bool | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), activation()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(6, 9, 3), nn.BatchNorm2d(9), activation()
        self.fc, self.act3, self.head = nn.Linear(9 * 4, 7), activation(), nn.Linear(7, 3)
        self.replay = replay
        """``use_reentrant`` of the checkpointed convolutions; None: not checkpointed."""

    def convolutions(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        replay = self.replay
        x = self.convolutions(x) if replay is None else checkpoint(self.convolutions, x, use_reentrant=replay)
        logits: Tensor = self.head(self.act3(self.fc(x)))
        return logits


LAYERS = ["act1", "act2", "act3"]


def small(kind: str = "hook", dtype: torch.dtype = torch.float64, **settings: Any) -> Small:
    """The network of one fixed seed, in evaluation mode, with running statistics unlike 0 and 1."""
    torch.manual_seed(5)
    model = Small(KINDS[kind], **settings).to(dtype)
    for norm in (model.bn1, model.bn2):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return model.eval()


class Shared(nn.Module):
    """One ReLU called twice, as in residual blocks; ``[N, 4]`` to ``[N, 3]``."""

    def __init__(self, replay: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.relu, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
        self.replay = replay

    def block(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.relu(self.second(x) + x)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, x, use_reentrant=False) if self.replay else self.block(x)
        logits: Tensor = self.head(x)
        return logits


def batch(samples: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Benign and adversarial inputs of :class:`Small` and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 2, 6, 6, generator=generator, dtype=dtype)
    x_adv = x + 0.2 * torch.randn(x.shape, generator=generator, dtype=dtype)
    return x, x_adv, torch.randint(3, (samples,), generator=generator)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters' gradients by name, which are set to None."""
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return {name.replace("_orig_mod.", ""): gradient for name, gradient in found.items()}
