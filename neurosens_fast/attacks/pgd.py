"""PGD: gradient steps, each followed by a projection onto the eps ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurosens_fast import ops

from .base import Attack, Gradient, check_count, check_number


class PGD(Attack):
    """Projected gradient descent (Madry et al., ICLR 2018) in the Linf, L2 or L1 ball.

    ``steps`` steps of length ``alpha`` in ``norm``, each by ``ops.project_step_``, from a random point of the
    ball if ``random_start``: along the sign of the gradient (``"linf"``), along the gradient (``"l2"``), or along
    the sign of its largest elements (``"l1"``, whose steepest ascent moves few of them: SLIDE, Tramer and Boneh,
    NeurIPS 2019). ``sparsity`` is the share of elements that such a step leaves out; 0 takes the gradient itself,
    as foolbox does. ``eps = 0`` and ``steps = 0`` return the input. ``images`` ``[N, *S]`` in
    ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack` for guarantees and errors.

    The random start is uniform in the Linf ball; in the L2 and the L1 ball a random direction (of normal and of
    Laplace noise) with a uniform length, as in torchattacks. It is drawn on the CPU and so the same for every
    device: from a fresh
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
        sparsity: float = 0.99,
    ) -> None:
        super().__init__(model, eps, norm, low, high)
        self.alpha = check_number("alpha", alpha)
        self.steps = check_count("steps", steps)
        self.random_start = bool(random_start)
        self.seed = None if seed is None else check_count("seed", seed)
        if seed is not None and generator is not None:
            raise ValueError("give seed or generator, not both")
        self.generator = generator
        self.sparsity = check_number("sparsity", sparsity)
        if self.sparsity >= 1:
            raise ValueError(f"sparsity must be below 1, got {sparsity}")

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"eps": self.eps, "alpha": self.alpha, "steps": self.steps, "random_start": self.random_start}
        sparsity = {"sparsity": self.sparsity} if self.norm == "l1" else {}
        return {**own, "norm": self.norm, **sparsity, "low": self.low, "high": self.high}

    def perturb(self, images: Tensor, gradient: Gradient) -> Tensor:
        """See :meth:`Attack.perturb`."""
        if not self.steps or not self.eps:
            return images.clone()
        adversarial = self._start(images) if self.random_start else images.clone()
        for _ in range(self.steps):
            change = gradient(adversarial)
            with torch.no_grad():
                self._step_(adversarial, self._largest(change) if self.norm == "l1" else change, images, self.alpha)
        return adversarial

    def _step_(self, adversarial: Tensor, change: Tensor, images: Tensor, alpha: float) -> None:
        ops.project_step_(adversarial, change, images, alpha, self.eps, self.norm, self.low, self.high)

    def _largest(self, change: Tensor) -> Tensor:
        """The signs of each sample's largest elements, 0 elsewhere; ``change`` itself without a sparsity."""
        if not self.sparsity:
            return change
        rows = change.flatten(1)
        count = max(1, round((1 - self.sparsity) * rows.shape[1]))
        chosen = rows.abs().topk(count, dim=1, sorted=False).indices
        return torch.zeros_like(rows).scatter_(1, chosen, rows.gather(1, chosen).sign()).view_as(change)

    @torch.no_grad()
    def _start(self, images: Tensor) -> Tensor:
        adversarial = images + self._noise(images).to(images)
        self._step_(adversarial, torch.zeros_like(images), images, 0.0)
        return adversarial

    def _noise(self, images: Tensor) -> Tensor:
        generator = self.generator if self.seed is None else torch.Generator().manual_seed(self.seed)
        place = torch.device("cpu") if generator is None else generator.device
        wide = torch.float64 if images.dtype == torch.float64 else torch.float32
        noise = torch.empty(images.shape, dtype=wide, device=place)
        if self.norm == "linf":
            return noise.uniform_(-self.eps, self.eps, generator=generator)
        if self.norm == "l2":
            noise.normal_(generator=generator)
        else:
            noise.exponential_(generator=generator)
            noise *= torch.empty_like(noise).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        length = torch.rand(images.shape[0], dtype=wide, device=place, generator=generator) * self.eps
        norms = torch.linalg.vector_norm(noise.flatten(1), 2 if self.norm == "l2" else 1, dim=1)
        return noise * (length / norms).view(-1, *(1,) * (images.dim() - 1))
