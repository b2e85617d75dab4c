"""topk_neurons: order, ties, NaN, the ends of k."""

from __future__ import annotations

import math

import pytest
import torch

from neurosens_fast import ops

from .cases import DTYPES

pytestmark = pytest.mark.sanitize


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("neurons", [0, 1, 2, 31, 32, 33, 255, 256, 257, 1000])
def test_equals_a_stable_sort(neurons: int, dtype: torch.dtype, device: str) -> None:
    x = torch.randint(0, 20, (neurons,), device=device).to(dtype)  # many ties
    order = sorted(range(neurons), key=lambda i: (-float(x[i]), i))
    for k in sorted({0, min(1, neurons), neurons // 3, neurons}):
        values, indices = ops.topk_neurons(x, k)
        assert indices.tolist() == order[:k]
        assert indices.dtype == torch.int64
        assert values.dtype == dtype
        assert torch.equal(values, x[order[:k]])


def test_nan_is_largest_and_infinities_are_ordered(device: str) -> None:
    x = torch.tensor([1.0, math.inf, math.nan, -math.inf, math.nan, 2.0], device=device)
    values, indices = ops.topk_neurons(x, 6)
    assert indices.tolist() == [2, 4, 1, 5, 0, 3]
    assert torch.equal(values.nan_to_num(), x[indices].nan_to_num())


def test_signed_zeros_tie(device: str) -> None:
    x = torch.tensor([-0.0, 0.0, -0.0, 0.0], device=device)
    assert ops.topk_neurons(x, 4)[1].tolist() == [0, 1, 2, 3]


def test_strided_input(device: str) -> None:
    x = torch.arange(20.0, device=device)[::2]
    assert ops.topk_neurons(x, 2)[1].tolist() == [9, 8]
