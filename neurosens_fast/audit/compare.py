"""Two reports side by side: do the same neurons react, and how much more or less?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast.support.files import csv_content
from neurosens_fast.support.messages import listing

from .report import AuditReport, count_of
from .storage import write_whole

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table


class LayerComparison(NamedTuple):
    """One layer, or all of them together, in reports A and B.

    All but ``neurons`` is about the neurons whose value is finite in both; ``left_out`` counts the others. ``change``
    is ``mean_b - mean_a``, ``ratio`` is ``mean_b / mean_a``, ``spearman`` the rank correlation (ties share their mean
    rank; NaN for fewer than two neurons, or where one report gives all the same value). ``top`` is how many of the
    largest were compared, ``overlap`` the share of A's that are among B's, ``jaccard`` those in both over those in
    either.
    """

    layer: str
    neurons: int
    left_out: int
    mean_a: float
    mean_b: float
    change: float
    ratio: float
    spearman: float
    top: int
    overlap: float
    jaccard: float


class MovedNeuron(NamedTuple):
    """A neuron with its ranks (1 = largest, ties share their mean) and values in A and B; ``places`` is how far up."""

    layer: str
    neuron: int
    places: float
    rank_a: float
    rank_b: float
    value_a: float
    value_b: float


class Moves(NamedTuple):
    """Neurons that rank higher in B than in A, and those that rank lower, furthest first."""

    up: list[MovedNeuron]
    down: list[MovedNeuron]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Metric ``by`` of the neurons of reports ``a`` and ``b``; see :func:`compare`.

    ``layers`` has an entry for each layer that could be compared, in A's order of execution, and ``overall`` is over
    the neurons of all of them together. ``only_a`` and ``only_b`` name layers of one report, ``incomparable`` maps
    layers of both that do not fit each other to the reason.
    """

    a: AuditReport
    b: AuditReport
    by: str
    k: int | float
    layers: tuple[LayerComparison, ...]
    overall: LayerComparison
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    incomparable: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Comparison({self.by} of {self.overall.neurons:,} neurons in {len(self.layers)} layers; "
            f"rank correlation {self.overall.spearman:.3f}, {self.overall.overlap:.1%} of the top {self.overall.top:,} "
            f"in common; A: {self.a.model}, {self.a.attack}; B: {self.b.model}, {self.b.attack})"
        )

    def to_pandas(self) -> DataFrame:
        """One row per compared layer, with the columns of :class:`LayerComparison`."""
        from pandas import DataFrame

        return DataFrame(list(self.layers), columns=list(LayerComparison._fields))

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision; the file appears whole or not at all.

        Raises ``ReportError`` if the file cannot be written.
        """
        write_whole(path, csv_content(self.to_pandas()))

    def neurons(self) -> DataFrame:
        """One row per neuron of the compared layers, in A's order of execution.

        Columns ``layer``, ``neuron``, ``value_a``, ``value_b``, ``rank_a``, ``rank_b`` over all layers, ``places``
        (``rank_a - rank_b``: how far up), ``rank_in_layer_a`` and ``rank_in_layer_b``. Rank 1 is the largest, ties
        share their mean rank. Ranks of a neuron whose value is not finite in both reports are NaN.
        """
        from pandas import DataFrame, Series

        first, second = self.a.metric(self.by), self.b.metric(self.by)
        names = [entry.layer for entry in self.layers]
        columns = [_joined(report[name] for name in names) for report in (first, second)]
        known = Series(_finite(*columns).numpy())
        frame = DataFrame(
            {
                "layer": [name for name in names for _ in range(len(first[name]))],
                "neuron": [neuron for name in names for neuron in range(len(first[name]))],
                "value_a": columns[0].numpy(),
                "value_b": columns[1].numpy(),
            }
        )
        for report in ("a", "b"):
            values = frame[f"value_{report}"].where(known)
            frame[f"rank_{report}"] = values.rank(ascending=False)
            frame[f"rank_in_layer_{report}"] = values.groupby(frame["layer"], sort=False).rank(ascending=False)
        frame["places"] = frame["rank_a"] - frame["rank_b"]
        order = ("layer", "neuron", "value_a", "value_b", "rank_a", "rank_b", "places")
        return frame[[*order, "rank_in_layer_a", "rank_in_layer_b"]]

    def moved(self, n: int = 10) -> Moves:
        """The ``n`` neurons that climbed most from A to B in the ranking over all layers, and the ``n`` that fell most.

        Furthest first, ties in the order of execution; a neuron that kept its place is in neither list.
        Raises ``ValueError`` for a negative ``n``.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        frame = self.neurons()
        rows = [
            MovedNeuron(str(row[0]), int(row[1]), *map(float, row[2:]))
            for row in frame[list(MovedNeuron._fields)].itertuples(index=False)
        ]
        up = sorted((row for row in rows if row.places > 0), key=lambda row: -row.places)
        down = sorted((row for row in rows if row.places < 0), key=lambda row: row.places)
        return Moves(up[:n], down[:n])

    def table(self) -> Table:
        """One row per layer and one for all as a rich table that fits 80 columns; its caption says what A and B are."""
        from .tables import comparison_table

        return comparison_table(self)

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the layers' means in A and B, and every neuron's value in B over that in A.

        The suffix of ``path`` decides the format. Raises ``ValueError`` for an unknown one, ``ReportError`` if the
        file cannot be written.
        """
        from .compare_plot import plot

        plot(self, path)


def compare(report_a: AuditReport, report_b: AuditReport, by: str = "sensitivity", k: int | float = 0.1) -> Comparison:
    """How metric ``by`` of each neuron differs between two reports, of different models or attacks for instance.

    Layers are matched by name. ``k`` says how many of the largest neurons' sets are compared, as in
    ``AuditReport.top``: a count, or a share of the layer (overall: of all neurons) as a float. A neuron that is NaN or
    infinite in either report is counted and left out. Rank correlation and overlap are Spearman's (1904) and
    Jaccard's (1901); that they are formed per layer is a choice of this package. The overall correlation is also
    high where only the layers differ in size: the rows of the layers say whether the neurons agree.

    Raises ``ValueError`` for an unknown metric, a ``k`` out of range, and reports without a layer of the same name and
    number of neurons; ``TypeError`` for a ``k`` that is no number.
    """
    first, second = report_a.metric(by), report_b.metric(by)
    count_of(k, 0)  # a bad k is refused before anything else
    incomparable = {
        name: f"{len(column)} neurons in A and {len(second[name])} in B"
        for name, column in first.items()
        if name in second and len(column) != len(second[name])
    }
    common = [name for name in first if name in second and name not in incomparable]
    if not common:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in incomparable.items())
        has = f"A has {listing(list(first)) or 'none'}, B has {listing(list(second)) or 'none'}"
        raise ValueError(
            f"no layer can be compared ({reasons}); both reports need layers of one name and size"
            if reasons
            else f"the reports have no layer in common ({has}); audit both with the same --layers"
        )
    return Comparison(
        a=report_a,
        b=report_b,
        by=by,
        k=k,
        layers=tuple(_compared(name, first[name], second[name], k) for name in common),
        overall=_compared("all", _joined(first[n] for n in common), _joined(second[n] for n in common), k),
        only_a=tuple(name for name in first if name not in second),
        only_b=tuple(name for name in second if name not in first),
        incomparable=incomparable,
    )


def _joined(columns: Iterable[Tensor]) -> Tensor:
    return torch.cat([*columns, torch.empty(0, dtype=torch.float64)])


def _finite(first: Tensor, second: Tensor) -> Tensor:
    return first.isfinite() & second.isfinite()


def _compared(layer: str, first: Tensor, second: Tensor, k: int | float) -> LayerComparison:
    known = _finite(first, second)
    left, right = first[known], second[known]
    top = count_of(k, len(left))
    ours, theirs = (set(ops.topk_neurons(values, top)[1].tolist()) for values in (left, right))
    shared = len(ours & theirs)
    mean_a, mean_b = float(left.mean()), float(right.mean())
    return LayerComparison(
        layer,
        neurons=len(first),
        left_out=len(first) - len(left),
        mean_a=mean_a,
        mean_b=mean_b,
        change=mean_b - mean_a,
        ratio=_ratio(mean_b, mean_a),
        spearman=_spearman(left, right),
        top=top,
        overlap=_ratio(shared, top),
        jaccard=_ratio(shared, len(ours | theirs)),
    )


def _ratio(top: float, bottom: float) -> float:
    """``top / bottom``; infinite over 0, NaN for 0 over 0."""
    if bottom:
        return top / bottom
    return math.copysign(math.inf, top) if top else math.nan


def _spearman(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of the ranks; ranks are multiples of a half, so their sums and products are exact."""
    from pandas import Series

    centred = [Series(values.numpy()).rank().to_numpy() - (len(values) + 1) / 2 for values in (first, second)]
    size = math.sqrt(float(centred[0] @ centred[0]) * float(centred[1] @ centred[1]))
    return max(-1.0, min(1.0, float(centred[0] @ centred[1]) / size)) if size else math.nan
