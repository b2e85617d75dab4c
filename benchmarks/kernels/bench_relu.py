"""ReLUs of a joined batch ``[2N, ...]`` that measure the pair they write, against a ReLU and a pass after it.

Byte model, the batch holding B bytes: in place, B read and B written, which is what ``relu_`` alone does; out of place
the same. The backward of the tap reads its output and the gradient and writes one, 3 B. The eager side keeps its
halves as views, takes one pass for the distances, and lets autograd differentiate both together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from neurosens_fast.benchmarking.contest import Contest, Side, agreement
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.statistics import new_totals

from .pairs import LAYOUTS, channel_dim, labels, make_pair

SHAPES = [(64, 64, 32, 32), (128, 64, 56, 56)]
QUICK_SHAPES = [(4, 8, 9, 9)]
FLOPS_OF_STATISTICS, FLOPS_OF_TAP = 11, 3
"""Arithmetic operations for an element of the batch: half of those for a pair, and the ReLU."""
HALF_TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
Tapped = tuple[Tensor, Tensor]


def make_batch(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str) -> Tensor:
    """Both halves as one batch."""
    batch = torch.cat(make_pair(shape, dtype, layout, device))
    return (
        batch.contiguous(memory_format=torch.channels_last) if layout == "channels_last" and batch.dim() == 4 else batch
    )


@HALF_TYPES
@LAYOUTS
def bench_relu_and_statistics(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str, contest: Contest
) -> None:
    """In place, all statistics: the pass of an audit over a ReLU."""
    names, dim = labels(shape, layout, dtype), channel_dim(shape)
    batch = make_batch(shape, dtype, layout, device)

    def side(accumulate: Callable[..., None]) -> Side:
        sums, maxima = new_totals(shape[dim], device)
        inputs = copies([batch.clone()], device)
        return rotating(lambda pair: accumulate(sums, maxima, pair, dim), inputs)

    found, wanted = new_totals(shape[dim], device), new_totals(shape[dim], device)
    ours, theirs = batch.clone(), batch.clone()
    ops.relu_accumulate_pair_statistics_(found[0], found[1], ours, dim)
    reference.relu_accumulate_pair_statistics_(wanted[0], wanted[1], theirs, dim)
    agreed = agreement([*found, ours], [*wanted, theirs], rtol=1e-5)
    contest(
        "ReLU in place and all statistics",
        names,
        side(ops.relu_accumulate_pair_statistics_),
        rivals={"eager": side(reference.relu_accumulate_pair_statistics_)},
        floors={"relu_": rotating(torch.relu_, copies([batch.clone()], device))},
        agreed=agreed,
        work=Work(reads=batch.nbytes, writes=batch.nbytes, flops=FLOPS_OF_STATISTICS * batch.numel()),
        memory=("ours", "eager"),
        seconds=1.0,
    )


def eager_tap(pair: Tensor, dim: int) -> Tapped:
    """``relu(pair)`` and the sensitivity of every neuron."""
    out = pair.relu()
    benign, adversarial = out.chunk(2)
    others = [axis for axis in range(pair.dim()) if axis != dim]
    return out, (adversarial.float() - benign.float()).abs().mean(others)


def gradient_of(tap: Callable[[Tensor], Tapped], pair: Tensor) -> tuple[Tensor, ...]:
    """Output, sensitivity, and the gradient for a sum over both."""
    out, sensitivity = tap(pair)
    (gradient,) = torch.autograd.grad((out, sensitivity), pair, (torch.ones_like(out), torch.ones_like(sensitivity)))
    return out, sensitivity, gradient


@HALF_TYPES
@LAYOUTS
def bench_relu_tap(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str, contest: Contest) -> None:
    """Out of place, the sensitivity, forward and backward: a tapped ReLU in training."""
    names, dim = labels(shape, layout, dtype), channel_dim(shape)
    inputs = copies([make_batch(shape, dtype, layout, device).requires_grad_()], device)
    (pair,) = inputs[0]

    def ours(pair: Tensor) -> Tapped:
        out, sensitivity, _ = ops.relu_tap(pair, channel_dim=dim)
        return out, sensitivity

    eager = partial(eager_tap, dim=dim)
    rounding = 1e-5 if dtype == torch.float32 else 1e-2
    contest(
        "ReLU and sensitivity, forward and backward",
        names,
        rotating(partial(gradient_of, ours), inputs),
        rivals={"eager": rotating(partial(gradient_of, eager), inputs)},
        floors={"relu, forward and backward": rotating(bare_relu, inputs)},
        agreed=agreement(gradient_of(ours, pair), gradient_of(eager, pair), rtol=rounding),
        work=Work(reads=3 * pair.nbytes, writes=2 * pair.nbytes, flops=FLOPS_OF_TAP * pair.numel()),
        memory=("ours", "eager"),
        seconds=1.0,
    )


def bare_relu(pair: Tensor) -> Tensor:
    """The gradient of a ReLU alone."""
    out = pair.relu()
    (gradient,) = torch.autograd.grad(out, pair, torch.ones_like(out))
    return gradient
