"""What is counted of each dropped neuron, and the errors and tests that follow from counts.

Every accuracy here is a share of the same n samples, so that two of them are compared sample by sample. A *change* of a
sample is +1 where it is classified rightly only with the neuron dropped, -1 where only without, and 0 otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Counts:
    """Counts over ``samples`` samples under 1 + E conditions: clean, then each eps. All int64, on the CPU.

    ``correct`` ``[1 + E]`` are right with every neuron in place. ``lost`` and ``gained`` ``[K, 1 + E]`` are right only
    without dropping neuron k, and only with it dropped. ``joint`` ``[K, 1 + E]`` is the sum over samples of their clean
    change times their change under the condition, which the error of the difference of both needs.
    """

    correct: Tensor
    lost: Tensor
    gained: Tensor
    joint: Tensor
    samples: int

    @classmethod
    def zeros(cls, neurons: int, conditions: int) -> Counts:
        """Counts of no sample."""
        totals = (torch.zeros(neurons, conditions, dtype=torch.int64) for _ in range(3))
        lost, gained, joint = totals
        return cls(torch.zeros(conditions, dtype=torch.int64), lost, gained, joint, 0)

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add a batch: whether samples are right without ``[1 + E, N]`` and with dropping ``[K, 1 + E, N]``, bool."""
        change = after.to(torch.int8) - before.to(torch.int8)  # sums of it are int64
        self.correct += before.sum(1).cpu()
        self.lost += (change < 0).sum(2).cpu()
        self.gained += (change > 0).sum(2).cpu()
        self.joint += (change * change[:, :1]).sum(2).cpu()
        self.samples += before.shape[1]

    def accuracy(self) -> Tensor:
        """Accuracy with nothing dropped, ``[1 + E]`` float64."""
        return self.correct.double() / self.samples

    def change(self) -> Tensor:
        """Accuracy with neuron k dropped less that without, ``[K, 1 + E]`` float64."""
        return (self.gained - self.lost).double() / self.samples

    def accuracy_error(self) -> Tensor:
        """Binomial standard error of :meth:`accuracy`, ``[1 + E]``."""
        share = self.accuracy()
        return (share * (1 - share) / self.samples).sqrt()

    def change_error(self) -> Tensor:
        """Standard error of :meth:`change`, ``[K, 1 + E]``: of the mean of n paired changes."""
        mean = self.change()
        return (((self.gained + self.lost).double() / self.samples - mean**2).clamp(min=0) / self.samples).sqrt()

    def difference_error(self) -> Tensor:
        """Standard error of the change under a condition less the clean change, ``[K, 1 + E]``; 0 for clean."""
        squares = self.gained + self.lost
        mean_square = (squares + squares[:, :1] - 2 * self.joint).double() / self.samples
        mean = self.change() - self.change()[:, :1]
        return ((mean_square - mean**2).clamp(min=0) / self.samples).sqrt()

    def p_values(self, condition: int | None = None) -> Tensor:
        """Exact two-sided McNemar test that dropping neuron k changes nothing (McNemar, 1947).

        ``[K, 1 + E]``, or ``[K]`` of one condition, since each takes its time.
        """
        lost, gained = (counts if condition is None else counts[:, condition] for counts in (self.lost, self.gained))
        flat = zip(lost.flatten().tolist(), gained.flatten().tolist(), strict=True)
        return torch.tensor([mcnemar(*pair) for pair in flat], dtype=torch.float64).view(lost.shape)


def mcnemar(lost: int, gained: int) -> float:
    """The p-value of ``lost`` against ``gained`` discordant pairs: binomial with 1/2, two-sided, exact."""
    pairs, fewer = lost + gained, min(lost, gained)
    if lost == gained:
        return 1.0
    k = torch.arange(fewer + 1, dtype=torch.float64)
    logs = math.lgamma(pairs + 1) - torch.lgamma(k + 1) - torch.lgamma(pairs - k + 1) - pairs * math.log(2)
    return min(1.0, 2 * float(logs.logsumexp(0).exp()))
