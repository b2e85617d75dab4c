"""Networks and samples for the tests of attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def uneven(model: Any, dtype: torch.dtype = torch.float64) -> Any:
    """``model`` in evaluation mode with running statistics and scales as after training."""
    generator = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.3)
            if module.weight is not None:
                with torch.no_grad():
                    module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                    module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return model.to(dtype).eval()


def convolutional(dtype: torch.dtype = torch.float32, classes: int = 5) -> Any:
    """``[N, 3, 8, 8]`` to logits, with two foldable batch norms; seeded."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(72, classes)),
    )
    return uneven(model, dtype)


def images(count: int = 6, dtype: torch.dtype = torch.float32, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Images ``[count, 3, 8, 8]`` and labels."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(0, classes, (count,), generator=generator)


def blobs(count: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes of ``[count, 3, 4, 4]`` images in [0, 1]: a brighter channel in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    x = 0.35 + 0.3 * torch.rand(count, 3, 4, 4, generator=generator)
    x[torch.arange(count), y] += 0.12
    return x.clamp(0, 1), y


def trained(build: Callable[[], Any] | None = None) -> Any:
    """A small network that is right on nearly all of ``blobs()``, with batch norm; in evaluation mode."""
    torch.manual_seed(3)
    model = build() if build else small()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    x, y = blobs(256, seed=1)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


def small() -> nn.Sequential:
    """The network of :func:`trained`, untrained."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
    )


class Counted(nn.Module):
    """Counts forwards and the samples in them, outside of its attributes, so that it can still be traced."""

    forwards: list[int] = []  # noqa: RUF012

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_forward_hook(lambda module, inputs, output: Counted.forwards.append(len(output)))
        Counted.forwards.clear()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def distances(result: Tensor, x: Tensor, norm: str) -> Tensor:
    """How far each sample went, in float64."""
    change = result.double() - x.double()
    return torch.linalg.vector_norm(change.flatten(1), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)


def largest_difference(first: Tensor, second: Tensor) -> float:
    return float((first.double() - second.double()).abs().max())
