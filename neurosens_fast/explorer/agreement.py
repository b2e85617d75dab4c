"""How far measures put neurons in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neurosens_fast.support.packages import import_package

from .exploration import Measure


def rank_agreement(measures: Sequence[Measure]) -> NDArray[np.float64]:
    """Spearman's rank correlations ``[E, M, M]`` of M measures at E levels, over the neurons where both are finite.

    Equal values share the mean of their ranks. NaN where fewer than 3 neurons have both, or one of the measures is the
    same for all of those. Equivalent to ``scipy.stats.spearmanr`` of every pair.

    Raises ``ValueError`` without measures and for measures of different shapes.
    """
    if not measures:
        raise ValueError("there are no measures to compare; give at least one")
    shape = measures[0].values.shape
    for measure in measures:
        if measure.values.shape != shape or len(shape) != 2:
            raise ValueError(
                f"measures must all be [levels, neurons] like {measures[0].name!r}, which is {list(shape)}; "
                f"{measure.name!r} is {list(measure.values.shape)}"
            )
    values = np.stack([measure.values for measure in measures], 1).astype(np.float64)
    return np.stack([_at_level(level) for level in values])


def _at_level(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rankdata = import_package("scipy.stats", "comparing ranks needs", extra="explore").rankdata
    finite = np.isfinite(values)
    # Most measures share the neurons that they are finite for, so ranks are kept by measure and by those neurons.
    kept: dict[tuple[int, bytes], NDArray[np.float64] | None] = {}

    def ranks(measure: int, both: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Ranks with mean 0 and length 1, None where all are equal."""
        key = (measure, both.tobytes())
        if key not in kept:
            found = rankdata(values[measure, both])
            found -= found.mean()
            length = np.linalg.norm(found)
            kept[key] = found / length if length > 0 else None
        return kept[key]

    count = len(values)
    agreement = np.full((count, count), np.nan)
    for one in range(count):
        for other in range(one, count):
            both = finite[one] & finite[other]
            if both.sum() < 3:
                continue
            first, second = ranks(one, both), ranks(other, both)
            if first is not None and second is not None:
                agreement[one, other] = agreement[other, one] = np.clip(first @ second, -1, 1)
    return agreement
