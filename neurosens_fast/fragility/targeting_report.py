"""Which neurons attacks hit most, and what that goes with."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy
from torch import Tensor

from neurosens_fast.audit.storage import write_whole
from neurosens_fast.support.files import csv_content

from .correlations import Correlation
from .judging import listed

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(repr=False)
class TargetingReport:
    """How often each of C neurons of ``layer`` is among the ``top`` most hit of a sample, at E strengths ``eps``.

    See :func:`target` for the definitions. ``zeroed`` is the layer at whose output neurons are read: ``layer`` itself
    or the norm behind it. ``histogram`` ``[E, C]`` int64 counts the samples that have the neuron among their most hit,
    ``by_class`` ``[E, K, C]`` those of each true class, of which there are ``class_samples`` ``[K]``; a sample with a
    label below 0 is of no class. ``unhit`` ``[E]`` int64 counts the samples of which no neuron changed.
    ``mean_relative_change`` ``[E, C]`` float64 is the mean over samples of the relative changes that are finite (NaN
    where none is), ``infinite`` ``[E, C]`` int64 the number of those that are not.

    ``correlations`` are those with the reports that were given. ``model``, ``attack`` and ``data`` describe what was
    measured, ``dtype``, ``device``, ``seed`` and ``versions`` what to repeat it with; ``notes`` tell what else a
    reader should know.
    """

    layer: str
    zeroed: str
    module_type: str
    channels: int
    eps: tuple[float, ...]
    top: int
    histogram: Tensor
    by_class: Tensor
    class_samples: Tensor
    unhit: Tensor
    mean_relative_change: Tensor
    infinite: Tensor
    correlations: tuple[Correlation, ...]
    samples: int
    where: str
    model: str
    attack: str
    data: str
    dtype: str
    device: str
    seed: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"TargetingReport({self.model}; {self.attack}, eps {listed(self.eps)}; the {self.top} most hit of "
            f"{self.channels} neurons of {self.layer}, {self.samples:,} samples, {len(self.correlations)} correlations)"
        )

    @property
    def share(self) -> Tensor:
        """Share of the samples that have the neuron among their most hit, ``[E, C]`` float64."""
        return self.histogram.double() / self.samples

    def to_pandas(self) -> DataFrame:
        """One row per eps and neuron: ``hits``, their ``share`` of the samples, mean and infinite relative changes."""
        from pandas import DataFrame

        levels, neurons = len(self.eps), self.channels
        return DataFrame(
            {
                "layer": self.layer,
                "neuron": numpy.tile(numpy.arange(neurons), levels),
                "eps": numpy.repeat(self.eps, neurons),
                "hits": self.histogram.flatten().numpy(),
                "share": self.share.flatten().numpy(),
                "mean_relative_change": self.mean_relative_change.flatten().numpy(),
                "infinite": self.infinite.flatten().numpy(),
            }
        )

    def classes_to_pandas(self) -> DataFrame:
        """One row per eps, true class and neuron: ``hits``, and ``samples`` of the class."""
        from pandas import DataFrame

        levels, classes, neurons = self.by_class.shape
        return DataFrame(
            {
                "layer": self.layer,
                "neuron": numpy.tile(numpy.arange(neurons), levels * classes),
                "eps": numpy.repeat(self.eps, classes * neurons),
                "class": numpy.tile(numpy.repeat(numpy.arange(classes), neurons), levels),
                "hits": self.by_class.flatten().numpy(),
                "samples": numpy.tile(numpy.repeat(self.class_samples.numpy(), neurons), levels),
            }
        )

    def correlations_to_pandas(self) -> DataFrame:
        """One row per correlation, with the columns of :class:`~neurosens_fast.fragility.correlations.Correlation`."""
        from pandas import DataFrame

        return DataFrame(list(self.correlations), columns=list(Correlation._fields))

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision; the file appears whole or not at all.

        Raises ``ReportError`` if the file cannot be written.
        """
        write_whole(path, csv_content(self.to_pandas()))

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the most hit neurons at every eps, by class at the largest one, and the correlations if there are any.

        The suffix of ``path`` decides the format. Raises ``ValueError`` for an unknown one, ``ReportError`` if the
        file cannot be written.
        """
        from .targeting_plot import plot

        plot(self, path)
