"""Numbered batches of data, of which a run may skip some: those done before, and those of other processes.

What a batch holds and which random numbers its making draws depend on its number alone, so that it is the same
whatever was skipped before it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from neurosens_fast.capture import Inputs, batch_length, mapped
from neurosens_fast.support.random_state import seed_globally

from .batches import as_batch, batches, by_index, is_sample, joined, two_tensors

_ORDER, _MAKING = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Share:
    """Which of the batches a process works on: from number ``start`` on, every ``world``-th, beginning at ``rank``.

    Batch ``also`` is read too, though it lies before. ``noun`` names in errors what goes over the data.
    """

    start: int = 0
    rank: int = 0
    world: int = 1
    also: int | None = None
    noun: str = "audit"

    def has(self, number: int) -> bool:
        """Whether batch ``number`` is among them."""
        return (number >= self.start and number % self.world == self.rank) or number == self.also


EVERYTHING = Share()


@dataclass(frozen=True)
class NumberedBatch:
    """Batch ``number`` of the data; ``first`` is the number of its first sample."""

    number: int
    first: int
    inputs: Inputs
    labels: Tensor


def numbered_batches(
    data: Any,
    batch_size: int,
    *,
    max_samples: int | None = None,
    share: Share = EVERYTHING,
    seed: int = 0,
    workers: int = 0,
) -> Iterator[NumberedBatch]:
    """The batches of ``share``, cut at ``max_samples`` samples of the whole data; see :func:`batches` for ``data``.

    What can be read by index is not read where it is skipped; an iterable is read and discarded. ``workers`` processes
    of a ``DataLoader`` read a map-style data set (a ``DataLoader`` keeps its own). Global random generators are seeded
    from ``seed`` and the number of the batch, in those processes too.

    Raises ``ValueError`` where the data end before batch ``share.start``, and for a ``DistributedSampler``, whose
    share would be shared again.
    """
    seed_globally(seed, _ORDER)
    if two_tensors(data):
        yield from _slices(data, batch_size, max_samples, share)
    elif type(data) is DataLoader and _draws_indices(data):
        if share.world > 1 and isinstance(data.sampler, DistributedSampler):
            raise ValueError(
                "a DistributedSampler gives each process a share of the data, of which a distributed audit would take "
                "a share again; give the DataLoader no sampler"
            )
        yield from _loaded(data, data.collate_fn, _Places(data.batch_sampler or (), max_samples, share), seed)
    elif _gives_samples(data):
        chunks = (list(range(at, min(at + batch_size, len(data)))) for at in range(0, len(data), batch_size))
        reader = DataLoader(data, batch_size=batch_size, num_workers=workers)
        yield from _loaded(reader, joined, _Places(chunks, max_samples, share), seed)
    else:
        yield from _streamed(data, batch_size, max_samples, share, seed)


def _slices(data: tuple[Tensor, Tensor], batch_size: int, most: int | None, share: Share) -> Iterator[NumberedBatch]:
    inputs, labels = data
    end = len(inputs) if most is None else min(most, len(inputs))
    _check_end(-(-end // batch_size), share)
    for number, first in enumerate(range(0, end, batch_size)):
        if share.has(number):
            part = slice(first, min(end, first + batch_size))
            yield NumberedBatch(number, first, inputs[part], labels[part])


class _Places:
    """Number and indices of a share's batches; ``given`` holds number and first sample of each that was handed out."""

    def __init__(self, sampler: Iterable[list[int]], most: int | None, share: Share) -> None:
        self._sampler, self._most, self._share = sampler, most, share
        self.given: deque[tuple[int, int]] = deque()

    def __iter__(self) -> Iterator[Any]:
        first = number = 0
        for number, indices in enumerate(self._sampler, 1):
            if self._most is not None:
                if first >= self._most:
                    return
                indices = indices[: self._most - first]
            if self._share.has(number - 1):
                self.given.append((number - 1, first))
                yield number - 1, indices
            first += len(indices)
        _check_end(number, self._share)


class _Seeded:
    """A map-style data set that makes the samples of a batch under its own random numbers, in whatever process."""

    def __init__(self, data: Any, seed: int) -> None:
        self._data, self._seed = data, seed

    def __len__(self) -> int:
        return len(self._data)

    def __getitems__(self, place: tuple[int, list[int]]) -> list[Any]:
        number, indices = place
        seed_globally(self._seed, _MAKING, number)
        if hasattr(self._data, "__getitems__"):
            samples: list[Any] = self._data.__getitems__(indices)
            return samples
        return [self._data[index] for index in indices]


def _loaded(
    loader: DataLoader[Any], collate: Callable[[list[Any]], Any], places: _Places, seed: int
) -> Iterator[NumberedBatch]:
    """The batches that a loader like ``loader`` makes of ``places``."""
    workers = loader.num_workers
    like: DataLoader[Any] = DataLoader(
        _Seeded(loader.dataset, seed),  # type: ignore[arg-type]
        batch_sampler=places,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if workers else None,
    )
    for item in like:
        number, first = places.given.popleft()
        yield NumberedBatch(number, first, *as_batch(item))


def _check_end(count: int, share: Share) -> None:
    if count < share.start:
        raise ValueError(
            f"the data end after {count} batches, but {share.start} of this {share.noun} are done; give the same data, "
            "and no iterator that was read before"
        )


def _streamed(data: Any, batch_size: int, most: int | None, share: Share, seed: int) -> Iterator[NumberedBatch]:
    source = batches(data, batch_size)
    first = 0
    for number in itertools.count():
        if most is not None and first >= most:  # the next one is not fetched
            return
        seed_globally(seed, _MAKING, number)
        batch = next(source, None)
        if batch is None:
            _check_end(number, share)
            return
        inputs, labels = batch
        length = batch_length(inputs)
        if most is not None and first + length > most:
            length = most - first
            inputs, labels = mapped(inputs, itemgetter(slice(length))), labels[:length]
        if share.has(number):
            yield NumberedBatch(number, first, inputs, labels)
        first += length


def _draws_indices(loader: Any) -> bool:
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _gives_samples(data: Any) -> bool:
    return by_index(data) and len(data) > 0 and is_sample(data[0])
