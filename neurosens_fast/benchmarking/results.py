"""What a run of the benchmarks found: rows, the roof and the machine, kept as one JSON file."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from neurosens_fast.env import environment
from neurosens_fast.support.files import existing_file, write_whole

from .roof import Floor, Roof, Work
from .timing import Ratio, ratio

OURS = "ours"
FILE = "results.json"


@dataclass(frozen=True)
class Axis:
    """Where a row stands on a scaling curve, and how much work its times are divided by."""

    name: str
    value: float
    unit: str
    amount: float


@dataclass(frozen=True)
class Row:
    """One case: seconds of every round of ours and of the others, after both sides had agreed.

    ``rivals`` do the same job in another way, ``floors`` less than it; ``missing`` says why a rival did not run.
    ``peak`` are bytes. ``facts`` are further columns.
    """

    title: str
    labels: dict[str, str]
    device: str
    seconds: dict[str, list[float]]
    agreed: str
    rivals: tuple[str, ...] = ()
    floors: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    work: Work | None = None
    peak: dict[str, int] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    axis: Axis | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this case from all others of its suite."""
        return (self.title, self.device, *self.labels.values())

    def median(self, name: str = OURS) -> float:
        """Median seconds of one side."""
        return statistics.median(self.seconds[name])

    def gain(self, rival: str) -> Ratio:
        """How many times faster ours is."""
        return ratio(self.seconds[rival], self.seconds[OURS])

    def cost(self, floor: str) -> Ratio:
        """How many times longer ours takes than something that does less."""
        return ratio(self.seconds[OURS], self.seconds[floor])

    def spread(self) -> Ratio:
        """Seconds of ours with their quartiles."""
        return ratio(self.seconds[OURS], [1.0] * len(self.seconds[OURS]))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        """From what ``dataclasses.asdict`` made of one."""
        work, axis = values["work"], values["axis"]
        return cls(
            **{
                **values,
                "rivals": tuple(values["rivals"]),
                "floors": tuple(values["floors"]),
                "work": Work(**work) if work else None,
                "axis": Axis(**axis) if axis else None,
            }
        )


@dataclass(frozen=True)
class SuiteResult:
    """The rows of one suite, and the roofs that were measured in the same run."""

    suite: str
    date: str
    quick: bool
    roofs: dict[str, Roof]
    rows: tuple[Row, ...]
    pytest_benchmark: dict[str, Any] = field(default_factory=dict)

    def floor(self, row: Row) -> Floor | None:
        """The shortest time for the work of a row, where it states any."""
        return self.roofs[row.device].floor(row.work) if row.work and row.device in self.roofs else None

    def titles(self) -> list[str]:
        """Titles of the tables, in order."""
        return list(dict.fromkeys(row.title for row in self.rows))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SuiteResult:
        """From what ``dataclasses.asdict`` made of one."""
        roofs = {device: Roof.from_json(roof) for device, roof in values["roofs"].items()}
        return cls(**{**values, "roofs": roofs, "rows": tuple(map(Row.from_json, values["rows"]))})


@dataclass(frozen=True)
class Results:
    """Suites measured on one machine."""

    environment: dict[str, dict[str, Any]]
    suites: dict[str, SuiteResult] = field(default_factory=dict)

    def added(self, result: SuiteResult) -> Results:
        """With one more suite, or with that suite's later result."""
        return replace(self, suites={**self.suites, result.suite: result})

    def save(self, folder: Path) -> None:
        """Write :data:`FILE` into a folder. Times are rounded to five digits, more than they are worth."""
        write_whole(folder / FILE, (json.dumps(_rounded(asdict(self)), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read the file, or that of a folder.

        Raises ``FileNotFoundError`` where there is none and ``ValueError`` where it is no such file.
        """
        file = existing_file(path / FILE if path.is_dir() else path, "benchmark result")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return cls(
                values["environment"],
                {name: SuiteResult.from_json(suite) for name, suite in values["suites"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is not a result of neurosens-fast bench, or is damaged") from error


def machine() -> dict[str, dict[str, Any]]:
    """What ``neurosens_fast.env`` says, without the places of this machine's files."""
    facts = environment()
    facts["python"].pop("executable")
    return facts


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
