"""Two results side by side: what became slower or faster by more than its spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from neurosens_fast.audit.document.content import Table

from .results import Results, Row
from .tables import duration, three_digits
from .timing import Ratio

THRESHOLD = 0.1
"""Changes of a median below this share are not called changes."""
WORSE, BETTER, SAME = "slower", "faster", "same"


@dataclass(frozen=True)
class Change:
    """One case in both results.

    ``before`` and ``after`` are of the quantity that is compared: ours over the first rival of the same run where the
    case has one, which is no code of this package, so that a faster machine changes nothing; else seconds.
    """

    suite: str
    row: Row
    against: str
    before: Ratio
    after: Ratio

    @property
    def factor(self) -> float:
        """How many times longer it takes now."""
        return self.after.median / self.before.median

    def verdict(self, threshold: float = THRESHOLD) -> str:
        """A change counts where it passes the threshold and the quartiles of both sides lie apart."""
        if self.factor > 1 + threshold and self.after.low > self.before.high:
            return WORSE
        if self.factor < 1 / (1 + threshold) and self.after.high < self.before.low:
            return BETTER
        return SAME


@dataclass(frozen=True)
class Comparison:
    """All cases that both results have; the titles and labels of those that one of them alone has."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    same_machine: bool

    def of(self, verdict: str, threshold: float = THRESHOLD) -> list[Change]:
        """The changes of one kind, the largest first."""
        found = [change for change in self.changes if change.verdict(threshold) == verdict]
        return sorted(found, key=lambda change: -abs(change.factor - 1))


def _rows(results: Results) -> dict[tuple[str, ...], tuple[str, Row]]:
    return {(suite, *row.key): (suite, row) for suite, result in results.suites.items() for row in result.rows}


def _threads(results: Results) -> set[int]:
    return {roof.threads for result in results.suites.values() for roof in result.roofs.values()}


def _quantities(before: Row, after: Row) -> Iterator[tuple[str, Ratio, Ratio]]:
    """What can be compared."""
    for rival in before.rivals[:1]:
        if rival in after.rivals:
            yield rival, before.cost(rival), after.cost(rival)
    yield "seconds", before.spread(), after.spread()


def compare(before: Results, after: Results, absolute: bool = False) -> Comparison:
    """Compare results. ``absolute`` takes seconds even where a quotient of the same run is there.

    Raises ``ValueError`` where they have no case in common, or where one was measured quickly.
    """
    if any(result.quick for results in (before, after) for result in results.suites.values()):
        raise ValueError(
            "one of the results was measured with --quick, whose times say nothing; measure it again without"
        )
    first, second = _rows(before), _rows(after)
    changes = []
    for key, (suite, row) in first.items():
        if key in second:
            quantities = list(_quantities(row, second[key][1]))
            changes.append(Change(suite, second[key][1], *quantities[-1 if absolute else 0]))
    if not changes:
        raise ValueError("the two results have no case in common; compare results of the same suites")
    only_before = tuple(", ".join(key) for key in first if key not in second)
    only_after = tuple(", ".join(key) for key in second if key not in first)
    same = all(before.environment.get(part) == after.environment.get(part) for part in ("cpu", "gpu"))
    same = same and _threads(before) == _threads(after)
    return Comparison(tuple(changes), only_before, only_after, same)


def comparison_table(comparison: Comparison, threshold: float = THRESHOLD) -> Table:
    """What changed, the largest change first; what did not is counted in the note."""
    shown = [*comparison.of(WORSE, threshold), *comparison.of(BETTER, threshold)]
    rows = tuple(
        (
            change.suite,
            ", ".join((change.row.title, *change.row.labels.values())),
            change.row.device,
            change.against if change.against == "seconds" else f"ours / {change.against}",
            _text(change, change.before),
            _text(change, change.after),
            f"{three_digits(change.factor)} {change.verdict(threshold)}",
        )
        for change in shown
    )
    same = len(comparison.changes) - len(shown)
    note = f"{same} of {len(comparison.changes)} cases within {100 * threshold:.0f} % or the spread of both."
    for count, where in ((len(comparison.only_before), "A"), (len(comparison.only_after), "B")):
        note += f" {count} in {where} only." if count else ""
    if not comparison.same_machine:
        note += " The machines, or their threads, differ."
    return Table(
        "B against A", ("suite", "case", "device", "measure", "A", "B", "B / A"), rows, frozenset((4, 5, 6)), note
    )


def _text(change: Change, value: Ratio) -> str:
    return str(value) if change.against != "seconds" else duration(value.median)
