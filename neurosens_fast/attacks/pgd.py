"""PGD and BIM: gradient steps, each followed by a projection onto the eps ball."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from .arguments import check_count, check_number
from .base import Options
from .problem import Problem
from .start import random_start
from .steps import StepAttack


class PGD(StepAttack):
    """Projected gradient descent (Madry et al., ICLR 2018) in the Linf, L2 or L1 ball.

    ``steps`` steps of size ``alpha`` along the direction of steepest ascent, each followed by the projection onto the
    ball and ``[low, high]``, from a random point of the ball if ``random_start``. ``eps = 0`` and ``steps = 0`` return
    the input. ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack`
    for guarantees, errors, losses, ``seed`` and switches.

    The direction is the sign of the gradient (``norm="linf"``), the gradient over its L2 norm per sample (``"l2"``),
    or the signs of the share ``1 - sparsity`` of its largest elements (``"l1"``; SLIDE, Tramèr and Boneh, NeurIPS
    2019), divided by their number. ``sparsity=0`` takes the whole gradient over its L1 norm.

    The random start is uniform in the Linf ball; in the L2 and L1 ball a random direction with a uniform length, as in
    torchattacks. It is drawn on the CPU and so the same for every device.

    Equivalent to (Linf)::

        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(low, high)
        for _ in range(steps):
            x_adv = x_adv + alpha * grad_of_cross_entropy(x_adv).sign()
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(low, high)
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        norm: str = "linf",
        low: float = 0.0,
        high: float = 1.0,
        sparsity: float = 0.99,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, eps, norm, low, high, **options)
        self.alpha = check_number("alpha", alpha)
        self.steps = check_count("steps", steps)
        self.random_start = bool(random_start)
        self.sparsity = check_number("sparsity", sparsity)
        if not self.sparsity < 1:
            raise ValueError(f"sparsity is the share of elements left out and must be below 1, got {sparsity}")

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"eps": self.eps, "alpha": self.alpha, "steps": self.steps, "random_start": self.random_start}
        sparse = {"sparsity": self.sparsity} if self.norm == "l1" else {}
        return {**own, "norm": self.norm, **sparse, "low": self.low, "high": self.high}

    def start(self, problem: Problem) -> Tensor:
        """See :meth:`StepAttack.start`."""
        return random_start(self, problem) if self.random_start else super().start(problem)

    def step(self, adversarial: Tensor, gradient: Tensor, origin: Tensor, *state: Tensor) -> None:
        """See :meth:`StepAttack.step`."""
        if self.norm == "l1" and self.sparsity:
            gradient = _signs_of_largest(gradient, self.sparsity)
        self.move(adversarial, gradient, origin, self.alpha)


class BIM(PGD):
    """Basic iterative method (Kurakin et al., ICLR 2017 workshop): PGD in the Linf ball that starts from the input.

    ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`PGD`, whose loop it
    shares. ``eps = 0`` and ``steps = 0`` return the input.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, eps, alpha, steps, False, "linf", low, high, **options)

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        return {"eps": self.eps, "alpha": self.alpha, "steps": self.steps, "low": self.low, "high": self.high}


def _signs_of_largest(gradient: Tensor, sparsity: float) -> Tensor:
    """The signs of the largest elements of each sample, zero elsewhere; NaN stays."""
    rows = gradient.flatten(1)
    kept = max(1, round((1 - sparsity) * rows.shape[1]))
    largest = rows.abs().topk(kept, dim=1).indices
    sparse = torch.zeros_like(rows).scatter(1, largest, rows.gather(1, largest).sign())
    return torch.where(rows.isnan(), rows, sparse).view_as(gradient).to(memory_format=torch.preserve_format)
