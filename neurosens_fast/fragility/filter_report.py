"""What synaptic filtering found: accuracy over the threshold, its integral, and what filtering does to a layer."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .judging import SCORES, classified, column_of, condition_of, listed

if TYPE_CHECKING:
    from pandas import DataFrame

KINDS: dict[str, str] = {
    "high": "passes large weights: removes sizes up to and including the threshold",
    "low": "passes small weights: removes sizes above the threshold",
    "pulse": "removes one band of sizes between neighbouring thresholds",
}
"""Kinds of filters (Pravin et al., AIJ 327:104060, 2024; our reconstruction)."""


@dataclass(repr=False)
class FilterReport:
    """Accuracy along the ``curves`` of a filter, clean and at every ``eps``, and how it was measured.

    There are L curves of P points. A curve is a layer, or all of ``layers`` with ``scope="global"``; ``weights`` are
    its weights that are not 0, ``largest`` the largest absolute value among them. Each point removes the sizes above
    the lower and up to the upper end of its one of ``bands``, as shares of the largest; ``removed`` ``[L, P]`` counts
    them. ``correct`` ``[L, P, 1 + E]`` of ``samples`` were right (clean, then each eps), ``unfiltered`` ``[1 + E]``
    without a filter; all int64 on the CPU. ``model``, ``attack`` and ``data`` describe what was measured, ``dtype``,
    ``device``, ``seed`` and ``versions`` what to repeat it with; ``notes`` tell of weights left out or shared.
    """

    kind: str
    scope: str
    curves: tuple[str, ...]
    weights: tuple[int, ...]
    largest: tuple[float, ...]
    layers: tuple[str, ...]
    bands: tuple[tuple[float, float], ...]
    eps: tuple[float, ...]
    removed: Tensor
    correct: Tensor
    unfiltered: Tensor
    samples: int
    model: str
    attack: str
    data: str
    dtype: str
    device: str
    seed: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        curves = "1 curve" if len(self.curves) == 1 else f"{len(self.curves)} curves"
        return (
            f"FilterReport({self.model}; {self.attack}, eps {listed(self.eps)}; {self.kind} filter, {curves} of "
            f"{len(self.bands)} points over {sum(self.weights):,} weights, {self.samples:,} samples)"
        )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The threshold of each point; of a pulse, the middle of its band."""
        if self.kind == "pulse":
            return tuple((lower + upper) / 2 for lower, upper in self.bands)
        return tuple(upper if self.kind == "high" else lower for lower, upper in self.bands)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean samples classified rightly without a filter."""
        return int(self.unfiltered[0]) / self.samples

    def adversarial_accuracy(self, eps: float | None = None) -> float:
        """The same of adversarial samples at ``eps``, by default the largest."""
        return int(self.unfiltered[condition_of(eps, self.eps)]) / self.samples

    def surviving(self) -> Tensor:
        """Share of weights that each point keeps, ``[L, P]`` float64."""
        return 1 - self.removed / torch.tensor(self.weights, dtype=torch.float64)[:, None]

    def accuracy(self, eps: float | None = None, clean: bool = False) -> Tensor:
        """Accuracy at each point, ``[L, P]`` float64: at ``eps`` (default: the largest), or ``clean``."""
        return self.correct[..., 0 if clean else condition_of(eps, self.eps)].double() / self.samples

    def accuracy_error(self, eps: float | None = None, clean: bool = False) -> Tensor:
        """Binomial standard error of :meth:`accuracy`, ``[L, P]``."""
        share = self.accuracy(eps, clean)
        return (share * (1 - share) / self.samples).sqrt()

    def score(self, score: str = "adversarial", eps: float | None = None) -> Tensor:
        """Integral of accuracy minus the share of surviving weights over the threshold, ``[L]`` float64.

        ``score`` is one of :data:`SCORES`; the difference is the adversarial score less the clean one, in which the
        shares cancel. The threshold is normalised to run from 0 to 1 along the curve, so that a score lies between -1
        and 1 whatever the thresholds. The integral is that of the trapezoid rule; a pulse holds over the width of its
        band. Normalising by the range is a choice of this package.

        Raises ``ValueError`` for an unknown score or an eps that was not measured.
        """
        place = column_of(score, eps, self.eps)
        height = self.correct.double() / self.samples - self.surviving()[..., None]
        integrals = torch.einsum("lpe,p->le", height, self._widths())
        return integrals[:, place] - integrals[:, 0] if score == "difference" else integrals[:, place]

    def change(self, score: str = "adversarial", eps: float | None = None) -> Tensor:
        """What filtering does to accuracy, ``[L]`` float64: the mean over filtered points, less that without a filter.

        Filtered points are those that remove at least one weight; 0 where there is none. The difference is the
        adversarial change less the clean one, so it is positive too where both accuracies fall to the same floor. This
        is what :meth:`classes` judges by, a choice of this package. It depends on the thresholds: points that remove
        nearly everything count as much as others, so that ``"high"`` and ``"low"`` find most layers fragile.

        Raises ``ValueError`` for an unknown score or an eps that was not measured.
        """
        place = column_of(score, eps, self.eps)
        filtered = (self.removed > 0)[..., None]
        sums = ((self.correct - self.unfiltered) * filtered).sum(1)  # whole numbers, so that the mean is rounded once
        means = sums.double() / (filtered.sum(1).clamp(min=1) * self.samples)
        return means[:, place] - means[:, 0] if score == "difference" else means[:, place]

    def threshold(self, score: str = "adversarial", eps: float | None = None) -> float:
        """The threshold of :meth:`classes` by default: the binomial standard error of the accuracy without a filter.

        Of the difference: the root of the sum of the squares of both. A choice of this package.
        """
        place = column_of(score, eps, self.eps)
        share = self.unfiltered.double() / self.samples
        squares = share * (1 - share) / self.samples
        return float((squares[place] + (squares[0] if score == "difference" else 0)).sqrt())

    def classes(
        self, score: str = "adversarial", eps: float | None = None, threshold: float | None = None
    ) -> tuple[str, ...]:
        """The class of each curve, one of ``CLASSES``, with ``threshold`` (default: :meth:`threshold`).

        By :meth:`change`: fragile where filtering hurts (below -threshold), antifragile where it helps (above the
        threshold), robust where it does neither. Raises ``ValueError`` for a negative threshold, an unknown score or
        eps.
        """
        limit = self.threshold(score, eps) if threshold is None else threshold
        return classified(self.change(score, eps).tolist(), limit)

    def scores(self, threshold: float | None = None) -> DataFrame:
        """One row per curve and eps: its weights, and for each of :data:`SCORES` the score, change and class."""
        from pandas import DataFrame, concat

        frames = []
        for eps in self.eps:
            columns: dict[str, object] = {
                "layer": list(self.curves),
                "kind": self.kind,
                "weights": list(self.weights),
                "largest": list(self.largest),
                "eps": eps,
            }
            for score in SCORES:
                columns[score] = self.score(score, eps).numpy()
                columns[f"{score}_change"] = self.change(score, eps).numpy()
                columns[f"{score}_class"] = list(self.classes(score, eps, threshold))
            frames.append(DataFrame(columns))
        return concat(frames, ignore_index=True)

    def to_pandas(self) -> DataFrame:
        """One row per point of a curve and eps: what is removed, and clean and adversarial accuracy with errors."""
        from pandas import DataFrame, concat

        count = len(self.curves)
        frames = []
        for eps in self.eps:
            columns: dict[str, object] = {
                "layer": [name for name in self.curves for _ in self.bands],
                "kind": self.kind,
                "threshold": list(self.thresholds) * count,
                "lower": [lower for lower, _ in self.bands] * count,
                "upper": [upper for _, upper in self.bands] * count,
                "removed": self.removed.flatten().numpy(),
                "surviving": self.surviving().flatten().numpy(),
                "eps": eps,
            }
            for name, clean in (("clean", True), ("adversarial", False)):
                columns[f"{name}_accuracy"] = self.accuracy(eps, clean).flatten().numpy()
                columns[f"{name}_standard_error"] = self.accuracy_error(eps, clean).flatten().numpy()
            frames.append(DataFrame(columns))
        return concat(frames, ignore_index=True)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision: the whole file, or ``ReportError`` says why."""
        from neurosens_fast.audit.storage import write_whole
        from neurosens_fast.support.files import csv_content

        write_whole(path, csv_content(self.to_pandas()))

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw accuracy over the threshold, one panel per curve; the suffix decides the format.

        Bands are one binomial standard error, the dotted line is the share of surviving weights. Raises ``ValueError``
        for an unknown format, ``ReportError`` if the file cannot be written.
        """
        from .filter_plot import plot

        plot(self, path)

    def _widths(self) -> Tensor:
        """How much each point weighs in an integral over the normalised threshold, ``[P]`` with sum 1."""
        if self.kind == "pulse":
            widths = torch.tensor([upper - lower for lower, upper in self.bands], dtype=torch.float64)
        else:
            steps = torch.tensor(self.thresholds, dtype=torch.float64).diff()
            widths = torch.zeros(len(self.bands), dtype=torch.float64)
            widths[:-1] += steps / 2
            widths[1:] += steps / 2
        return widths / widths.sum()
