"""What torch needs to trace, compile and differentiate the operators."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast.statistics import new_totals

from .cases import Case, make_pair

CASES = [
    Case("rows", (2, 5, 130)),
    Case("columns", (2, 9, 4, 5), memory="channels_last"),
    Case("tokens", (2, 7, 12), channel_dim=-1),
    Case("units", (3, 20)),
    Case("strided", (2, 3, 8), memory="strided"),
]
OPERATORS = torch.ops.neurosens_fast


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(case: Case, dtype: torch.dtype, device: str) -> None:
    z, z_adv = make_pair(case, dtype, device)
    dim = case.channel_dim % z.dim()
    sums, maxima = new_totals(z.shape[dim], device)
    grad = torch.randn(z.shape[dim], device=device)
    for operator, arguments in (
        (OPERATORS.pair_statistics, (z, z_adv, dim)),
        (OPERATORS.accumulate_pair_statistics_, (sums, maxima, z, z_adv, dim)),
        (OPERATORS.neuron_sensitivity_backward, (grad, z, z_adv, "l2", dim)),
        (OPERATORS.sns_loss_backward, (grad.sum(), torch.tensor([2, 0], device=device), z, z_adv, "mse", dim)),
        (OPERATORS.topk_neurons, (grad, 2)),
        *((OPERATORS.project_step_, (z.clone(), z_adv, z, 0.1, 0.2, norm)) for norm in ops.BALLS),
        (OPERATORS.momentum_step_, (z.clone(), z.clone(), z_adv, z, 0.1, 0.2, 0.9)),
        (OPERATORS.read_bytes, (z.contiguous(), z_adv.contiguous())),
    ):
        torch.library.opcheck(operator.default, arguments)
    joined = torch.cat((z, z_adv))
    torch.library.opcheck(OPERATORS.paired_sensitivity_backward.default, (grad, joined, "cosine", dim, True))
    torch.library.opcheck(OPERATORS.relu_tap_backward.default, (joined, grad, joined.relu(), "mse", dim, False))
    torch.library.opcheck(OPERATORS.relu_tap_.default, (joined.clone(), "1", dim))
    torch.library.opcheck(OPERATORS.relu_accumulate_pair_statistics_.default, (sums, maxima, joined.clone(), dim))
    for norm in ("1", "mse", "l2", "cosine"):
        leaves = (z.detach().requires_grad_(), z_adv.detach().requires_grad_())
        torch.library.opcheck(OPERATORS.neuron_sensitivity.default, (*leaves, norm, dim))
        for neurons in (None, torch.tensor([1, 0], device=device)):
            torch.library.opcheck(OPERATORS.sns_loss.default, (*leaves, 2, norm, dim, neurons))
        leaf = joined.detach().requires_grad_()
        torch.library.opcheck(OPERATORS.paired_sensitivity.default, (leaf, norm, dim, False))
        torch.library.opcheck(OPERATORS.relu_tap.default, (leaf, norm, dim, norm == "1"))


def test_opcheck_of_winograd_convolutions(device: str) -> None:
    weight = torch.randn(40, 3, 3, 3, device=device)
    for transposed in (False, True):
        torch.library.opcheck(OPERATORS.winograd_weight.default, (weight, transposed))
    images, packed = torch.randn(2, 3, 5, 4, device=device), ops.winograd_weight(weight)
    for bias in (None, torch.randn(40, device=device)):
        torch.library.opcheck(OPERATORS.winograd_convolution.default, (images, packed, bias, 40))
    torch.library.opcheck(OPERATORS.winograd_convolution.default, (images.bfloat16(), packed, None, 40, 2))


def test_read_bytes_reads_every_byte(device: str) -> None:
    x = torch.randint(0, 2**31, (3, 50_003), dtype=torch.int32, device=device)
    a, b = x[0].contiguous().view(torch.float32), x[1].contiguous().view(torch.float32)
    before = OPERATORS.read_bytes(a, b)
    for at in (0, 1, 49_999, 50_002):
        changed = x[0].clone()
        changed[at] ^= 1
        assert not torch.equal(OPERATORS.read_bytes(changed.view(torch.float32), b), before)


def test_meta_tensors() -> None:
    z = torch.empty(3, 5, 7, device="meta", dtype=torch.bfloat16)
    assert ops.pair_statistics(z, z).shape == (3, 5, 15)
    assert ops.pair_statistics(z, z).dtype == torch.float32
    assert ops.neuron_sensitivity(z, z, channel_dim=2).shape == (7,)
    assert [t.shape for t in ops.sns_loss(z, z, 0.5)] == [(), (3,), (5,)]
    assert [t.shape for t in ops.paired_sensitivity(z[:2], channel_dim=-1)] == [(7,), (7,)]
    assert [t.shape for t in ops.relu_tap(z[:2])] == [(2, 5, 7), (5,), (5,)]
    assert [t.shape for t in ops.topk_neurons(torch.empty(9, device="meta"), 4)] == [(4,), (4,)]
    ops.accumulate_pair_statistics_(*new_totals(5, "meta"), z, z)
    ops.relu_accumulate_pair_statistics_(*new_totals(5, "meta"), z[:2])
    ops.project_step_(z, z, z, 0.1, 0.1)
    ops.momentum_step_(z, z, z, z, 0.1, 0.1, 1.0)
    packed = ops.winograd_weight(torch.empty(40, 3, 3, 3, device="meta"))
    assert packed.shape == (2, 3, 9, 32)
    assert ops.winograd_convolution(torch.empty(2, 3, 5, 4, device="meta"), packed, None, 40).shape == (2, 40, 5, 4)


def test_compile_fullgraph(device: str) -> None:
    def step(
        z: Tensor, z_adv: Tensor, moved: Tensor, total_momentum: Tensor, sums: Tensor, maxima: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = ops.pair_statistics(z, z_adv)
        ops.accumulate_pair_statistics_(sums, maxima, z, z_adv)
        sensitivity = ops.neuron_sensitivity(z, z_adv, "mse")
        values, indices = ops.topk_neurons(sensitivity.detach(), 2)
        ops.project_step_(moved, z, z, 0.1, 0.2)
        ops.project_step_(moved, z, z, 0.1, 0.2, "l1", -5.0, 5.0)
        ops.momentum_step_(moved, total_momentum, z, z, 0.1, 0.2, 0.9, low=-5.0, high=5.0)
        loss, _, _ = ops.sns_loss(z, z_adv, 3, "l2")
        out, distances, _ = ops.relu_tap(torch.cat((z, z_adv)), "cosine")
        paired, _ = ops.paired_sensitivity(out, detach_benign=True)
        overwritten, more, _ = ops.relu_tap_(torch.cat((z, z_adv)) * 2)
        total = rows.sum() + sensitivity[indices].sum() + loss + out.square().sum() + (distances + paired + more).sum()
        return total + overwritten.square().sum(), values, indices

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        z = torch.randn(3, 5, 9, device=device, requires_grad=True)
        z_adv = torch.randn(3, 5, 9, device=device)
        totals = new_totals(5, device)
        moved, momentum = z_adv.clone(), torch.zeros_like(z_adv)
        outputs = function(z, z_adv, moved, momentum, *totals)
        outputs[0].backward()
        results.append([*outputs, *totals, z.grad, moved, momentum])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=0, atol=0)


@pytest.mark.slow
def test_compile_fullgraph_with_inductor(device: str) -> None:
    def loss(z: Tensor, z_adv: Tensor) -> Tensor:
        return ops.neuron_sensitivity(z.relu(), z_adv.relu(), "cosine").sum()

    z, z_adv = torch.randn(2, 6, 8, 8, device=device, requires_grad=True), torch.randn(2, 6, 8, 8, device=device)
    (plain,) = torch.autograd.grad(loss(z, z_adv), z)
    (compiled,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(z, z_adv), z)
    torch.testing.assert_close(compiled, plain)


def test_mutating_operators_take_no_gradient(device: str) -> None:
    z = torch.randn(2, 3, 4, device=device, requires_grad=True)
    totals = new_totals(3, device)
    ops.accumulate_pair_statistics_(*totals, z, z.detach() + 1)
    assert not totals[0].requires_grad
    assert not ops.pair_statistics(z, z).requires_grad


def test_other_devices_run_the_reference() -> None:
    """The composite kernels, called by their dispatch key, equal the operators; meta never reaches them."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)
    z, z_adv = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    grad = torch.randn(3, dtype=torch.float64) * torch.tensor([1, 0, 1])
    joined = torch.cat((z, z_adv))
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("pair_statistics", (z, z_adv, 1)),
        ("accumulate_pair_statistics_", (*new_totals(3), z, z_adv, 1)),
        ("relu_accumulate_pair_statistics_", (*new_totals(3), joined.clone(), 1)),
        ("topk_neurons", (grad, 2)),
        *(("project_step_", (z_adv.clone(), z, z, 0.1, 0.2, norm, -5.0, 5.0)) for norm in ops.BALLS),
        ("momentum_step_", (z_adv.clone(), z_adv.clone(), z, z, 0.1, 0.2, 0.9, "linf", -5.0, 5.0)),
    ]
    for norm in ("1", "mse", "l2", "cosine"):
        calls += [
            ("neuron_sensitivity", (z, z_adv, norm, 1)),
            ("neuron_sensitivity_backward", (grad, z, z_adv, norm, 1)),
            ("paired_sensitivity", (joined, norm, 1, False)),
            ("paired_sensitivity_backward", (grad, joined, norm, 1, True)),
            ("relu_tap", (joined, norm, 1, False)),
            ("relu_tap_", (joined.clone(), norm, 1)),
            ("relu_tap_backward", (joined, grad, joined.relu(), norm, 1, False)),
            ("sns_loss", (z, z_adv, 2, norm, 1, None)),
            ("sns_loss", (z, z_adv, 1, norm, 1, torch.tensor([2]))),
            ("sns_loss_backward", (grad[0], torch.tensor([2, 0, 2]), z, z_adv, norm, 1)),
        ]
    for name, arguments in calls:
        results = []
        for run in (getattr(OPERATORS, name).default, partial(getattr(OPERATORS, name).default.redispatch, keys)):
            own = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
            output = run(*own)
            results.append([*(output if isinstance(output, tuple) else (output,)), *own])
        for ours, theirs in zip(*results, strict=True):
            if isinstance(ours, Tensor):
                torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12, msg=name)
