"""Steps and projections of the L2 ball; those of the Linf ball are ``ops.project_step_``."""

from __future__ import annotations

import torch
from torch import Tensor

_INSIDE = 1 - 1e-14
"""Keeps a projected norm below eps whatever the order in which float64 sums its squares."""


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
    return norms


def normalized(gradient: Tensor) -> Tensor:
    """Each sample of ``[N, *S]`` divided by its L2 norm, in float64; a zero sample stays zero, NaN stays NaN."""
    wide = gradient.double()
    peaks = wide.flatten(1).abs().amax(1)  # first by the largest element, so that squares do not underflow
    wide = wide / _per_sample(torch.where(peaks == 0, 1.0, peaks), wide)
    norms = _norms(wide)
    return wide / _per_sample(torch.where(norms == 0, 1.0, norms), wide)


def project_l2(candidate: Tensor, origin: Tensor, epsilon: float, low: float, high: float) -> Tensor:
    """The point of the L2 ball around ``origin`` and of ``[low, high]`` that ``candidate`` (float64) scales to.

    Returns the dtype of ``origin``. Values are rounded towards ``origin``, so that the distance of each
    sample, computed in float64 from the result, never exceeds ``epsilon``.
    """
    wide = origin.double()
    change = candidate - wide
    norms = _norms(change)
    scale = torch.where(norms > epsilon * _INSIDE, epsilon * _INSIDE / norms, 1.0)
    change = change * _per_sample(scale, change)
    if epsilon == 0:
        change = torch.where(change.isnan(), change, 0.0)
    rounded = (wide + change).to(origin.dtype)
    outside = (rounded.double() - wide).abs() > change.abs()
    rounded = torch.where(outside, torch.nextafter(rounded, origin), rounded)
    return rounded.clamp(low, high)
