"""Numbered batches of data, of which a run may skip some: those done before, and those of other processes.

What a batch holds and which random numbers its making draws depend on its number alone, so that it is the same
whatever was skipped before it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from neurosens_fast.capture import Inputs, batch_length, mapped
from neurosens_fast.support.random_state import seed_globally

from .batches import as_batch, batches, is_sample, joined, two_tensors

_ORDER, _MAKING = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Share:
    """Which of the batches a process works on: from number ``start`` on, every ``world``-th, beginning at ``rank``.

    Batch ``also`` is read too, though it lies before.
    """

    start: int = 0
    rank: int = 0
    world: int = 1
    also: int | None = None

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
    pinned: bool = False,
) -> Iterator[NumberedBatch]:
    """The batches of ``share``, cut at ``max_samples`` samples of the whole data; see :func:`batches` for ``data``.

    What can be read by index is not read where it is skipped; an iterable is read and discarded. ``workers`` processes
    of a ``DataLoader`` read a map-style data set (a ``DataLoader`` keeps its own), into pinned memory where ``pinned``
    is set. Global random generators are seeded from ``seed`` and the number of the batch.
    """
    seed_globally(seed, _ORDER)
    if two_tensors(data):
        yield from _slices(data, batch_size, max_samples, share)
    elif type(data) is DataLoader and _by_index(data):
        yield from _loaded(data, _Places(data.batch_sampler or (), max_samples, share, seed), None, pinned)
    elif _map_style(data):
        chunks = (list(range(at, min(at + batch_size, len(data)))) for at in range(0, len(data), batch_size))
        places = _Places(chunks, max_samples, share, seed)
        if workers or pinned:
            reader = DataLoader(data, batch_size=batch_size, collate_fn=joined, num_workers=workers)
            yield from _loaded(reader, places, joined, pinned)
        else:
            for indices in places:
                number, first = places.given.popleft()
                yield NumberedBatch(number, first, *joined([data[index] for index in indices]))
    else:
        yield from _streamed(data, batch_size, max_samples, share, seed)


def _slices(data: tuple[Tensor, Tensor], batch_size: int, most: int | None, share: Share) -> Iterator[NumberedBatch]:
    inputs, labels = data
    end = len(inputs) if most is None else min(most, len(inputs))
    for number, first in enumerate(range(0, end, batch_size)):
        if share.has(number):
            part = slice(first, min(end, first + batch_size))
            yield NumberedBatch(number, first, inputs[part], labels[part])


class _Places:
    """The index lists of a share's batches; ``given`` holds number and first sample of each one that was handed out."""

    def __init__(self, sampler: Iterable[list[int]], most: int | None, share: Share, seed: int) -> None:
        self._sampler, self._most, self._share, self._seed = sampler, most, share, seed
        self.given: deque[tuple[int, int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        first = 0
        source = iter(self._sampler)
        for number in itertools.count():
            if self._most is not None and first >= self._most:
                return
            indices = next(source, None)
            if indices is None:
                return
            if self._most is not None:
                indices = indices[: self._most - first]
            if self._share.has(number):
                self.given.append((number, first))
                seed_globally(self._seed, _MAKING, number)
                yield indices
            first += len(indices)


def _loaded(loader: Any, places: _Places, collate: Callable[[list[Any]], Any] | None, pinned: bool) -> Iterator[Any]:
    """The batches that a loader like ``loader`` makes of ``places``."""
    workers = loader.num_workers
    like: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_sampler=places,
        num_workers=workers,
        collate_fn=collate or loader.collate_fn,
        pin_memory=loader.pin_memory or pinned,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if workers else None,
    )
    for item in like:
        number, first = places.given.popleft()
        yield NumberedBatch(number, first, *as_batch(item))


def _streamed(data: Any, batch_size: int, most: int | None, share: Share, seed: int) -> Iterator[NumberedBatch]:
    source = batches(data, batch_size)
    first = 0
    for number in itertools.count():
        if most is not None and first >= most:  # the next one is not fetched
            return
        seed_globally(seed, _MAKING, number)
        batch = next(source, None)
        if batch is None:
            return
        inputs, labels = batch
        length = batch_length(inputs)
        if most is not None and first + length > most:
            length = most - first
            inputs, labels = mapped(inputs, itemgetter(slice(length))), labels[:length]
        if share.has(number):
            yield NumberedBatch(number, first, inputs, labels)
        first += length


def _by_index(loader: Any) -> bool:
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


def _map_style(data: Any) -> bool:
    """Whether ``data`` gives samples by index."""
    if isinstance(data, IterableDataset | DataLoader | Tensor | str | dict):
        return False
    if not isinstance(data, Sized) or not hasattr(data, "__getitem__") or not len(data):
        return False
    return is_sample(data[0])
