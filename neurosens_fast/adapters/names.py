"""The argument ``metric`` of the adapters."""

from __future__ import annotations

from collections.abc import Sequence

from neurosens_fast.statistics import check_metric


def metric_names(metric: str | Sequence[str]) -> tuple[str, ...]:
    """The names in ``metric``, one or several of ``statistics.METRICS``.

    Raises ``ValueError`` for an unknown name, listing the valid ones, and for none at all; ``TypeError`` for no names.
    """
    if not isinstance(metric, str | Sequence):
        raise TypeError(f"metric must be a name or a list of names, got {type(metric).__name__}")
    names = (metric,) if isinstance(metric, str) else tuple(metric)
    if not names:
        raise ValueError("metric names none; give at least one")
    for name in names:
        check_metric(name)
    return names
