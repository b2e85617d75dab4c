"""The steps of attacks in pure PyTorch: what :mod:`neurosens_fast.reference` holds for them.

Samples are along dimension 0; whatever is summed over one of them is summed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """The sign of each element, NaN for NaN (``torch.sign`` gives 0 there)."""
    return torch.where(x.isnan(), x, x.sign())


def _rows(x: Tensor) -> Tensor:
    """``[N, *S]`` as float64 ``[N, S]``."""
    return x.double().reshape(x.shape[0], x.numel() // max(1, x.shape[0]))


def reach(epsilon: float, count: int) -> float:
    """``epsilon`` less what sums of ``count`` float64 terms, ours and any other, may be off by in any order."""
    return epsilon * (1 - (count + 32) * 2.0**-52)


def _over_norm(numerator: float, norms: Tensor) -> Tensor:
    """``numerator / norms``: 0 for a zero sample, NaN for one that is not finite."""
    return torch.where(norms == 0, 0.0, numerator / norms + (norms - norms))


def _scaled(gradient: Tensor) -> Tensor:
    """Rows of ``gradient`` divided by their largest element, so that neither squares nor sums leave float64."""
    rows = _rows(gradient)
    if not rows.numel():
        return rows
    peaks = rows.abs().amax(1, keepdim=True)
    return rows / torch.where(peaks == 0, 1.0, peaks)


def l1_threshold(size: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """``tau`` and ``scale``, ``[N, 1]``, with which rows ``|d|`` become ``scale * max(|d| - tau, 0)``: sum ``radius``.

    Newton's method on the piecewise linear sum from the left (Michelot, JOTA 50:195, 1986): ``tau`` grows until the
    elements above it stay the same. What rounding then leaves above ``radius`` is scaled away.
    """
    tau = size.new_zeros(size.shape[0], 1)
    above = torch.full_like(tau, torch.inf)
    while True:
        rest = size - tau
        total = torch.where(rest > 0, rest, rest * 0).sum(1, keepdim=True)  # NaN stays
        count = (rest > 0).sum(1, keepdim=True).to(size.dtype)
        moved = tau + (total - radius) / count
        going = (total > radius) & (count < above) & (moved > tau) & (radius > 0)
        if not bool(going.any()):
            return tau, torch.where(total <= radius, 1.0, radius / total)
        tau, above = torch.where(going, moved, tau), torch.where(going, count, above)


def _write_inside(adversarial: Tensor, origin: Tensor, change: Tensor, low: float, high: float) -> None:
    """``origin + change``, rounded towards ``origin`` and clamped, into ``adversarial``."""
    wide = origin.double()
    change = change.reshape(origin.shape)
    rounded = (wide + change).to(origin.dtype)
    outside = (rounded.double() - wide).abs() > change.abs()
    rounded = torch.where(outside, torch.nextafter(rounded, origin), rounded)
    adversarial.copy_(rounded.clamp(low, high))


def _linf_step_(
    adversarial: Tensor, gradient: Tensor, origin: Tensor, step_size: float, epsilon: float, low: float, high: float
) -> None:
    wide = origin.double()
    accumulation = torch.float64 if origin.dtype == torch.float64 else torch.float32
    stepped = (adversarial.to(accumulation) + step_size * sign(gradient).to(accumulation)).to(origin.dtype)
    upper, lower = (wide + epsilon).to(origin.dtype), (wide - epsilon).to(origin.dtype)
    infinity = torch.full_like(origin, torch.inf)
    upper = torch.where(upper.double() - wide > epsilon, torch.nextafter(upper, -infinity), upper)
    lower = torch.where(wide - lower.double() > epsilon, torch.nextafter(lower, infinity), lower)
    adversarial.copy_(torch.minimum(torch.maximum(stepped, lower), upper).clamp(low, high))


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
    """One step of ``step_size`` in ``norm``, then the projection onto the epsilon ball and ``[low, high]``, in place.

    ``"linf"``: the step is taken in float32 (float64 for float64) and rounded to the tensor's dtype; the border of the
    ball is the outermost value of that dtype whose distance from ``origin``, computed in float64, does not exceed
    ``epsilon`` (one value less for some float64 elements, whose distances are rounded themselves). A NaN gradient makes
    its element NaN.

    ``"l2"``, ``"l1"``: along the gradient divided by its norm per sample, Euclidean projection onto the ball in
    float64, rounded towards ``origin``, so that no sample's distance, computed in float64, exceeds ``epsilon``.
    """
    if norm == "linf":
        return _linf_step_(adversarial, gradient, origin, step_size, epsilon, low, high)
    along, before, centre = _scaled(gradient), _rows(adversarial), _rows(origin)
    if not along.numel():
        return None
    order, radius = (2 if norm == "l2" else 1), reach(epsilon, along.shape[1])
    norms = torch.linalg.vector_norm(along, order, dim=1, keepdim=True)
    change = (before - centre) + along * _over_norm(step_size, norms)
    if norm == "l2":
        lengths = torch.linalg.vector_norm(change, dim=1, keepdim=True)
        change = change * torch.where(lengths <= radius, 1.0, radius / lengths)
    else:
        tau, scale = l1_threshold(change.abs(), radius)
        rest = change.abs() - tau
        change = torch.copysign(torch.where(rest > 0, rest, rest * 0) * scale, change)
    return _write_inside(adversarial, origin, change, low, high)


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
    """``momentum = decay * momentum + gradient / mean |gradient|`` per sample, then the step along its sign.

    Both in place; the sign is that of the momentum as its dtype holds it.
    """
    along = _scaled(gradient)
    if not along.numel():
        return
    share = _over_norm(along.shape[1], along.abs().sum(1, keepdim=True))
    momentum.copy_((decay * _rows(momentum) + along * share).reshape(momentum.shape))
    project_step_(adversarial, momentum, origin, step_size, epsilon, norm, low, high)
