"""Data cut into parts, so that a repair is judged on samples that it was not made with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset, TensorDataset

if TYPE_CHECKING:
    from .prepare import Subject


@dataclass
class Parts:
    """Samples to measure neurons on, to pick a repair on, and to judge it on."""

    measured: Any
    description: str
    validation: Any = None
    test: Any = None


def whole(subject: Subject, passes: int) -> Parts:
    """All data as they are, to be read ``passes`` times; ``ValueError`` for an iterator, which gives them once."""
    if passes > 1 and isinstance(subject.data, Iterator):
        raise ValueError(
            f"{subject.data_description} gives an iterator, which can be read once only, and --target and --filter "
            "read the data again; return a data set or a DataLoader, or add --no-target and leave out --filter"
        )
    return Parts(subject.data, subject.data_description)


def cut_in_parts(subject: Subject, seed: int, max_samples: int | None = None) -> Parts:
    """Half of the samples, or of the first ``max_samples``, a quarter and a quarter, drawn by ``seed``."""
    from neurosens_fast.audit.batches import by_index, is_sample, two_tensors

    data, description = subject.data, subject.data_description
    if two_tensors(data):
        data = TensorDataset(*data)
    count = len(data) if by_index(data) else 0
    if max_samples is not None and max_samples < count:
        count, description = max_samples, f"{description}, the first {max_samples:,} of {count:,}"
    if count < 4 or not is_sample(data[0]):
        raise ValueError(
            "--repair cuts the data into three parts; give at least 4 samples (input, label) that are read by index, "
            "as a data set or a list, or a tuple of two tensors"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    half, quarter = count // 2, count // 4
    places = [part.sort().values.tolist() for part in order.split([half, quarter, count - half - quarter])]
    measured, validation, test = (Subset(data, part) for part in places)
    return Parts(measured, f"{description}, half of it by seed {seed}", validation, test)
