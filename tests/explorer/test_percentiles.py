"""Activation percentiles by counting, their medians by numpy, and the Bluff score by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosens_fast.explorer import percentiles
from neurosens_fast.explorer.percentiles import BINS, MedianPercentiles, bluff_score

HALF_BIN = 100 / BINS / 2


def counted(values: Tensor) -> NDArray[np.float64]:
    """Percentiles ``[N, C]`` by the definition, one neuron of one sample at a time."""
    found = np.full(values.shape, np.nan)
    for sample, row in enumerate(values.double().numpy()):
        rated = row[~np.isnan(row)]
        for neuron, value in enumerate(row):
            if not np.isnan(value):
                found[sample, neuron] = 100 * ((rated < value).sum() + (rated == value).sum() / 2) / len(rated)
    return found


def streamed(values: Tensor, batch: int) -> NDArray[np.float64]:
    found = MedianPercentiles(values.shape[1])
    for part in values.split(batch):
        found.update(part)
    return found.medians()


@pytest.mark.parametrize("samples", [1, 2, 40, 41])
@pytest.mark.parametrize("neurons", [1, 2, 30, 700])
def test_medians_are_within_half_a_bin_of_exact_ones(samples: int, neurons: int) -> None:
    values = torch.randn(samples, neurons).relu()  # about half are ties
    exact = np.median(counted(values), 0)
    found = streamed(values, 7)
    assert np.abs(found - exact).max() <= HALF_BIN + 1e-9
    for batch in (1, 64):
        assert np.array_equal(streamed(values, batch), found)


def test_wide_layers_are_ranked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(20, 50, dtype=torch.float64)
    whole = streamed(values, 20)
    monkeypatch.setattr(percentiles, "_AT_ONCE", 60)
    assert np.array_equal(streamed(values, 20), whole)


def test_neurons_that_are_nan_have_no_percentile() -> None:
    values = torch.randn(9, 12)
    values[:, 3] = torch.nan
    values[:5, 4] = torch.nan
    values[2] = torch.nan
    values[6, 5] = torch.inf
    found = streamed(values, 4)
    assert np.isnan(found).nonzero()[0].tolist() == [3]
    exact = np.nanmedian(np.delete(counted(values), 3, 1), 0)
    assert np.abs(np.delete(found, 3) - exact).max() <= HALF_BIN + 1e-9


def test_one_neuron_is_in_the_middle_and_ties_share_it() -> None:
    assert np.abs(streamed(torch.randn(5, 1), 5) - 50).max() <= HALF_BIN
    assert np.abs(streamed(torch.zeros(5, 8), 5) - 50).max() <= HALF_BIN


def test_bluff_scores_sum_over_the_levels_of_an_attack() -> None:
    medians = np.array([[50.0, 10], [60, 10], [45, 30], [0, 0], [50, 11]])
    found = bluff_score(medians, [[0, 1], [3]], (0.5, 0.1, None, 0.25))
    assert found.shape == (4, 2)
    assert found[0].tolist() == found[1].tolist() == pytest.approx([10 / 0.5 + 5 / 0.1, 20 / 0.1])
    assert found[3].tolist() == pytest.approx([0, 4])
    assert np.isnan(found[2]).all(), "a level of no group"


def test_levels_without_a_strength_do_not_enter() -> None:
    medians = np.array([[50.0], [60], [70], [80]])
    found = bluff_score(medians, [[0, 1], [2]], (None, 0.5, 0.0))
    assert found[:2].tolist() == [[40], [40]]
    assert np.isnan(found[2]).all()
    with pytest.raises(ValueError, match="medians must be"):
        bluff_score(medians, [[0]], (0.1,))
