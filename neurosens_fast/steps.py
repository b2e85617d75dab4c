"""The steps of attacks: typed, checked, documented; part of :mod:`neurosens_fast.ops`, which holds the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _registration as _registration
from ._arguments import check_like, check_tensor, detached, mutated

_ops = torch.ops.neurosens_fast

BALLS = ("linf", "l2", "l1")
"""Norms of :func:`project_step_`."""


def _check(adversarial: Tensor, others: dict[str, Tensor], epsilon: float, low: float, high: float) -> None:
    check_tensor("adversarial", adversarial)
    for name, tensor in others.items():
        check_like(name, tensor, "adversarial", adversarial)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if not low <= high:
        raise ValueError(f"low must not exceed high, got {low} and {high}")


def _check_samples(adversarial: Tensor) -> None:
    if adversarial.dim() < 1:
        raise ValueError("adversarial must be [N, *S], a norm per sample, got a tensor without dimensions")


def project_step_(
    adversarial: Tensor,
    gradient: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    norm: str = "linf",
    low: float = 0.0,
    high: float = 1.0,
) -> None:
    """Move ``adversarial`` one attack step of length ``step_size`` and project it back, in place.

    All three tensors ``[N, *S]`` have one shape and dtype; ``norm`` is measured per sample. The result lies in the
    ``epsilon`` ball around ``origin`` and in ``[low, high]``. Exact at the border: the distance from ``origin``,
    computed in float64, never exceeds ``epsilon`` where ``origin`` is within ``[low, high]``.

    ``"linf"``: ``adversarial + step_size * sign(gradient)`` in float32 (float64 for float64), rounded to the dtype,
    then the clamp. A NaN gradient makes its element NaN.
    One pass: 3 reads and 1 write per element.

    ``"l2"``: along ``gradient / ||gradient||_2``, then the Euclidean projection. Three passes: the norm of the
    gradient (1 read; 2 in float64, whose squares may underflow), the length of the change (3 reads), the result
    (3 reads, 1 write).

    ``"l1"``: along ``gradient / ||gradient||_1``, then the Euclidean projection, which lowers every change by the
    threshold with which the rest sums to ``epsilon``. The passes of ``"l2"``, and of the second one more for every
    Newton step to that threshold: none inside the ball, usually 3 to 10. On the CPU a sample that fits the cache
    is read from memory once, whatever the number of passes.

    A sample whose gradient is zero is projected only; NaN or infinity make their sample NaN (``"l2"``, ``"l1"``).
    Source: Madry et al., ICLR 2018; projection onto the L1 ball: Duchi et al., ICML 2008. Equivalent to (Linf)::

        stepped = adversarial + step_size * gradient.sign()
        adversarial.copy_(stepped.clamp(origin - epsilon, origin + epsilon).clamp(low, high))
    """
    _check(adversarial, {"gradient": gradient, "origin": origin}, epsilon, low, high)
    if norm not in BALLS:
        raise ValueError(f'norm must be "linf", "l2" or "l1", got {norm!r}')
    if norm != "linf":
        _check_samples(adversarial)
    numbers = float(step_size), float(epsilon), norm, float(low), float(high)
    _ops.project_step_(detached(adversarial), detached(gradient), detached(origin), *numbers)
    mutated(adversarial)


def momentum_step_(
    adversarial: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    decay: float,
    norm: str = "linf",
    low: float = 0.0,
    high: float = 1.0,
) -> None:
    """Add ``gradient`` to ``momentum`` and move ``adversarial`` along its sign, both in place: the step of MI-FGSM.

    ``momentum = decay * momentum + gradient / mean |gradient|``, the mean taken per sample (torchattacks'; the
    paper's sum differs by a constant), and the rest as :func:`project_step_` with ``"linf"``, the only ``norm``.
    All four tensors ``[N, *S]`` have one shape and dtype. A zero gradient adds nothing to its sample; NaN makes
    its sample NaN. Two passes: the mean (1 read; 2 in float64), then 4 reads and 2 writes per element.
    Source: Dong et al., CVPR 2018. Equivalent to::

        momentum.mul_(decay).add_(gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True))
        project_step_(adversarial, momentum, origin, step_size, epsilon)
    """
    others = {"momentum": momentum, "gradient": gradient, "origin": origin}
    _check(adversarial, others, epsilon, low, high)
    _check_samples(adversarial)
    if norm != "linf":
        raise ValueError(f'norm must be "linf", the only one with a momentum step, got {norm!r}')
    tensors = map(detached, (adversarial, momentum, gradient, origin))
    _ops.momentum_step_(*tensors, float(step_size), float(epsilon), float(decay), norm, float(low), float(high))
    mutated(adversarial, momentum)
