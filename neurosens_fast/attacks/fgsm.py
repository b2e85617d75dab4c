"""FGSM: one signed-gradient step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurosens_fast import ops

from .base import Attack, Gradient


class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al., ICLR 2015): ``x + eps sign(grad)``, clamped to ``[low, high]``.

    ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack`
    for guarantees and errors. ``eps = 0`` returns the input.

    Equivalent to::

        x.requires_grad_(True)
        grad = torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]
        return (x + eps * grad.sign()).clamp(low, high)
    """

    def __init__(self, model: nn.Module, eps: float = 8 / 255, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(model, eps, "linf", low, high)

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        return {"eps": self.eps, "low": self.low, "high": self.high}

    def perturb(self, images: Tensor, gradient: Gradient) -> Tensor:
        """See :meth:`Attack.perturb`."""
        adversarial, change = images.clone(), gradient(images)
        with torch.no_grad():
            ops.project_step_(adversarial, change, images, self.eps, self.eps, "linf", self.low, self.high)
        return adversarial
