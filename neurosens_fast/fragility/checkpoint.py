"""The state of a nodal dropout under way, for :class:`neurosens_fast.audit.checkpoint.Checkpoint`."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

from neurosens_fast.support.names import FRAGILITY_REPORT

from .counts import Counts
from .storage import load_counts, save_counts


class CountingRun(Protocol):
    """An experiment that adds up ``counts``. ``facts``, for JSON, is what else it must know to go on."""

    counts: Counts
    facts: dict[str, Any]


class CountsState:
    """What ``run`` had counted after its last whole batch; a batch that is broken off midway is not in it."""

    noun, stem, report_name = "nodal dropout", "fragility", FRAGILITY_REPORT
    whole = True

    def __init__(self, run: CountingRun) -> None:
        self._run = run
        self._kept: tuple[Counts, dict[str, Any]] | None = None

    def passed(self) -> None:
        """Keep a copy of what is counted now."""
        self._kept = self._copied()

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """See :class:`Resumable`."""
        counts, own = self._kept or self._copied()
        save_counts(counts, {**facts, "run": own}, path)

    def load(self, path: Path) -> dict[str, Any] | None:
        """Give the run the counts and facts of a file; lists stand where its facts held tuples."""
        found = load_counts(path)
        if found is None:
            return None
        self._run.counts, facts = found
        self._run.facts = facts["run"]
        self.passed()
        return facts

    def _copied(self) -> tuple[Counts, dict[str, Any]]:
        return deepcopy((self._run.counts, self._run.facts))
