"""Data that fail midway and an attack of random numbers, for tests of audits that are ended and go on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from neurosens_fast.audit import audit
from neurosens_fast.support.names import REPORT

from .conftest import build

GENERATOR = torch.Generator().manual_seed(8)


IMAGES = torch.rand(26, 1, 6, 6, generator=GENERATOR)


LABELS = torch.randint(0, 4, (26,), generator=GENERATOR)


BATCHES = [(IMAGES[at : at + 4], LABELS[at : at + 4]) for at in range(0, 26, 4)]


class Faulty(Exception):
    """What ends an audit here."""


class Samples(Dataset[Any]):
    """Map-style samples of which one cannot be read while ``broken`` is set."""

    broken: int | None = None

    def __len__(self) -> int:
        return 26

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.broken:
            raise Faulty(f"sample {index} cannot be read")
        return IMAGES[index], int(LABELS[index])


class Stream(IterableDataset[Any]):
    """The same samples one after the other."""

    broken: int | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for index in range(26):
            if index == self.broken:
                raise Faulty(f"sample {index} cannot be read")
            yield IMAGES[index], int(LABELS[index])


def make_samples(broken: int | None = None) -> Any:
    """Map-style samples."""
    samples = Samples()
    samples.broken = broken
    return samples


def random_attack(x: Tensor, y: Tensor) -> Tensor:
    """Noise of the global generators, as attacks of users draw it."""
    return x + 0.1 * torch.rand_like(x) + 0.01 * random.random()


def wrapped(kind: str, samples: Any) -> Any:
    if kind == "loader":
        return DataLoader(samples, batch_size=4)
    return DataLoader(samples, batch_size=4, shuffle=True) if kind == "shuffled" else samples


def content(folder: Path) -> bytes:
    return (folder / REPORT).read_bytes()


def unbroken(tmp_path: Path, data: Any, attack: Any, **keywords: Any) -> bytes:
    folder = tmp_path / "unbroken"
    folder.mkdir()
    audit(build(), data, attack, "all", batch_size=4, checkpoint=folder, **keywords)
    return content(folder)
