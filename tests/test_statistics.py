"""The state and every metric, against formulas written out with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurosens_fast.statistics import METRICS, PairStatistics, metric, new_totals


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(7, 4, 5, dtype=torch.float64).relu()
    z_adv = (z + 0.4 * torch.randn(z.shape, dtype=torch.float64)).relu()
    z[2, 1] = 0
    z_adv[3, 2] = 0
    return z, z_adv


def expected_metrics(pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
    z, a = (x.numpy() for x in pair)
    d = a - z
    size = z.shape[2]
    norm, norm_adv, norm_d = (np.sqrt((x**2).sum(2)) for x in (z, a, d))
    with np.errstate(all="ignore"):
        relative = [np.where(norm == 0, 1, np.abs(d).sum(2) / np.abs(z).sum(2)), np.where(norm == 0, 1, norm_d / norm)]
        cosine = (z * a).sum(2) / (norm * norm_adv)
    cosine = np.where((norm == 0) & (norm_adv == 0), 1, np.where((norm == 0) | (norm_adv == 0), 0, cosine))
    result = {
        "sensitivity": np.abs(d).mean(2).mean(0),
        "sensitivity_l2": (norm_d / size).mean(0),
        "relative_l1": relative[0].mean(0),
        "relative_l2": relative[1].mean(0),
        "mean_shift": np.abs(d.mean(2)).mean(0),
        "rms_change": np.sqrt((d**2).mean(2).mean(0)),
        "activation_shift": norm_d.mean(0),
        "cosine": cosine.mean(0),
        "cosine_distance": 1 - cosine.mean(0),
        "peak_change": np.abs(d).max((0, 2)),
    }
    for name, x in (("benign", z), ("adversarial", a)):
        means = x.mean(2)
        result[f"activation_frequency_{name}"] = (means > 0.01 * means.max(1, keepdims=True)).mean(0)
        result[f"mean_activation_{name}"] = means.mean(0)
        result[f"max_activation_{name}"] = x.max((0, 2))
        result[f"active_share_{name}"] = (x > 0).mean(2).mean(0)
    return result


def test_every_metric_equals_its_formula(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    state = PairStatistics(4)
    for begin, end in ((0, 3), (3, 4), (4, 7)):
        state.update(pair[0][begin:end], pair[1][begin:end])
    expected = expected_metrics(pair)
    assert set(expected) == set(METRICS)
    for name, values in expected.items():
        np.testing.assert_allclose(state.metric(name).numpy(), values, rtol=1e-12, atol=1e-14, err_msg=name)


def test_a_relu_and_its_update_in_one(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    values = torch.cat(pair) - 0.3
    apart, together = PairStatistics(4), PairStatistics(4)
    for _ in range(2):
        given = values.clone()
        together.update_relu_(given)
        assert torch.equal(given, values.relu())
        apart.update(values[:7].relu(), values[7:].relu())
    assert apart.samples == together.samples == 14
    torch.testing.assert_close(together.sums, apart.sums, rtol=1e-12, atol=1e-12)
    assert torch.equal(together.maxima, apart.maxima)


def test_merging_equals_one_state(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    whole, first, second = PairStatistics(4), PairStatistics(4), PairStatistics(4)
    whole.update(*pair)
    first.update(pair[0][:5], pair[1][:5])
    second.update(pair[0][5:], pair[1][5:])
    second.merge(first)
    assert second.samples == whole.samples == 7
    for name in METRICS:
        torch.testing.assert_close(second.metric(name), whole.metric(name), rtol=1e-13, atol=1e-14)
    assert first.samples == 5


def test_merging_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot merge statistics of 3 neurons into 4"):
        PairStatistics(4).merge(PairStatistics(3))


def test_unknown_metric_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'wrong'; choose one of sensitivity, .*active_share"):
        PairStatistics(2).metric("wrong")


def test_nothing_seen_gives_nan() -> None:
    assert bool(metric("sensitivity", *new_totals(3), 0).isnan().all())
    assert PairStatistics(3).nonfinite().tolist() == []


def test_non_finite_neurons_are_named(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    state = PairStatistics(4)
    pair[1][1, 2, 0] = torch.inf
    state.update(*pair)
    assert state.nonfinite().tolist() == [2]
