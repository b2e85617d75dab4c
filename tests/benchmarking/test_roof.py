"""The shortest time for some work, and what is measured for it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from neurosens_fast.benchmarking.roof import Roof, Work, bandwidth, measure_roof, multiply_adds

from .made import ROOF


def test_reads_go_at_the_rate_of_reading() -> None:
    assert ROOF.floor(Work(reads=100_000_000)).memory == pytest.approx(100e6 / 10e9)
    assert ROOF.floor(Work(reads=1_000_000)).memory == pytest.approx(1e6 / 20e9)


def test_between_two_sizes_the_rate_lies_between_on_a_logarithmic_scale() -> None:
    assert ROOF.floor(Work(reads=10_000_000)).memory == pytest.approx(10e6 / 15e9)


@pytest.mark.parametrize(("size", "rate"), [(1000, 20e9), (10**10, 10e9)])
def test_beyond_the_sizes_measured_the_nearest_counts(size: int, rate: float) -> None:
    assert ROOF.floor(Work(reads=size)).memory == pytest.approx(size / rate)


@pytest.mark.parametrize(
    ("reads", "writes", "copied", "read"),
    [(10**9, 10**9, 2e9, 0), (3 * 10**9, 10**9, 2e9, 2e9), (0, 10**9, 1e9, 0), (10**9, 3 * 10**9, 4e9, 0)],
)
def test_what_is_written_goes_at_the_rate_of_a_copy(reads: int, writes: int, copied: float, read: float) -> None:
    assert ROOF.floor(Work(reads, writes)).memory == pytest.approx(copied / 8e9 + read / 10e9)


def test_the_longer_of_traffic_and_arithmetic_binds() -> None:
    memory = ROOF.floor(Work(reads=10**9, flops=10**6))
    compute = ROOF.floor(Work(reads=10**6, flops=10**12))
    assert (memory.bound, compute.bound) == ("memory", "compute")
    assert memory.seconds == pytest.approx(0.1)
    assert compute.seconds == pytest.approx(10.0)


def test_the_roof_of_this_machine(device: str) -> None:
    roof = measure_roof(device, quick=True)
    assert roof.device == device
    assert len(roof.sizes) == len(roof.read) == len(roof.copy) > 1
    assert min(roof.read) > 1e7
    assert min(roof.copy) > 1e7
    assert Roof.from_json(asdict(roof)) == roof


def test_rates_of_impossible_size_are_not_reported() -> None:
    """No machine that this runs on moves a petabyte or does a hundred petaflops in a second."""
    assert all(0 < rate < 1e15 for rate in bandwidth(1e6, "cpu", rounds=3))
    assert 0 < multiply_adds("cpu", rounds=3, width=64) < 1e17
