"""What an evaluation of robustness found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

from torch import Tensor

from neurosens_fast.audit.storage import write_whole
from neurosens_fast.support.files import csv_content

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = "neurosens_fast robustness 1"


@dataclass
class AttackOutcome:
    """One attack: ``accuracy`` over all samples, of which ``attacked`` were attacked, in ``seconds``.

    ``linf``, ``l2`` and ``l1`` are the mean norms of the perturbations that fooled the model, computed in float64; NaN
    without any. ``black_box`` attacks use no gradient, ``unbounded`` ones have no eps. ``how`` says how it ran
    (``Attack.explain()``).
    """

    name: str
    attack: str
    accuracy: float
    attacked: int
    fooled: int
    linf: float
    l2: float
    l1: float
    black_box: bool
    unbounded: bool
    seconds: float
    how: str = ""


@dataclass
class RobustnessReport:
    """Accuracy on ``samples`` inputs: clean, under each attack, and in the worst case over all of them.

    ``cascade`` says that each attack ran only on what still stood, so that its accuracy is that after it. ``fooled``
    maps each attack to ``[samples]`` flags; ``right`` are those of the clean predictions.
    """

    samples: int
    clean_accuracy: float
    worst_case_accuracy: float
    outcomes: list[AttackOutcome]
    warnings: list[str]
    cascade: bool
    seed: int
    model: str
    data: str
    right: Tensor = field(repr=False)
    fooled: dict[str, Tensor] = field(repr=False)
    labels: Tensor = field(repr=False)

    def __repr__(self) -> str:
        attacks = ", ".join(f"{outcome.name} {outcome.accuracy:.1%}" for outcome in self.outcomes)
        return (
            f"RobustnessReport({self.samples:,} samples; clean {self.clean_accuracy:.1%}, {attacks}, worst case "
            f"{self.worst_case_accuracy:.1%}, {len(self.warnings)} warnings)"
        )

    def to_pandas(self) -> DataFrame:
        """One row per attack, with the columns of :class:`AttackOutcome`."""
        from pandas import DataFrame

        return DataFrame([asdict(outcome) for outcome in self.outcomes])

    def samples_to_pandas(self) -> DataFrame:
        """One row per sample: its number, label, whether the clean prediction was right, and who fooled the model."""
        from pandas import DataFrame

        columns = {"sample": range(self.samples), "label": self.labels.tolist(), "right": self.right.tolist()}
        return DataFrame({**columns, **{name: flags.tolist() for name, flags in self.fooled.items()}})

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything as JSON: the whole file, or ``ReportError`` says why."""
        facts = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("samples", "clean_accuracy", "worst_case_accuracy")},
            **{name: getattr(self, name) for name in ("warnings", "cascade", "seed", "model", "data")},
            "outcomes": [
                {name: None if value != value else value for name, value in asdict(outcome).items()}
                for outcome in self.outcomes
            ],
        }
        write_whole(path, (json.dumps(facts, indent=1) + "\n").encode())

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_pandas` as CSV: the whole file, or ``ReportError`` says why."""
        write_whole(path, csv_content(self.to_pandas()))

    def samples_to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`samples_to_pandas` as CSV: the whole file, or ``ReportError`` says why."""
        write_whole(path, csv_content(self.samples_to_pandas()))
