"""What a masking experiment found."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

from neurosens_fast.audit.storage import write_whole
from neurosens_fast.support.files import csv_content

if TYPE_CHECKING:
    from pandas import DataFrame


class MaskingPoint(NamedTuple):
    """Accuracies with the first ``masked`` neurons of an order set to zero, and their binomial standard errors.

    ``repeat`` counts random orders from 1 (the other orders have one); ``share`` is ``masked`` over all ranked neurons.
    """

    order: str
    repeat: int
    masked: int
    share: float
    clean_accuracy: float
    clean_standard_error: float
    adversarial_accuracy: float
    adversarial_standard_error: float
    samples: int


@dataclass(frozen=True, repr=False)
class MaskingCurve:
    """Accuracy against the number of masked neurons; see :func:`masking_curve`.

    ``points`` stand by order, repeat and count. ``layers`` maps masked layers to their number of ranked neurons;
    ``output_layers`` were left out because their neurons are the classes, and ``unranked`` neurons (by layer)
    because metric ``by`` is NaN. ``model``, ``attack`` and ``data`` describe what was measured, ``seed`` repeats it.
    """

    points: tuple[MaskingPoint, ...]
    layers: dict[str, int]
    output_layers: tuple[str, ...]
    unranked: dict[str, list[int]]
    by: str
    scope: str
    protocol: str
    samples: int
    seed: int
    model: str
    attack: str
    data: str

    def __repr__(self) -> str:
        orders = ", ".join(dict.fromkeys(point.order for point in self.points))
        return (
            f"MaskingCurve({self.model}; {self.attack}; {orders} of {self.neurons:,} neurons by {self.by}, "
            f"{self.samples:,} samples)"
        )

    @property
    def neurons(self) -> int:
        """Number of ranked neurons over all masked layers."""
        return sum(self.layers.values())

    def to_pandas(self) -> DataFrame:
        """One row per point, with the columns of :class:`MaskingPoint`."""
        from pandas import DataFrame

        return DataFrame(list(self.points), columns=list(MaskingPoint._fields))

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision: the whole file, or ``ReportError`` says why."""
        write_whole(path, csv_content(self.to_pandas()))

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw clean and adversarial accuracy over the share of masked neurons; the suffix decides the format.

        Bars are one binomial standard error, the band is the range of the random orders. Raises ``ValueError``
        for an unknown format, ``ReportError`` if the file cannot be written.
        """
        from .plot import plot

        plot(self, path)
