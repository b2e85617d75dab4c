"""The family of gradient steps: FGSM, FFGSM, BIM, PGD and MI-FGSM share one loop."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from neurosens_fast import ops

from . import plain
from .base import Attack
from .problem import Compaction, Problem


class StepAttack(Attack):
    """An attack of ``steps`` gradient steps from a start; see :class:`Attack`."""

    steps: int
    random_start = False

    def evaluations(self) -> int:
        """One gradient for each step."""
        return self.steps if self.eps else 0

    def start(self, problem: Problem) -> Tensor:
        """Where the first step starts from, ``[N, *S]``, a new tensor."""
        return problem.origin.clone()

    def state(self, problem: Problem) -> tuple[Tensor, ...]:
        """What else a sample carries from step to step, samples first."""
        return ()

    @abstractmethod
    def step(self, adversarial: Tensor, gradient: Tensor, origin: Tensor, *state: Tensor) -> None:
        """One step, in place."""

    def perturb(self, problem: Problem) -> Tensor:
        """See :meth:`Attack.perturb`."""
        if self.loss == "kl" and not self.random_start:
            raise ValueError(
                f"{self.attack}: loss 'kl' has no gradient at the input itself, which is where this attack starts; use "
                "PGD(random_start=True), or loss 'ce'"
            )
        if not self.steps or not self.eps:
            return problem.origin.clone()
        adversarial, state = self.start(problem), self.state(problem)
        compaction = Compaction(problem) if self.switches["compaction"] else None
        for _ in range(self.steps):
            evaluation = problem.evaluate(adversarial)
            gradient = evaluation.gradient
            if compaction is not None:
                everything = (gradient, *state)
                problem, adversarial, kept = compaction.drop(problem, evaluation.logits, adversarial, *everything)
                if not len(adversarial):
                    break
                gradient, state = kept[0], kept[1:]
            self.step(adversarial, gradient, problem.origin, *state)
        if self.switches["exact"]:
            project_(adversarial, problem.origin, self)
        return adversarial if compaction is None else compaction.result(adversarial)

    def move(self, adversarial: Tensor, gradient: Tensor, origin: Tensor, step_size: float) -> None:
        """A step of ``step_size`` along ``gradient`` and back into the ball, in place."""
        step = plain.step_ if self.switches["exact"] and self.norm != "l1" else ops.project_step_
        step(adversarial, gradient, origin, step_size, self.eps, self.norm, self.low, self.high)


def project_(adversarial: Tensor, origin: Tensor, attack: Attack) -> None:
    """Back into the attack's ball and range, in place, without a step."""
    still = torch.zeros_like(adversarial)
    ops.project_step_(adversarial, still, origin, 0.0, attack.eps, attack.norm, attack.low, attack.high)
