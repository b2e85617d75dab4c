"""Data of many kinds as batches ``(inputs, labels)``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from neurosens_fast.capture import Inputs, mapped

Batch = tuple[Inputs, Tensor]
Data = Iterable[Any] | tuple[Tensor, Tensor]
"""Batches ``(x, y)``, samples ``(x, y)`` (an iterable or a map-style data set), or one tuple of two tensors."""


def batches(data: Any, batch_size: int) -> Iterator[Batch]:
    """Batches ``(inputs [N, ...], labels [N])`` of ``data``; samples are joined to batches of ``batch_size``.

    ``data`` gives batches, or samples (their label is an int or a 0-dimensional tensor), by iteration or,
    for a map-style data set, by index; or it is one tuple of two tensors. Raises ``TypeError`` or
    ``ValueError`` with the mend for anything else, missing labels, and samples of different sizes.
    """
    if two_tensors(data):
        inputs, labels = data
        yield from zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
        return
    items = _items(data)
    first = next(items, None)
    if first is None:
        return
    items = itertools.chain((first,), items)
    if not is_sample(first):
        yield from map(as_batch, items)
        return
    while chunk := list(itertools.islice(items, batch_size)):
        yield joined(chunk)


def two_tensors(data: Any) -> bool:
    """Whether ``data`` is one tuple of two tensors; ``ValueError`` if they are not of one length."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(isinstance(item, Tensor) for item in data):
        return False
    inputs, labels = data
    if not inputs.dim() or not labels.dim() or len(inputs) != len(labels):
        raise ValueError(f"inputs {list(inputs.shape)} and labels {list(labels.shape)} of data differ in length")
    return True


def sample_count(data: Any, max_samples: int | None = None) -> int | None:
    """How many samples ``data`` will give, at most ``max_samples``, where that is known before it is read."""
    known = _length(data)
    return max_samples if known is None else known if max_samples is None else min(known, max_samples)


def _length(data: Any) -> int | None:
    if two_tensors(data):
        return len(data[0])
    if isinstance(data, list | tuple):
        return len(data) if data and is_sample(data[0]) else None
    try:
        if isinstance(data, DataLoader):  # its own length counts batches
            if data.batch_size is None:
                return None
            samples = len(data.sampler)  # type: ignore[arg-type]
            return samples // data.batch_size * data.batch_size if data.drop_last else samples
        return len(data) if isinstance(data, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def moved(inputs: Inputs, device: torch.device | None, dtype: torch.dtype | None = None) -> Inputs:
    """The inputs on ``device``, floating-point ones as ``dtype``; None leaves them as they are."""

    def move(leaf: Tensor) -> Tensor:
        kind = (dtype or leaf.dtype) if leaf.is_floating_point() else None
        return leaf.to(
            device=device or leaf.device, dtype=kind, non_blocking=device is not None and device.type == "cuda"
        )

    return mapped(inputs, move)


def _items(data: Any) -> Iterator[Any]:
    check_data(data, "data must give batches or samples (inputs, labels), or be a tuple of two tensors")
    if by_index(data):
        return (data[index] for index in range(len(data)))  # a map-style data set need not stop by itself
    return iter(data)


def check_data(data: Any, wanted: str) -> None:
    """``TypeError`` that begins with ``wanted`` if ``data`` cannot be read item by item."""
    if isinstance(data, Tensor | str | Mapping) or not (isinstance(data, Iterable) or hasattr(data, "__getitem__")):
        raise TypeError(f"{wanted}, got a {type(data).__name__}")


def by_index(data: Any) -> bool:
    """Whether items of ``data`` are read by their number, as those of lists and map-style data sets."""
    unordered = isinstance(data, IterableDataset | Tensor | str | Mapping)
    return not unordered and isinstance(data, Sized) and hasattr(data, "__getitem__")


def is_sample(item: Any) -> bool:
    """Whether ``item`` is one sample ``(input, label)``, with an int or a 0-dimensional label."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        return False
    label = item[1]
    return (isinstance(label, int) and not isinstance(label, bool)) or (
        hasattr(label, "ndim") and label.ndim == 0 and not isinstance(label, bool)
    )


def as_batch(item: Any) -> Batch:
    """``item`` as a batch; ``TypeError`` with the mend for anything else."""
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[1], Tensor):
        got = type(item).__name__
        if isinstance(item, tuple | list):
            got += f" of {len(item)}" if len(item) != 2 else f" with labels of type {type(item[1]).__name__}"
        raise TypeError(
            f"data must give batches (inputs, labels) with labels a tensor [N], got a {got}; an attack needs labels"
        )
    inputs, labels = item
    return (tuple(inputs) if isinstance(inputs, list) else inputs), labels


def joined(samples: list[Any]) -> Batch:
    """Samples as one batch; ``TypeError`` or ``ValueError`` with the mend for those that do not fit together."""
    wrong = next((sample for sample in samples if not is_sample(sample)), None)
    if wrong is not None:
        raise TypeError(f"data must give samples (input, label) throughout, got a {type(wrong).__name__} among them")
    try:
        inputs = default_collate([sample[0] for sample in samples])
    except RuntimeError as error:
        sizes = sorted({str(list(sample[0].shape)) for sample in samples if isinstance(sample[0], Tensor)})
        raise ValueError(
            f"samples of one batch differ in size ({', '.join(sizes[:4])}); resize them in the data set's transform, "
            "or use batch_size=1"
        ) from error
    except TypeError as error:
        got = type(samples[0][0]).__name__
        raise TypeError(
            f"samples hold a {got} instead of a tensor; give the data set a transform such as torchvision's ToTensor()"
        ) from error
    labels = torch.tensor([int(sample[1]) for sample in samples], dtype=torch.int64)
    if any(int(label) != sample[1] for label, sample in zip(labels, samples, strict=True)):
        raise TypeError("labels must be whole class numbers, got fractions among the samples")
    return (tuple(inputs) if isinstance(inputs, list) else inputs), labels
