"""Data cut into parts, so that a repair is judged on samples that it was not made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset

if TYPE_CHECKING:
    from .prepare import Subject


@dataclass
class Parts:
    """Samples to measure neurons on, to pick a repair on, and to judge it on."""

    measured: Any
    description: str
    validation: Any = None
    test: Any = None


def cut_in_parts(subject: Subject, seed: int) -> Parts:
    """Half of the samples, a quarter and a quarter, drawn by ``seed``."""
    from neurosens_fast.audit.batches import by_index

    data = subject.data
    if not by_index(data) or len(data) < 4:
        raise ValueError(
            "--repair cuts the data into three parts; give a data set of at least 4 samples that is read by index"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    half, quarter = len(data) // 2, len(data) // 4
    places = [part.sort().values.tolist() for part in order.split([half, quarter, len(data) - half - quarter])]
    measured, validation, test = (Subset(data, part) for part in places)
    return Parts(measured, f"{subject.data_description}, half of it by seed {seed}", validation, test)
