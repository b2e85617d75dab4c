"""What this machine can move and calculate at most, measured in the run that is compared with it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import neurosens_fast.ops  # noqa: F401 - registers the operators

from .inputs import copies, rotating
from .timing import timed, warm_up

MEGABYTES = (0.25, 1, 4, 16, 64, 256, 1024)
QUICK_MEGABYTES = (1, 16)
WIDTH = 2048
"""Of the matrices whose product tells the fused multiply-adds of a second."""


@dataclass(frozen=True)
class Work:
    """What an operator must do at least: bytes it must read and write once each, and arithmetic operations."""

    reads: int = 0
    writes: int = 0
    flops: int = 0

    @property
    def moved(self) -> int:
        """Bytes in both directions."""
        return self.reads + self.writes


@dataclass(frozen=True)
class Floor:
    """The shortest time for some work: of its traffic and of its arithmetic, which can overlap."""

    memory: float
    compute: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.memory, self.compute)

    @property
    def bound(self) -> str:
        """Which of the two it is."""
        return "memory" if self.memory >= self.compute else "compute"


@dataclass(frozen=True)
class Roof:
    """Bytes per second of reading and of copying (read plus written) by bytes touched, and operations per second.

    ``flops`` counts a fused multiply-add as two operations, as a product of float32 matrices does them; on CUDA
    without TF32. ``threads`` are those of torch.
    """

    device: str
    threads: int
    sizes: tuple[float, ...]
    read: tuple[float, ...]
    copy: tuple[float, ...]
    flops: float

    def floor(self, work: Work) -> Floor:
        """The shortest time for ``work``.

        Every byte written goes at the rate of a copy, with one that is read beside it where there is one; what is read
        beyond them goes at the rate of reading.
        """
        size = max(work.moved, 1)
        copied = work.writes + min(work.reads, work.writes)
        read = work.moved - copied
        memory = copied / _between(self.sizes, self.copy, size) + read / _between(self.sizes, self.read, size)
        return Floor(memory, work.flops / self.flops)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Roof:
        """From what ``dataclasses.asdict`` made of one."""
        rates = {name: tuple(values[name]) for name in ("sizes", "read", "copy")}
        return cls(values["device"], values["threads"], **rates, flops=values["flops"])


def _between(sizes: Sequence[float], rates: Sequence[float], size: float) -> float:
    """The rate at a size, between those of its neighbours on a logarithmic scale."""
    for place in range(1, len(sizes)):
        if size <= sizes[place] or place == len(sizes) - 1:
            low, high = math.log(sizes[place - 1]), math.log(sizes[place])
            part = min(1.0, max(0.0, (math.log(size) - low) / (high - low)))
            return rates[place - 1] * (1 - part) + rates[place] * part
    return rates[0]


def bandwidth(size: float, device: str, rounds: int = 9) -> tuple[float, float]:
    """Median bytes per second of reading and of copying (bytes read plus bytes written) two halves of ``size`` in all.

    Reading is a kernel of this package that does nothing else; copying is ``Tensor.copy_``.
    """
    half = torch.randn(int(size / 8), device=device)
    inputs = copies((half, half.clone()), device)
    read = rotating(torch.ops.neurosens_fast.read_bytes, inputs)
    copy = rotating(lambda a, b: b.copy_(a), inputs)
    calls = [warm_up(function, device)[1] for function in (read, copy)]
    reads, writes = [], []
    for _ in range(rounds):
        reads.append(timed(read, device, calls[0]))
        writes.append(timed(copy, device, calls[1]))
    moved = 2 * half.nbytes
    return moved / statistics.median(reads), moved / statistics.median(writes)


def multiply_adds(device: str, rounds: int = 9, width: int = WIDTH) -> float:
    """Median operations per second, two for each fused multiply-add, of a product of float32 matrices."""
    a, b = torch.randn(2, width, width, device=device)
    _, calls = warm_up(lambda: a @ b, device)
    return 2 * width**3 / statistics.median([timed(lambda: a @ b, device, calls) for _ in range(rounds)])


def measure_roof(device: str, quick: bool = False) -> Roof:
    """Measure the machine, for some seconds; quickly, coarsely."""
    sizes = [megabytes * 1e6 for megabytes in (QUICK_MEGABYTES if quick else MEGABYTES)]
    rounds = 3 if quick else 9
    reads, writes = zip(*(bandwidth(size, device, rounds) for size in sizes), strict=True)
    flops = multiply_adds(device, rounds, 512 if quick else WIDTH)
    return Roof(device, torch.get_num_threads(), tuple(sizes), reads, writes, flops)
