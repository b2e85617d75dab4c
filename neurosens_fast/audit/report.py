"""What an audit found: totals per layer, and every number that derives from them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast._arguments import check_k, share_of
from neurosens_fast.columns import MAXIMA, SUMS
from neurosens_fast.statistics import METRICS, PairStatistics, check_metric

from .per_sample import ClassTotals

if TYPE_CHECKING:
    from pandas import DataFrame

_T = TypeVar("_T")


class Neuron(NamedTuple):
    """One neuron of a ranking: ``rank`` 1 has the largest ``value``."""

    rank: int
    layer: str
    neuron: int
    value: float


@dataclass(frozen=True)
class LayerSummary:
    """One layer in numbers; ``score`` is the mean sensitivity of its neurons (the layer score of EvalBox).

    Score, median, maximum and ``most_sensitive`` are of another metric where one was asked for.
    """

    layer: str
    module_type: str
    shape: tuple[int, ...]
    channel_dim: int
    neurons: int
    samples: int
    score: float
    median: float
    maximum: float
    most_sensitive: int | None
    dead: tuple[int, ...]
    nonfinite: tuple[int, ...]


@dataclass
class LayerAudit:
    """One layer's place in the model and its totals (on the CPU), for each class too where that was asked for.

    ``shape`` is one sample's output.
    """

    module_type: str
    channel_dim: int
    shape: tuple[int, ...]
    statistics: PairStatistics
    by_class: ClassTotals | None = None


@dataclass(repr=False)
class AuditReport:
    """Sensitivity of every neuron of every tapped layer, and how it was measured.

    ``layers`` maps layer names to their totals in the order of execution. ``samples`` counts pairs,
    ``labelled`` those that entered the accuracies. ``model``, ``attack`` and ``data`` describe what was
    audited, ``layer_choice`` the layers that were asked for, ``device``, ``dtype``, ``seeds`` and
    ``versions`` what to repeat it with. ``not_run`` names chosen layers that the forward never reached,
    ``skipped`` maps those of a group that cannot be measured to the reason, and ``functional`` lists
    activation functions that no tap can reach. ``fused`` names the layers whose activation and statistics were
    computed in one pass, ``not_fused`` says why the model ran as it is where it did. ``notes`` tell
    what else happened on the way. ``tokens`` says
    which positions of token layouts counted.
    """

    layers: dict[str, LayerAudit]
    samples: int
    labelled: int
    correct_benign: int
    correct_adversarial: int
    model: str
    attack: str
    data: tuple[str, ...]
    layer_choice: str
    device: str
    dtype: str
    seeds: tuple[int, ...]
    versions: dict[str, str]
    not_run: tuple[str, ...] = ()
    functional: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    fused: tuple[str, ...] = ()
    not_fused: str = ""
    notes: tuple[str, ...] = ()
    tokens: str = "all"

    def __repr__(self) -> str:
        return (
            f"AuditReport({self.model}; {self.attack}; {len(self.layers)} layers, {self.neurons:,} neurons, "
            f"{self.samples:,} samples)"
        )

    @property
    def clean_accuracy(self) -> float:
        """Share of labelled benign samples classified correctly; NaN without labels."""
        return self.correct_benign / self.labelled if self.labelled else math.nan

    @property
    def adversarial_accuracy(self) -> float:
        """Share of labelled adversarial samples classified correctly; NaN without labels."""
        return self.correct_adversarial / self.labelled if self.labelled else math.nan

    @property
    def neurons(self) -> int:
        """Number of neurons over all layers."""
        return sum(layer.statistics.neurons for layer in self.layers.values())

    @property
    def sensitivity(self) -> dict[str, Tensor]:
        """Layer -> mean absolute change of each neuron, ``[C]`` float64 (Zhang et al., IEEE TIP 30:1291, 2021)."""
        return self.metric("sensitivity")

    def metric(self, name: str) -> dict[str, Tensor]:
        """Layer -> metric ``name`` of ``statistics.METRICS`` per neuron, ``[C]`` float64.

        Raises ``ValueError`` for an unknown name, listing the valid ones.
        """
        check_metric(name)
        return {layer: entry.statistics.metric(name) for layer, entry in self.layers.items()}

    @property
    def class_sensitivity(self) -> dict[str, Tensor]:
        """Layer -> mean absolute change by class and neuron, ``[K, C]`` float64; NaN where a class has no sample.

        Raises ``ValueError`` for a report that was not made with ``by_class=True``.
        """
        means = {name: row.by_class.means() for name, row in self.layers.items() if row.by_class is not None}
        if not means:
            raise ValueError("the report has no classes; audit with by_class=True")
        return means

    def classes_to_pandas(self) -> DataFrame:
        """One row per class and layer: ``class``, ``layer``, ``samples``, ``score``, ``most_sensitive``.

        ``score`` is the mean sensitivity of the layer's neurons to attacks on the class. Errors are those of
        :attr:`class_sensitivity`.
        """
        from pandas import DataFrame

        rows = []
        for name, means in self.class_sensitivity.items():
            totals = self.layers[name].by_class
            assert totals is not None
            for number, (count, values) in enumerate(zip(totals.samples.tolist(), means, strict=True)):
                some = count > 0 and len(values) > 0
                most = int(ops.topk_neurons(values, 1)[1]) if some else None
                rows.append((number, name, int(count), float(values.mean()) if some else math.nan, most))
        frame = DataFrame(rows, columns=["class", "layer", "samples", "score", "most_sensitive"])
        return frame.astype({"most_sensitive": "Int64"}).sort_values(["class"], kind="stable", ignore_index=True)

    def top(self, k: int | float = 10, by: str = "sensitivity", layer: str | None = None) -> list[Neuron]:
        """The ``k`` neurons with the largest metric ``by``, largest first, over all layers or of one.

        An integer ``k`` is a count (at most all neurons are returned), a float in (0, 1] a share, rounded
        up, at least 1. Ties keep the order of execution; NaN counts as largest.
        Raises ``ValueError`` for an unknown metric or layer, or a ``k`` out of range.
        """
        values = self.metric(by)
        if layer is not None:
            if layer not in values:
                raise ValueError(f"the report has no layer {layer!r}; its layers are {', '.join(values)}")
            values = {layer: values[layer]}
        places = [(name, neuron) for name, column in values.items() for neuron in range(len(column))]
        joined = torch.cat([*values.values(), torch.empty(0, dtype=torch.float64)])
        largest, indices = ops.topk_neurons(joined, count_of(k, len(places)))
        found = [(places[index], value) for index, value in zip(indices.tolist(), largest.tolist(), strict=True)]
        return [Neuron(rank, name, neuron, value) for rank, ((name, neuron), value) in enumerate(found, 1)]

    def dead(self) -> dict[str, list[int]]:
        """Layer -> neurons whose output was exactly 0 for every sample and position, benign and adversarial."""
        found = {name: _dead(entry.statistics) for name, entry in self.layers.items()}
        return {name: neurons for name, neurons in found.items() if neurons}

    def nonfinite(self) -> dict[str, list[int]]:
        """Layer -> neurons whose totals are NaN or infinite."""
        found = {name: entry.statistics.nonfinite().tolist() for name, entry in self.layers.items()}
        return {name: neurons for name, neurons in found.items() if neurons}

    def summary(self, by: str = "sensitivity") -> list[LayerSummary]:
        """One :class:`LayerSummary` by metric ``by`` per layer, in the order of execution.

        Raises ``ValueError`` for an unknown metric.
        """
        dead, nonfinite, columns = self.dead(), self.nonfinite(), self.metric(by)
        rows = []
        for name, entry in self.layers.items():
            values = columns[name]
            some = len(values) > 0
            rows.append(
                LayerSummary(
                    name,
                    entry.module_type,
                    entry.shape,
                    entry.channel_dim,
                    len(values),
                    entry.statistics.samples,
                    score=float(values.mean()),
                    median=float(values.quantile(0.5)) if some else math.nan,
                    maximum=float(values.max()) if some else math.nan,
                    most_sensitive=int(ops.topk_neurons(values, 1)[1]) if some else None,
                    dead=tuple(dead.get(name, ())),
                    nonfinite=tuple(nonfinite.get(name, ())),
                )
            )
        return rows

    def to_pandas(self, by: str = "sensitivity") -> DataFrame:
        """One row per neuron: ``layer``, ``neuron``, every metric, ``rank`` and ``rank_in_layer`` by metric ``by``.

        Rows stand in the order of execution; rank 1 is the largest. Raises ``ValueError`` for an unknown metric.
        """
        from pandas import DataFrame

        columns: dict[str, object] = {
            "layer": [name for name, entry in self.layers.items() for _ in range(entry.statistics.neurons)],
            "neuron": [neuron for entry in self.layers.values() for neuron in range(entry.statistics.neurons)],
        }
        empty = torch.empty(0, dtype=torch.float64)
        for metric in METRICS:
            columns[metric] = torch.cat([*self.metric(metric).values(), empty]).numpy()
        values = self.metric(by)
        columns["rank"] = _ranks(torch.cat([*values.values(), empty])).numpy()
        ranks = [_ranks(column) for column in values.values()]
        columns["rank_in_layer"] = torch.cat([*ranks, torch.empty(0, dtype=torch.int64)]).numpy()
        return DataFrame(columns)

    def to_csv(self, path: str | PathLike[str], by: str = "sensitivity") -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision: the whole file, or ``ReportError`` says why."""
        from neurosens_fast.support.files import csv_content

        from .storage import write_whole

        write_whole(path, csv_content(self.to_pandas(by)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file with JSON metadata and a checksum; it appears whole or not at all.

        Raises ``ReportError`` if the file cannot be written.
        """
        from .storage import save

        save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> AuditReport:
        """The report saved at ``path``.

        Raises ``ReportError``, which names the file and the problem, for a file that is missing,
        truncated, altered, or no report.
        """
        from .storage import load

        return load(path)

    def plot(self, path: str | PathLike[str], by: str = "sensitivity") -> None:
        """Draw metric ``by`` per layer and per neuron (sorted); the suffix of ``path`` decides the format.

        Raises ``ValueError`` for an unknown metric or format.
        """
        from .plot import plot

        plot(self, path, by)

    def to_markdown(self, by: str = "sensitivity", top: int | float = 20, picture: str | None = None) -> str:
        """The report as a Markdown document: setting, accuracies, notes, tables, and how the metrics are defined.

        ``by`` and ``top`` are those of :meth:`top`; ``picture`` is the link to a picture, none without it.
        """
        from .document import to_markdown

        return to_markdown(self, by, top, picture)

    def save_markdown(
        self,
        path: str | PathLike[str],
        by: str = "sensitivity",
        top: int | float = 20,
        picture: str | PathLike[str] | None = None,
    ) -> None:
        """Write :meth:`to_markdown`, and :meth:`plot` beside it as PNG of the same stem, each whole or not at all.

        With ``picture``, a picture that is there already, the text shows that one and none is drawn. Raises
        ``ReportError`` if a file cannot be written, ``ValueError`` where ``path`` ends in ``.png``.
        """
        from .document import save_markdown

        save_markdown(self, path, by, top, picture)

    def save_html(
        self,
        path: str | PathLike[str],
        by: str = "sensitivity",
        top: int | float = 20,
        picture: str | PathLike[str] | None = None,
    ) -> None:
        """Write the document of :meth:`to_markdown` as one HTML file that needs no other and fetches nothing.

        ``picture`` is a PNG to put inside in place of a new one. The file appears whole or not at all. Raises
        ``ReportError`` if it cannot be written or the picture not be read, ``ValueError`` if that is no PNG.
        """
        from .document import save_html

        save_html(self, path, by, top, picture)

    def merge(self, other: AuditReport) -> AuditReport:
        """A new report over the samples of both, as one audit of all of them would give it.

        Raises ``ValueError`` naming the difference if model, attack, layers or their sizes differ.
        """
        for what in ("model", "attack", "dtype", "tokens"):
            ours, theirs = getattr(self, what), getattr(other, what)
            if ours != theirs:
                raise ValueError(f"cannot merge reports of different {what.rstrip('s')}s: {ours!r} and {theirs!r}")
        if list(self.layers) != list(other.layers):
            odd = sorted(self.layers.keys() ^ other.layers.keys()) or list(self.layers)
            raise ValueError(f"cannot merge reports of different layers; not the same in both: {', '.join(odd)}")
        merged: dict[str, LayerAudit] = {}
        for name, ours in self.layers.items():
            theirs = other.layers[name]
            axes = ours.channel_dim % (len(ours.shape) + 1), theirs.channel_dim % (len(theirs.shape) + 1)
            if ours.statistics.neurons != theirs.statistics.neurons or axes[0] != axes[1]:
                raise ValueError(
                    f"cannot merge layer {name!r}: {ours.statistics.neurons} neurons on axis {axes[0]} and "
                    f"{theirs.statistics.neurons} on axis {axes[1]}"
                )
            total = ours.statistics.copied_to("cpu")
            total.merge(theirs.statistics)
            classes = None
            if ours.by_class is not None and theirs.by_class is not None:
                classes = ours.by_class.copied_to("cpu")
                classes.merge(theirs.by_class)
            merged[name] = replace(ours, statistics=total, by_class=classes)
        return replace(
            self,
            layers=merged,
            samples=self.samples + other.samples,
            labelled=self.labelled + other.labelled,
            correct_benign=self.correct_benign + other.correct_benign,
            correct_adversarial=self.correct_adversarial + other.correct_adversarial,
            data=union(self.data, other.data),
            seeds=union(self.seeds, other.seeds),
            not_run=union(self.not_run, other.not_run),
            functional=union(self.functional, other.functional),
            skipped={**other.skipped, **self.skipped},
            fused=union(self.fused, other.fused),
            not_fused=self.not_fused or other.not_fused,
            notes=union(self.notes, other.notes),
        )


def union(*parts: Iterable[_T]) -> tuple[_T, ...]:
    """What is in any of ``parts``, once, in order."""
    return tuple(dict.fromkeys(item for part in parts for item in part))


def count_of(k: int | float, neurons: int) -> int:
    """How many of ``neurons`` a count or a share ``k`` means; the errors are those of :meth:`AuditReport.top`."""
    check_k(k)
    if isinstance(k, float):
        return min(neurons, max(1, share_of(k, neurons)))
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}")
    return min(k, neurons)


def _ranks(values: Tensor) -> Tensor:
    """Rank of each value of ``[C]``, 1 = largest; ties by index, NaN largest."""
    _, order = ops.topk_neurons(values, len(values))
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(values) + 1)
    return ranks


def _dead(statistics: PairStatistics) -> list[int]:
    if not statistics.samples:
        return []
    zero_sum = (statistics.sums[:, [SUMS.index("benign_mean"), SUMS.index("adversarial_mean")]] == 0).all(1)
    # A maximum of 0 and a sum of 0: no positive and no negative value.
    zero_peak = (statistics.maxima[:, [MAXIMA.index("benign_max"), MAXIMA.index("adversarial_max")]] == 0).all(1)
    return (zero_sum & zero_peak).nonzero().flatten().tolist()
