"""Batches of training data ``(inputs, labels, index)``: from tensors on the device, or from any data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from neurosens_fast.attacks.arguments import check_count
from neurosens_fast.audit.batches import is_sample

Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs ``[N, *S]``, labels ``[N]`` int64, and numbers of the samples ``[N]`` int64 on the CPU.

The numbers are those in the data set where it is known, else places in the epoch; no two samples of it share one.
"""


class DeviceLoader:
    """Batches ``(images, labels)`` of a small image set that lies on the device whole; nothing is copied per batch.

    ``images`` ``[N, C, H, W]`` (any ``[N, *S]`` without ``crop`` and ``flip``), ``labels`` ``[N]``. Shuffled anew each
    epoch by ``seed`` and the epoch's number, which counts up with each iteration (``set_epoch`` sets it, as for
    ``DistributedSampler``). ``crop`` pads by so many pixels of 0 and cuts the old size out at random, ``flip`` mirrors
    half of the images, both on the device. A sample's draws depend on seed, epoch and its number only: not on batch
    size or the number of processes. ``rank`` of ``world`` processes gets its part of every batch of ``batch_size``
    samples; each gets equally many, so that up to ``world - 1`` samples of the last batch are left out.

    Raises ``ValueError`` or ``TypeError`` for tensors that do not fit together, and for ``crop`` or ``flip`` of what
    are no images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        *,
        shuffle: bool = True,
        crop: int = 0,
        flip: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not images.dim() or labels.dim() != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"images {list(images.shape)} and labels {list(labels.shape)} must be [N, ...] and [N] with N >= 1"
            )
        if (crop or flip) and images.dim() != 4:
            raise ValueError(f"crop and flip need images [N, C, H, W], got {list(images.shape)}")
        check_count("batch_size", batch_size, max(1, world))
        self.images, self.labels = images.to(device), labels.to(device).long()
        self.batch_size, self.shuffle = batch_size, shuffle
        self.crop, self.flip, self.seed = check_count("crop", crop), bool(flip), check_count("seed", seed)
        self.rank, self.world = rank, world
        self._epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest >= self.world)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        for images, labels, _ in self.batches(epoch):
            yield images, labels

    def set_epoch(self, epoch: int) -> None:
        """The number of the next iteration."""
        self._epoch = check_count("epoch", epoch)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, with the samples' numbers."""
        count = len(self.images)
        generator = epoch_generator(self.seed, epoch)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        moves = Moves.drawn(count, self.crop, self.flip, generator)
        for batch in order.split(self.batch_size):
            share = len(batch) // self.world
            if not share:
                return
            index = batch[self.rank * share : (self.rank + 1) * share]
            rows = index.to(self.images.device)
            yield moves.applied(self.images, rows, index), self.labels[rows], index


class Moves:
    """Random crops and mirrorings, drawn for so many images at once on the CPU."""

    def __init__(self, crop: int, offsets: Tensor | None, mirrored: Tensor | None) -> None:
        self._crop, self._offsets, self._mirrored = crop, offsets, mirrored

    @classmethod
    def drawn(cls, count: int, crop: int, flip: bool, generator: torch.Generator) -> Moves:
        """Offsets in 0..2 ``crop``, and a coin for each of ``count`` images."""
        offsets = torch.randint(2 * crop + 1, (count, 2), generator=generator) if crop else None
        mirrored = torch.rand(count, generator=generator) < 0.5 if flip else None
        return cls(crop, offsets, mirrored)

    def applied(self, images: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        """``images[rows]`` ``[N, C, H, W]``, moved by the draws ``index``, in one gather."""
        if self._offsets is None and self._mirrored is None:
            return images[rows]
        height, width = images.shape[-2:]
        down, right = torch.arange(height).expand(len(index), -1), torch.arange(width).expand(len(index), -1)
        if self._mirrored is not None:
            right = torch.where(self._mirrored[index, None], width - 1 - right, right)
        if self._offsets is not None:
            down, right = down + self._offsets[index, :1], right + self._offsets[index, 1:]
            images, rows = F.pad(images[rows], (self._crop,) * 4), torch.arange(len(rows), device=rows.device)
        channels = torch.arange(images.shape[1], device=rows.device)
        down, right = down.to(rows.device), right.to(rows.device)
        return images[rows[:, None, None, None], channels[:, None, None], down[:, None, :, None], right[:, None, None]]


class _AnyLoader:
    """Batches of a data set or of an iterable of batches, as :class:`DeviceLoader` gives them."""

    def __init__(
        self,
        data: Any,
        device: torch.device | None,
        crop: int,
        flip: bool,
        seed: int,
        sampler: Any = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._data, self._device, self._crop, self._flip, self._seed = data, device, crop, flip, seed
        self._sampler, self._rank, self._world = sampler, rank, world

    def __len__(self) -> int:
        if not isinstance(self._data, Sized):
            raise TypeError("the training data does not tell its length, which the schedule needs; give a DataLoader")
        return len(self._data)

    def batches(self, epoch: int) -> Iterator[Batch]:
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        generator = epoch_generator(self._seed + self._rank, epoch)
        if isinstance(self._data, DataLoader) and self._data.generator is not None:
            self._data.generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        done = 0
        for item in self._data:
            if not isinstance(item, list | tuple) or len(item) != 2 or not isinstance(item[0], Tensor):
                raise TypeError(f"the training data must give batches (images, labels), got a {type(item).__name__}")
            inputs = item[0].to(self._device)
            labels = torch.as_tensor(item[1]).to(self._device).long()
            if labels.shape != inputs.shape[:1]:
                raise ValueError(
                    f"a batch of the training data has images {list(inputs.shape)} and labels {list(labels.shape)}; "
                    "they must be [N, ...] and [N]"
                )
            index = self._rank + self._world * torch.arange(done, done + len(inputs))
            done += len(inputs)
            if self._crop or self._flip:
                here = torch.arange(len(inputs))
                moves = Moves.drawn(len(inputs), self._crop, self._flip, generator)
                inputs = moves.applied(inputs, here.to(inputs.device), here)
            yield inputs, labels, index


Loader = DeviceLoader | _AnyLoader


def loader_of(
    data: Any,
    batch_size: int,
    device: torch.device | None,
    *,
    crop: int = 0,
    flip: bool = False,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Training batches of ``data``: two tensors, a data set of samples, or an iterable of batches with a length.

    Tensors go to the device whole. A map-style data set is shuffled and read by ``workers``. A :class:`DeviceLoader`
    and what else gives batches is used as it is, and in a distributed run must give each process its own;
    ``ValueError`` for a ``DataLoader`` that would give all of them the same.
    """
    if isinstance(data, DeviceLoader):
        if data.world != world:
            raise ValueError(f"the DeviceLoader is for {data.world} processes, not {world}; give it rank= and world=")
        return data
    if (tensors := tensors_of(data)) is not None:
        images, labels = tensors
        return DeviceLoader(images, labels, batch_size, device, crop=crop, flip=flip, seed=seed, rank=rank, world=world)
    if _is_map_style(data):
        sampler: Any = DistributedSampler(data, world, rank, seed=seed, drop_last=True) if world > 1 else None
        loader = DataLoader(
            data,
            batch_size // world,
            shuffle=sampler is None,
            sampler=sampler,
            num_workers=workers,
            generator=torch.Generator(),
        )
        return _AnyLoader(loader, device, crop, flip, seed, sampler, rank, world)
    if not isinstance(data, Iterable):
        raise TypeError(
            f"train must be two tensors, a data set, or an iterable of batches (images, labels), got a "
            f"{type(data).__name__}"
        )
    sampler = getattr(data, "sampler", None)
    divided = hasattr(sampler, "set_epoch")
    if isinstance(data, DataLoader) and world > 1 and not divided and not isinstance(data.dataset, IterableDataset):
        raise ValueError("in a distributed run the DataLoader needs a DistributedSampler; or give the data set itself")
    return _AnyLoader(data, device, crop, flip, seed, sampler if divided else None, rank, world)


def tensors_of(data: Any) -> tuple[Tensor, Tensor] | None:
    """The two tensors that ``data`` is, or is made of as a ``TensorDataset``; None for other data."""
    found = data.tensors if isinstance(data, TensorDataset) else data
    if isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(item, Tensor) for item in found):
        return found[0], found[1]
    return None


def _is_map_style(data: Any) -> bool:
    """Whether ``data`` gives single samples by number; ``ValueError`` where it is empty."""
    if isinstance(data, DataLoader | IterableDataset | str) or not hasattr(data, "__getitem__"):
        return False
    if not len(data):
        raise ValueError("the training data is empty")
    return isinstance(data, Dataset) or is_sample(data[0])


def held_out(
    images: Tensor, labels: Tensor, share: float = 0.1, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``(train, val)``, two pairs of tensors: a share of the samples, drawn by ``seed``, is held out for validation.

    At least one sample stays in each part. ``ValueError`` for a share outside (0, 1) or fewer than two samples.
    """
    if not 0 < share < 1 or len(images) < 2:
        raise ValueError(f"share must lie between 0 and 1 with two samples at least, got {share} of {len(images)}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, round(share * len(images))), len(images) - 1)
    val, train = order[:count].sort().values, order[count:].sort().values
    return (images[train], labels[train]), (images[val], labels[val])


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random numbers of one epoch, on the CPU."""
    return torch.Generator().manual_seed(epoch_seed(seed, epoch))


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of its own for each epoch of each run."""
    mixed = torch.Generator().manual_seed(seed % 2**62)
    base = int(torch.randint(2**40, (), generator=mixed))
    return (base * 65_537 + epoch * 1_000_003 + 1) % 2**62


def steps_of(loader: Loader) -> int:
    """Batches per epoch; ``ValueError`` without any."""
    steps = len(loader)
    if not steps:
        raise ValueError("the training data gives no batch: it is empty, or smaller than the number of processes")
    return steps
