"""An experiment under way on disk, so that it can go on after whatever ended it.

One file per process, written whole every few seconds: what was added up so far, the number of the next batch, and what
tells this experiment from others.
"""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch

from neurosens_fast.support.files import remove_parts
from neurosens_fast.support.messages import with_article
from neurosens_fast.support.names import REPORT
from neurosens_fast.support.processes import wait_for_all

from .identity import batch_fingerprint, difference
from .kept import note_kept
from .paired_run import AuditRun
from .report import AuditReport
from .source import NumberedBatch, Share
from .storage import Progress, ReportError, load_with_progress
from .storage import save as save_report


class CheckpointWarning(UserWarning):
    """The state of an experiment could not be saved; the experiment goes on."""


class Resumable(Protocol):
    """What a :class:`Checkpoint` must know of an experiment: how it is called, and its state between two batches.

    ``noun`` ("audit") names it in errors, the files of its state begin with ``stem``, ``report_name`` is the file of
    its complete report. ``whole`` is false while the state holds a part of a batch.
    """

    noun: str
    stem: str
    report_name: str

    @property
    def whole(self) -> bool: ...

    def passed(self) -> None:
        """A batch is done; the state is whole."""

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write the state, and ``facts`` for JSON with it. ``ReportError`` if that fails."""

    def load(self, path: Path) -> dict[str, Any] | None:
        """Go on from the state at ``path``, and return its facts; None where the file is a complete report.

        ``ReportError`` as for reports.
        """


class SavedReport(Protocol):
    """A report that can be written."""

    def save(self, path: Path) -> None:
        """Write it. ``ReportError`` if that fails."""


class AuditState:
    """The state of an audit; ``report`` gives what ``run`` has added up."""

    noun, stem, report_name = "audit", "audit", REPORT

    def __init__(self, run: AuditRun, report: Callable[[], AuditReport]) -> None:
        self._run, self._report = run, report

    @property
    def whole(self) -> bool:
        """See :class:`AuditRun`."""
        return self._run.whole

    def passed(self) -> None:
        """See :class:`Resumable`."""
        self._run.whole = True

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """The report so far, with scores of samples that no file holds yet."""
        scores = self._run.scores
        own = {"largest": self._run.largest, "score_layers": [] if scores is None else scores.layers}
        pending = torch.empty(0, dtype=torch.float64) if scores is None else scores.pending
        save_report(self._report(), path, Progress({**facts, **own}, pending))

    def load(self, path: Path) -> dict[str, Any] | None:
        """See :class:`Resumable`."""
        report, progress = load_with_progress(path)
        if progress is None:
            return None
        self._run.go_on_from(report)
        self._run.largest = progress.facts["largest"]
        if self._run.scores is not None:
            self._run.scores.go_on_from(progress.pending_scores, progress.facts["score_layers"])
        return progress.facts


class Checkpoint:
    """The file of one process. ``identity`` (for JSON) is what must be the same where an experiment goes on.

    ``found`` says whether any process had a state to go on from, ``next`` is the number of the batch that comes next,
    ``sample`` that of the batch by which data are told from others.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        identity: dict[str, Any],
        share: Share,
        state: Resumable,
        seconds: float,
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / _name(state.stem, share.rank, share.world)
        self.next = self._begun = share.start
        self.sample: int | None = None
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))  # as it is read again, tuples as lists
        self._share, self._state, self._seconds = share, state, seconds
        self._saved = time.monotonic()
        self._content = ""
        self.found = False
        self._warned = False
        self._passing = False  # the state and the number of its next batch are not of the same moment

    def open(self, resume: bool) -> Share:
        """Go on from a state of the same experiment, where there is one; returns what is left of the share.

        Raises ``ReportError`` that names file and mend: a folder that holds a complete report, or an unfinished
        experiment that is another one, or any without ``resume``.
        """
        noun, report = self._state.noun, self.folder / self._state.report_name
        if not self.folder.is_dir():
            raise ReportError(f"there is no folder {self.folder}; make it first")
        present = unfinished(self.folder, self._state.stem)
        self.found = bool(present)
        own = {_name(self._state.stem, rank, self._share.world) for rank in range(self._share.world)}
        self._sweep()
        if not present and report.exists():
            raise ReportError(f"{report} is a complete report; choose another folder or remove it")
        if present and not resume:
            raise ReportError(f"{present[0]} is an unfinished {noun}; resume it, or remove it to begin anew")
        others = [path for path in present if path.name not in own]
        if others:
            raise ReportError(
                f"{others[0]} is of {with_article(noun)} by another number of processes than {self._share.world}; "
                "start as many as its name says, or remove it to begin anew"
            )
        if self.path.exists():
            self._read()
        self._wait()  # before anyone writes what others would find
        return replace(self._share, start=self.next, also=self.sample, noun=noun)

    def check_data(self, batch: NumberedBatch) -> None:
        """``ReportError`` if ``batch`` is not what it was when this experiment began."""
        if self.sample is None:
            self.sample, self._content = batch.number, batch_fingerprint(batch)
        elif self.sample == batch.number and self._content != batch_fingerprint(batch):
            raise ReportError(
                f"{self.path} is of another data set: batch {batch.number} holds other samples now; give the same "
                "data, or remove the file to begin anew"
            )

    def passed(self, batch: NumberedBatch) -> None:
        """``batch`` is done; saves the state if the last time is long enough ago."""
        self._passing = True
        self.next = batch.number + 1
        self._state.passed()
        self._passing = False
        if time.monotonic() - self._saved >= self._seconds:
            try:
                self.save()
            except ReportError as error:
                if not self._warned:  # once; the disk may have room again later
                    warnings.warn(f"{error}; the {self._state.noun} goes on", CheckpointWarning, stacklevel=2)
                self._warned = True

    @contextmanager
    def kept_after_errors(self) -> Iterator[None]:
        """Saves the state where the work inside ends with an exception, which is told so."""
        try:
            yield
        except BaseException as error:
            # A batch broken off midway would be counted twice, or not at all.
            if self.next > self._begun and self._state.whole and not self._passing:
                with contextlib.suppress(ReportError):
                    self.save()
            if self.path.exists():
                note_kept(error, self.folder, self._state.noun)
            raise

    def complete(self, report: SavedReport) -> None:
        """Write the report of the whole experiment, from one process, and remove what is needed no more."""
        if self._share.rank == 0:
            report.save(self.folder / self._state.report_name)
        self._wait()
        self.path.unlink(missing_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        remove_parts(self.folder, self.path.name)
        if self._share.rank == 0:
            remove_parts(self.folder, self._state.report_name)

    def _wait(self) -> None:
        if self._share.world > 1:
            wait_for_all()

    def _read(self) -> None:
        noun = self._state.noun
        facts = self._state.load(self.path)
        if facts is None:
            raise ReportError(f"{self.path} is a report and no unfinished {noun}; choose another folder")
        other = difference(facts["identity"], self._identity)
        if other:
            raise ReportError(f"{self.path} is of another {noun}, {other}; give the same, or remove it to begin anew")
        self.next, self.sample, self._content = facts["next"], facts["sample"], facts["content"]
        self._begun = self.next

    def save(self) -> None:
        """Write the state. ``ReportError`` if that fails; what was written before is then still there."""
        self._saved = time.monotonic()
        facts = {"identity": self._identity, "next": self.next, "sample": self.sample, "content": self._content}
        self._state.save(self.path, facts)


def check_checkpoint(checkpoint: str | PathLike[str] | None, seconds: object, resume: bool) -> None:
    """``ValueError`` with the mend for the arguments ``checkpoint``, ``checkpoint_seconds`` and ``resume``."""
    if checkpoint is None and resume:
        raise ValueError("resume=True goes on in the folder of checkpoint=, which is not given")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ValueError(f"checkpoint_seconds must be a number of at least 0, got {seconds!r}")


def unfinished(folder: str | PathLike[str], stem: str = AuditState.stem) -> list[Path]:
    """The files of unfinished experiments of one kind in ``folder``, of whatever number of processes."""
    return sorted(Path(folder).glob(f"{stem}.unfinished-*-of-*.safetensors"))


def _name(stem: str, rank: int, world: int) -> str:
    return f"{stem}.unfinished-{rank}-of-{world}.safetensors"
