"""Measures of neurons: those of one pass, of swapped pixels, and which neurons they call the most vulnerable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit.setting import Setting
from neurosens_fast.explorer.collected import Collected
from neurosens_fast.explorer.exploration import Level, Measure
from neurosens_fast.explorer.measures import collected_measures, contributions, most_vulnerable, pixel_measures
from neurosens_fast.explorer.stream import collect
from neurosens_fast.statistics import METRICS

from .networks import images, pooled
from .synthetic import exploration

EPS = (0.05, 0.2)
LEVELS = tuple(Level("FGSM", eps) for eps in EPS)


@pytest.fixture(scope="module")
def collected() -> Collected:
    model = pooled()
    attacks = [FGSM(model, eps=eps) for eps in EPS]
    setting = Setting(model, None, None, None)
    sizes: dict[str, Any] = {"shown": 10, "top": 3, "batch_size": 7, "max_samples": None}
    return collect(setting, None, images(), attacks, progress=False, seed=0, eps=EPS, **sizes)


def test_every_measure_has_a_number_for_each_neuron_and_level(collected: Collected) -> None:
    measures = collected_measures(collected, LEVELS)
    names = [measure.name for measure in measures]
    assert len(set(names)) == len(names)
    assert {"activation_change", "true_contribution", "swap_drop", "swap_rise", "bluff_score", "relative_l1"} <= {
        *names
    }
    for measure in measures:
        assert measure.values.shape == (2, 8), measure.name
        assert np.isfinite(measure.values).all(), measure.name
        assert measure.definition


def test_measures_grow_with_harm(collected: Collected) -> None:
    named = {measure.name: measure.values for measure in collected_measures(collected, LEVELS)}
    assert collected.true_contribution is not None
    np.testing.assert_array_equal(named["true_contribution"], -collected.true_contribution)
    # FGSM takes from the true class in sum over neurons, and more with a larger eps.
    assert 0 < named["true_contribution"][0].sum() < named["true_contribution"][1].sum()


def test_variants_that_are_one_number_stand_once(collected: Collected) -> None:
    named = {measure.name: measure for measure in collected_measures(collected, LEVELS)}
    assert "mean_shift" not in named  # a neuron's value is its mean over positions
    assert "mean_shift is the same number" in named["activation_change"].definition
    shift = np.stack([total.metric("mean_shift").numpy() for total in collected.statistics])
    np.testing.assert_allclose(named["activation_change"].values, shift, rtol=1e-5)
    change = np.stack([total.metric("sensitivity").numpy() for total in collected.statistics])
    np.testing.assert_allclose(named["sensitivity"].values, change)
    assert METRICS["sensitivity"].description in named["sensitivity"].definition


def test_without_weights_and_strengths_those_measures_are_left_out(collected: Collected) -> None:
    bare = replace(collected, true_contribution=None, adversarial_contribution=None, swap_drop=None, swap_rise=None)
    names = {measure.name for measure in collected_measures(bare, [Level("a", None), Level("b", None)])}
    assert not names & {"true_contribution", "adversarial_contribution", "swap_drop", "swap_rise", "bluff_score"}
    assert "activation_change" in names


def test_pixel_measures_are_means_over_images_of_the_neurons_that_have_fields() -> None:
    fields = exploration(neurons=9).fields
    assert fields is not None
    drop, rise = pixel_measures(fields, 9)
    assert (drop.name, rise.name) == ("pixel_drop", "pixel_rise")
    assert np.isnan(drop.values[:, 5:]).all()
    np.testing.assert_allclose(drop.values[:, fields.neurons], fields.drop.mean(1), rtol=1e-6)
    assert f"{len(fields.rows)} images" in drop.definition


def test_most_vulnerable_neurons_come_first_and_unknown_ones_last() -> None:
    values = np.array([[0.1, np.nan, 0.3, 0.3, 0.0]])
    measures = [Measure("activation_change", "", "", "", -values), Measure("swap_drop", "", "", "", values)]
    assert most_vulnerable(measures, 0, 4).tolist() == [2, 3, 0, 4]
    assert most_vulnerable(measures, 0, 99).tolist() == [2, 3, 0, 4, 1]
    assert most_vulnerable(measures[:1], 0, 1).tolist() == [4]


def test_the_role_of_a_neuron_are_class_means_times_the_class_weight() -> None:
    means = np.arange(2 * 3 * 2, dtype=float).reshape(2, 3, 2)  # benign and one level, 3 classes, 2 neurons
    means[:, 1] = np.nan  # a class without samples
    weights = torch.tensor([[1.0, 2.0], [9.0, 9.0], [-1.0, 0.5]])
    expected = np.array([[0 * 1, 4 * -1, 6 * 1, 10 * -1], [1 * 2, 5 * 0.5, 7 * 2, 11 * 0.5]])
    np.testing.assert_allclose(contributions(means, np.array([3, 0, 1]), weights, [0]), expected)
    np.testing.assert_allclose(contributions(means, np.array([3, 0, 1]), None, [0])[0], [0, 4, 6, 10])
