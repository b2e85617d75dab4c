"""The SNS loss of one layer, forward and backward, against eager PyTorch, torch.compile and plain memory traffic.

Byte model, both halves holding B bytes in all: the forward reads B. The backward writes B, zeros for all but the
chosen neurons (k = 10 %), of which it reads 0.1 B. On the CPU most of the time of either is the system handing out
fresh memory, which filling two new tensors with zeros pays too.

"Eager" lets autograd go through the distances of all neurons, as the formula is written; "eager, chosen" first finds
the neurons without a graph and then takes the distances of these alone. Both raise 16-bit activations to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from neurosens_fast.benchmarking.contest import NOT_RUN, Contest, Side, agreement, compiled
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.roof import Work

from .pairs import COMPILED, channel_dim, labels, make_pair

SHAPES = [(64, 64, 32, 32), (128, 64, 56, 56), (256, 64, 56, 56), (128, 256, 14, 14), (256, 4096)]
QUICK_SHAPES = [(4, 16, 9, 9), (16, 32)]
ALL_NORMS = ((4, 16, 9, 9), (16, 32), (128, 64, 56, 56), (256, 4096))
"""Shapes on which norms other than 1 are measured."""
SHARE = 0.1
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
FLOPS = {1: 3, "mse": 4, "l2": 4, "cosine": 12}
"""Arithmetic operations of the forward for a pair of elements, by norm; the sensitivity by norm 1 is among them."""

Loss = Callable[[Tensor, Tensor], Tensor]
VARIANTS = [
    pytest.param(norm, layout, dtype, id=f"{norm}-{layout}-{str(dtype).removeprefix('torch.')}")
    for norm, layout, dtype in product(ops.NORMS, ("contiguous", "channels_last"), (torch.float32, torch.bfloat16))
]


class Case(NamedTuple):
    """Ours and the eager losses on the same inputs."""

    names: dict[str, str]
    ours: Loss
    eager: Loss
    chosen: Loss
    inputs: list[tuple[Tensor, ...]]
    agreed: str

    @property
    def detached(self) -> list[tuple[Tensor, ...]]:
        """The inputs without gradients."""
        return [tuple(half.detach() for half in pair) for pair in self.inputs]

    @property
    def half(self) -> Tensor:
        """One of the halves."""
        return self.inputs[0][0]


def step(loss: Loss, z: Tensor, z_adv: Tensor) -> tuple[Tensor, ...]:
    """Loss and gradients of one layer."""
    value = loss(z, z_adv)
    return value, *torch.autograd.grad(value, (z, z_adv))


def consumed(loss: Loss, z: Tensor, z_adv: Tensor) -> Tensor:
    """The same, its gradients read whole and one of them added to in place, as autograd adds a second gradient."""
    _, grad, grad_adv = step(loss, z, z_adv)
    return grad.add_(grad_adv)


def backward_of(loss: Loss, inputs: list[tuple[Tensor, ...]]) -> Side:
    """The backward alone, of a forward that was done before."""
    kept = [(loss(*pair), pair) for pair in inputs]
    return rotating(lambda value, leaves: torch.autograd.grad(value, leaves, retain_graph=True), kept)


def case_of(shape: tuple[int, ...], norm: int | str, layout: str, dtype: torch.dtype, device: str) -> Case:
    """The case, both of whose sides were found equal."""
    if norm != 1 and shape in SHAPES and shape not in ALL_NORMS:
        pytest.skip("other norms are measured on one shape")
    if norm == "cosine" and len(shape) == 2:
        pytest.skip("rows of one element have the gradient 0, eager PyTorch's is rounding")
    dim = channel_dim(shape)
    names = {**labels(shape, layout, dtype), "norm": str(norm)}
    inputs = copies([half.requires_grad_() for half in make_pair(shape, dtype, layout, device)], device)
    k = ops.neuron_count(SHARE, shape[dim])

    def ours(z: Tensor, z_adv: Tensor) -> Tensor:
        return ops.sns_loss(z, z_adv, k, norm, channel_dim=dim).loss

    @torch.no_grad()
    def most_sensitive(z: Tensor, z_adv: Tensor) -> Tensor:
        return reference.row_distance(z, z_adv, 1, dim).mean(0).topk(k).indices

    def eager(z: Tensor, z_adv: Tensor) -> Tensor:
        distances = reference.row_distance(z, z_adv, norm, dim).mean(0)
        neurons = distances.detach().topk(k).indices if norm == 1 else most_sensitive(z, z_adv)
        return distances[neurons].mean()

    def chosen(z: Tensor, z_adv: Tensor) -> Tensor:
        neurons = most_sensitive(z, z_adv)
        return reference.row_distance(z.index_select(dim, neurons), z_adv.index_select(dim, neurons), norm, dim).mean()

    wanted = step(eager, *inputs[0])
    agreement(step(chosen, *inputs[0]), wanted, rtol=ROUNDING[dtype])
    return Case(names, ours, eager, chosen, inputs, agreement(step(ours, *inputs[0]), wanted, rtol=ROUNDING[dtype]))


@pytest.mark.parametrize(("norm", "layout", "dtype"), VARIANTS)
def bench_forward(
    shape: tuple[int, ...], norm: int | str, layout: str, dtype: torch.dtype, device: str, contest: Contest
) -> None:
    case = case_of(shape, norm, layout, dtype, device)
    contest(
        "SNS loss of one layer, forward",
        case.names,
        rotating(case.ours, case.detached),
        rivals={"eager": rotating(case.eager, case.detached)},
        floors={"plain read": rotating(torch.ops.neurosens_fast.read_bytes, case.detached)},
        agreed=case.agreed,
        work=Work(reads=2 * case.half.nbytes, flops=FLOPS[norm] * case.half.numel()),
        seconds=1.0,
    )


@pytest.mark.parametrize(("norm", "layout", "dtype"), VARIANTS)
def bench_backward(
    shape: tuple[int, ...], norm: int | str, layout: str, dtype: torch.dtype, device: str, contest: Contest
) -> None:
    case = case_of(shape, norm, layout, dtype, device)
    zeros = rotating(lambda z, z_adv: (torch.zeros_like(z), torch.zeros_like(z_adv)), case.detached)
    contest(
        "SNS loss of one layer, backward",
        case.names,
        backward_of(case.ours, case.inputs),
        rivals={
            "eager": backward_of(case.eager, case.inputs),
            "eager, chosen": backward_of(case.chosen, case.inputs),
        },
        floors={"zeros": zeros},
        agreed=case.agreed,
        work=Work(reads=int(2 * SHARE * case.half.nbytes), writes=2 * case.half.nbytes),
        seconds=1.5,
    )


@pytest.mark.parametrize(("norm", "layout", "dtype"), VARIANTS)
def bench_forward_and_backward(
    shape: tuple[int, ...],
    norm: int | str,
    layout: str,
    dtype: torch.dtype,
    device: str,
    contest: Contest,
    compiling: bool,
) -> None:
    case = case_of(shape, norm, layout, dtype, device)
    kernel = compiled(case.eager, run=compiling and (shape in COMPILED or shape not in SHAPES) and norm == 1)
    contest(
        "SNS loss of one layer, forward and backward",
        case.names,
        rotating(partial(step, case.ours), case.inputs),
        rivals={
            "eager": rotating(partial(step, case.eager), case.inputs),
            "eager, chosen": rotating(partial(step, case.chosen), case.inputs),
            "torch.compile": rotating(partial(step, kernel), case.inputs) if kernel else NOT_RUN,
        },
        agreed=case.agreed,
        work=Work(reads=int((2 + 2 * SHARE) * case.half.nbytes), writes=2 * case.half.nbytes),
        memory=("ours", "eager", "eager, chosen"),
        seconds=2.0,
    )


@pytest.mark.parametrize(("norm", "layout", "dtype"), [VARIANTS[0], VARIANTS[1]])
def bench_consumed(
    shape: tuple[int, ...], norm: int | str, layout: str, dtype: torch.dtype, device: str, contest: Contest
) -> None:
    """Gradients that are used: pages that the backward left untouched are paid for too."""
    case = case_of(shape, norm, layout, dtype, device)
    contest(
        "SNS loss of one layer, forward, backward and a consumer of the gradients",
        case.names,
        rotating(partial(consumed, case.ours), case.inputs),
        rivals={
            "eager": rotating(partial(consumed, case.eager), case.inputs),
            "eager, chosen": rotating(partial(consumed, case.chosen), case.inputs),
        },
        agreed=case.agreed,
        seconds=1.5,
    )
