"""project_step_ in the L2 and the L1 ball, and momentum_step_: against the reference, and at their borders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference

from .cases import DTYPES, place

pytestmark = pytest.mark.sanitize

ORDERS = {"l2": 2, "l1": 1}
# Around the widths of vectors, lanes and blocks; samples of one element, and of several blocks on a GPU.
SHAPES = [(3, 1), (5, 7), (2, 33), (3, 5, 9, 7), (4, 3, 32, 32), (2, 40_001), (300, 3), (1, 3, 8, 8)]


def lengths(change: Tensor, norm: str) -> Tensor:
    """Norm of every sample in float64."""
    return torch.linalg.vector_norm(change.double().flatten(1), ORDERS[norm], dim=1)


def radius(shape: tuple[int, ...], norm: str) -> float:
    """An epsilon that about half of the samples of :func:`inputs` leave."""
    count = math.prod(shape[1:])
    return 0.04 * (count**0.5 if norm == "l2" else count)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Adversarial examples at several distances from their origins, gradients with zeros, origins."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(shape, dtype=torch.float64, generator=generator)
    spread = torch.linspace(0.02, 0.1, shape[0], dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1))
    adversarial = x + spread * torch.randn(shape, dtype=torch.float64, generator=generator)
    gradient = torch.randn(shape, dtype=torch.float64, generator=generator) * 1e-3
    gradient[..., ::3] = 0
    return adversarial.to(device, dtype), gradient.to(device, dtype), x.to(device, dtype)


def assert_one_value_apart(ours: Tensor, theirs: Tensor) -> None:
    """Float64 sums in another order may move a result to the next value of its dtype, and float64 by their error."""
    if ours.dtype == torch.float64:
        return torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14, equal_nan=True)
    up, down = (torch.nextafter(theirs, torch.full_like(theirs, end)) for end in (math.inf, -math.inf))
    assert bool(((ours >= down) & (ours <= up) | (ours.isnan() & theirs.isnan())).all())
    return None


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided", "transposed"])
@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_reference(dtype: torch.dtype, norm: str, memory: str, device: str) -> None:
    for shape in SHAPES:
        start, gradient, x = inputs(shape, dtype, device)
        eps = radius(shape, norm)
        expected, ours = start.clone(), place(start, memory)
        for _ in range(3):
            ops.project_step_(ours, place(gradient, memory), place(x, memory), eps / 4, eps, norm)
            reference.project_step_(expected, gradient, x, eps / 4, eps, norm)
            assert_one_value_apart(ours, expected)
            expected.copy_(ours)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.float64], ids=str)
def test_equals_the_reference_bit_for_bit_where_sums_have_one_element(
    dtype: torch.dtype, norm: str, device: str
) -> None:
    """Projections where rounding is hard: origins at, near and far from the border, zero, subnormal, of any bits."""
    generator = torch.Generator().manual_seed(4)
    count = 1501
    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    whole = torch.randint(-4, 5, (count,), generator=generator).double()
    anything = torch.randint(-(2**31), 2**31, (count,), generator=generator).int().view(torch.float32).double()
    for eps in (0.25, 0.25 + 2**-33, 0.03, 2**-22 - 2**-53, 1e-20, 0.0, 1e30):
        origins = [uniform, (uniform * 255).round() / 255, uniform * 1e-42, anything, 2.0**whole, torch.zeros(count)]
        origins += [eps * (1 + whole * 2**-23), math.ulp(eps) * (4 * uniform - 2), 2.0**whole - eps]
        x = torch.cat(origins).to(device, dtype)[:, None]
        x[~x.isfinite()] = 0.5
        for offset in (0.0, eps, -0.7 * eps, 2**-24, 1e-41):
            ours = (x.double() + offset).to(dtype)
            ours[~ours.isfinite()] = 0.5
            expected = ours.clone()
            ops.project_step_(ours, x, x, 0.0, eps, norm, low=-math.inf, high=math.inf)
            reference.project_step_(expected, x, x, 0.0, eps, norm, low=-math.inf, high=math.inf)
            torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_never_leaves_the_ball_nor_the_range(dtype: torch.dtype, norm: str, device: str) -> None:
    x = torch.rand(4, 50_000, device=device, dtype=torch.float64).to(dtype)
    gradient = torch.randn(x.shape, device=device).to(dtype)
    gradient[1] = gradient[1].sign()
    gradient[2, 10:] = 0
    for eps in (0.3 * radius(tuple(x.shape), norm), 1.0, 1e-3, 0.0):
        for start in (x.clone(), (x.double() + 100 * torch.randn_like(x).double()).to(dtype)):
            ops.project_step_(start, gradient, x, 2 * eps, eps, norm)
            reached = lengths(start.double() - x.double(), norm)
            assert float(reached.max()) <= eps
            assert float(start.min()) >= 0
            assert float(start.max()) <= 1
            if dtype == torch.float64 and eps == 1e-3:
                ops.project_step_(start, gradient, x, 2 * eps, eps, norm, low=-9, high=9)
                reached = lengths(start - x, norm)
                assert float(reached.max()) <= eps
                assert float(reached.min()) > 0.999 * eps
            if eps == 0:
                assert torch.equal(start, x)


def sort_based(change: Tensor, eps: float) -> Tensor:
    """Projection of rows onto the L1 ball by sorting (Duchi et al., ICML 2008)."""
    sizes = change.abs().sort(dim=1, descending=True).values
    excess = (sizes.cumsum(1) - eps) / torch.arange(1, change.shape[1] + 1, device=change.device)
    last = (sizes > excess).sum(1, keepdim=True) - 1
    shrunk = change.sign() * (change.abs() - excess.gather(1, last)).clamp(min=0)
    return torch.where(change.abs().sum(1, keepdim=True) <= eps, change, shrunk)


def test_l1_projection_equals_one_by_sorting(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for count in (1, 2, 17, 1000, 20_000):
        change = torch.randn(9, count, dtype=torch.float64, generator=generator)
        change[1] = change[1].sign()  # all equal
        change[2, 1:] = 0
        change[3] = torch.logspace(0, -200, count, dtype=torch.float64)  # many Newton steps
        change[4] = change[4].round(decimals=1)  # many ties
        change[5] *= 1e8
        change[6] *= 1e-3 / count
        change[7] = 0
        change = change.to(device)
        x = torch.zeros_like(change)
        ours = change.clone()
        ops.project_step_(ours, x, x, 0.0, 0.7, "l1", low=-math.inf, high=math.inf)
        torch.testing.assert_close(ours, sort_based(change, 0.7), rtol=0, atol=2e-15 * 1e8)
        calm = [0, 1, 2, 3, 4, 6, 7, 8]
        torch.testing.assert_close(ours[calm], sort_based(change[calm], 0.7), rtol=0, atol=(count + 64) * 2.0**-51)
        assert torch.equal(ours[6:8], change[6:8])


def test_l2_projection_scales(device: str) -> None:
    change = torch.randn(4, 500, dtype=torch.float64, device=device)
    change[1] *= 1e-6
    x = torch.zeros_like(change)
    ours = change.clone()
    ops.project_step_(ours, x, x, 0.0, 0.7, "l2", low=-9, high=9)
    expected = change * (0.7 / lengths(change, "l2")).clamp(max=1)[:, None]
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_along_any_size_of_gradient(dtype: torch.dtype, norm: str, device: str) -> None:
    info = torch.finfo(dtype)
    x = torch.full((5, 30), 0.5, device=device, dtype=dtype)
    gradient = torch.randn(x.shape, device=device).sign().to(dtype)
    sizes = [1.0, info.tiny, info.smallest_normal / 2, info.max / 4, 0.0]
    gradient *= torch.tensor(sizes, device=device, dtype=torch.float64).to(dtype)[:, None]
    ours, eps = x.clone(), 0.1 * lengths(torch.ones(1, 30), norm).item()
    ops.project_step_(ours, gradient, x, eps / 2, eps, norm)
    moved = (ours.double() - x.double()).abs()
    torch.testing.assert_close(moved[:4], torch.full_like(moved[:4], 0.05), rtol=0, atol=info.eps)
    assert torch.equal(ours[4], x[4])


@pytest.mark.parametrize("norm", ["l2", "l1", "momentum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinity_stay_in_their_sample(dtype: torch.dtype, norm: str, device: str) -> None:
    for value in (math.nan, math.inf):
        for position in range(3):
            adversarial, gradient, origin = tensors = [
                torch.full((3, 50), 0.5, dtype=dtype, device=device) for _ in range(3)
            ]
            tensors[position][1, 7] = value
            if norm == "momentum":
                ops.momentum_step_(adversarial, torch.zeros_like(origin), gradient, origin, 0.1, 0.2, 1.0)
                assert adversarial.isfinite().all(1).tolist() == [True, position != 1 and value == math.inf, True]
            else:
                ops.project_step_(adversarial, gradient, origin, 0.1, 0.2, norm)
                assert adversarial.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("memory", ["contiguous", "channels_last", "strided", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_momentum_equals_the_reference(dtype: torch.dtype, memory: str, device: str) -> None:
    for shape in SHAPES:
        adversarial, gradient, x = inputs(shape, dtype, device)
        gradient[0] = 0
        expected, their_momentum = adversarial.clone(), torch.zeros_like(x)
        ours, momentum = place(adversarial, memory), place(their_momentum, memory)
        for decay in (1.0, 0.5, 0.9):
            tensors = place(gradient, memory), place(x, memory)
            ops.momentum_step_(ours, momentum, *tensors, 2 / 255, 8 / 255, decay)
            reference.momentum_step_(expected, their_momentum, gradient, x, 2 / 255, 8 / 255, decay)
            assert_one_value_apart(momentum, their_momentum)
            same = momentum.sign() == their_momentum.sign()
            assert bool((same | (their_momentum.abs() < 1e-6)).all())
            assert torch.equal(ours[same], expected[same])
            ours.copy_(expected)
            momentum.copy_(their_momentum)


def test_momentum_is_the_published_one(device: str) -> None:
    adversarial, gradient, x = inputs((4, 3, 5, 5), torch.float64, device)
    momentum = torch.randn_like(x)
    mean = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
    wanted = 0.7 * momentum + gradient / mean
    stepped = adversarial + 0.01 * wanted.sign()
    ops.momentum_step_(adversarial, momentum, gradient, x, 0.01, 0.03, 0.7)
    torch.testing.assert_close(momentum, wanted, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(adversarial, stepped.clamp(x - 0.03, x + 0.03).clamp(0, 1), rtol=0, atol=1e-15)


def test_autograd_notices_the_change(device: str) -> None:
    weight = torch.ones(2, 4, device=device, requires_grad=True)
    for changed in range(2):
        adversarial, momentum, gradient, origin = torch.rand(4, 2, 4, device=device).unbind()
        adversarial, momentum = adversarial.clone(), momentum.clone()
        loss = ((adversarial, momentum)[changed] * weight).sum()
        ops.momentum_step_(adversarial, momentum, gradient, origin, 0.1, 0.1, 1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    x = torch.rand(2, 4, device=device)
    loss = (x * weight).sum()
    ops.project_step_(x, torch.ones_like(x), x.clone(), 0.1, 0.1, "l1")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,), (0, 0, 4)])
def test_empty(shape: tuple[int, ...], device: str) -> None:
    x = torch.zeros(shape, device=device)
    for norm in ORDERS:
        ops.project_step_(x, x.clone(), x.clone(), 0.1, 0.1, norm)
    ops.momentum_step_(x, x.clone(), x.clone(), x.clone(), 0.1, 0.1, 1.0)
    assert x.shape == shape


@pytest.mark.parametrize("norm", ORDERS)
def test_samples_of_one_element(norm: str, device: str) -> None:
    x = torch.tensor([0.2, 0.5, 0.9], device=device)
    adversarial = x.clone()
    ops.project_step_(adversarial, torch.tensor([-3.0, 0.0, 1e-9], device=device), x, 0.25, 0.125, norm)
    torch.testing.assert_close(adversarial, torch.tensor([0.075, 0.5, 1.0], device=device))


@pytest.mark.parametrize("norm", ORDERS)
def test_a_sample_does_not_depend_on_its_batch(norm: str, device: str) -> None:
    for shape in ((5, 3, 9, 7), (3, 40_001)):
        adversarial, gradient, x = inputs(shape, torch.float32, device)
        alone = adversarial[1:2].clone()
        eps = radius(shape, norm)
        ops.project_step_(adversarial, gradient, x, eps / 4, eps, norm)
        ops.project_step_(alone, gradient[1:2], x[1:2], eps / 4, eps, norm)
        assert torch.equal(alone[0], adversarial[1])
