"""Data of many kinds become the same batches; what cannot become one is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from neurosens_fast.audit.batches import batches, moved, sample_count

X = torch.arange(7 * 3, dtype=torch.float32).reshape(7, 3)
Y = torch.arange(7)


class MapStyle:
    """A data set that knows its length and indices, and nothing else (no IndexError at its end either)."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return X[index % 7], numpy.int64(index)


class Streamed(IterableDataset[Any]):
    """Samples one after the other, of unknown number."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


class Counted(Streamed):
    """An iterable data set that knows its length; torch's base class has a __getitem__ that only raises."""

    def __len__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("data", "sizes", "count"),
    [
        ((X, Y), [3, 3, 1], 7),
        (TensorDataset(X, Y), [3, 3, 1], 7),
        (MapStyle(), [3, 3, 1], 7),
        (Streamed(), [3, 3, 1], None),
        ([(x, int(y)) for x, y in zip(X, Y, strict=True)], [3, 3, 1], 7),
        (DataLoader(TensorDataset(X, Y), batch_size=4), [4, 3], 7),
        ([(X[:5], Y[:5]), [X[5:], Y[5:]]], [5, 2], None),
        (iter([(X[:5], Y[:5]), (X[5:], Y[5:])]), [5, 2], None),
        ([], [], None),
        (Subset(TensorDataset(torch.cat((X, X)), torch.cat((Y, Y))), range(7)), [3, 3, 1], 7),
        (Counted(), [3, 3, 1], 7),
        (DataLoader(TensorDataset(torch.cat((X, X)), torch.cat((Y, Y))), batch_size=7, sampler=range(7)), [7], 7),
    ],
)
def test_the_same_samples_in_batches(data: Any, sizes: list[int], count: int | None) -> None:
    assert sample_count(data) == count
    found = list(batches(data, 3))
    assert [len(labels) for _, labels in found] == sizes
    if found:
        inputs = [x for x, _ in found if isinstance(x, Tensor)]
        assert torch.equal(torch.cat(inputs), X)
        assert torch.equal(torch.cat([y for _, y in found]), Y)


def test_samples_that_are_tuples_or_dicts() -> None:
    tuples, _ = next(batches([((x, 2 * x), int(y)) for x, y in zip(X, Y, strict=True)], 7))
    dicts, _ = next(batches([({"a": x}, int(y)) for x, y in zip(X, Y, strict=True)], 7))
    assert isinstance(tuples, tuple)
    assert isinstance(dicts, dict)
    assert torch.equal(tuples[1], 2 * X)
    assert torch.equal(dicts["a"], X)


def test_incomplete_batches_that_are_dropped_do_not_count() -> None:
    assert sample_count(DataLoader(TensorDataset(X, Y), batch_size=3, drop_last=True)) == 6
    assert sample_count(DataLoader(TensorDataset(X, Y), batch_size=3), max_samples=5) == 5


def test_moved_casts_floating_point_only() -> None:
    inputs = moved({"x": X, "mask": Y}, torch.device("cpu"), torch.float64)
    assert isinstance(inputs, dict)
    assert (inputs["x"].dtype, inputs["mask"].dtype) == (torch.float64, torch.int64)
    assert moved(X, None) is X


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (X, TypeError, "tuple of two tensors, got a Tensor"),
        (5, TypeError, "got a int"),
        ("digits", TypeError, "got a str"),
        ([X], TypeError, r"labels a tensor \[N\], got a Tensor; an attack needs labels"),
        ([(X, None)], TypeError, "got a tuple with labels of type NoneType; an attack needs labels"),
        ([(X, Y, Y)], TypeError, "got a tuple of 3"),
        ((X, Y[:3]), ValueError, r"inputs \[7, 3\] and labels \[3\] of data differ in length"),
        ([(X[0], 1), (X[0, :2], 2)], ValueError, r"differ in size \(\[2\], \[3\]\); resize them.*or use batch_size=1"),
        ([(object(), 1)], TypeError, "samples hold a object instead of a tensor; .*ToTensor"),
        ([(X[0], numpy.float64(0.5))], TypeError, "labels must be whole class numbers"),
        ([(X[0], 1), X[0]], TypeError, "samples .input, label. throughout, got a Tensor among them"),
    ],
)
def test_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(batches(data, 3))
