"""Rank correlations of measures, held against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from neurosens_fast.explorer.agreement import rank_agreement
from neurosens_fast.explorer.exploration import Measure


def measure(values: np.ndarray, name: str = "one") -> Measure:
    return Measure(name, name, "", "activation", values)


def test_every_pair_at_every_level_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 8, (4, 3, 50)).astype(float)  # many ties
    values[1, 0, :20] = np.nan
    values[2, :, 10:30] = np.nan
    values[3, 1, 5] = np.inf
    found = rank_agreement([measure(one) for one in values])
    assert found.shape == (3, 4, 4)
    for level in range(3):
        for one in range(4):
            for other in range(4):
                first, second = values[one, level], values[other, level]
                both = np.isfinite(first) & np.isfinite(second)
                wanted = spearmanr(first[both], second[both]).statistic
                np.testing.assert_allclose(found[level, one, other], wanted, atol=1e-12)


def test_order_alone_counts() -> None:
    values = np.arange(1.0, 9.0)[None]
    found = rank_agreement([measure(values), measure(np.exp(values)), measure(-values)])[0]
    np.testing.assert_allclose(found, [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-12)
    assert np.abs(found).max() <= 1


def test_fewer_than_three_neurons_and_constant_measures_have_none() -> None:
    few = np.array([[1.0, 2.0, np.nan, np.nan]])
    found = rank_agreement([measure(np.arange(4.0)[None]), measure(few), measure(np.full((1, 4), 3.0))])[0]
    np.testing.assert_array_equal(np.isnan(found), [[False, True, True], [True, True, True], [True, True, True]])


def test_a_measure_that_is_constant_only_where_the_other_is_finite() -> None:
    first = np.array([[1.0, 1.0, 1.0, 5.0]])
    second = np.array([[3.0, 1.0, 2.0, np.nan]])
    found = rank_agreement([measure(first), measure(second)])[0]
    np.testing.assert_array_equal(np.isnan(found), [[False, True], [True, False]])


def test_without_measures() -> None:
    with pytest.raises(ValueError, match="there are no measures to compare"):
        rank_agreement([])


def test_measures_of_different_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"'one', which is \[1, 4\]; 'other' is \[2, 4\]"):
        rank_agreement([measure(np.zeros((1, 4))), measure(np.zeros((2, 4)), "other")])
