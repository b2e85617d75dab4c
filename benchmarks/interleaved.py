"""Times several functions in turn, round by round, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ratio:
    """Median of the per-round ratios of two functions, with the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(numerators: list[float], denominators: list[float]) -> Ratio:
    """The ratio of times taken in the same rounds."""
    pairs = [a / b for a, b in zip(numerators, denominators, strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return Ratio(median, low, high)


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call; on CUDA between two events on its stream."""
    if device == "cpu":
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def run_interleaved(
    benchmark: Any, ours: Callable[[], Any], others: Mapping[str, Callable[[], Any]], device: str, seconds: float
) -> dict[str, list[float]]:
    """Times of ``ours`` and of every other function, round by round, for about ``seconds``.

    ``ours`` is what pytest-benchmark reports; the others run in its untimed set-up of every round.
    """
    functions = {"ours": ours, **others}
    for function in functions.values():
        function()  # warm up: compilation, caches, page faults
    one_round = sum(timed(function, device) for function in functions.values())
    rounds = int(min(51, max(5, seconds / one_round)))
    times: dict[str, list[float]] = {name: [] for name in functions}

    def round_of_others() -> None:
        for name, function in others.items():
            times[name].append(timed(function, device))

    def timed_ours() -> None:
        times["ours"].append(timed(ours, device))

    benchmark.pedantic(timed_ours, setup=round_of_others, rounds=rounds, iterations=1)
    return times
