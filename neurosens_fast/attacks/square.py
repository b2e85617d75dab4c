"""Square attack: random squares, no gradients. It shows where a model merely hides its gradient."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from .arguments import check_count, check_number
from .base import Attack, Options
from .losses import margin, widened
from .noise import Noise
from .problem import Problem
from .steps import project_

# Query number (of 10,000) from which on the share of pixels in a square is halved once more.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BLOCK = 64  # queries whose random numbers are drawn at once


class Square(Attack):
    """Square attack (Andriushchenko et al., ECCV 2020) in the Linf ball: at most ``n_queries`` forwards, no gradient.

    Starts from random vertical stripes and tries, query by query, squares of random place and sign per channel; one is
    kept where the margin falls. The share ``p_init`` of pixels in a square shrinks on the authors' schedule, scaled to
    ``n_queries``. A sample that fell is asked no more; every sample draws its own squares (the authors' code shares
    them within a batch). ``images`` ``[N, C, H, W]``, ``[N, H, W]`` or ``[N, F]`` in ``[low, high]``, ``labels``
    ``[N]``; returns the same shape. See :class:`Attack` for guarantees, errors, ``seed`` and switches. ``loss`` cannot
    be set. ``eps = 0`` and ``n_queries = 0`` return the input.
    """

    needs_gradient = False
    own_rule = "Square asks no more about samples that fell"

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        n_queries: int = 5000,
        p_init: float = 0.8,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        if "loss" in options:
            raise TypeError("Square goes by the margin; leave out loss")
        super().__init__(model, eps, "linf", low, high, **options)
        self.n_queries = check_count("n_queries", n_queries)
        self.p_init = check_number("p_init", p_init)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is a share of the pixels and must lie in (0, 1], got {p_init}")

    def evaluations(self) -> int:
        """Forwards of one call, at most."""
        return self.n_queries if self.eps else 0

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"eps": self.eps, "n_queries": self.n_queries, "p_init": self.p_init}
        return {**own, "low": self.low, "high": self.high}

    def perturb(self, problem: Problem) -> Tensor:
        """See :meth:`Attack.perturb`."""
        if not self.evaluations():
            return problem.origin.clone()
        image = _image_shape(problem.origin)
        noise = self.noise(problem)
        result = self._stripes(problem, noise, image)
        least, fallen = self._asked(problem, result)
        rows = (~fallen).nonzero()[:, 0]
        problem, best, least = problem.rows(rows), result[rows], least[rows]
        noise.rows(rows.cpu())
        for query in range(1, self.n_queries):
            if not len(rows):
                break
            if (query - 1) % _BLOCK == 0:
                drawn = noise.uniform(_BLOCK, 2 + image[0])
            tried = self._with_square(problem, best, drawn[:, (query - 1) % _BLOCK], query, image)
            margins, fallen = self._asked(problem, tried)
            better = (margins < least) | fallen
            wide = better.view(-1, *(1,) * (best.dim() - 1))
            best, least = torch.where(wide, tried, best), torch.where(better, margins, least)
            if bool(fallen.any()):
                result[rows[fallen]] = best[fallen]
                kept = (~fallen).nonzero()[:, 0]
                problem, rows, least = problem.rows(kept), rows[kept], least[kept]
                best, drawn = problem.taken(best, kept), drawn[kept]
                noise.rows(kept.cpu())
        result[rows] = best
        return result

    def _asked(self, problem: Problem, images: Tensor) -> tuple[Tensor, Tensor]:
        """How far each sample is from falling ``[N]``, and which fell, as the untouched model judges."""
        logits = problem.engine.logits(images)
        problem.objective.check(logits)
        away = margin(widened(logits), problem.labels)
        return away if self.targeted else -away, problem.really_fooled(images, logits)

    def _stripes(self, problem: Problem, noise: Noise, image: tuple[int, int, int]) -> Tensor:
        channels, _, width = image
        signs = 2 * (noise.uniform(channels, 1, width) < 0.5) - 1
        start = problem.origin.view(-1, *image) + (self.eps * signs).to(problem.origin.dtype)
        return self._projected(problem, start.view_as(problem.origin))

    def _with_square(
        self, problem: Problem, best: Tensor, drawn: Tensor, query: int, image: tuple[int, int, int]
    ) -> Tensor:
        """``best`` with one square of its own per sample, placed and signed by ``drawn`` ``[N, 2 + C]`` in [0, 1)."""
        _, height, width = image
        scaled = query / self.n_queries * 10_000
        share = self.p_init / 2 ** sum(scaled > bound for bound in _HALVINGS)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top, left = (drawn[:, :2] * torch.tensor([height - side + 1, width - side + 1]).to(drawn)).long().unbind(1)
        down = torch.arange(height, device=drawn.device) - top[:, None]
        right = torch.arange(width, device=drawn.device) - left[:, None]
        inside = ((down >= 0) & (down < side))[:, None, :, None] & ((right >= 0) & (right < side))[:, None, None, :]
        signs = (2 * (drawn[:, 2:] < 0.5) - 1)[:, :, None, None]
        change = (2 * self.eps * (inside * signs)).to(best.dtype)
        return self._projected(problem, best + change.view_as(best))

    def _projected(self, problem: Problem, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=problem.engine.memory_format) if images.dim() == 4 else images
        project_(images, problem.origin, self)
        return images


def _image_shape(images: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of ``[N, C, H, W]``, ``[N, H, W]`` or ``[N, F]``; ``ValueError`` for others."""
    sizes = tuple(images.shape[1:])
    if len(sizes) > 3:
        raise ValueError(f"Square works on [N, C, H, W], [N, H, W] or [N, F], got {list(images.shape)}")
    channels, height, width = (*(1,) * (3 - len(sizes)), *sizes)
    return channels, height, width
