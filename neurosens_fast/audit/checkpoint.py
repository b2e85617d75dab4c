"""An audit under way on disk, so that it can go on after whatever ended it.

One file per process, written whole every few seconds: the report so far, the number of the next batch, and what
tells this audit from others.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from neurosens_fast.support.files import remove_parts
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
    """The state of an audit could not be saved; the audit goes on."""


class Checkpoint:
    """The file of one process. ``identity`` is what must be the same where an audit goes on.

    ``report`` gives the state of ``run``. ``found`` says whether any process had one to go on from, ``next`` is the
    number of the batch that comes next, ``sample`` that of the batch by which data are told from others.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        identity: dict[str, Any],
        share: Share,
        run: AuditRun,
        report: Callable[[], AuditReport],
        seconds: float,
    ) -> None:
        self.folder = Path(folder)
        self.path = self.folder / _name(share.rank, share.world)
        self.next = self._begun = share.start
        self.sample: int | None = None
        self._identity, self._share, self._report, self._seconds = identity, share, report, seconds
        self._saved = time.monotonic()
        self._content = ""
        self._run = run
        self.found = False
        self._warned = False

    def open(self, resume: bool) -> AuditReport | None:
        """The report to go on from, which must be of the same audit; None where there is none.

        Raises ``ReportError`` that names file and mend: a folder that holds a complete report, or an unfinished audit
        that is another one, or any without ``resume``.
        """
        if not self.folder.is_dir():
            raise ReportError(f"there is no folder {self.folder}; make it first")
        present = unfinished(self.folder)
        self.found = bool(present)
        own = {_name(rank, self._share.world) for rank in range(self._share.world)}
        before = None
        self._sweep()
        if not present and (self.folder / REPORT).exists():
            raise ReportError(f"{self.folder / REPORT} is a complete report; choose another folder or remove it")
        if present and not resume:
            raise ReportError(f"{present[0]} is an unfinished audit; resume it, or remove it to begin anew")
        others = [path for path in present if path.name not in own]
        if others:
            raise ReportError(
                f"{others[0]} is of an audit by another number of processes than {self._share.world}; start as many as "
                "its name says, or remove it to begin anew"
            )
        if self.path.exists():
            before = self._read()
        self._wait()  # before anyone writes what others would find
        return before

    def check_data(self, batch: NumberedBatch) -> None:
        """``ReportError`` if ``batch`` is not what it was when this audit began."""
        if self.sample is None:
            self.sample, self._content = batch.number, batch_fingerprint(batch)
        elif self.sample == batch.number and self._content != batch_fingerprint(batch):
            raise ReportError(
                f"{self.path} is of another data set: batch {batch.number} holds other samples now; give the same "
                "data, or remove the file to begin anew"
            )

    def passed(self, batch: NumberedBatch) -> None:
        """``batch`` is done; saves the state if the last time is long enough ago."""
        self.next = batch.number + 1
        self._run.whole = True
        if time.monotonic() - self._saved >= self._seconds:
            try:
                self.save()
            except ReportError as error:
                if not self._warned:  # once; the disk may have room again later
                    warnings.warn(f"{error}; the audit goes on", CheckpointWarning, stacklevel=2)
                self._warned = True

    @contextmanager
    def kept_after_errors(self) -> Iterator[None]:
        """Saves the state where the work inside ends with an exception, which is told so."""
        try:
            yield
        except BaseException as error:
            if self.next > self._begun and self._run.whole:  # a batch broken off midway would be counted twice
                with contextlib.suppress(ReportError):
                    self.save()
            if self.path.exists():
                note_kept(error, self.folder)
            raise

    def complete(self, report: AuditReport) -> None:
        """Write the report of the whole audit, from one process, and remove what is needed no more."""
        if self._share.rank == 0:
            report.save(self.folder / REPORT)
        self._wait()
        self.path.unlink(missing_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        remove_parts(self.folder, self.path.name)
        if self._share.rank == 0:
            remove_parts(self.folder, REPORT)

    def _wait(self) -> None:
        if self._share.world > 1:
            wait_for_all()

    def _read(self) -> AuditReport:
        report, progress = load_with_progress(self.path)
        if progress is None:
            raise ReportError(f"{self.path} is a report and no unfinished audit; choose another folder")
        facts = progress.facts
        other = difference(facts["identity"], self._identity)
        if other:
            raise ReportError(f"{self.path} is of another audit, {other}; give the same, or remove it to begin anew")
        self.next, self.sample, self._content = facts["next"], facts["sample"], facts["content"]
        self._begun = self.next
        self._run.largest = facts["largest"]
        if self._run.scores is not None:
            self._run.scores.go_on_from(progress.pending_scores, facts["score_layers"])
        return report

    def save(self) -> None:
        """Write the state. ``ReportError`` if that fails; what was written before is then still there."""
        self._saved = time.monotonic()
        scores = self._run.scores
        facts = {
            "identity": self._identity,
            "next": self.next,
            "sample": self.sample,
            "content": self._content,
            "largest": self._run.largest,
            "score_layers": [] if scores is None else scores.layers,
        }
        pending = torch.empty(0, dtype=torch.float64) if scores is None else scores.pending
        save_report(self._report(), self.path, Progress(facts, pending))


def unfinished(folder: str | PathLike[str]) -> list[Path]:
    """The files of unfinished audits in ``folder``, of whatever number of processes."""
    return sorted(Path(folder).glob("audit.unfinished-*-of-*.safetensors"))


def _name(rank: int, world: int) -> str:
    return f"audit.unfinished-{rank}-of-{world}.safetensors"
