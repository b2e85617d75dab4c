"""APGD: projected gradient ascent whose step size adapts itself to each sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor, nn

from .arguments import check_choice, check_count, check_number
from .base import Attack, Options
from .engine import Evaluation
from .losses import targeted_difference_of_logits_ratio
from .noise import Noise
from .problem import Problem, rows_to_keep
from .steps import project_

_MOMENTUM = 0.75  # the share of the new direction, all numbers below are those of the paper
_FIRST_CHECK, _LEAST_CHECK, _CHECK_DECREASE = 0.22, 0.06, 0.03  # of the steps


class APGD(Attack):
    """Auto-PGD (Croce and Hein, ICML 2020): no step size to choose, halved where a sample's ascent stalls.

    ``loss="ce"`` and ``loss="dlr"`` are the APGD-CE and APGD-DLR of AutoAttack; ``norm`` is ``"linf"`` or ``"l2"``.
    ``restarts`` runs from random points; later ones work on the samples that still stand. Returned is, per sample, the
    last point that fooled the model, or else the one with the highest loss (AutoAttack returns the input there).
    A sample's step is halved where its loss rose in at most the share ``rho`` of the steps since the last check, or
    where neither step nor best loss changed since then.
    ``images`` ``[N, *S]`` in ``[low, high]``, ``labels`` ``[N]``; returns ``[N, *S]``. See :class:`Attack` for
    guarantees, errors, ``seed`` and switches. ``eps = 0`` and ``steps = 0`` return the input.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        steps: int = 100,
        norm: str = "linf",
        restarts: int = 1,
        rho: float = 0.75,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, eps, norm, low, high, **options)
        check_choice("norm", norm, ("linf", "l2"))
        self.steps = check_count("steps", steps)
        self.restarts = check_count("restarts", restarts, 1)
        self.rho = check_number("rho", rho)

    def evaluations(self) -> int:
        """Gradients of one call."""
        return (self.steps + 1) * self.restarts if self.steps and self.eps else 0

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        own = {"eps": self.eps, "steps": self.steps, "norm": self.norm, "restarts": self.restarts, "rho": self.rho}
        return {**own, "low": self.low, "high": self.high}

    def perturb(self, problem: Problem) -> Tensor:
        """See :meth:`Attack.perturb`."""
        result = problem.origin.clone()
        if not self.evaluations():
            return result
        return self.restarted(problem, result, [problem] * self.restarts)

    def restarted(self, problem: Problem, result: Tensor, runs: list[Problem]) -> Tensor:
        """One run after the other, each on the samples that still stand; ``runs`` may differ in their objective."""
        standing = torch.arange(len(result), device=result.device)
        highest = torch.full((len(result),), -torch.inf, dtype=torch.float64, device=result.device)
        noise = self.noise(problem)
        for run in runs:
            found = self._run(run.rows(standing), noise)
            better = found.fooled | (found.loss.double() > highest[standing])
            rows = standing[better]
            result[rows] = found.best[better]
            highest[rows] = found.loss[better].double()
            left = (~found.fooled).nonzero()[:, 0]
            standing = standing[left]
            noise.rows(left.cpu())
            if not len(standing):
                break
        return result

    def _run(self, problem: Problem, noise: Noise) -> Found:
        """A run from a random point of the ball's surface."""
        ascent = _Ascent(self, problem, noise)
        check, since, total = max(int(_FIRST_CHECK * self.steps), 1), 0, self.steps
        for step in range(total):
            ascent.step(first=step == 0)
            since += 1
            if since == check:
                ascent.adapt(since)
                check = max(check - max(int(_CHECK_DECREASE * total), 1), int(_LEAST_CHECK * total), 1)
                since = 0
            if self.switches["compaction"]:
                ascent.compact()
                if not len(ascent.rows):
                    break
        return ascent.found()


@dataclass
class Found:
    """What a run found: the point of each sample, whether it fooled the model, and the highest loss."""

    best: Tensor
    fooled: Tensor
    loss: Tensor


class _Ascent:
    """The state of a run; all tensors have the samples still at work first. ``rows`` are their places in the run."""

    def __init__(self, attack: APGD, problem: Problem, noise: Noise) -> None:
        self.attack, self.problem = attack, problem
        origin = problem.origin
        count = len(origin)
        self.rows = torch.arange(count, device=origin.device)
        self.point = self._start(noise)
        evaluation = self._evaluate()
        self.previous = self.point.clone()
        self.gradient = evaluation.gradient.clone()
        self.best_point, self.best_gradient = self.point.clone(), self.gradient.clone()
        self.best_loss = evaluation.losses.clone()
        self.loss = self.best_loss.clone()
        self.step_size = torch.full_like(self.best_loss, 2 * attack.eps)
        self.rises = torch.zeros_like(self.best_loss)
        self.loss_at_check = self.best_loss.clone()
        self.halved_at_check = torch.ones_like(self.best_loss, dtype=torch.bool)
        self.result = Found(
            self.point.clone(), torch.zeros(count, dtype=torch.bool, device=origin.device), self.best_loss.clone()
        )
        self._settle(evaluation.logits)

    def step(self, first: bool) -> None:
        """A step of each sample with momentum, and the gradient where it leads."""
        attack, origin = self.attack, self.problem.origin
        direction = self.gradient.sign() if attack.norm == "linf" else self._unit(self.gradient)
        ahead = self.point + (self._wide(self.step_size) * direction).to(origin.dtype)
        project_(ahead, origin, attack)
        share = 1.0 if first else _MOMENTUM
        moved = self.point + share * (ahead - self.point) + (1 - share) * (self.point - self.previous)
        project_(moved, origin, attack)
        self.previous, self.point = self.point, moved
        evaluation = self._evaluate()
        self.gradient = evaluation.gradient.clone()
        self.rises += evaluation.losses > self.loss
        self.loss = evaluation.losses.clone()
        better = self.loss > self.best_loss
        self.best_loss = torch.where(better, self.loss, self.best_loss)
        self.best_point = torch.where(self._wide(better), self.point, self.best_point)
        self.best_gradient = torch.where(self._wide(better), self.gradient, self.best_gradient)
        self._settle(evaluation.logits)

    def adapt(self, steps: int) -> None:
        """Halve the step of samples whose loss rose too seldom in the last ``steps``, or whose best did not move."""
        stalled = self.rises <= self.attack.rho * steps
        stalled |= ~self.halved_at_check & (self.loss_at_check >= self.best_loss)
        self.halved_at_check, self.loss_at_check = stalled, self.best_loss.clone()
        self.step_size = torch.where(stalled, self.step_size / 2, self.step_size)
        self.point = torch.where(self._wide(stalled), self.best_point, self.point)
        self.gradient = torch.where(self._wide(stalled), self.best_gradient, self.gradient)
        self.rises = torch.zeros_like(self.rises)

    def compact(self) -> None:
        """Go on with the samples that have not fooled the model."""
        kept = rows_to_keep(self.result.fooled[self.rows])
        if kept is None:
            return
        self.problem = self.problem.rows(kept)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, self.problem.taken(value, kept))

    def found(self) -> Found:
        """The outcome: for samples that never fooled the untouched model, their point of the highest loss."""
        if not self.attack.switches["compaction"]:
            self.result.fooled = self.problem.confirmed(self.result.best, self.result.fooled)
        open_rows = ~self.result.fooled[self.rows]
        rows = self.rows[open_rows]
        self.result.best[rows] = self.best_point[open_rows]
        self.result.loss[self.rows] = self.best_loss
        return self.result

    def _settle(self, logits: Tensor) -> None:
        """Note the points that fool the model; with compaction, which drops them, the untouched one."""
        problem = self.problem
        really = self.attack.switches["compaction"]
        fooled = problem.really_fooled(self.point, logits) if really else problem.fooled(logits)
        rows = self.rows[fooled]
        self.result.best[rows] = self.point[fooled]
        self.result.fooled[rows] = True

    def _evaluate(self) -> Evaluation:
        return self.problem.evaluate(self.point)

    def _start(self, noise: Noise) -> Tensor:
        origin, eps = self.problem.origin, self.attack.eps
        shape = tuple(origin.shape[1:])
        if self.attack.norm == "linf":
            direction = 2 * noise.uniform(*shape) - 1
            direction = direction / self._wide(direction.flatten(1).abs().amax(1).clamp(min=1e-12))
        else:
            direction = self._unit(noise.normal(*shape))
        start = origin + (eps * direction).to(origin.dtype)
        project_(start, origin, self.attack)
        return start

    def _unit(self, direction: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(direction.flatten(1), dim=1)
        return direction / (self._wide(lengths) + 1e-12)

    def _wide(self, values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (self.problem.origin.dim() - 1))


class APGDT(APGD):
    """Targeted Auto-PGD (Croce and Hein, ICML 2020): APGD on the targeted DLR loss, class by class.

    Works through the ``target_classes`` classes that the model ranks highest behind the label, each on the samples
    that still stand. ``labels`` are the true ones. Needs four classes; ``loss`` and ``targeted`` cannot be set. See
    :class:`APGD`.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        steps: int = 100,
        norm: str = "linf",
        restarts: int = 1,
        target_classes: int = 9,
        rho: float = 0.75,
        low: float = 0.0,
        high: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        for name in ("loss", "targeted"):
            if name in options:
                raise TypeError(f"APGDT chooses its targets and its loss itself; leave out {name}")
        super().__init__(model, eps, steps, norm, restarts, rho, low, high, **options)
        self.target_classes = check_count("target_classes", target_classes, 1)

    def evaluations(self) -> int:
        """Gradients of one call, at most."""
        return super().evaluations() * self.target_classes

    def settings(self) -> dict[str, object]:
        """See :meth:`Attack.settings`."""
        return {**super().settings(), "target_classes": self.target_classes}

    def perturb(self, problem: Problem) -> Tensor:
        """See :meth:`Attack.perturb`."""
        result = problem.origin.clone()
        if not self.evaluations():
            return result
        logits = problem.engine.logits(problem.origin)
        problem.objective.check(logits)
        ranked = logits.scatter(1, problem.labels[:, None], -torch.inf).argsort(dim=1, descending=True)
        runs = []
        for place in range(min(self.target_classes, logits.shape[1] - 1)):
            objective = replace(
                problem.objective,
                function=targeted_difference_of_logits_ratio,
                tensors=(problem.labels, ranked[:, place].contiguous()),
            )
            runs += [replace(problem, objective=objective)] * self.restarts
        return self.restarted(problem, result, runs)
