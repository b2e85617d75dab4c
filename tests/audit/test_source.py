"""Batches by number: the same ones whatever was skipped, read only where they are wanted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from neurosens_fast.audit.source import NumberedBatch, Share, numbered_batches

X = torch.arange(23 * 2, dtype=torch.float32).reshape(23, 2)
Y = torch.arange(23)


class Noisy(Dataset[Any]):
    """Samples with noise of every global generator; notes which ones are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return X[index] + torch.rand(2) + random.random(), index


class Stream(IterableDataset[Any]):
    """Samples of unknown number, with noise."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter((x + torch.rand(2), int(y)) for x, y in zip(X, Y, strict=True))


SOURCES: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "map style": Noisy,
    "list of samples": lambda: [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    "list of batches": lambda: [(X[:4], Y[:4]), (X[4:9], Y[4:9]), (X[9:9], Y[9:9]), (X[9:], Y[9:])],
    "stream": Stream,
    "generator": lambda: ((X[at : at + 5], Y[at : at + 5]) for at in range(0, 23, 5)),
    "loader": lambda: DataLoader(Noisy(), batch_size=4),
    "shuffled loader": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, drop_last=True),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=4),
    "loader of samples": lambda: DataLoader(Noisy(), batch_size=None),
}


def found(make: Callable[[], Any], **keywords: Any) -> list[NumberedBatch]:
    torch.manual_seed(99)  # whatever was there before
    return list(numbered_batches(make(), 4, seed=5, **keywords))


def same(first: NumberedBatch, second: NumberedBatch) -> bool:
    assert isinstance(first.inputs, Tensor)
    assert isinstance(second.inputs, Tensor)
    numbers = (first.number, first.first) == (second.number, second.first)
    return numbers and torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("most", [None, 1, 10, 23, 100])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_batch_does_not_depend_on_what_was_skipped(kind: str, most: int | None) -> None:
    whole = found(SOURCES[kind], max_samples=most)
    assert [batch.number for batch in whole] == list(range(len(whole)))
    assert [batch.first for batch in whole] == [sum(len(b.labels) for b in whole[:i]) for i in range(len(whole))]
    if most is not None:
        assert sum(len(batch.labels) for batch in whole) == min(most, 20 if "shuffled" in kind else 23)
    for share in (Share(2), Share(0, 1, 2), Share(3, 0, 2), Share(0, 2, 3), Share(2, 1, 2, also=0)):
        if share.start > len(whole):
            continue  # refused below
        part = found(SOURCES[kind], max_samples=most, share=share)
        wanted = [
            batch
            for batch in whole
            if batch.number == share.also or (batch.number >= share.start and batch.number % share.world == share.rank)
        ]
        assert len(part) == len(wanted)
        assert all(same(mine, theirs) for mine, theirs in zip(part, wanted, strict=True))


def test_the_shares_of_all_processes_are_the_whole() -> None:
    whole = found(SOURCES["shuffled loader"])
    parts = [batch for rank in range(3) for batch in found(SOURCES["shuffled loader"], share=Share(0, rank, 3))]
    parts.sort(key=lambda batch: batch.number)
    assert all(same(mine, theirs) for mine, theirs in zip(parts, whole, strict=True))


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_skipped_by_index_is_not_read(wrapped: bool) -> None:
    data = Noisy()
    list(numbered_batches(DataLoader(data, batch_size=4) if wrapped else data, 4, max_samples=10, share=Share(1, 1, 2)))
    assert [index for index in data.read if index] == [4, 5, 6, 7]  # sample 0 is looked at to see what the data give


def test_an_iterator_is_read_no_further_than_needed() -> None:
    fetched = []

    def source() -> Iterator[Any]:
        for start in (0, 3, 6):
            fetched.append(start)
            yield X[start : start + 3], Y[start : start + 3]

    assert [len(batch.labels) for batch in numbered_batches(source(), 1, max_samples=5)] == [3, 2]
    assert fetched == [0, 3]


@pytest.mark.parametrize("wrapped", [False, True])
def test_worker_processes_give_the_same_samples(wrapped: bool) -> None:
    plain = TensorDataset(X, Y)
    data: Any = DataLoader(plain, batch_size=4, num_workers=2) if wrapped else plain
    share = Share(1, 0, 2)
    read = list(numbered_batches(data, 4, share=share, workers=2))
    wanted = list(numbered_batches((X, Y), 4, share=share))
    assert len(read) == len(wanted) == 2
    assert all(same(mine, theirs) for mine, theirs in zip(read, wanted, strict=True))


@pytest.mark.parametrize("wrapped", [False, True])
def test_random_transforms_in_worker_processes(wrapped: bool) -> None:
    def read(workers: int, share: Share) -> list[NumberedBatch]:
        data: Any = DataLoader(Noisy(), batch_size=4, num_workers=workers) if wrapped else Noisy()
        return list(numbered_batches(data, 4, seed=5, share=share, workers=workers))

    whole = read(0, Share())
    for share in (Share(), Share(2), Share(0, 1, 2)):
        part = read(2, share)
        wanted = [batch for batch in whole if share.has(batch.number)]
        assert len(part) == len(wanted)
        assert all(same(mine, theirs) for mine, theirs in zip(part, wanted, strict=True))


@pytest.mark.parametrize("kind", SOURCES)
def test_data_that_end_too_early(kind: str) -> None:
    with pytest.raises(ValueError, match=r"the data end after \d batches, but 40 of this audit are done"):
        found(SOURCES[kind], share=Share(40))


def test_a_distributed_sampler_is_refused() -> None:
    sampler: Any = DistributedSampler(Noisy(), num_replicas=2, rank=0)
    loader = DataLoader(Noisy(), batch_size=4, sampler=sampler)
    with pytest.raises(ValueError, match="a DistributedSampler gives each process a share of the data"):
        list(numbered_batches(loader, 4, share=Share(0, 0, 2)))
