"""Rows that are alike, far apart, tiny, zero, negative or sparse, and mixes of them, against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference

from .cases import DTYPES, place, row_tolerance, unusual_rows

POSITIONS = (1, 3, 8, 15, 16, 23, 49, 200, 512, 513, 1100)
NON_FINITE = (math.nan, math.inf, -math.inf)


def check(z: Tensor, z_adv: Tensor, rows: Tensor) -> None:
    expected = reference.pair_statistics(z.double(), z_adv.double())
    wrong = (rows.double() - expected).abs() > row_tolerance(z, z_adv, 1)
    assert not bool(wrong.any()), wrong.nonzero()


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positions", POSITIONS)
def test_equals_float64_reference(positions: int, dtype: torch.dtype, memory: str, device: str) -> None:
    z, z_adv = (place(x, memory) for x in unusual_rows(positions, dtype, device))
    check(z, z_adv, ops.pair_statistics(z, z_adv))
    check(z_adv, z, ops.pair_statistics(z_adv, z))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_row_does_not_depend_on_its_neighbours(positions: int, dtype: torch.dtype, device: str) -> None:
    z, z_adv = unusual_rows(positions, dtype, device)
    rows = ops.pair_statistics(z, z_adv)
    for c in range(z.shape[1]):
        assert torch.equal(ops.pair_statistics(z[:, c : c + 1].clone(), z_adv[:, c : c + 1].clone())[:, 0], rows[:, c])


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positions", [9, 16, 49, 600])
def test_non_finite_elements_stay_in_their_row(positions: int, dtype: torch.dtype, memory: str, device: str) -> None:
    z, z_adv = (place(x, memory) for x in unusual_rows(positions, dtype, device))
    clean = ops.pair_statistics(z, z_adv)
    bad = torch.zeros(z.shape[:2], dtype=torch.bool, device=device)
    for c in range(2, z.shape[1], 3):  # every kind of row, every kind of value, both halves
        half = (z, z_adv)[c // 3 % 2]
        half[c % 2, c, c * 7 % positions] = NON_FINITE[c // 6 % 3]
        if c % 4 == 0:
            half[c % 2, c, c * 5 % positions] = math.inf
        bad[c % 2, c] = True
    rows = ops.pair_statistics(z, z_adv)
    assert torch.equal(rows[~bad], clean[~bad])
    expected = reference.pair_statistics(z.double(), z_adv.double())
    torch.testing.assert_close(rows[bad].double(), expected[bad], rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("positions", [16, 700])
def test_squares_beyond_the_range_of_float32(positions: int, device: str) -> None:
    """Sums that overflow are what they are when summed one by one."""
    z = torch.full((1, 3, positions), 1e19, device=device)
    z_adv = torch.ones_like(z)
    z_adv[0, 1] = -1e19
    rows = ops.pair_statistics(z, z_adv)
    expected = reference.pair_statistics(z, z_adv)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=0)
