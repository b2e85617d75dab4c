"""MI-FGSM: signed steps along a gradient with momentum."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from neurosens_fast import ops

from . import plain
from .arguments import check_count, check_number
from .base import Options
from .problem import Problem
from .steps import StepAttack


class MIFGSM(StepAttack):
    """Momentum iterative FGSM (Dong et al., CVPR 2018) in the Linf ball, for examples that transfer.

    ``momentum = decay * momentum + grad / mean|grad|`` per sample, then a step of ``alpha`` along its sign. ``images``
    ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack` for guarantees and
    errors. ``eps = 0`` and ``steps = 0`` return the input. torchattacks divides by the mean too; the paper divides by
    the L1 norm, which changes every step alike.

    Equivalent to::

        for _ in range(steps):
            grad = grad_of_cross_entropy(x_adv)
            momentum = decay * momentum + grad / grad.abs().mean((1, 2, 3), keepdim=True)
            x_adv = x_adv + alpha * momentum.sign()
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(low, high)
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        decay: float = 1.0,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, eps, "linf", low, high, **options)
        self.alpha = check_number("alpha", alpha)
        self.steps = check_count("steps", steps)
        self.decay = check_number("decay", decay)

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"eps": self.eps, "alpha": self.alpha, "steps": self.steps, "decay": self.decay}
        return {**own, "low": self.low, "high": self.high}

    def state(self, problem: Problem) -> tuple[Tensor, ...]:
        """The momentum."""
        return (torch.zeros_like(problem.origin),)

    def step(self, adversarial: Tensor, gradient: Tensor, origin: Tensor, *state: Tensor) -> None:
        """See :meth:`StepAttack.step`."""
        if self.switches["exact"]:
            plain.add_momentum_(state[0], gradient, self.decay)
            self.move(adversarial, state[0], origin, self.alpha)
            return
        sizes = (self.alpha, self.eps, self.decay)
        ops.momentum_step_(adversarial, state[0], gradient, origin, *sizes, "linf", self.low, self.high)
