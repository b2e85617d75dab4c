"""project_step_ against the reference, bit for bit, and exact at the border of the ball."""

from __future__ import annotations

import math

import pytest
import torch

from neurosens_fast import ops, reference

from .cases import DTYPES, place

pytestmark = pytest.mark.sanitize

EPS, ALPHA = 8 / 255, 2 / 255


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_reference_bit_for_bit(dtype: torch.dtype, memory: str, device: str) -> None:
    x = torch.rand(3, 5, 9, 7, device=device).to(dtype)
    x.view(-1)[:4] = torch.tensor([0.0, -0.0, 1.0, 1e-6], dtype=dtype)
    for _ in range(3):
        start = (x.double() + EPS * (2 * torch.rand(x.shape, device=device, dtype=torch.float64) - 1)).to(dtype)
        gradient = torch.randn(x.shape, device=device).to(dtype)
        gradient.view(-1)[::7] = 0
        gradient.view(-1)[5] = math.nan
        ours, expected = place(start, memory), start.clone()
        ops.project_step_(ours, place(gradient, memory), place(x, memory), ALPHA, EPS)
        reference.project_step_(expected, gradient, x, ALPHA, EPS)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "eps", [EPS, 0.03, 0.25, 0.25 + 2**-33, 2**-22 - 2**-53, 0.0, 1 / 3, 1e-3, 1e-7, 1e-20, 5.0], ids=str
)
def test_equals_the_reference_where_rounding_is_hard(dtype: torch.dtype, eps: float, device: str) -> None:
    """Origins at, near and far below epsilon, of 8 bits, negative, subnormal and of any bits; borders on both sides,
    at powers of two and where a double of epsilon's size is rounded."""
    generator = torch.Generator().manual_seed(3)
    count = 4001
    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    whole = torch.randint(-4, 5, (count,), generator=generator).double()
    anything = torch.randint(-(2**31), 2**31, (count,), generator=generator).int().view(torch.float32).double()
    origins = [uniform, -uniform, (uniform * 255).round() / 255, uniform * 1e-12, uniform * 1e-42, anything]
    origins += [eps * (1 + whole * 2**-bits) for bits in (7, 10, 23, 52)] + [torch.zeros(count).double()]
    origins += [math.ulp(eps) * (4 * uniform - 2), math.ulp(eps) * whole / 4, 2.0**whole - eps]
    x = torch.cat(origins).to(device, dtype)
    x[~x.isfinite()] = 0.5
    gradient = torch.randn(x.shape, generator=generator).to(device, dtype)
    gradient[::5] = 0
    for offset in (0.0, eps, -eps, 0.7 * eps):
        for alpha, low in ((ALPHA, 0.0), (0.125, -math.inf), (0.0, -1.0), (1e-30, -9.0)):
            ours = (x.double() + offset).to(dtype)
            expected = ours.clone()
            ops.project_step_(ours, gradient, x, alpha, eps, low=low, high=9.0)
            reference.project_step_(expected, gradient, x, alpha, eps, low=low, high=9.0)
            torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alpha", [math.inf, 1e39, ALPHA])
def test_equals_the_reference_where_something_is_infinite(dtype: torch.dtype, alpha: float, device: str) -> None:
    x = torch.rand(400, device=device).to(dtype)
    start, gradient = x + 0.01, torch.randn(400, device=device).to(dtype)
    gradient[::3] = 0
    start[::7], start[1::7], x[::11], x[1::11] = math.inf, -math.inf, math.inf, math.nan
    gradient[::13], gradient[1::13] = math.inf, math.nan
    ours, expected = start.clone(), start.clone()
    ops.project_step_(ours, gradient, x, alpha, EPS)
    reference.project_step_(expected, gradient, x, alpha, EPS)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_never_leaves_the_ball_nor_the_range(dtype: torch.dtype, device: str) -> None:
    x = torch.rand(200_000, device=device, dtype=torch.float64).to(dtype)
    for eps in (EPS, 0.3, 1e-3, 0.0):
        adversarial = x.clone()
        for sign in (1, -1):
            ops.project_step_(adversarial, torch.full_like(x, sign), x, 1.0, eps)
            distance = (adversarial.double() - x.double()).abs()
            assert float(distance.max()) <= eps
            assert float(adversarial.min()) >= 0
            assert float(adversarial.max()) <= 1
            if dtype == torch.float64:
                continue  # its own rounding blurs the border by one value
            # As far as the dtype allows: the next value outwards is outside the ball or the range.
            beyond = torch.nextafter(adversarial, torch.full_like(x, sign * math.inf)).double()
            assert bool((((beyond - x.double()).abs() > eps) | (beyond > 1) | (beyond < 0)).all())


def test_plain_arithmetic_leaves_the_ball(device: str) -> None:
    """The reason for the exact border: plain float32 arithmetic exceeds eps on many pixels."""
    x = torch.rand(10_000, device=device)
    plain = x + EPS
    assert float(((plain.double() - x.double()) > EPS).double().mean()) > 0.03


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays(dtype: torch.dtype, device: str) -> None:
    for position in range(3):
        adversarial, gradient, origin = tensors = [torch.full((5,), 0.5, dtype=dtype, device=device) for _ in range(3)]
        tensors[position][2] = math.nan
        ops.project_step_(adversarial, gradient, origin, ALPHA, EPS)
        assert adversarial.isnan().tolist() == [False, False, True, False, False]


def test_autograd_notices_the_change(device: str) -> None:
    x = torch.rand(4, device=device)
    weight = torch.ones(4, device=device, requires_grad=True)
    loss = (x * weight).sum()
    ops.project_step_(x, torch.ones_like(x), x.clone(), ALPHA, EPS)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_ranges(device: str) -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], device=device)
    adversarial = x.clone()
    ops.project_step_(adversarial, torch.ones_like(x), x, 5.0, 2.0, low=-1.5, high=1.5)
    assert adversarial.tolist() == [1.0, 1.5, 1.5]


def test_empty(device: str) -> None:
    x = torch.zeros(0, 3, device=device)
    ops.project_step_(x, x.clone(), x.clone(), ALPHA, EPS)
