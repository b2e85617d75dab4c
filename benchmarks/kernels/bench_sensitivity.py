"""The sensitivity of every neuron of a pair, and the choice of the most sensitive ones.

Byte model: both halves are read once, three operations for a pair of elements; the choice reads one number for each
neuron. Eager takes one pass for the difference and one for its mean; the choice is a stable sort, as ties must go to
the lowest neuron, or ``torch.topk``, which leaves ties to chance.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from neurosens_fast.benchmarking.contest import Contest, agreement
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.roof import Work

from .pairs import LAYOUTS, channel_dim, labels, make_pair

SHAPES = [(64, 64, 32, 32), (128, 64, 56, 56), (256, 4096)]
QUICK_SHAPES = [(4, 8, 9, 9)]
FLOPS = 3
NEURONS = (64, 2048, 100_000)
SHARE = 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@LAYOUTS
def bench_sensitivity(shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str, contest: Contest) -> None:
    names, dim = labels(shape, layout, dtype), channel_dim(shape)
    inputs = copies(make_pair(shape, dtype, layout, device), device)
    others = [axis for axis in range(len(shape)) if axis != dim]

    def ours(z: Tensor, z_adv: Tensor) -> Tensor:
        return ops.neuron_sensitivity(z, z_adv, channel_dim=dim)

    def eager(z: Tensor, z_adv: Tensor) -> Tensor:
        return (z_adv.float() - z.float()).abs().mean(others)

    contest(
        "Sensitivity of every neuron",
        names,
        rotating(ours, inputs),
        rivals={"eager": rotating(eager, inputs)},
        floors={"plain read": rotating(torch.ops.neurosens_fast.read_bytes, inputs)},
        agreed=agreement([ours(*inputs[0])], [eager(*inputs[0])], rtol=1e-5),
        work=Work(reads=2 * inputs[0][0].nbytes, flops=FLOPS * inputs[0][0].numel()),
        memory=("ours", "eager"),
        seconds=1.0,
    )


@pytest.mark.parametrize("neurons", NEURONS)
def bench_topk(neurons: int, device: str, contest: Contest) -> None:
    sensitivity = torch.rand(neurons, device=device)
    k = ops.neuron_count(SHARE, neurons)
    found, wanted = ops.topk_neurons(sensitivity, k), reference.topk_neurons(sensitivity, k)
    assert torch.equal(found[1], wanted[1]), "other neurons"
    contest(
        "The most sensitive neurons, a tenth of all",
        {"neurons": f"{neurons:,}"},
        partial(ops.topk_neurons, sensitivity, k),
        rivals={
            "eager, stable sort": partial(reference.topk_neurons, sensitivity, k),
            "torch.topk": partial(torch.topk, sensitivity, k),
        },
        agreed=agreement(found[:1], wanted[:1], rtol=0.0),
        work=Work(reads=sensitivity.nbytes, writes=12 * k),
        seconds=1.0,
    )
