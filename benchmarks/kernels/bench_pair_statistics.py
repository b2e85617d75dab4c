"""All statistics of a pair in one read, against a plain read of the same bytes, eager PyTorch and torch.compile."""

from __future__ import annotations

from collections.abc import Callable

import torch

from neurosens_fast import ops, reference
from neurosens_fast.benchmarking.contest import NOT_RUN, Contest, Side, agreement, compiled
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.statistics import new_totals

from .pairs import COMPILED, DTYPES, LAYOUTS, channel_dim, labels, make_pair

SHAPES = [
    (64, 64, 32, 32),
    (128, 64, 56, 56),
    (256, 64, 56, 56),
    (128, 512, 7, 7),
    (256, 4096),
    (32, 197, 768),
]
QUICK_SHAPES = [(4, 8, 9, 9), (16, 32), (2, 5, 16)]
FLOPS = 19
"""Arithmetic operations for a pair of elements: 17 to 21, by layout."""


def work(pairs: int, element_size: int) -> Work:
    """Both halves are read once; the totals are a few kilobytes."""
    return Work(reads=2 * pairs * element_size, flops=FLOPS * pairs)


@DTYPES
@LAYOUTS
def bench_accumulate(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str, contest: Contest, compiling: bool
) -> None:
    names = labels(shape, layout, dtype)
    dim = channel_dim(shape)
    inputs = copies(make_pair(shape, dtype, layout, device), device)

    def side(accumulate: Callable[..., None]) -> Side:
        sums, maxima = new_totals(shape[dim], device)
        return rotating(lambda z, z_adv: accumulate(sums, maxima, z, z_adv, dim), inputs)

    found, wanted = new_totals(shape[dim], device), new_totals(shape[dim], device)
    benign, adversarial = inputs[0]
    ops.accumulate_pair_statistics_(found[0], found[1], benign, adversarial, dim)
    reference.accumulate_pair_statistics_(wanted[0], wanted[1], benign, adversarial, dim)
    fused = compiled(
        reference.accumulate_pair_statistics_,
        run=compiling and (shape in COMPILED or shape not in SHAPES) and dtype != torch.float16,
    )
    contest(
        "All statistics of a pair in one read",
        names,
        side(ops.accumulate_pair_statistics_),
        rivals={
            "eager": side(reference.accumulate_pair_statistics_),
            "torch.compile": side(fused) if fused else NOT_RUN,
        },
        floors={"plain read": rotating(torch.ops.neurosens_fast.read_bytes, inputs)},
        agreed=agreement(found, wanted, rtol=1e-5),
        work=work(inputs[0][0].numel(), inputs[0][0].element_size()),
        memory=("ours", "eager"),
        seconds=1.5,
    )
