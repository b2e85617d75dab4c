"""FGSM and FFGSM: one signed-gradient step, from the input or from a random start."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from .arguments import check_number
from .base import Options
from .problem import Problem
from .start import random_start
from .steps import StepAttack


class FGSM(StepAttack):
    """Fast gradient sign method (Goodfellow et al., ICLR 2015): ``x + eps sign(grad)``, clamped to ``[low, high]``.

    ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack`
    for guarantees and errors. ``eps = 0`` returns the input.

    Equivalent to::

        x.requires_grad_(True)
        grad = torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]
        return (x + eps * grad.sign()).clamp(low, high)
    """

    steps = 1

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, eps, "linf", low, high, **options)

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        return {"eps": self.eps, "low": self.low, "high": self.high}

    def step(self, adversarial: Tensor, gradient: Tensor, origin: Tensor, *state: Tensor) -> None:
        """See :meth:`StepAttack.step`."""
        self.move(adversarial, gradient, origin, self.eps)


class FFGSM(StepAttack):
    """FGSM from a random start (Wong et al., Fast is better than free, ICLR 2020): one step of ``alpha``.

    ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack` for
    guarantees, errors and ``seed``. ``eps = 0`` returns the input.

    Equivalent to::

        x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(low, high)
        x_adv = x_adv + alpha * grad_of_cross_entropy(x_adv).sign()
        return torch.min(torch.max(x_adv, x - eps), x + eps).clamp(low, high)
    """

    steps = 1
    random_start = True

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 10 / 255,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, eps, "linf", low, high, **options)
        self.alpha = check_number("alpha", alpha)

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        return {"eps": self.eps, "alpha": self.alpha, "low": self.low, "high": self.high}

    def start(self, problem: Problem) -> Tensor:
        """See :meth:`StepAttack.start`."""
        return random_start(self, problem)

    def step(self, adversarial: Tensor, gradient: Tensor, origin: Tensor, *state: Tensor) -> None:
        """See :meth:`StepAttack.step`."""
        self.move(adversarial, gradient, origin, self.alpha)
