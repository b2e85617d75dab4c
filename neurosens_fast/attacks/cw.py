"""C&W-L2: the smallest perturbation that fools, by optimisation and a search over the weight of the loss."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from .arguments import check_count, check_number
from .base import Attack, Options
from .losses import Objective, margin, widened
from .problem import Problem

_INSIDE = 0.999999  # of the range, so that its ends have a finite place in tanh space
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam
_PROGRESS = 0.9999


class CW(Attack):
    """Carlini and Wagner's attack (IEEE S&P 2017) for the least L2 norm; it has no ``eps``.

    Minimises ``||x' - x||_2^2 + c max(0, z_y - max_{i != y} z_i + kappa)`` over ``w`` with
    ``x' = (tanh(w) + 1) / 2`` by ``steps`` steps of Adam with rate ``lr``. A search of ``binary_search_steps`` rounds
    finds the least ``c`` per sample, from ``c`` on: tenfold until it fools, then halving. Returned is the closest
    adversarial example found, and the input where none was. ``abort_early``: a sample whose objective has not fallen
    by 0.01 % since the last tenth of the steps rests until the next round, so that results do not depend on the
    batch (foolbox ends the round for the whole batch).

    ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack` for
    guarantees, errors and switches. ``loss`` cannot be set. ``steps = 0`` returns the input.
    """

    bounded = False
    own_rule = "C&W goes on with samples that fell, for a smaller norm"

    def __init__(
        self,
        model: nn.Module,
        c: float = 1e-3,
        kappa: float = 0.0,
        steps: int = 100,
        lr: float = 0.01,
        binary_search_steps: int = 9,
        abort_early: bool = True,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        if "loss" in options:
            raise TypeError("CW has a loss of its own; leave out loss")
        super().__init__(model, 0.0, "l2", low, high, **options)
        self.c, self.kappa, self.lr = check_number("c", c), check_number("kappa", kappa), check_number("lr", lr)
        self.steps = check_count("steps", steps)
        self.binary_search_steps = check_count("binary_search_steps", binary_search_steps, 1)
        self.abort_early = bool(abort_early)

    def evaluations(self) -> int:
        """Gradients of one call, at most."""
        return self.steps * self.binary_search_steps

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"c": self.c, "kappa": self.kappa, "steps": self.steps, "lr": self.lr}
        search = {"binary_search_steps": self.binary_search_steps, "abort_early": self.abort_early}
        return {**own, **search, "low": self.low, "high": self.high}

    def perturb(self, problem: Problem) -> Tensor:
        """See :meth:`Attack.perturb`."""
        best = problem.origin.clone()
        count = len(best)
        norms = torch.full((count,), torch.inf, dtype=torch.float64, device=best.device)
        weight = torch.full_like(norms, self.c)
        below, above = torch.zeros_like(norms), norms.clone()
        for _ in range(self.binary_search_steps if self.steps else 0):
            fooled = self._round(problem, weight, best, norms)
            above, below = torch.where(fooled, weight, above), torch.where(fooled, below, weight)
            weight = torch.where(above.isinf(), weight * 10, (below + above) / 2)
        return best

    def _round(self, problem: Problem, weight: Tensor, best: Tensor, norms: Tensor) -> Tensor:
        """One optimisation with a ``weight`` per sample; improves ``best`` and ``norms``, tells who was fooled."""
        ever = torch.zeros_like(weight, dtype=torch.bool)
        rows = torch.arange(len(weight), device=weight.device)
        middle, radius = (self.high + self.low) / 2, (self.high - self.low) / 2
        place = torch.atanh((problem.origin - middle) / radius * _INSIDE)
        reachable = torch.tanh(place) * radius + middle  # what the input becomes in tanh space
        first, second = torch.zeros_like(place), torch.zeros_like(place)
        problem = self._weighted(problem, weight)
        last_check = torch.full_like(weight, torch.inf)
        for step in range(self.steps):
            bent = torch.tanh(place)
            images = (bent * radius + middle).clamp(self.low, self.high)
            evaluation = problem.evaluate(images)
            change = images - reachable
            objective = _squares(change) - evaluation.losses.double()
            # The engine maximises: its gradient is that of -c max(0, ...).
            slope = (2 * change - evaluation.gradient) * (radius * (1 - bent * bent))
            first = _BETA1 * first + (1 - _BETA1) * slope
            second = _BETA2 * second + (1 - _BETA2) * slope * slope
            unbiased = first / (1 - _BETA1 ** (step + 1))
            place = place - self.lr * unbiased / ((second / (1 - _BETA2 ** (step + 1))).sqrt() + _EPSILON)

            fooled = self._fooled(problem, evaluation.logits)
            lengths = _squares(images.double() - problem.origin.double()).sqrt()
            closer = fooled & (lengths < norms[rows])
            fooled &= ~closer  # the closest lie at the very border, where only the untouched model can judge
            closer = problem.confirmed(images, closer, self._fooled)
            fooled |= closer
            best[rows[closer]], norms[rows[closer]] = images[closer], lengths[closer]
            ever[rows] |= fooled
            if self.abort_early and step % math.ceil(self.steps / 10) == 0:
                going = objective <= _PROGRESS * last_check
                last_check = objective
                if not bool(going.all()):
                    kept = going.nonzero()[:, 0]
                    problem, rows, last_check = problem.rows(kept), rows[kept], last_check[kept]
                    parts = (place, reachable, first, second)
                    place, reachable, first, second = (problem.taken(part, kept) for part in parts)
                    if not len(rows):
                        break
        return ever

    def _weighted(self, problem: Problem, weight: Tensor) -> Problem:
        function = _hinge_to_target if self.targeted else _hinge
        confidence = torch.full_like(weight, self.kappa)
        tensors = (problem.labels, weight.to(problem.origin.dtype), confidence.to(problem.origin.dtype))
        objective = Objective(function, tensors, extremes=problem.objective.extremes)
        return replace(problem, objective=objective)

    def _fooled(self, problem: Problem, logits: Tensor) -> Tensor:
        if not self.kappa:
            return problem.fooled(logits)
        away = margin(widened(logits), problem.labels)
        return -away >= self.kappa if self.targeted else away >= self.kappa


def _hinge(logits: Tensor, labels: Tensor, weight: Tensor, confidence: Tensor) -> Tensor:
    return -weight * (confidence - margin(logits, labels)).clamp(min=0)


def _hinge_to_target(logits: Tensor, targets: Tensor, weight: Tensor, confidence: Tensor) -> Tensor:
    return -weight * (confidence + margin(logits, targets)).clamp(min=0)


def _squares(change: Tensor) -> Tensor:
    return change.double().flatten(1).square().sum(1)
