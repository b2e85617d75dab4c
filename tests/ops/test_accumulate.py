"""accumulate_pair_statistics_ against the float64 reference and against naive formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from neurosens_fast.columns import SUMS
from neurosens_fast.statistics import new_totals

from .cases import CASES, DTYPES, Case, make_pair, place

CASES_WITH_DATA = [case for case in CASES if 0 not in case.shape]


def accumulated(pair: tuple[Tensor, Tensor], channel_dim: int = 1) -> tuple[Tensor, Tensor]:
    totals = new_totals(pair[0].shape[channel_dim], pair[0].device)
    ops.accumulate_pair_statistics_(*totals, *pair, channel_dim)
    return totals


def expected(pair: tuple[Tensor, Tensor], channel_dim: int = 1) -> tuple[Tensor, Tensor]:
    totals = new_totals(pair[0].shape[channel_dim], pair[0].device)
    reference.accumulate_pair_statistics_(*totals, pair[0].double(), pair[1].double(), channel_dim)
    return totals


def tolerances(dtype: torch.dtype) -> dict[str, Any]:
    # Terms are quotients and roots of row statistics, whose bounds test_pair_statistics checks one by one.
    # `atol` covers signed sums that cancel: they are relative to magnitudes of order 1 here.
    return {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 3e-5, "atol": 3e-6}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES_WITH_DATA, ids=lambda case: case.name)
def test_equals_float64_reference(case: Case, dtype: torch.dtype, device: str) -> None:
    samples = case.shape[0]
    for relu in (False, True):
        pair = make_pair(case, dtype, device, relu)
        sums, maxima = accumulated(pair, case.channel_dim)
        sums_expected, maxima_expected = expected(pair, case.channel_dim)
        torch.testing.assert_close(sums / samples, sums_expected / samples, **tolerances(dtype))
        # |d| is rounded once in the accumulation dtype; z and z' are not.
        torch.testing.assert_close(maxima[:, 0], maxima_expected[:, 0], rtol=2**-22, atol=2**-22)
        assert torch.equal(maxima[:, 1:], maxima_expected[:, 1:])


def naive_terms(z: Tensor, z_adv: Tensor) -> dict[str, list[float]]:
    """The formulas one neuron and sample at a time, in Python floats."""
    result: dict[str, list[float]] = {name: [0.0] * z.shape[1] for name in SUMS}
    for sample, sample_adv in zip(z.tolist(), z_adv.tolist(), strict=True):
        means = [(sum(a) / len(a), sum(b) / len(b)) for a, b in zip(sample, sample_adv, strict=True)]
        for c, (a, b) in enumerate(zip(sample, sample_adv, strict=True)):
            d = [y - x for x, y in zip(a, b, strict=True)]
            size = len(a)
            l1, l2 = sum(map(abs, d)), math.sqrt(sum(x * x for x in d))
            norm, norm_adv = math.hypot(*a), math.hypot(*b)
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            cosine = dot / (norm * norm_adv) if norm and norm_adv else float(norm == norm_adv)
            terms = (
                l1 / size,
                l2 / size,
                l1 / sum(map(abs, a)) if norm else 1.0,
                l2 / norm if norm else 1.0,
                abs(sum(d) / size),
                sum(x * x for x in d) / size,
                l2,
                1 - cosine,
                means[c][0],
                means[c][1],
                sum(x > 0 for x in a) / size,
                sum(x > 0 for x in b) / size,
                float(means[c][0] > 0.01 * max(m[0] for m in means)),
                float(means[c][1] > 0.01 * max(m[1] for m in means)),
            )
            for name, term in zip(SUMS, terms, strict=True):
                result[name][c] += term
    return result


@pytest.mark.sanitize
@pytest.mark.parametrize("positions", [1, 5, 150])
def test_equals_naive_formulas(positions: int, device: str) -> None:
    z = torch.randn(4, 6, positions, dtype=torch.float64).relu()
    z_adv = (z + 0.3 * torch.randn(z.shape, dtype=torch.float64)).relu()
    z[0, 0] = 0  # zero benign row
    z[1, 1], z_adv[1, 1] = 0, 0  # both zero
    z_adv[2, 2] = 0
    z[3, 3] *= 1e-4  # near the activation threshold
    sums, _ = accumulated((z.to(device), z_adv.to(device)))
    for k, (name, column) in enumerate(naive_terms(z, z_adv).items()):
        torch.testing.assert_close(
            sums[:, k].cpu(), torch.tensor(column, dtype=torch.float64), rtol=1e-11, atol=1e-11, msg=name
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case", [Case("rows", (9, 5, 150)), Case("short", (9, 70, 4)), Case("units", (9, 70))], ids=lambda case: case.name
)
def test_batches_add_up(case: Case, dtype: torch.dtype, device: str) -> None:
    """Uneven batches, the last of one sample, give the totals of one batch to float64 rounding."""
    z, z_adv = make_pair(case, dtype, device)
    totals = new_totals(case.shape[1], device)
    for begin, end in ((0, 6), (6, 8), (8, 9)):
        ops.accumulate_pair_statistics_(*totals, z[begin:end], z_adv[begin:end])
    sums, maxima = accumulated((z, z_adv))
    torch.testing.assert_close(totals[0], sums, rtol=1e-13, atol=1e-13)
    assert torch.equal(totals[1], maxima)


@pytest.mark.parametrize("positions", [1, 9, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_non_finite_reaches_its_neuron_and_no_other(dtype: torch.dtype, positions: int, device: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        for half in (0, 1):
            pair = make_pair(Case("", (3, 40, positions)), dtype, device, relu=True)
            clean = accumulated(pair)
            pair[half][1, 7, positions // 2] = value
            totals, wanted = accumulated(pair), expected(pair)
            others = [c for c in range(40) if c != 7]
            for total, before in zip(totals, clean, strict=True):
                columns = [k for k in range(total.shape[1]) if k not in (12, 13)]
                assert torch.equal(total[others][:, columns], before[others][:, columns])
            # The threshold ignores non-finite channels, so other frequencies may move, but stay finite.
            assert bool(totals[0][others].isfinite().all())
            for total, want in zip(totals, wanted, strict=True):
                torch.testing.assert_close(total, want, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_sample_without_finite_channel_fires_nowhere(device: str) -> None:
    for positions in (1, 9):
        z = torch.full((2, 20, positions), math.inf, device=device)
        z[1] = 1
        sums, _ = accumulated((z, z))
        assert bool((sums[:, SUMS.index("benign_frequency")] == 1).all())


def test_maximum_stays_nan(device: str) -> None:
    z = torch.ones(1, 3, 4, device=device)
    totals = new_totals(3, device)
    bad = z.clone()
    bad[0, 1, 2] = math.nan
    for batch in (z, bad, z + 1):
        ops.accumulate_pair_statistics_(*totals, batch, z)
    assert totals[1][:, 1].isnan().tolist() == [False, True, False]
    assert totals[1][0, 1] == 2


def test_no_samples_change_nothing(device: str) -> None:
    totals = new_totals(4, device)
    before = [t.clone() for t in totals]
    ops.accumulate_pair_statistics_(*totals, torch.zeros(0, 4, 5, device=device), torch.zeros(0, 4, 5, device=device))
    assert all(torch.equal(a, b) for a, b in zip(totals, before, strict=True))


@pytest.mark.sanitize
def test_layouts_agree(device: str) -> None:
    z, z_adv = make_pair(Case("", (4, 33, 12, 11)), torch.float32, device)
    plain = accumulated((z, z_adv))
    other = accumulated((place(z, "channels_last"), place(z_adv, "channels_last")))
    torch.testing.assert_close(other[0], plain[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(other[1], plain[1])
