"""Kernels against the size of each dimension, against threads, and down to sizes at which a call itself costs most.

Per byte (or element) the curves of ours should be flat from where the call no longer counts. "Small" goes down to a
single element, to see whether eager PyTorch is faster anywhere.
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
from neurosens_fast.benchmarking.results import Axis
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.statistics import new_totals

from ..kernels.bench_project_step import ALPHA, EPS, check, eager_linf
from ..kernels.pairs import channel_dim, make_pair

Shape = tuple[int, ...]
DIMENSIONS: dict[str, list[Shape]] = {
    "samples N": [(n, 64, 28, 28) for n in (1, 4, 16, 64, 256)],
    "neurons C": [(32, c, 14, 14) for c in (4, 16, 64, 256, 1024)],
    "positions S": [(32, 64, s, s) for s in (1, 4, 14, 56, 112)],
}
QUICK = {
    name: [tuple(min(size, 6) for size in shapes[place]) for place in (0, 1)] for name, shapes in DIMENSIONS.items()
}
SMALL = (1, 4, 16, 64, 256, 1024, 4096, 16384)
SHARE = 0.1


def accumulate(function: Callable[..., None], shape: Shape, inputs: list[tuple[Tensor, ...]]) -> Side:
    """A side with totals of its own."""
    dim = channel_dim(shape)
    totals = new_totals(shape[dim], inputs[0][0].device)
    return rotating(lambda z, z_adv: function(*totals, z, z_adv, dim), inputs)


def statistics_agree(shape: Shape, pair: tuple[Tensor, ...]) -> str:
    """Both ways give the same totals."""
    dim = channel_dim(shape)
    found, wanted = (new_totals(shape[dim], pair[0].device) for _ in range(2))
    benign, adversarial = pair
    ops.accumulate_pair_statistics_(*found, benign, adversarial, dim)
    reference.accumulate_pair_statistics_(*wanted, benign, adversarial, dim)
    return agreement(found, wanted, rtol=1e-4)


def contest_of_statistics(contest: Contest, title: str, shape: Shape, axis: Axis) -> None:
    """All statistics of a pair of that shape in float32."""
    inputs = copies(make_pair(shape, torch.float32, "contiguous", contest.device), contest.device)
    moved = 2 * inputs[0][0].nbytes
    contest(
        title,
        {axis.name: f"{axis.value:,.0f}", "shape": "x".join(map(str, shape))},
        accumulate(ops.accumulate_pair_statistics_, shape, inputs),
        rivals={"eager": accumulate(reference.accumulate_pair_statistics_, shape, inputs)},
        floors={"plain read": rotating(torch.ops.neurosens_fast.read_bytes, inputs)},
        agreed=statistics_agree(shape, inputs[0]),
        work=Work(reads=moved) if axis.name != "threads" else None,  # the roof is that of all threads
        axis=axis,
        seconds=0.8,
    )


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("dimension", list(DIMENSIONS))
def bench_dimension(dimension: str, place: int, contest: Contest) -> None:
    shapes = QUICK[dimension] if contest.quick else DIMENSIONS[dimension]
    if place >= len(shapes):
        pytest.skip("the quick curve has two points")
    shape = shapes[place]
    value = {"samples N": shape[0], "neurons C": shape[1], "positions S": shape[2] * shape[3]}[dimension]
    moved = 2 * 4 * torch.Size(shape).numel()
    axis = Axis(dimension, value, "byte", moved)
    contest_of_statistics(contest, f"Statistics by {dimension}", shape, axis)


@pytest.mark.parametrize("positions", [*SMALL[:3], *(pytest.param(size, marks=pytest.mark.full) for size in SMALL[3:])])
def bench_small_statistics(positions: int, contest: Contest) -> None:
    axis = Axis("elements", 2 * positions, "call", 1)
    contest_of_statistics(contest, "Small statistics: one pair, two neurons", (1, 2, positions, 1), axis)


@pytest.mark.parametrize("positions", [*SMALL[:3], *(pytest.param(size, marks=pytest.mark.full) for size in SMALL[3:])])
def bench_small_loss(positions: int, contest: Contest) -> None:
    pair = [
        half.requires_grad_() for half in make_pair((2, 4, positions, 1), torch.float32, "contiguous", contest.device)
    ]

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        value = loss(*pair)
        return value, *torch.autograd.grad(value, pair)

    def eager(z: Tensor, z_adv: Tensor) -> Tensor:
        return (z_adv - z).abs().mean((0, 2, 3)).topk(1).values.mean()

    def ours(z: Tensor, z_adv: Tensor) -> Tensor:
        return ops.sns_loss(z, z_adv, 1).loss

    contest(
        "Small SNS losses, forward and backward: two pairs, four neurons",
        {"elements": f"{8 * positions:,}"},
        partial(step, ours),
        rivals={"eager": partial(step, eager)},
        agreed=agreement(step(ours), step(eager), rtol=1e-5),
        axis=Axis("elements", 8 * positions, "call", 1),
        seconds=0.8,
    )


@pytest.mark.parametrize("count", [*SMALL[:3], *(pytest.param(size, marks=pytest.mark.full) for size in SMALL[3:])])
def bench_small_step(count: int, contest: Contest) -> None:
    x = torch.rand(2, count, device=contest.device)
    gradient = torch.randn_like(x)
    own, other = (x.clone() for _ in range(2))

    def ours() -> None:
        ops.project_step_(own, gradient, x, ALPHA, EPS, "linf")

    def eager() -> Tensor:
        return eager_linf(other, gradient, x, ALPHA, EPS)

    ours()
    contest(
        "Small steps of PGD: two samples",
        {"elements": f"{2 * count:,}"},
        ours,
        rivals={"eager": eager},
        agreed=check(own, eager()),
        axis=Axis("elements", 2 * count, "call", 1),
        seconds=0.8,
    )


def thread_counts() -> list[int]:
    """1, 2, 4 and so on up to all that torch uses."""
    most = torch.get_num_threads()
    return [2**place for place in range(most.bit_length()) if 2**place < most] + [most]


@pytest.mark.parametrize("threads", thread_counts())
def bench_threads(threads: int, device: str, contest: Contest) -> None:
    if device != "cpu":
        pytest.skip("threads are of the CPU")
    shape = (4, 16, 9, 9) if contest.quick else (128, 64, 56, 56)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        contest_of_statistics(contest, "Statistics by threads", shape, Axis("threads", threads, "call", 1))
    finally:
        torch.set_num_threads(before)
