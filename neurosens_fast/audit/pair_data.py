"""Data that already hold pairs ``(benign, other)``: corruptions, triggers, paraphrases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neurosens_fast.capture import Inputs, batch_length, leaves

from .batches import by_index, check_data

_SIDES = ("benign", "other")


def join_pair(benign: Inputs, other: Inputs) -> Inputs:
    """Both inputs as one, that :func:`split_pair` takes apart again.

    Raises ``ValueError`` or ``TypeError`` where they differ in structure.
    """
    if isinstance(benign, Mapping) and isinstance(other, Mapping) and benign.keys() == other.keys():
        sides = zip(_SIDES, (benign, other), strict=True)
        return {f"{side}/{key}": part[key] for side, part in sides for key in benign}
    if isinstance(benign, Mapping) or isinstance(other, Mapping):
        raise ValueError("benign and other inputs of a pair must be dicts with the same keys")
    parts = leaves(benign), leaves(other)
    if len(parts[0]) != len(parts[1]):
        raise ValueError(f"benign inputs of a pair have {len(parts[0])} tensors, the other ones {len(parts[1])}")
    return tuple(parts[0] + parts[1])


def split_pair(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """``(benign, other)`` of what :func:`join_pair` returned, or of batches of it."""
    if isinstance(inputs, Mapping):
        sides = [
            {key.partition("/")[2]: value for key, value in inputs.items() if key.startswith(f"{side}/")}
            for side in _SIDES
        ]
        return sides[0], sides[1]
    parts = tuple(leaves(inputs))
    half = len(parts) // 2
    return (parts[0], parts[1]) if half == 1 else (parts[:half], parts[half:])


def pair_data(data: Any) -> Any:
    """``data`` of pairs as data of ``(inputs, labels)``; inputs are those of :func:`join_pair`, unknown labels -1.

    ``data`` is a tuple of tensors ``(benign, other)`` or ``(benign, other, labels)``, a map-style data set of samples
    ``(benign, other[, label])``, or anything that gives batches ``(benign, other[, labels])`` when it is iterated.
    """
    check_data(data, "data of pairs must give batches (benign, other) or samples of them")
    if isinstance(data, tuple) and len(data) in (2, 3) and all(isinstance(item, Tensor) for item in data):
        return _MapStyle(_Rows(data))
    return _Batches(data) if isinstance(data, list | tuple) or not by_index(data) else _MapStyle(data)


class _Rows:
    """Samples of tensors that lie side by side."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
            raise ValueError(f"the tensors of pairs differ in length: {shapes}")
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self._tensors)


class _MapStyle:
    """A map-style data set of pairs as one of ``(inputs, label)``."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Inputs, Any]:
        item = self._data[index]
        benign, other, *rest = _parts(item, "samples (benign, other) or (benign, other, label)")
        return join_pair(_tuple(benign), _tuple(other)), rest[0] if rest else -1


class _Batches:
    """Batches of pairs as batches of ``(inputs, labels)``."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for item in self._data:
            benign, other, *rest = _parts(item, "batches (benign, other) or (benign, other, labels)")
            benign, other = _tuple(benign), _tuple(other)
            labels = rest[0] if rest else torch.full((batch_length(benign),), -1)
            yield join_pair(benign, other), labels


def _tuple(inputs: Any) -> Any:
    return tuple(inputs) if isinstance(inputs, list) else inputs


def _parts(item: Any, wanted: str) -> tuple[Any, ...] | list[Any]:
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        got = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
        raise TypeError(f"data of pairs must give {wanted}, got {got}")
    return item
