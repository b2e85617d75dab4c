"""Rank correlation of how often attacks hit each neuron with what else is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
from torch import Tensor

from neurosens_fast.audit import AuditReport
from neurosens_fast.statistics import METRICS
from neurosens_fast.support.messages import listing
from neurosens_fast.support.packages import import_package

from .judging import SCORES, listed
from .place import Place
from .report import FragilityReport

RESAMPLES = 2000
"""Bootstrap resamples behind each interval (a choice of this package)."""

_FEWEST = 3  # neurons: two always have a rank correlation of 1 or -1


class Correlation(NamedTuple):
    """Spearman's rank correlation of the histogram at ``eps`` with one number per neuron.

    ``with_what`` names those numbers: ``"fragility: adversarial"``, ``"audit: sensitivity"``. ``p_value`` is
    two-sided, for a correlation of 0, from Student's t; of fewer than about ten neurons it is a rough one.
    ``p_value_holm`` is the same corrected for all correlations of the report (Holm, 1979). ``low`` and ``high`` are
    the ends of a 95 % bootstrap interval over neurons. ``neurons`` is how many entered. All are NaN where no
    correlation is defined: fewer than three neurons, or the same number for all of them.
    """

    eps: float
    with_what: str
    correlation: float
    p_value: float
    p_value_holm: float
    low: float
    high: float
    neurons: int


@dataclass(frozen=True)
class Partner:
    """Numbers ``values`` ``[K]`` of ``neurons``, to be correlated at ``eps`` (None: at every one)."""

    with_what: str
    eps: float | None
    neurons: tuple[int, ...]
    values: Tensor


def check_partners(report: object, audit: object) -> None:
    """``TypeError`` for what is no such report; ``ModuleNotFoundError`` where there is one and no scipy."""
    for name, given, kind in (("report", report, FragilityReport), ("audit", audit, AuditReport)):
        if given is not None and not isinstance(given, kind):
            article = "an" if kind is AuditReport else "a"
            raise TypeError(f"{name} must be {article} {kind.__name__}, got {type(given).__name__}")
    if report is not None or audit is not None:
        _scipy_stats()


def partners_of(
    place: Place, eps: Sequence[float], report: FragilityReport | None, audit: AuditReport | None
) -> list[Partner]:
    """What the reports say of the neurons of ``place``: scores at the strengths of both, metrics for every one.

    Scores are in samples, not shares. Raises ``ValueError`` for reports of another layer or number of neurons, or
    without a strength in common.
    """
    found = []
    if report is not None:
        if report.layer != place.layer:
            raise ValueError(
                f"report is of layer {report.layer!r}, and {place.layer!r} is targeted; give layer={report.layer!r}, "
                f"or a report of {place.layer!r}"
            )
        if report.channels != place.channels:
            raise ValueError(
                f"report is of another model: there layer {place.layer!r} has {report.channels} neurons, here "
                f"{place.channels}"
            )
        common = [level for level in eps if level in report.eps]
        if not common:
            raise ValueError(
                f"report and eps have no strength in common; the report's are {listed(report.eps)}, got {listed(eps)}"
            )
        for level in common:
            for score in SCORES:
                values = (report.score(score, level) * report.samples).round()  # whole samples, so that ties are ties
                found.append(Partner(f"fragility: {score}", level, report.neurons, values))
    if audit is not None:
        statistics = audit.layers[audit_row(place, audit)].statistics
        if statistics.neurons != place.channels:
            raise ValueError(
                f"audit is of another model: there {audit_row(place, audit)!r} has {statistics.neurons} neurons, here "
                f"{place.channels}"
            )
        every = tuple(range(place.channels))
        found += [Partner(f"audit: {name}", None, every, statistics.metric(name)) for name in METRICS]
    return found


def audit_row(place: Place, audit: AuditReport) -> str:
    """The row of ``audit`` that measured the neurons: where they are read, else their layer; ``ValueError`` without."""
    rows = [row for row in dict.fromkeys((place.zeroed, place.layer)) if row in audit.layers]
    if not rows:
        names = " or ".join(repr(row) for row in dict.fromkeys((place.zeroed, place.layer)))
        raise ValueError(
            f"audit did not measure {names}, only {listing(list(audit.layers)) or 'no layer'}; "
            f"audit with layers=[{place.zeroed!r}]"
        )
    return rows[0]


def correlations_of(
    histogram: Tensor, eps: Sequence[float], partners: Sequence[Partner], seed: int
) -> tuple[Correlation, ...]:
    """The correlation of each row of ``histogram`` ``[E, C]`` with each of ``partners``, by eps."""
    found = [
        _correlated(hits, partner, level, seed)
        for level, hits in zip(eps, histogram, strict=True)
        for partner in partners
        if partner.eps in (None, level)
    ]
    corrected = holm([entry.p_value for entry in found])
    return tuple(entry._replace(p_value_holm=value) for entry, value in zip(found, corrected, strict=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of ``p_values`` (1979); a NaN is no test and stays NaN."""
    order = sorted((place for place, value in enumerate(p_values) if not math.isnan(value)), key=p_values.__getitem__)
    corrected, largest = [math.nan] * len(p_values), 0.0
    for done, place in enumerate(order):
        largest = corrected[place] = max(largest, min(1.0, (len(order) - done) * p_values[place]))
    return corrected


def _correlated(hits: Tensor, partner: Partner, eps: float, seed: int) -> Correlation:
    """One correlation, over the neurons with a finite value; its p-value is not corrected yet."""
    known = partner.values.isfinite()
    first, second = hits[list(partner.neurons)][known].double().numpy(), partner.values[known].double().numpy()
    correlation = p_value = low = high = math.nan
    if len(first) >= _FEWEST and (first != first[0]).any() and (second != second[0]).any():
        result = _scipy_stats().spearmanr(first, second)
        correlation, p_value = float(result.statistic), float(result.pvalue)
        low, high = _interval(first, second, seed)
    return Correlation(eps, partner.with_what, correlation, p_value, math.nan, low, high, len(first))


def _interval(first: Any, second: Any, seed: int) -> tuple[float, float]:
    """The percentile interval: resamples in which one side has no two values are left out, NaN if most are such."""
    count = len(first)
    places = numpy.random.default_rng(seed % 2**64).integers(count, size=(RESAMPLES, count))
    ranks = [_scipy_stats().rankdata(values[places], axis=1) - (count + 1) / 2 for values in (first, second)]
    size = numpy.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    defined = size > 0
    if 2 * defined.sum() < RESAMPLES:
        return math.nan, math.nan
    correlation = (ranks[0] * ranks[1]).sum(1)[defined] / size[defined]
    low, high = numpy.quantile(correlation.clip(-1, 1), (0.025, 0.975))
    return float(low), float(high)


def _scipy_stats() -> Any:
    return import_package("scipy.stats", "rank correlations need", extra="fragility")
