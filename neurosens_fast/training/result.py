"""What a training run was: one row per epoch, and how it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Epoch:
    """One epoch, counted from 1.

    ``loss`` is the mean over samples, ``term`` that of the SNS or vulnerability term without its weight (NaN without
    one), ``train_accuracy`` the share of training samples that were right as the loss saw them: under attack, with a
    method that attacks. ``clean_accuracy`` and ``adversarial_accuracy`` are those of the validation data (NaN in
    an epoch without validation).
    ``gradient_evaluations`` counts forward and backward passes of single samples from the beginning.
    """

    epoch: int
    loss: float
    term: float
    train_accuracy: float
    clean_accuracy: float
    adversarial_accuracy: float
    lr: float
    gradient_evaluations: int
    seconds: float


COLUMNS = tuple(Epoch.__dataclass_fields__)


@dataclass
class TrainingResult:
    """What :func:`~neurosens_fast.training.fit` gives back.

    ``best_epoch`` is the one of the best validation accuracy (adversarial; clean for standard training), ``best`` its
    weights by name, ``stopped`` why the run ended early, empty where it did not.
    """

    model: nn.Module = field(repr=False)
    method: str
    history: list[Epoch]
    best_epoch: int
    best: dict[str, Tensor] = field(repr=False)
    stopped: str = ""
    folder: Path | None = None

    def to_pandas(self) -> DataFrame:
        """One row per epoch, with the columns of :class:`Epoch`."""
        from pandas import DataFrame

        return DataFrame([asdict(row) for row in self.history], columns=list(COLUMNS))

    def epoch(self, number: int) -> Epoch:
        """The row of one epoch, counted from 1; ``ValueError`` for one that did not run."""
        for row in self.history:
            if row.epoch == number:
                return row
        raise ValueError(f"there is no epoch {number}; the run has {len(self.history)}, counted from 1")


def rows_as_json(history: list[Epoch]) -> list[dict[str, Any]]:
    """The rows with None for what is not a number."""
    return [{name: None if value != value else value for name, value in asdict(row).items()} for row in history]


def rows_from_json(rows: list[dict[str, Any]]) -> list[Epoch]:
    """The reverse of :func:`rows_as_json`."""
    found = []
    for row in rows:
        values: dict[str, Any] = {name: float("nan") if row[name] is None else row[name] for name in COLUMNS}
        found.append(Epoch(**values))
    return found
