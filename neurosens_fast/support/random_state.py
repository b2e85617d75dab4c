"""Global random generators, seeded for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's global generators seeded inside, and back where they were afterwards."""
    python, arrays, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the global state itself
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        seed_globally(seed)
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)  # noqa: NPY002 - the global state itself
        torch.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


def seed_globally(seed: int, *numbers: int) -> None:
    """Seed Python's, numpy's and torch's global generators; with ``numbers``, by one of the streams of ``seed``."""
    if numbers:
        state = numpy.random.SeedSequence((seed % 2**64, *numbers)).generate_state(1, numpy.uint64)
        seed = int(state[0])
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002 - the global state itself
    torch.manual_seed(seed)


def drawn(total: int, count: int | None, seed: int) -> torch.Tensor:
    """``count`` of the numbers 0..``total`` - 1 (None: all of them) drawn by ``seed``, in ascending order."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
