"""What a data set's name stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DataSource:
    """Data for ``audit(data=...)`` with what is known about it.

    ``dataset`` gives samples or batches ``(inputs, labels)`` with inputs in [0, 1], ``description`` is one line for
    reports, ``classes`` the number of classes and ``shape`` that of the first sample, such as ``(3, 32, 32)``; None
    where it cannot be known before the data is read.
    """

    dataset: Any
    description: str
    classes: int | None = None
    shape: tuple[int, ...] | None = None
