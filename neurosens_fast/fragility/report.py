"""What nodal dropout found: accuracy without each neuron, and which neurons are fragile."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .counts import Counts
from .judging import SCORES, classified, column_of, condition_of, listed

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(repr=False)
class FragilityReport:
    """Accuracy with each neuron of ``layer`` set to zero, clean and at every ``eps``, and how it was measured.

    ``zeroed`` is the layer at whose output the zeros are: ``layer`` itself or the norm behind it. ``neurons`` are the
    channels that were dropped, of ``channels`` in all, in the order of every ``[K]`` tensor; ``counts`` holds what was
    counted. ``where`` and ``protocol`` are those of :func:`nodal_dropout`; ``model``, ``attack`` and ``data`` describe
    what was measured, ``dtype``, ``device``, ``seed`` and ``versions`` what to repeat it with. ``notes`` tell how it
    was computed.
    """

    layer: str
    zeroed: str
    module_type: str
    channels: int
    neurons: tuple[int, ...]
    eps: tuple[float, ...]
    counts: Counts
    where: str
    protocol: str
    model: str
    attack: str
    data: str
    dtype: str
    device: str
    seed: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        levels = listed(self.eps)
        return (
            f"FragilityReport({self.model}; {self.attack}, eps {levels}; {len(self.neurons)} neurons of {self.layer}, "
            f"{self.samples:,} samples)"
        )

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.counts.samples

    @property
    def clean_accuracy(self) -> float:
        """Share of clean samples classified rightly with nothing dropped."""
        return float(self.counts.accuracy()[0])

    def adversarial_accuracy(self, eps: float | None = None) -> float:
        """The same of adversarial samples at ``eps``, by default the largest."""
        return float(self.counts.accuracy()[condition_of(eps, self.eps)])

    def accuracy(self, eps: float | None = None, clean: bool = False) -> Tensor:
        """Accuracy with each neuron dropped, ``[K]`` float64: at ``eps`` (default: the largest), or ``clean``."""
        place = 0 if clean else condition_of(eps, self.eps)
        return self.counts.accuracy()[place] + self.counts.change()[:, place]

    def score(self, score: str = "adversarial", eps: float | None = None) -> Tensor:
        """Score of each neuron, ``[K]`` float64, one of :data:`SCORES`, at ``eps`` (default: the largest).

        Raises ``ValueError`` for an unknown score or an eps that was not measured.
        """
        place = column_of(score, eps, self.eps)
        change = self.counts.change()
        return change[:, place] - change[:, 0] if score == "difference" else change[:, place]

    def standard_error(self, score: str = "adversarial", eps: float | None = None) -> Tensor:
        """Standard error of :meth:`score`, ``[K]``, from the samples' paired changes."""
        place = column_of(score, eps, self.eps)
        errors = self.counts.difference_error() if score == "difference" else self.counts.change_error()
        return errors[:, place]

    def p_value(self, score: str = "adversarial", eps: float | None = None) -> Tensor:
        """Exact two-sided McNemar test of each neuron, ``[K]``: that dropping it changes no accuracy.

        NaN for the difference, which that test does not cover.
        """
        place = column_of(score, eps, self.eps)
        if score == "difference":
            return torch.full((len(self.neurons),), torch.nan, dtype=torch.float64)
        return self.counts.p_values(place)

    def threshold(self, score: str = "adversarial", eps: float | None = None) -> float:
        """The threshold of :meth:`classes` by default: the binomial standard error of the accuracy without dropping.

        Of the difference: the root of the sum of the squares of both. A choice of this package.
        """
        place = column_of(score, eps, self.eps)
        error = self.counts.accuracy_error()
        return float(error[place] if score != "difference" else (error[place] ** 2 + error[0] ** 2).sqrt())

    def classes(
        self, score: str = "adversarial", eps: float | None = None, threshold: float | None = None
    ) -> tuple[str, ...]:
        """The class of each neuron, one of :data:`CLASSES`, with ``threshold`` (default: :meth:`threshold`).

        Raises ``ValueError`` for a negative threshold, an unknown score or eps.
        """
        limit = self.threshold(score, eps) if threshold is None else threshold
        return classified(self.score(score, eps).tolist(), limit)

    def to_pandas(self, threshold: float | None = None) -> DataFrame:
        """One row per neuron and eps: accuracies, and for each of :data:`SCORES` score, error, p-value and class."""
        from pandas import DataFrame, concat

        frames = []
        for eps in self.eps:
            columns: dict[str, object] = {
                "layer": self.layer,
                "neuron": list(self.neurons),
                "eps": eps,
                "clean_accuracy": self.accuracy(clean=True).numpy(),
                "adversarial_accuracy": self.accuracy(eps).numpy(),
            }
            for score in SCORES:
                columns[score] = self.score(score, eps).numpy()
                columns[f"{score}_standard_error"] = self.standard_error(score, eps).numpy()
                if score != "difference":
                    columns[f"{score}_p_value"] = self.p_value(score, eps).numpy()
                columns[f"{score}_class"] = list(self.classes(score, eps, threshold))
            frames.append(DataFrame(columns))
        return concat(frames, ignore_index=True)

    def to_csv(self, path: str | PathLike[str], threshold: float | None = None) -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision: the whole file, or ``ReportError`` says why."""
        from neurosens_fast.audit.storage import write_whole
        from neurosens_fast.support.files import csv_content

        write_whole(path, csv_content(self.to_pandas(threshold)))

    def plot(self, path: str | PathLike[str], threshold: float | None = None) -> None:
        """Draw every neuron's score, clean and at each eps, and the sorted scores; the suffix decides the format.

        ``threshold`` is that of :meth:`classes`. Raises ``ValueError`` for an unknown format, ``ReportError`` if the
        file cannot be written.
        """
        from .plot import plot

        plot(self, path, threshold)

    def to_markdown(self, top: int = 20, picture: str | None = None, threshold: float | None = None) -> str:
        """The report as a Markdown document: setting, accuracies, classes, the ``top`` most fragile neurons.

        ``picture`` is the link to a picture, none without it; ``threshold`` that of :meth:`classes`.
        """
        from .document import to_markdown

        return to_markdown(self, top, picture, threshold=threshold)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file with JSON metadata and a checksum; it appears whole or not at all.

        Raises ``ReportError`` if the file cannot be written.
        """
        from .storage import save

        save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FragilityReport:
        """The report saved at ``path``.

        Raises ``ReportError``, which names the file and the problem, for a file that is missing,
        truncated, altered, or no report.
        """
        from .storage import load

        return load(path)
