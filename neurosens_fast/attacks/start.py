"""Random starting points in the ball."""

from __future__ import annotations

from torch import Tensor

from .base import Attack
from .problem import Problem
from .steps import project_


def random_start(attack: Attack, problem: Problem) -> Tensor:
    """A random point of the attack's ball around each image, in its range.

    Uniform in the Linf ball; in the L2 and L1 ball a uniform direction with a uniform length, as in torchattacks.
    """
    origin, noise = problem.origin, attack.noise(problem)
    shape = tuple(origin.shape[1:])
    if attack.norm == "linf":
        change = attack.eps * (2 * noise.uniform(*shape) - 1)
    else:
        direction = noise.normal(*shape) if attack.norm == "l2" else noise.laplace(*shape)
        order = 2 if attack.norm == "l2" else 1
        lengths = direction.flatten(1).norm(order, dim=1)
        scale = attack.eps * noise.uniform() / lengths.where(lengths > 0, 1.0)
        change = direction * scale.view(-1, *(1,) * (origin.dim() - 1))
    adversarial = origin + change.to(origin.dtype)
    project_(adversarial, origin, attack)
    return adversarial
