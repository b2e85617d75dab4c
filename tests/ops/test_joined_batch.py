"""paired_sensitivity and relu_tap: operators on a joined batch, benign half first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast.reference import halves

from .cases import (
    DTYPES,
    GRADIENT_ROUNDING,
    JOINED,
    SHORT,
    Case,
    bits,
    gaps_of,
    joined,
    place,
    with_special_values,
)

SMALL = [case for case in SHORT if not case.memory.startswith("mixed")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", JOINED, ids=lambda case: case.name)
def test_paired_sensitivity_equals_that_of_the_halves(case: Case, dtype: torch.dtype, device: str) -> None:
    pair = joined(case, dtype, device)
    for norm in ops.NORMS:
        distances, sensitivity = ops.paired_sensitivity(pair, norm, case.channel_dim)
        assert torch.equal(distances, ops.neuron_sensitivity(*halves(pair), norm, case.channel_dim)), norm
        assert torch.equal(sensitivity, ops.neuron_sensitivity(*halves(pair), 1, case.channel_dim)), norm


@pytest.mark.parametrize("detach_benign", [False, True])
@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_gradient_equals_that_of_the_halves(case: Case, norm: int | str, detach_benign: bool, device: str) -> None:
    pair = joined(case, torch.float32, device)
    channels = case.shape[case.channel_dim]
    weights = torch.randn(channels, device=device) * (torch.arange(channels, device=device) % 3 == 0)
    leaf = pair.detach().requires_grad_()
    distances, _ = ops.paired_sensitivity(leaf, norm, case.channel_dim, detach_benign=detach_benign)
    (gradient,) = torch.autograd.grad((distances * weights).sum(), leaf)
    parts = [x.detach().requires_grad_() for x in halves(pair)]
    wanted = torch.autograd.grad(
        (ops.neuron_sensitivity(parts[0], parts[1], norm, case.channel_dim) * weights).sum(), parts
    )
    first = torch.zeros_like(wanted[0]) if detach_benign else wanted[0]
    assert torch.equal(gradient, torch.cat((first, wanted[1])))
    assert gradient.stride() == torch.empty_like(pair).stride()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", JOINED, ids=lambda case: case.name)
def test_relu_tap_equals_relu_in_every_bit(case: Case, dtype: torch.dtype, inplace: bool, device: str) -> None:
    pair = joined(case, dtype, device)
    pair = place(with_special_values(pair), case.memory)
    expected = torch.relu(pair)
    function = ops.relu_tap_ if inplace else ops.relu_tap
    for norm in (1, "cosine"):
        given = place(pair, case.memory)
        storage, gaps = gaps_of(given)
        before = storage[gaps].clone()
        out, distances, sensitivity = function(given, norm, case.channel_dim)
        assert torch.equal(bits(out), bits(expected)), norm
        assert (out.data_ptr() == given.data_ptr()) == inplace, norm
        assert torch.equal(bits(given), bits(expected if inplace else pair)), norm
        assert torch.equal(bits(storage[gaps]), bits(before)), "what lies between the elements is not written"
        wanted = ops.paired_sensitivity(expected, norm, case.channel_dim)
        assert torch.equal(bits(distances), bits(wanted[0])), norm
        assert torch.equal(bits(sensitivity), bits(wanted[1])), norm


@pytest.mark.parametrize("detach_benign", [False, True])
@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_relu_tap_gradient(case: Case, dtype: torch.dtype, norm: int | str, detach_benign: bool, device: str) -> None:
    """Against relu followed by paired_sensitivity in float64, whose two gradients autograd adds."""
    pair = joined(case, dtype, device)
    channels = case.shape[case.channel_dim]
    weights = torch.randn(channels, dtype=torch.float64, device=device)
    weights *= torch.arange(channels, device=device) % 3 == 0
    incoming = torch.randn(pair.shape, dtype=torch.float64, device=device).to(dtype)
    gradients: list[Tensor] = []
    for function, x in (
        (ops.relu_tap, pair.detach().requires_grad_()),
        (ops.relu_tap_, pair.detach().requires_grad_()),
        (None, pair.detach().double().requires_grad_()),
    ):
        if function is None:
            out = x.relu()
            distances, _ = ops.paired_sensitivity(out, norm, case.channel_dim, detach_benign=detach_benign)
        else:
            given = x.clone() if function is ops.relu_tap_ else x
            out, distances, _ = function(given, norm, case.channel_dim, detach_benign=detach_benign)
        total = (out * incoming).sum(dtype=torch.float64) + (distances * weights.to(distances.dtype)).sum()
        gradients += torch.autograd.grad(total, x)
    ours, inplace, want = gradients
    assert torch.equal(ours, inplace)
    assert ours.dtype == dtype
    rounding = GRADIENT_ROUNDING[dtype]
    torch.testing.assert_close(ours.double(), want, rtol=rounding, atol=rounding * float(want.abs().max()))


def test_relu_tap_passes_the_gradient_where_relu_does(device: str) -> None:
    pair = torch.tensor([[-1.0, 0.0, 2.0, torch.nan]] * 4, device=device, requires_grad=True)
    incoming = torch.full_like(pair, 3.0)
    (wanted,) = torch.autograd.grad(pair.relu(), pair, incoming)
    out, _, _ = ops.relu_tap(pair, 1)
    (gradient,) = torch.autograd.grad([out], pair, [incoming])
    assert torch.equal(gradient, wanted)


def test_relu_tap_inplace_tells_autograd(device: str) -> None:
    x = torch.randn(4, 3, device=device, requires_grad=True)
    y = x * 2
    kept = y.exp()  # does not need y itself
    squared = y.square()  # does
    ops.relu_tap_(y)
    kept.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


def test_relu_tap_inplace_on_views(device: str) -> None:
    """As a linear layer puts them out for tokens: the base learns of the write."""
    results = []
    for function in (torch.relu_, ops.relu_tap_):
        x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
        base = x * 2
        output = function(base.view(4, 15))
        out = output if isinstance(output, Tensor) else output[0]
        assert out.data_ptr() == base.data_ptr()
        results.append([base.detach(), *torch.autograd.grad(base.square().sum() + out.sum(), x)])
    for ours, wanted in zip(*results, strict=True):
        assert torch.equal(ours, wanted)


def test_relu_tap_inplace_on_a_leaf_is_refused_before_it_is_written(device: str) -> None:
    x = torch.randn(4, 3, device=device, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(ValueError, match="pair is a leaf that requires a gradient and cannot be overwritten"):
        ops.relu_tap_(x)
    assert torch.equal(x, before)
    with torch.no_grad():
        ops.relu_tap_(x)
    assert torch.equal(x, before.relu())


def test_relu_tap_inplace_overwrites_when_compiled(device: str) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        _, distances, _ = ops.relu_tap_(y)
        return y, distances

    x = torch.randn(4, 3, 5, device=device)
    for ours, wanted in zip(torch.compile(function, fullgraph=True, backend="aot_eager")(x), function(x), strict=True):
        assert torch.equal(ours, wanted)
    given = x.clone()
    torch.compile(ops.relu_tap_, fullgraph=True, backend="aot_eager")(given)
    assert torch.equal(given, x.relu())


def test_an_odd_batch_is_refused(device: str) -> None:
    pair = torch.zeros(3, 2, device=device)
    for function in (ops.paired_sensitivity, ops.relu_tap, ops.relu_tap_):
        with pytest.raises(ValueError, match="got an odd batch of 3"):
            function(pair)


def test_empty_batches(device: str) -> None:
    out, distances, sensitivity = ops.relu_tap(torch.zeros(0, 3, 4, device=device))
    assert out.shape == (0, 3, 4)
    assert bool(distances.isnan().all())
    assert bool(sensitivity.isnan().all())
