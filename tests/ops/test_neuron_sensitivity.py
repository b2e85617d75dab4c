"""neuron_sensitivity and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference

from .cases import CASES, DTYPES, GRADIENT_ROUNDING, SHORT, Case, make_pair, place

CASES_WITH_DATA = [case for case in CASES if 0 not in case.shape]


def in_norm(norm: int | str) -> Callable[[str], str]:
    """What makes the message of a comparison name the norm."""
    return lambda message: f"norm={norm!r}: {message}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES_WITH_DATA, ids=lambda case: case.name)
def test_equals_float64_reference(case: Case, dtype: torch.dtype, device: str) -> None:
    z, z_adv = make_pair(case, dtype, device)
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    for norm in ops.NORMS:
        result = ops.neuron_sensitivity(z, z_adv, norm, case.channel_dim)
        expected = reference.neuron_sensitivity(z.double(), z_adv.double(), norm, case.channel_dim)
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance, msg=in_norm(norm))


# Every element costs two evaluations: as few of them as reach the same kernels.
FEW = {"rows": (2, 2, 200), "short": (2, 70, 3), "columns": (2, 20, 2, 3), "tokens": (2, 5, 20), "sliced": (2, 3, 4, 8)}
# The cosine of single elements is a sign: it has no derivative to check numerically.
DIFFERENTIABLE = [
    (case._replace(shape=FEW.get(case.name, case.shape)), norm)
    for case in SHORT
    for norm in ops.NORMS
    if (case.name, norm) != ("units", "cosine")
]


@pytest.mark.parametrize(("case", "norm"), DIFFERENTIABLE, ids=[f"{case.name}-{norm}" for case, norm in DIFFERENTIABLE])
def test_gradcheck(case: Case, norm: int | str, device: str) -> None:
    z = torch.randn(case.shape, dtype=torch.float64, device=device)
    z_adv = z + (torch.rand(case.shape, dtype=torch.float64, device=device) + 0.1) * torch.randn_like(z).sign()
    if case.memory == "mixed":
        z_adv = place(z_adv, "channels_last")
    elif case.memory == "mixed-strides":
        z_adv = place(z_adv, "strided")
    elif case.memory != "contiguous":
        z, z_adv = place(z, case.memory), place(z_adv, case.memory)
    z.requires_grad_(), z_adv.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: ops.neuron_sensitivity(a, b, norm, case.channel_dim), (z, z_adv), fast_mode=False
    )


def gradients(z: Tensor, z_adv: Tensor, norm: int | str, weights: Tensor, channel_dim: int) -> list[Tensor]:
    leaves = [z.detach().requires_grad_(), z_adv.detach().requires_grad_()]
    result = ops.neuron_sensitivity(leaves[0], leaves[1], norm, channel_dim)
    return list(torch.autograd.grad((result * weights.to(result.dtype)).sum(), leaves))


@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_gradient_equals_autograd_of_the_definition(
    case: Case, dtype: torch.dtype, norm: int | str, device: str
) -> None:
    z, z_adv = make_pair(case, dtype, device)
    weights = torch.randn(case.shape[case.channel_dim], dtype=torch.float64, device=device)
    results = gradients(z, z_adv, norm, weights, case.channel_dim)
    leaves = [z.double().requires_grad_(), z_adv.double().requires_grad_()]
    a, b = (x.movedim(case.channel_dim, 1).flatten(2) if x.dim() > 2 else x[..., None] for x in leaves)
    d = b - a
    distance = {
        1: d.abs().mean(2),
        "mse": d.square().mean(2),
        "l2": d.square().sum(2).sqrt() / d.shape[2],
        "cosine": 1 - torch.nn.functional.cosine_similarity(a, b, dim=2, eps=0),
    }[norm]
    wanted = torch.autograd.grad((distance.mean(0) * weights).sum(), leaves)
    rounding = GRADIENT_ROUNDING[dtype]
    for result, want, x in zip(results, wanted, (z, z_adv), strict=True):
        assert result.dtype == dtype
        assert result.shape == x.shape
        # The definition has no gradient (NaN) at an unchanged row for "l2": ours is 0 there.
        want = want.nan_to_num(0.0)
        # A cosine gradient is a difference of terms of this size; of single elements it is 0 itself.
        scale = max(float(want.abs().max()), float(weights.abs().max()) / case.shape[0] if norm == "cosine" else 0)
        torch.testing.assert_close(result.double(), want, rtol=rounding, atol=rounding * scale + 2**-24 * scale)


def test_overlapping_rows(device: str) -> None:
    """Windows that are rows and columns at once beside columns: the gradient is that of copies."""
    z = torch.randn(4, 10, device=device).unfold(1, 5, 1)
    z_adv = place(torch.randn(4, 6, 5, device=device), "channels_last")
    weights = torch.randn(6, device=device)
    results = gradients(z, z_adv, "mse", weights, 1)
    for result, want in zip(results, gradients(z.clone(), z_adv.contiguous(), "mse", weights, 1), strict=True):
        torch.testing.assert_close(result, want)


def test_second_derivative_is_refused(device: str) -> None:
    z, z_adv = torch.randn(2, 3, 4, device=device, requires_grad=True), torch.randn(2, 3, 4, device=device)
    (gradient,) = torch.autograd.grad(ops.neuron_sensitivity(z, z_adv, "mse").sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(gradient.square().sum(), z)


def test_gradient_keeps_the_memory_layout(device: str) -> None:
    z, z_adv = make_pair(Case("", (2, 16, 5, 4), memory="channels_last"), torch.float32, device)
    for gradient in gradients(z, z_adv, 1, torch.ones(16, device=device), 1):
        assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.sanitize
@pytest.mark.parametrize("shape", [(2, 3, 200), (2, 3, 5), (2, 3)], ids=str)
def test_gradient_is_zero_where_there_is_none(shape: tuple[int, ...], device: str) -> None:
    z = torch.randn(shape, device=device)
    z[:, 1] = 0
    for norm in (1, "mse", "l2"):
        for gradient in gradients(z, z.clone(), norm, torch.ones(3, device=device), 1):
            assert torch.equal(gradient, torch.zeros_like(z)), norm
    for gradient in gradients(z, torch.ones_like(z), "cosine", torch.ones(3, device=device), 1):
        assert bool((gradient[:, 1] == 0).all())


@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_gradient_of_rows_that_are_not_finite(norm: int | str, memory: str, device: str) -> None:
    """As in the reference: an infinite change has a sign, and no other channel sees it."""
    z, z_adv = make_pair(Case("", (2, 3, 4, 4), memory=memory), torch.float32, device)
    z[0, 0, 1, 1], z_adv[1, 1, 0, 0] = torch.inf, torch.nan
    weights = torch.ones(3, device=device)
    wanted = reference.neuron_sensitivity_backward(weights, z, z_adv, norm, 1)
    for gradient, want in zip(gradients(z, z_adv, norm, weights, 1), wanted, strict=True):
        torch.testing.assert_close(gradient, want, equal_nan=True)
        assert bool(gradient[:, 2].isfinite().all())


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("memory", ["contiguous", "channels_last"])
def test_cosine_gradient_over_the_range_of_float32(scale: float, memory: str, device: str) -> None:
    """It grows as the inverse of the activations, whose squares float32 still holds."""
    z, z_adv = make_pair(Case("", (2, 5, 4, 4), memory=memory), torch.float32, device)
    z, z_adv = scale * z, scale * z_adv
    weights = torch.randn(5, dtype=torch.float64, device=device)
    results = gradients(z, z_adv, "cosine", weights, 1)
    wanted = reference.neuron_sensitivity_backward(weights, z.double(), z_adv.double(), "cosine", 1)
    for ours, want in zip(results, wanted, strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=2e-6, atol=2e-6 * float(want.abs().max()))


def test_only_the_wanted_gradient(device: str) -> None:
    z, z_adv = make_pair(Case("", (2, 3, 5)), torch.float32, device)
    z_adv.requires_grad_()
    ops.neuron_sensitivity(z, z_adv).sum().backward()
    assert z.grad is None
    assert z_adv.grad is not None


def test_autocast_takes_the_activation_as_it_is(device: str) -> None:
    z, z_adv = make_pair(Case("", (2, 3, 50)), torch.bfloat16, device)
    plain = ops.neuron_sensitivity(z, z_adv)
    with torch.autocast(device, dtype=torch.bfloat16):
        under = ops.neuron_sensitivity(z, z_adv)
        rows = ops.pair_statistics(z.float(), z_adv.float())
    assert under.dtype == torch.float32
    assert torch.equal(under, plain)
    assert torch.equal(rows, ops.pair_statistics(z.float(), z_adv.float()))
