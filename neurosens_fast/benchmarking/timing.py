"""Times several functions in turn, round by round, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

MOST_ROUNDS = 51
LEAST_ROUNDS = 5
LONG = 1.0
"""Seconds from which on a call is not repeated before it is timed."""
SHORTEST = {"cpu": 2e-4, "cuda": 1e-3}
"""Seconds below which a function is called several times for one time: clocks and events are no finer."""


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of two functions, round by round, with the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 2 if self.median < 100 else 0
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def ratio(numerators: list[float], denominators: list[float]) -> Ratio:
    """The ratio of times taken in the same rounds."""
    pairs = [a / b for a, b in zip(numerators, denominators, strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else pairs * 3
    return Ratio(median, low, high)


def timed(function: Callable[[], Any], device: str, calls: int = 1) -> float:
    """Seconds of one call, of ``calls`` in a row; on CUDA between two events on its stream."""
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - begin) / calls
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls


def warm_up(function: Callable[[], Any], device: str) -> tuple[float, int]:
    """Seconds of a call, and how often the function is called for one time that the clock can tell.

    The first call pays for compilation, caches and page faults; only where it is long does it count.
    """
    seconds = timed(function, device)
    if seconds < LONG:
        seconds = timed(function, device)
    return seconds, min(1000, max(1, math.ceil(SHORTEST[device] / max(seconds, 1e-7))))


def run_interleaved(
    benchmark: Any, functions: Mapping[str, Callable[[], Any]], device: str, seconds: float, quick: bool = False
) -> dict[str, list[float]]:
    """Seconds of a call of every function, round by round, for about ``seconds``; quickly, in two rounds.

    The first function is what pytest-benchmark reports; the others run in its untimed set-up of every round.
    """
    first, *others = functions
    warm = {name: warm_up(function, device) for name, function in functions.items()}
    calls = {name: count for name, (_, count) in warm.items()}
    one_round = sum(seconds * count for seconds, count in warm.values())
    rounds = 2 if quick else int(min(MOST_ROUNDS, max(LEAST_ROUNDS, seconds / one_round)))
    times: dict[str, list[float]] = {name: [] for name in functions}

    def time_of(name: str) -> None:
        times[name].append(timed(functions[name], device, calls[name]))

    def round_of_others() -> None:
        for name in others:
            time_of(name)
        others[:] = [*others[1:], *others[:1]]  # no side always finds the cache as the same other left it

    benchmark.pedantic(time_of, args=(first,), setup=round_of_others, rounds=rounds, iterations=1)
    benchmark.extra_info["calls"] = calls[first]
    return times
