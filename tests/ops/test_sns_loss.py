"""sns_loss: sensitivities, choice and loss in one read, and the gradient of the chosen neurons."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference

from .cases import DTYPES, GRADIENT_ROUNDING, SHORT, Case, make_pair, place
from .test_neuron_sensitivity import CASES_WITH_DATA, DIFFERENTIABLE, in_norm


def channels_of(case: Case) -> int:
    return case.shape[case.channel_dim]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES_WITH_DATA, ids=lambda case: case.name)
def test_equals_its_parts(case: Case, dtype: torch.dtype, device: str) -> None:
    z, z_adv = make_pair(case, dtype, device)
    k = max(1, channels_of(case) // 3)
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    for norm in ops.NORMS:
        loss, neurons, sensitivity = ops.sns_loss(z, z_adv, k, norm, case.channel_dim)
        assert torch.equal(sensitivity, ops.neuron_sensitivity(z, z_adv, 1, case.channel_dim)), norm
        assert torch.equal(neurons, ops.topk_neurons(sensitivity, k)[1]), norm
        assert loss.shape == ()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        expected, _, _ = reference.sns_loss(z.double(), z_adv.double(), k, norm, case.channel_dim, neurons)
        torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance, msg=in_norm(norm))


@pytest.mark.parametrize(("case", "norm"), DIFFERENTIABLE, ids=[f"{case.name}-{norm}" for case, norm in DIFFERENTIABLE])
@pytest.mark.parametrize("detach_benign", [False, True])
def test_gradcheck(case: Case, norm: int | str, detach_benign: bool, device: str) -> None:
    z = torch.randn(case.shape, dtype=torch.float64, device=device)
    z_adv = z + (torch.rand(case.shape, dtype=torch.float64, device=device) + 0.1) * torch.randn_like(z).sign()
    memory = {"mixed": "channels_last", "mixed-strides": "strided"}.get(case.memory, case.memory)
    z, z_adv = place(z, "contiguous" if "mixed" in case.memory else memory), place(z_adv, memory)
    leaves = (z_adv,) if detach_benign else (z, z_adv)
    for leaf in leaves:
        leaf.requires_grad_()
    k = max(1, channels_of(case) // 3)

    def loss(*_: Tensor) -> Tensor:
        return ops.sns_loss(z, z_adv, k, norm, case.channel_dim, detach_benign=detach_benign).loss

    assert torch.autograd.gradcheck(loss, leaves, fast_mode=False)


@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_gradient_equals_float64_reference(case: Case, dtype: torch.dtype, norm: int | str, device: str) -> None:
    z, z_adv = make_pair(case, dtype, device)
    leaves = [z.detach().requires_grad_(), z_adv.detach().requires_grad_()]
    result = ops.sns_loss(leaves[0], leaves[1], 0.4, norm, case.channel_dim)
    results = torch.autograd.grad(3 * result.loss, leaves)
    k, channels = len(result.neurons), channels_of(case)
    weights = torch.zeros(channels, dtype=torch.float64, device=device)
    weights[result.neurons] = 3 / k
    wanted = reference.neuron_sensitivity_backward(weights, z.double(), z_adv.double(), norm, case.channel_dim)
    rounding = GRADIENT_ROUNDING[dtype]
    others = torch.ones(channels, dtype=torch.bool, device=device).index_fill(0, result.neurons, False)
    for ours, want, x in zip(results, wanted, (z, z_adv), strict=True):
        assert ours.dtype == dtype
        assert ours.shape == x.shape
        scale = max(float(want.abs().max()), 3 / k / case.shape[0] if norm == "cosine" else 0)
        torch.testing.assert_close(ours.double(), want, rtol=rounding, atol=(rounding + 2**-24) * scale)
        assert not ours.movedim(case.channel_dim, 1)[:, others].any()


@pytest.mark.sanitize
@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize(
    "case",
    [
        Case("rows", (3, 70, 130)),
        Case("short", (3, 70, 5)),
        Case("columns", (3, 70, 4, 3), memory="channels_last"),
        Case("units", (4, 70)),
    ],
    ids=lambda case: case.name,
)
def test_neurons_that_are_not_chosen_are_not_read(norm: int | str, case: Case, device: str) -> None:
    """Their gradient is 0 even where it would not be finite; the chosen ones do not notice them."""
    z, z_adv = make_pair(case, torch.float32, device)
    neurons = torch.tensor([1, 66, 7], device=device)
    bad = torch.tensor([0, 2, 64, 69], device=device)
    spoiled, spoiled_adv = z.index_fill(1, bad, torch.nan), z_adv.index_fill(1, bad, torch.inf)
    results = []
    for pair in ((z, z_adv), (spoiled, spoiled_adv)):
        leaves = [x.detach().requires_grad_() for x in pair]
        loss = ops.sns_loss(leaves[0], leaves[1], None, norm, neurons=neurons).loss
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for clean, other in zip(*results, strict=True):
        assert torch.equal(clean, other)
    assert bool(results[1][1].isfinite().all())


def test_a_chosen_neuron_that_is_not_finite_shows_in_the_loss(device: str) -> None:
    z, z_adv = make_pair(Case("", (2, 9, 5)), torch.float32, device)
    z[1, 4, 2] = torch.nan
    loss, neurons, _ = ops.sns_loss(z, z_adv, 2)
    assert bool(loss.isnan())
    assert int(neurons[0]) == 4


def test_fixed_neurons(device: str) -> None:
    z, z_adv = make_pair(Case("", (3, 9, 5)), torch.float64, device)
    distances = ops.neuron_sensitivity(z, z_adv, "mse")
    neurons = torch.tensor([8, 0, 8], device=device)  # twice counts twice
    z_adv.requires_grad_()
    result = ops.sns_loss(z, z_adv, None, "mse", neurons=neurons)
    torch.testing.assert_close(result.loss, (2 * distances[8] + distances[0]) / 3)
    assert torch.equal(result.neurons, neurons)
    assert result.neurons.data_ptr() != neurons.data_ptr()
    (gradient,) = torch.autograd.grad(result.loss, z_adv)
    (wanted,) = torch.autograd.grad(ops.neuron_sensitivity(z, z_adv, "mse")[neurons].mean(), z_adv)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("norm", ops.NORMS)
def test_a_neuron_chosen_twice_counts_twice(norm: int | str, device: str) -> None:
    z, z_adv = make_pair(Case("", (3, 5, 6)), torch.float64, device)
    neurons = torch.tensor([4, 1, 4, 4], device=device)
    gradients = []
    for loss in (
        lambda z, z_adv: ops.sns_loss(z, z_adv, None, norm, neurons=neurons).loss,
        lambda z, z_adv: reference.sns_loss(z, z_adv, 4, norm, 1, neurons)[0],
    ):
        leaves = [x.detach().requires_grad_() for x in (z, z_adv)]
        gradients.append(torch.autograd.grad(loss(*leaves), leaves))
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_nothing_is_zero(device: str) -> None:
    """No change for the norms of the change, zero rows for the cosine: 0, as documented."""
    z = torch.randn(3, 4, 6, device=device).index_fill(1, torch.tensor([1], device=device), 0.0).requires_grad_()
    for norm in ops.NORMS:
        (gradient,) = torch.autograd.grad(ops.sns_loss(z, z.detach().clone(), 1.0, norm).loss, z)
        assert torch.equal(gradient, torch.zeros_like(z)) if norm != "cosine" else not gradient[:, 1].any()


def test_only_the_loss_has_a_gradient(device: str) -> None:
    z, z_adv = make_pair(Case("", (3, 9, 5)), torch.float32, device)
    result = ops.sns_loss(z.requires_grad_(), z_adv, 2)
    assert result.loss.requires_grad
    assert not result.neurons.requires_grad
    assert not result.sensitivity.requires_grad


def test_detached_benign_half(device: str) -> None:
    z, z_adv = (x.requires_grad_() for x in make_pair(Case("", (3, 9, 5)), torch.float32, device))
    ops.sns_loss(z, z_adv, 2, detach_benign=True).loss.backward()
    assert z.grad is None
    assert z_adv.grad is not None


@pytest.mark.parametrize(
    ("k", "channels", "count"),
    [(1, 5, 1), (5, 5, 5), (0.1, 5, 1), (0.1, 30, 3), (0.1, 31, 4), (1.0, 7, 7), (0.3, 10, 3)],
)
def test_neuron_count(k: int | float, channels: int, count: int) -> None:
    assert ops.neuron_count(k, channels) == count


def test_autocast_takes_the_activation_as_it_is(device: str) -> None:
    z, z_adv = make_pair(Case("", (2, 9, 50)), torch.bfloat16, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        under = ops.sns_loss(z, z_adv, 3)
    assert under.loss.dtype == torch.float32
    assert torch.equal(under.loss, ops.sns_loss(z, z_adv, 3).loss)


def test_second_derivative_is_refused(device: str) -> None:
    z, z_adv = torch.randn(2, 3, 4, device=device, requires_grad=True), torch.randn(2, 3, 4, device=device)
    (gradient,) = torch.autograd.grad(ops.sns_loss(z, z_adv, 2, "mse").loss, z, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(gradient.square().sum(), z)
