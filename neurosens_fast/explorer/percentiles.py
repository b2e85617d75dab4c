"""Where a neuron ranks within its layer, and the Bluff score: how far attacks move that rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 256
"""Equal bins of the percentiles 0 to 100, so that a streamed median is exact to 0.2 (a choice of this package)."""

_AT_ONCE = 2**22  # numbers that are ranked at once, which bounds memory for wide layers


class MedianPercentiles:
    """Median over samples of each neuron's activation percentile, from samples that are seen once.

    The percentile of neuron n for a sample is ``100 / C * (#{below a_n} + #{equal to a_n} / 2)`` over the C neurons of
    the layer, that is ``100 / C * (mean rank - 1/2)``; 50 for a single neuron. Neurons that are NaN have none and are
    not counted. A histogram of 256 bins for each neuron is kept, and the median is the mean of the centres of the bins
    of the two middle samples, hence within half a bin (100/512) of the exact one. Source: median activation percentiles
    of Das et al., "Bluff", IEEE VIS 2020; ranks of ties and the histogram are choices of this package.
    """

    def __init__(self, neurons: int, device: torch.device | str = "cpu") -> None:
        self._counts = torch.zeros(neurons, BINS, dtype=torch.int32, device=device)

    def update(self, values: Tensor) -> None:
        """Add the activations ``[N, C]`` of a batch, on the device of the counts."""
        neurons = len(self._counts)
        for part in values.split(max(1, _AT_ONCE // neurons)):
            rated = ~part.isnan()
            part = torch.where(rated, part, torch.inf).contiguous()
            total = rated.sum(1, keepdim=True)
            order = part.sort(1).values
            below = torch.searchsorted(order, part)
            # NaN stand at the end as infinite ones, and are not to be ties of those
            upto = torch.minimum(torch.searchsorted(order, part, right=True), total)
            # in whole numbers, since a percentile may be the border of two bins
            bins = (below + upto) * (BINS // 2) // total.clamp_min(1)
            bins += BINS * torch.arange(neurons, device=bins.device)
            chosen = bins[rated]
            ones = torch.ones_like(chosen, dtype=self._counts.dtype)
            self._counts.view(-1).index_add_(0, chosen, ones)

    def medians(self) -> NDArray[np.float64]:
        """The median percentile of each neuron, ``[C]``; NaN for one without a number."""
        reached = self._counts.cpu().cumsum(1)
        samples = reached[:, -1:]
        middle = torch.stack(((samples - 1) // 2, samples // 2)).clamp_min(0)  # the two are one for odd numbers
        bins = torch.stack([(reached <= place).sum(1) for place in middle]).double()
        found = (bins.mean(0) + 0.5) * (100 / BINS)
        return torch.where(samples[:, 0] > 0, found, torch.nan).numpy()


def bluff_score(
    medians: NDArray[np.floating], groups: Sequence[Sequence[int]], eps: Sequence[float | None]
) -> NDArray[np.float64]:
    """The Bluff score of each neuron, ``[E, C]``: ``sum_eps |median percentile(eps) - benign median| / eps``.

    ``medians`` ``[1 + E, C]`` are median activation percentiles, the benign ones first. ``groups`` hold the levels
    0 to E - 1 of one attack each, over which is summed, and each level of a group bears the group's score. Levels
    without a strength above 0 do not enter; a group without any, and levels of no group, have NaN. Source: Das et al.,
    "Bluff", IEEE VIS 2020. Raises ``ValueError`` where ``eps`` and ``medians`` differ in their number of levels.
    """
    if len(medians) != 1 + len(eps):
        raise ValueError(f"medians must be [1 + E, C] for {len(eps)} levels, got shape {list(medians.shape)}")
    scores = np.full((len(eps), medians.shape[1]), np.nan)
    for group in groups:
        strengths = {level: strength for level in group if (strength := eps[level]) is not None and strength > 0}
        if strengths:
            moved = [np.abs(medians[1 + level] - medians[0]) / strength for level, strength in strengths.items()]
            scores[list(group)] = np.sum(moved, 0)
    return scores
