"""Curves in TensorBoard, where somebody asks for them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from neurosens_fast.support.packages import import_package
from neurosens_fast.support.processes import rank_and_world

from .result import Epoch

FOLDER = "tensorboard"


class Board:
    """Writes the columns of each epoch to ``folder``; does nothing for None.

    Raises ``ModuleNotFoundError`` without TensorBoard.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if rank_and_world()[0] else folder
        self._writer: Any = None
        if self._folder is not None:
            import_package("tensorboard", "tensorboard=True needs")

    def begin(self, epoch: int) -> None:
        """Open; what an earlier run wrote from ``epoch`` on is hidden."""
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=epoch)

    def add(self, row: Epoch) -> None:
        """Write one epoch."""
        if self._writer is None:
            return
        for name, value in asdict(row).items():
            if name != "epoch" and value == value:
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
