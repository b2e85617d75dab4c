"""relu_accumulate_pair_statistics_ against torch.relu and accumulate_pair_statistics_, bit for bit, and float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from neurosens_fast.reference import halves
from neurosens_fast.statistics import new_totals

from .cases import DTYPES, JOINED, SHORT, Case, bits, gaps_of, joined, place, with_special_values

CASES = [
    *JOINED,
    *(Case(f"rows-{positions}", (2, 9, positions)) for positions in (55, 56, 57, 5000)),
    Case("units-1030", (3, 1030)),
    Case("units-strided", (3, 20), memory="strided"),
]
SMALL = [case for case in SHORT if not case.memory.startswith("mixed")]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# Layouts that a slice or a permutation makes of a dense batch; channels at dimension 1.
SLICES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "every other channel of columns": (lambda x: channels_last(x)[:, ::2], (4, 70, 5, 3)),
    "columns without their border": (lambda x: channels_last(x)[..., 1:-1], (4, 20, 6, 7)),
    "rows without their border": (lambda x: x[..., 1:-1, 1:-1], (4, 5, 9, 10)),
    "every other sample": (lambda x: x[::2], (8, 5, 60)),
    "samples last": (lambda x: x.permute(2, 0, 1), (5, 60, 4)),
    "one of many columns": (lambda x: x[..., 3:4].transpose(1, 2), (4, 30, 7)),
    "every other unit": (lambda x: x[:, ::2], (6, 150)),
    "unaligned": (lambda x: x[1:].view(4, 6, 64), (4 * 6 * 64 + 1,)),
}


def some_totals(channels: int, device: str) -> tuple[Tensor, Tensor]:
    """Totals that have something in them already."""
    sums, maxima = new_totals(channels, device)
    sums += torch.rand(sums.shape, dtype=torch.float64).to(device)
    maxima[::2] = torch.rand(3, dtype=torch.float64).to(device)
    return sums, maxima


def check_bits(pair: Tensor, channel_dim: int) -> None:
    """``pair`` becomes its ReLU where it lies, and the totals become those of that ReLU."""
    totals = some_totals(pair.shape[channel_dim], pair.device.type)
    wanted = [total.clone() for total in totals]
    expected = torch.relu(pair)
    ops.accumulate_pair_statistics_(wanted[0], wanted[1], *halves(expected), channel_dim)
    storage, gaps = gaps_of(pair)
    before = storage[gaps].clone()
    ops.relu_accumulate_pair_statistics_(*totals, pair, channel_dim)
    assert torch.equal(bits(pair), bits(expected))
    assert torch.equal(bits(storage[gaps]), bits(before)), "what lies between the elements is not written"
    for got, want in zip(totals, wanted, strict=True):
        assert torch.equal(bits(got), bits(want))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_relu_and_accumulate_in_every_bit(case: Case, dtype: torch.dtype, device: str) -> None:
    pair = joined(case, dtype, device)
    special = place(with_special_values(pair), case.memory)
    check_bits(pair, case.channel_dim)
    check_bits(special, case.channel_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SLICES)
def test_equals_relu_and_accumulate_on_slices(name: str, dtype: torch.dtype, device: str) -> None:
    of, shape = SLICES[name]
    check_bits(of(torch.randn(shape).to(dtype).to(device)), 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", JOINED, ids=lambda case: case.name)
def test_equals_float64_reference(case: Case, dtype: torch.dtype, device: str) -> None:
    pair = joined(case, dtype, device)
    totals, wanted = (new_totals(case.shape[case.channel_dim], device) for _ in range(2))
    wide = pair.double()
    reference.relu_accumulate_pair_statistics_(*wanted, wide, case.channel_dim)
    ops.relu_accumulate_pair_statistics_(*totals, pair, case.channel_dim)
    assert torch.equal(pair.double(), wide)
    samples = case.shape[0]
    # As test_accumulate says.
    rtol, atol = (1e-10, 1e-12) if dtype == torch.float64 else (3e-5, 3e-6)
    torch.testing.assert_close(totals[0] / samples, wanted[0] / samples, rtol=rtol, atol=atol)
    torch.testing.assert_close(totals[1][:, 0], wanted[1][:, 0], rtol=2**-22, atol=2**-22)
    assert torch.equal(totals[1][:, 1:], wanted[1][:, 1:])


@pytest.mark.sanitize
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_batches_add_up(case: Case, device: str) -> None:
    first, second = (joined(case, torch.float32, device) for _ in range(2))
    totals, wanted = (new_totals(case.shape[case.channel_dim], device) for _ in range(2))
    for pair in (first, second):
        ops.accumulate_pair_statistics_(*wanted, *halves(pair.relu()), case.channel_dim)
        ops.relu_accumulate_pair_statistics_(*totals, pair, case.channel_dim)
    for got, want in zip(totals, wanted, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("shape", [(0, 3, 4), (4, 0, 5), (4, 3, 0), (0, 3), (4, 3, 0, 2)], ids=str)
def test_empty(shape: tuple[int, ...], device: str) -> None:
    check_bits(torch.zeros(shape, device=device), 1)
    last = torch.zeros(shape, device=device).movedim(1, -1).contiguous()
    check_bits(last, -1)


@pytest.mark.parametrize("leaf", [True, False])
def test_a_pair_with_a_gradient_is_refused_before_it_is_written(leaf: bool, device: str) -> None:
    x = torch.randn(4, 3, device=device, requires_grad=True)
    pair = x if leaf else x * 2
    before = pair.detach().clone()
    totals = new_totals(3, device)
    with pytest.raises(ValueError, match=r"requires a gradient .* call it under torch.no_grad\(\)"):
        ops.relu_accumulate_pair_statistics_(*totals, pair)
    assert torch.equal(pair, before)
    assert bool((totals[0] == 0).all())
    with torch.no_grad():
        ops.relu_accumulate_pair_statistics_(*totals, pair)
    assert torch.equal(pair, before.relu())
    assert not totals[0].requires_grad


def test_an_expanded_pair_is_refused_before_anything_is_written(device: str) -> None:
    for pair in (
        torch.full((4, 1, 6), -1.0, device=device).expand(4, 3, 6),
        torch.full((4, 3, 1), -1.0, device=device).expand(4, 3, 6),
        torch.full((1, 3, 6), -1.0, device=device).expand(4, 3, 6),
    ):
        totals = new_totals(3, device)
        with pytest.raises(ValueError, match=r"share memory, .* clone it first"):
            ops.relu_accumulate_pair_statistics_(*totals, pair)
        with pytest.raises(RuntimeError, match=r"share memory, .* clone it first"):
            torch.ops.neurosens_fast.relu_accumulate_pair_statistics_(*totals, pair)
        with pytest.raises(ValueError, match=r"share memory, .* clone it first"):
            ops.relu_tap_(pair)
        with pytest.raises(RuntimeError, match=r"share memory, .* clone it first"):
            torch.ops.neurosens_fast.relu_tap_(pair)
        assert bool((pair == -1).all())
        assert bool((totals[0] == 0).all())


def test_autograd_learns_of_the_write(device: str) -> None:
    x = torch.randn(4, 3, device=device, requires_grad=True)
    y = x * 2
    squared = y.square()  # needs y
    with torch.no_grad():
        ops.relu_accumulate_pair_statistics_(*new_totals(3, device), y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


def test_in_inference_mode(device: str) -> None:
    with torch.inference_mode():
        check_bits(torch.randn(4, 9, 5, device=device), 1)


def test_overwrites_when_compiled(device: str) -> None:
    def step(sums: Tensor, maxima: Tensor, given: Tensor) -> Tensor:
        pair = given - 0.5
        ops.relu_accumulate_pair_statistics_(sums, maxima, pair)
        ops.relu_accumulate_pair_statistics_(sums, maxima, given)
        return pair

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        given = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).to(device)
        totals = new_totals(3, device)
        results.append([function(*totals, given), given, *totals])
    for plain, compiled in zip(*results, strict=True):
        assert torch.equal(plain, compiled)
    assert bool((results[0][1] >= 0).all())
