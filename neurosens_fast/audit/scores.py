"""Which samples shake the network most: one row per sample, streamed to Parquet files.

A part file always begins and ends with the same samples, whenever it is written; so an audit that goes on after it was
ended writes the same files.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neurosens_fast.support.files import remove_parts
from neurosens_fast.support.packages import import_package
from neurosens_fast.support.processes import wait_for_all

from .source import Share
from .storage import ReportError, write_whole

if TYPE_CHECKING:
    from pandas import DataFrame

ROWS = 16384
"""Rows of a part file, at least; a batch is never cut."""

FACTS = ("sample", "label", "prediction_benign", "prediction_adversarial", "score")
"""The columns in front of those of the layers."""

LAYER = "layer {}"
"""The column of a layer."""

_PATTERN = "part-*.parquet"


class ScoreWriter:
    """Writes the scores of a process's share into ``folder``, which must be empty where an audit begins.

    ``pending`` ``[n, 5 + L]`` float64 are the rows that no file holds yet.
    """

    def __init__(self, folder: str | PathLike[str], share: Share, rows: int = ROWS) -> None:
        import_package("pyarrow", "scores per sample need")
        self.folder = Path(folder)
        self.layers: list[str] = []
        self._share, self._rows = share, rows
        self._parts: list[Tensor] = []

    def begin(self, resumed: bool) -> None:
        """Make the folder. ``ReportError`` where it holds scores of another audit or cannot be made."""
        if not resumed and score_parts(self.folder):
            raise ReportError(f"{self.folder} holds scores already; choose another folder or remove them")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReportError(f"cannot write to the folder {self.folder}: {error.strerror or error}") from error
        remove_parts(self.folder, _PATTERN)
        if self._share.world > 1:
            wait_for_all()  # before anyone writes what others would find

    @property
    def pending(self) -> Tensor:
        """The rows that no file holds yet."""
        return torch.cat([*self._parts, torch.empty(0, len(FACTS) + len(self.layers), dtype=torch.float64)])

    def go_on_from(self, pending: Tensor, layers: Sequence[str]) -> None:
        """Begin with rows that were pending when an audit was ended."""
        self.layers = list(layers)
        self._parts = [pending]

    def add(self, facts: Tensor, scores: Tensor, layers: Sequence[str]) -> None:
        """Add rows: ``facts`` ``[N, 4]`` as the first of :data:`FACTS`, ``scores`` ``[N, 1 + L]``."""
        if not self.layers:
            self.layers = list(layers)
        elif self.layers != list(layers):
            raise ValueError(
                "the layers that ran are not the same in all batches, so scores of samples cannot be kept; "
                "name layers that always run, or leave scores out"
            )
        self._parts.append(torch.cat((facts.double(), scores.double()), 1).cpu())
        if sum(map(len, self._parts)) >= self._rows:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows as one file. ``ReportError`` if that fails; they are pending then still."""
        rows = self.pending
        if len(rows):
            path = self.folder / f"part-{int(rows[0, 0]):012d}.parquet"
            stream = io.BytesIO()
            _frame(rows, self.layers).to_parquet(stream, index=False)
            write_whole(path, stream.getvalue())
        self._parts = []


def score_parts(folder: str | PathLike[str]) -> list[Path]:
    """The files of scores in ``folder``."""
    return sorted(Path(folder).glob(_PATTERN))


def read_scores(folder: str | PathLike[str]) -> DataFrame:
    """The scores that ``audit(scores=folder)`` wrote, one row per sample in the order of the data.

    Columns: ``sample`` (its number in the data), ``label`` (-1 unknown), ``prediction_benign`` and
    ``prediction_adversarial`` (-1 without logits), ``score`` (mean over the layers of mean |d| / mean |z|), and for
    each layer, as ``layer NAME``, the mean |d| over its neurons. Raises ``ReportError`` where there are none.
    """
    import pandas

    import_package("pyarrow", "scores per sample need")
    paths = score_parts(folder)
    if not paths:
        raise ReportError(f"{folder} holds no scores; audit with scores first")
    return pandas.concat([pandas.read_parquet(path) for path in paths]).sort_values("sample", ignore_index=True)


def _frame(rows: Tensor, layers: Sequence[str]) -> DataFrame:
    from pandas import DataFrame

    columns: dict[str, Any] = {
        name: rows[:, place].numpy() for place, name in enumerate((*FACTS, *map(LAYER.format, layers)))
    }
    return DataFrame(columns).astype(dict.fromkeys(FACTS[:4], "int64"))
