"""Steps in the arithmetic of a plain loop in PyTorch, for exact mode.

A step of ours differs from such a loop in the last bit at the border of the ball, and a model may turn that into other
signs of the next gradient. In exact mode the loop runs as torchattacks and foolbox run it, and only its result is
brought inside the ball.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import widened


def step_(
    adversarial: Tensor,
    gradient: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    norm: str,
    low: float,
    high: float,
) -> None:
    """One step in the Linf or L2 ball, in place; arguments as those of ``ops.project_step_``."""
    if norm == "linf":
        moved = adversarial + step_size * gradient.sign()
        change = (moved - origin).clamp(-epsilon, epsilon)
    else:
        # As foolbox does it; torchattacks adds 1e-10 to a length that shrinks with the batch size.
        direction = gradient * (1 / _lengths(gradient).clamp(min=1e-12))
        change = adversarial + step_size * direction - origin
        change = change * (epsilon / _lengths(change)).clamp(max=1)
    adversarial.copy_((origin + change).clamp(low, high))


def add_momentum_(momentum: Tensor, gradient: Tensor, decay: float) -> None:
    """``decay * momentum + gradient / mean|gradient|`` per sample, in place; a zero gradient adds nothing."""
    means = gradient.flatten(1).abs().mean(1)
    means = torch.where(means == 0, 1.0, means).view(-1, *(1,) * (gradient.dim() - 1))
    momentum.copy_(gradient / means + momentum * decay)


def _lengths(images: Tensor) -> Tensor:
    """L2 norm per sample, added up as foolbox does, in float32 or wider: 16 bits would not hold the bound above."""
    rows = widened(images.flatten(1))
    return rows.square().sum(1).sqrt().view(-1, *(1,) * (images.dim() - 1))
