"""What an attack works on in one call, and the dropping of samples that already fell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .engine import Engine, Evaluation
from .losses import Objective


@dataclass(frozen=True)
class Problem:
    """Checked images ``origin`` ``[N, *S]`` with ``labels`` ``[N]``, and the model behind ``engine``.

    ``labels`` are the true ones, or the targets of a ``targeted`` attack. ``index`` ``[N]`` (on the CPU) numbers the
    samples within the whole data set. ``flaws`` collects flags of NaN gradients on the device.
    """

    engine: Engine
    origin: Tensor
    labels: Tensor
    index: Tensor
    objective: Objective
    targeted: bool
    flaws: list[Tensor]

    def evaluate(self, images: Tensor) -> Evaluation:
        """Losses, gradient and logits at ``images``, as :meth:`Engine.evaluate`."""
        evaluation = self.engine.evaluate(images, self.objective)
        self.flaws.append(evaluation.gradient.isnan().any())  # sign(NaN) is 0, so results would not show it
        return evaluation

    def fooled(self, logits: Tensor) -> Tensor:
        """Which samples have reached the attack's aim, ``[N]`` bool."""
        right = logits.argmax(1) == self.labels
        return right if self.targeted else ~right

    def really_fooled(self, images: Tensor, logits: Tensor) -> Tensor:
        """Which samples fool the untouched model, ``[N]`` bool, given the ``logits`` at ``images``."""
        return self.confirmed(images, self.fooled(logits))

    def confirmed(
        self, images: Tensor, fooled: Tensor, judge: Callable[[Problem, Tensor], Tensor] | None = None
    ) -> Tensor:
        """Those of the ``fooled`` samples ``[N]`` that the untouched model says are, where another stands in for it.

        ``judge(problem, logits)`` tells them, by default :meth:`fooled`.
        """
        candidates = fooled.nonzero()[:, 0]
        if self.engine.untouched or not len(candidates):
            return fooled
        logits = self.engine.logits(self.taken(images, candidates), exact=True)
        verdict = (judge or Problem.fooled)(replace(self, labels=self.labels[candidates]), logits)
        return torch.zeros_like(fooled).scatter(0, candidates, verdict)

    def rows(self, rows: Tensor) -> Problem:
        """The problem of some of the samples."""
        return replace(
            self,
            origin=self.taken(self.origin, rows),
            labels=self.labels[rows],
            index=self.index[rows.cpu()],
            objective=self.objective.rows(rows),
        )

    def taken(self, images: Tensor, rows: Tensor) -> Tensor:
        """Some of the samples of a tensor in the memory format of the call."""
        some = images[rows]
        return some.contiguous(memory_format=self.engine.memory_format) if some.dim() == 4 else some


def rows_to_keep(fallen: Tensor, halving: bool | None = None) -> Tensor | None:
    """The rows to go on with, none where all have fallen; None where dropping would not repay yet.

    On the CPU the batch shrinks once an eighth of it has fallen, on CUDA (``halving``) at halving sizes, padded with
    fallen samples, so that one graph per size serves.
    """
    halving = fallen.is_cuda if halving is None else halving
    standing = (~fallen).nonzero()[:, 0]
    before, left = len(fallen), len(standing)
    if left == before or (left and left > (before // 2 if halving else before * 7 // 8)):
        return None
    if left and halving:
        size = before
        while size // 2 >= left:
            size //= 2
        standing = torch.cat((standing, fallen.nonzero()[: size - left, 0]))
    return standing


class Compaction:
    """Drops samples that fell, as the untouched model judges, and keeps their adversarial examples."""

    def __init__(self, problem: Problem) -> None:
        self._result = problem.origin.clone()
        self._rows = torch.arange(len(problem.origin), device=problem.origin.device)
        self._fallen = torch.zeros_like(self._rows, dtype=torch.bool)

    def drop(
        self, problem: Problem, logits: Tensor, images: Tensor, *state: Tensor
    ) -> tuple[Problem, Tensor, tuple[Tensor, ...]]:
        """``problem``, ``images`` and per-sample ``state`` of the samples to go on with; none if all have fallen.

        ``logits`` are those at ``images``.
        """
        new = problem.confirmed(images, problem.fooled(logits) & ~self._fallen).nonzero()[:, 0]
        self._result[self._rows[new]] = images[new]
        self._fallen[new] = True
        kept = rows_to_keep(self._fallen)
        if kept is None:
            return problem, images, state
        self._rows, self._fallen = self._rows[kept], self._fallen[kept]
        return problem.rows(kept), problem.taken(images, kept), tuple(problem.taken(part, kept) for part in state)

    def result(self, images: Tensor) -> Tensor:
        """The adversarial examples of all samples, given the final ones of those that were not dropped."""
        left = (~self._fallen).nonzero()[:, 0]
        self._result[self._rows[left]] = images[left]
        return self._result
