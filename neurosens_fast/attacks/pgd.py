"""PGD: gradient steps, each followed by a projection onto the eps ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurosens_fast import ops

from .base import Attack, Gradient, check_count, check_number
from .projection import normalized, project_l2


class PGD(Attack):
    """Projected gradient descent (Madry et al., ICLR 2018) in the Linf or L2 ball.

    ``steps`` steps of size ``alpha`` along the sign of the gradient (``norm="linf"``) or along the
    gradient divided by its L2 norm per sample (``norm="l2"``), from a random point of the ball if
    ``random_start``. ``eps = 0`` and ``steps = 0`` return the input. ``images`` ``[N, *S]`` in
    ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack` for guarantees and errors.

    The random start is uniform in the Linf ball; in the L2 ball a random direction with a uniform
    length, as in torchattacks. It is drawn on the CPU and so the same for every device: from a fresh
    stream of ``seed`` at each call (the same input gives the same result), from ``generator``, or from
    torch's global generator if neither is given.

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
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, eps, norm, low, high)
        self.alpha = check_number("alpha", alpha)
        self.steps = check_count("steps", steps)
        self.random_start = bool(random_start)
        self.seed = None if seed is None else check_count("seed", seed)
        if seed is not None and generator is not None:
            raise ValueError("give seed or generator, not both")
        self.generator = generator

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"eps": self.eps, "alpha": self.alpha, "steps": self.steps, "random_start": self.random_start}
        return {**own, "norm": self.norm, "low": self.low, "high": self.high}

    def perturb(self, images: Tensor, gradient: Gradient) -> Tensor:
        """See :meth:`Attack.perturb`."""
        adversarial = images.clone()
        if not self.steps or not self.eps:
            return adversarial
        if self.random_start:
            adversarial = self._start(images)
        for _ in range(self.steps):
            change = gradient(adversarial)
            with torch.no_grad():
                if self.norm == "linf":
                    ops.project_step_(adversarial, change, images, self.alpha, self.eps, "linf", self.low, self.high)
                else:
                    stepped = adversarial.double() + self.alpha * normalized(change)
                    adversarial = project_l2(stepped, images, self.eps, self.low, self.high)
        return adversarial

    @torch.no_grad()
    def _start(self, images: Tensor) -> Tensor:
        generator = self.generator if self.seed is None else torch.Generator().manual_seed(self.seed)
        place = torch.device("cpu") if generator is None else generator.device
        wide = torch.float64 if images.dtype == torch.float64 else torch.float32
        if self.norm == "linf":
            noise = torch.empty(images.shape, dtype=wide, device=place)
            noise.uniform_(-self.eps, self.eps, generator=generator)
            adversarial = images + noise.to(images)
            still = torch.zeros_like(images)
            ops.project_step_(adversarial, still, images, 0.0, self.eps, "linf", self.low, self.high)
            return adversarial
        direction = torch.randn(images.shape, dtype=wide, device=place, generator=generator)
        length = torch.rand(images.shape[0], dtype=wide, device=place, generator=generator) * self.eps
        noise = normalized(direction) * length.double().view(-1, *(1,) * (images.dim() - 1))
        return project_l2(images.double() + noise.to(images.device), images, self.eps, self.low, self.high)
