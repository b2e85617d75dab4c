"""pair_statistics against the float64 reference."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neurosens_fast import columns, ops, reference

from .cases import CASES, DTYPES, Case, make_pair, place, row_tolerance

COLUMN = {name: i for i, name in enumerate(columns.ROW_STATISTICS)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_float64_reference(case: Case, dtype: torch.dtype, device: str) -> None:
    z, z_adv = make_pair(case, dtype, device)
    rows = ops.pair_statistics(z, z_adv, case.channel_dim)
    expected = reference.pair_statistics(z.double(), z_adv.double(), case.channel_dim)
    assert rows.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert rows.shape == expected.shape
    error = (rows.double() - expected).abs()
    assert bool((error <= row_tolerance(z, z_adv, case.channel_dim)).all()), error.amax((0, 1))


def test_reference_equals_the_definitions() -> None:
    z = torch.tensor([[[1.0, -2.0, 3.0]]], dtype=torch.float64)
    z_adv = torch.tensor([[[2.0, -2.0, 1.0]]], dtype=torch.float64)
    assert reference.pair_statistics(z, z_adv)[0, 0].tolist() == [3, -1, 5, -5, 2, 1, 6, 14, 9, 9, 2, 2, 2, 3, 2]


def test_columns_have_the_order_of_the_kernels() -> None:
    source = (Path(__file__).parents[2] / "csrc" / "math" / "statistics.h").read_text()
    for enum, names in (("Row", columns.ROW_STATISTICS), ("Sum", columns.SUMS)):
        found = re.search(rf"enum {enum} \{{(.*?)\}}", source, re.S)
        assert found
        members = re.findall(r"k(\w+)", found[1])[:-1]
        assert [re.sub(r"(?<!^)(?=[A-Z])", "_", m).lower().replace("_l_", "_l") for m in members] == list(names)
    assert columns.ROW_STATISTICS[-3:] == columns.MAXIMA


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case("rows", (2, 6, 200)),
        Case("short", (2, 6, 9)),
        Case("columns", (2, 40, 5, 7), memory="channels_last"),
        Case("units", (3, 40)),
    ],
    ids=lambda case: case.name,
)
def test_non_finite_reaches_its_neuron_and_no_other(
    case: Case, dtype: torch.dtype, half: int, value: float, device: str
) -> None:
    pair = make_pair(case, dtype, device)
    clean = ops.pair_statistics(*pair)
    pair[half][1, 4].view(-1)[-1:].fill_(value) if case.memory == "contiguous" else pair[half][1, 4].fill_(value)
    rows = ops.pair_statistics(*pair)
    expected = reference.pair_statistics(pair[0].double(), pair[1].double())
    others = torch.ones(rows.shape[:2], dtype=torch.bool, device=device)
    others[1, 4] = False
    assert torch.equal(rows[others], clean[others])
    torch.testing.assert_close(rows[1, 4].double(), expected[1, 4], rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positions", [9, 200])
def test_mixed_infinities_keep_their_maximum(dtype: torch.dtype, positions: int, device: str) -> None:
    z = torch.zeros(1, 3, positions, dtype=dtype, device=device)
    z[0, 1, 0], z[0, 1, 1] = math.inf, -math.inf  # the plain sum is NaN, the maximum is not
    rows = ops.pair_statistics(z, torch.zeros_like(z))
    assert rows[0, 1, COLUMN["benign_max"]] == math.inf
    assert math.isnan(rows[0, 1, COLUMN["benign_sum"]])


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positions", [1, 9, 200])
def test_negative_rows_and_signed_zeros(dtype: torch.dtype, positions: int, device: str) -> None:
    z = -torch.rand(2, 40, positions, device=device).to(dtype) - 1
    rows = ops.pair_statistics(z, z)
    assert torch.equal(rows[..., COLUMN["benign_max"]].double(), z.amax(2).double())
    assert bool((rows[..., COLUMN["benign_positive"]] == 0).all())
    zero = torch.full((1, 2, positions), -0.0, dtype=dtype, device=device)
    maxima = ops.pair_statistics(zero, zero)[..., -3:]
    assert torch.equal(maxima, torch.zeros_like(maxima))
    assert not bool(maxima.signbit().any())


def test_row_without_positions(device: str) -> None:
    z = torch.zeros(2, 3, 0, device=device)
    rows = ops.pair_statistics(z, z)
    assert bool((rows[..., :-3] == 0).all())
    assert bool((rows[..., -3:] == -math.inf).all())


@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_long_rows_stay_accurate(memory: str, device: str) -> None:
    """40,000 positions of one sign: naive float32 summation would be off by 1e-4."""
    z = torch.rand(1, 16, 40_000, dtype=torch.float64)
    z_adv = (z + 0.01).to(torch.float32).to(device)
    z = z.to(torch.float32).to(device)
    z, z_adv = place(z, memory), place(z_adv, memory)
    rows = ops.pair_statistics(z, z_adv).double()
    expected = reference.pair_statistics(z.double(), z_adv.double())
    torch.testing.assert_close(rows, expected, rtol=2e-5, atol=0)


def test_16_bit_counts_do_not_overflow(device: str) -> None:
    z = torch.ones(1, 16, 70_000, dtype=torch.bfloat16, device=device)
    for memory in ("contiguous", "channels_last"):
        rows = ops.pair_statistics(place(z, memory), place(z, memory))
        assert bool((rows[..., COLUMN["benign_positive"]] == 70_000).all())


@pytest.mark.parametrize("channels_last", [False, True])
def test_offsets_beyond_2_to_the_31(channels_last: bool) -> None:
    """Two samples 2^31 elements apart; only their pages of the storage are ever touched."""
    far = 2**31 + 64
    storage = torch.empty(far + 4096, dtype=torch.bfloat16)
    strides = (far, 1, 8) if channels_last else (far, 70, 1)
    shape = (2, 8, 70)
    z = storage.as_strided(shape, strides)
    z.copy_(torch.randn(shape))
    near = place(z.clone(), "channels_last" if channels_last else "contiguous")
    assert torch.equal(ops.pair_statistics(z, z), ops.pair_statistics(near, near))


def _moments(z: Tensor, z_adv: Tensor) -> float:
    terms = reference.sample_terms(ops.pair_statistics(z, z_adv), z.shape[2])
    return float(terms[0, 0, columns.SUMS.index("cosine_distance")])


@pytest.mark.parametrize("relative_change", [1e-1, 1e-3, 1e-4])
def test_cosine_distance_of_nearly_equal_rows(relative_change: float, device: str) -> None:
    z = torch.randn(1, 1, 3136, dtype=torch.float64)
    z_adv = (z + relative_change * torch.randn(z.shape, dtype=torch.float64)).float()
    z = z.float()
    cosine = torch.nn.functional.cosine_similarity(z.double(), z_adv.double(), dim=2)
    assert _moments(z.to(device), z_adv.to(device)) == pytest.approx(1 - float(cosine), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_cosine_distance_of_rows_of_different_length(scale: float, device: str) -> None:
    z = torch.randn(1, 1, 500, dtype=torch.float64)
    z_adv = (scale * (z + torch.randn(z.shape, dtype=torch.float64))).float()
    z = z.float()
    cosine = torch.nn.functional.cosine_similarity(z.double(), z_adv.double(), dim=2)
    assert _moments(z.to(device), z_adv.to(device)) == pytest.approx(1 - float(cosine), rel=1e-5)
