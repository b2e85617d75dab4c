"""The CUDA kernels, compiled for the CPU, against the float64 reference.

The program runs every case with threads and blocks in three orders, demands identical bits, and is built
with the address and undefined-behaviour sanitizers; see ``cuda_emulation.h`` and ``kernels.cpp``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurosens_fast import columns, reference

from . import harness
from .harness import NORMS, Case, accumulate_case, accumulate_dtype, pair, unit

DTYPES = harness.DTYPES
ROW_SHAPES = [
    *[(2, 3, 2), (3, 5, 7), (1, 33, 16), (2, 9, 49), (2, 2, 196), (1, 3, 256), (1, 2, 257), (1, 2, 1025)],
    *[(2, 1, 1028), (1, 1, 4096), (1, 1, 4100), (1, 2, 8200), (1, 1, 8201)],
]
COLUMN_SHAPES = [
    *[(5, 1, 1), (3, 7, 1), (2, 300, 1), (2, 5, 3), (1, 64, 64), (2, 3, 65), (1, 33, 66), (1, 70, 130)],
    *[(1, 65, 67), (2, 4, 700), (1, 2, 300)],
]
EMPTY_SHAPES = [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)]


def statistics_scale(z: Tensor, z_adv: Tensor) -> Tensor:
    """Sums of magnitudes behind each row statistic, ``[N, C, 15]``; counts and maxima of z are exact."""
    scale = reference.pair_statistics(z.double().abs(), -z_adv.double().abs()).abs()
    for name in ("benign_positive", "adversarial_positive", "benign_max", "adversarial_max"):
        scale[..., columns.ROW_STATISTICS.index(name)] = 0
    return scale


def check_statistics(got: Tensor, z: Tensor, z_adv: Tensor, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    expected = reference.pair_statistics(z.double(), z_adv.double())
    torch.testing.assert_close(got.isnan(), expected.isnan())
    finite = expected.isfinite()
    assert (got.double()[~finite].nan_to_num() == expected[~finite].nan_to_num()).all()
    error = (got.double() - expected).abs()[finite]
    assert (error <= unit(shape, dtype) * statistics_scale(z, z_adv)[finite]).all()


def statistics_case(z: Tensor, z_adv: Tensor, shape: tuple[int, int, int]) -> Case:
    return Case("pair_statistics", [z, z_adv], answers=[(accumulate_dtype(z.dtype), (*shape[:2], 15))])


LAYOUTS = [
    *[(shape, layout) for shape in ROW_SHAPES for layout in ("rows", "sliced rows")],
    *[(shape, layout) for shape in COLUMN_SHAPES for layout in ("columns", "sliced columns")],
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pair_statistics(dtype: torch.dtype) -> None:
    pairs = [pair(shape, dtype, layout) for shape, layout in LAYOUTS]
    answers = harness.run([statistics_case(*p, shape) for p, (shape, _) in zip(pairs, LAYOUTS, strict=True)])
    for (z, z_adv), (shape, _), (got,) in zip(pairs, LAYOUTS, answers, strict=True):
        check_statistics(got, z, z_adv, shape, dtype)
    # The order of additions does not depend on strides or alignment.
    for i in range(0, len(LAYOUTS), 2):
        assert torch.equal(answers[i][0], answers[i + 1][0])


def with_exceptions(x: Tensor, row: int, value: float, position: int) -> Tensor:
    x = x.clone(memory_format=torch.preserve_format)
    x[0, row, position] = value
    return x


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_inf_stay_in_their_rows(dtype: torch.dtype, layout: str) -> None:
    cases, shapes = [], [(1, 7, 40), (1, 7, 300), (1, 7, 8200 if layout == "rows" else 200)]
    for shape in shapes:
        z, z_adv = pair(shape, dtype, layout)
        for row, value in enumerate([torch.nan, torch.inf, -torch.inf]):
            z = with_exceptions(z, row, value, 3 * row)
            z_adv = with_exceptions(z_adv, row + 3, value, shape[2] - 1 - row)
        z_adv = with_exceptions(z_adv, 1, torch.inf, 3)  # inf - inf
        z[0, 6], z_adv[0, 6] = -0.0, torch.nan  # a row of nothing else
        cases.append((z, z_adv))
    answers = harness.run([statistics_case(*c, s) for c, s in zip(cases, shapes, strict=True)])
    for (z, z_adv), shape, (got,) in zip(cases, shapes, answers, strict=True):
        check_statistics(got, z, z_adv, shape, dtype)
        assert got[0, 6, -2] == 0
        assert not torch.signbit(got[0, 6, -2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(dtype: torch.dtype) -> None:
    cases, expected = [], []
    for shape in EMPTY_SHAPES:
        for layout in ("rows", "columns"):
            z, z_adv = pair(shape, dtype, layout)
            accumulate = accumulate_dtype(dtype)
            cases.append(statistics_case(z, z_adv, shape))
            expected.append([reference.pair_statistics(z, z_adv)])
            sums, maxima = torch.ones(shape[1], 14).double(), torch.ones(shape[1], 3).double()
            inputs = [z, z_adv, sums, maxima]
            answers = [(torch.float64, tuple(sums.shape)), (torch.float64, tuple(maxima.shape))]
            cases.append(Case("accumulate", [x.clone() for x in inputs], answers=answers))
            reference.accumulate_pair_statistics_(sums, maxima, z, z_adv)
            expected.append([sums, maxima])
            for i, norm in enumerate(NORMS):
                cases.append(Case("sensitivity", [z, z_adv], argument=i, answers=[(accumulate, (shape[1],))] * 2))
                expected.append([reference.neuron_sensitivity(z, z_adv, n) for n in (norm, 1)])
                grad = torch.ones(shape[1], dtype=accumulate)
                answers = [(dtype, shape), (dtype, shape)]
                cases.append(Case("backward", [z, z_adv, grad], argument=i, answers=answers))
                expected.append([z, z_adv])
    for case, got, want in zip(cases, harness.run(cases), expected, strict=True):
        for a, b in zip(got, want, strict=True):
            assert a.isnan().equal(b.isnan()), case.operator
            assert a.nan_to_num().equal(b.nan_to_num()), case.operator


ACCUMULATE_SHAPES = [
    *[((5, 3, 49), "rows"), ((70, 2, 9), "rows"), ((2, 40, 300), "rows"), ((1, 2, 8200), "rows")],
    *[((5, 40, 1), "columns"), ((130, 3, 1), "columns"), ((3, 70, 50), "columns"), ((3, 5, 197), "columns")],
    *[((3, 35, 70), "sliced columns"), ((3, 5, 24), "sliced rows")],
]


def terms_scale(z: Tensor, z_adv: Tensor) -> Tensor:
    """What the rounding of each sum is relative to, ``[C, 14]``."""
    z, z_adv = z.double(), z_adv.double()
    rows = reference.pair_statistics(z, z_adv)
    scale = reference.sample_terms(rows, z.shape[2]).abs()
    scale[..., 4] = (z_adv - z).abs().mean(2)
    scale[..., 8] = z.abs().mean(2)
    scale[..., 9] = scale[..., 8] + scale[..., 4]
    scale[..., 7] = 1
    return scale.sum(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accumulate(dtype: torch.dtype) -> None:
    pairs = [pair(shape, dtype, layout) for shape, layout in ACCUMULATE_SHAPES]
    for z, _ in pairs:
        z.add_(0.3)  # some channel means well above the threshold of the frequency
    prepared = [accumulate_case(*p) for p in pairs]
    answers = harness.run([case for case, _, _ in prepared])
    for (z, z_adv), (_, sums, maxima), (shape, _), got in zip(pairs, prepared, ACCUMULATE_SHAPES, answers, strict=True):
        reference.accumulate_pair_statistics_(sums, maxima, z.double(), z_adv.double())
        eps = torch.finfo(torch.float64).eps
        tolerance = 4 * unit(shape, dtype) * terms_scale(z, z_adv) + shape[0] * eps * sums.abs()
        assert ((got[0] - sums).abs() <= tolerance).all(), shape
        torch.testing.assert_close(got[1], maxima, rtol=unit(shape, dtype), atol=0)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_accumulate_non_finite(layout: str) -> None:
    cases = []
    for shape in [(3, 6, 1 if layout == "columns" else 2), (3, 6, 70)]:
        z, z_adv = pair(shape, torch.float32, layout)
        z, z_adv = z.abs() + 0.5, z_adv.abs() + 0.5
        z[0, 0, 0], z[1, 1, 0], z_adv[2, 2, 0] = torch.nan, torch.inf, -torch.inf
        z_adv[1] = torch.nan  # a sample without a finite channel
        z[2, 5], z_adv[2, 5] = 0.0, 0.0
        cases.append((shape, z, z_adv, *accumulate_case(z, z_adv)))
    for (shape, z, z_adv, _, sums, maxima), got in zip(cases, harness.run([c[3] for c in cases]), strict=True):
        reference.accumulate_pair_statistics_(sums, maxima, z.double(), z_adv.double())
        torch.testing.assert_close(got[0], sums, rtol=4 * unit(shape, torch.float32), atol=1e-5, equal_nan=True)
        torch.testing.assert_close(got[1], maxima, rtol=1e-6, atol=0, equal_nan=True)
        assert got[0][3].isnan().any()
        assert got[0][3, 12].isfinite()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_topk_neurons(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    cases, expected = [], []
    for channels in (1, 31, 32, 257, 600):
        x = torch.randint(-9, 9, (channels,), generator=generator).to(dtype)  # many ties
        if channels > 31:
            x[3], x[20], x[7], x[8], x[9], x[30] = torch.nan, torch.nan, -0.0, torch.inf, -torch.inf, 0.0
        for k in {0, 1, channels // 2, channels}:
            answers = [(dtype, (k,)), (torch.int64, (k,))]
            cases.append(Case("topk", [x], argument=k, shape=(1, channels, 1, True), answers=answers))
            expected.append(reference.topk_neurons(x, k))
    cases.append(Case("topk", [torch.empty(0, dtype=dtype)], shape=(1, 0, 1, True), answers=[(dtype, (0,))] * 2))
    expected.append((torch.empty(0, dtype=dtype),) * 2)
    for (values, indices), (want, places) in zip(harness.run(cases), expected, strict=True):
        assert torch.equal(indices, places)
        assert torch.equal(values.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_project_step(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    cases, expected = [], []
    for elements, offset in ((0, 0), (1, 0), (5, 1), (1000, 0), (1003, 0), (1003, 3)):
        origin, start, gradient = (torch.rand(elements + offset, generator=generator).to(dtype) for _ in range(3))
        origin, start, gradient = origin[offset:], start[offset:], (gradient - 0.5)[offset:]
        gradient[::7] = 0
        numbers = (2 / 255, 8 / 255, 0.0, 1.0)
        flat = (1, elements, 1, True)
        inputs = [start.clone(), gradient, origin]
        cases.append(Case("project", inputs, numbers=numbers, shape=flat, answers=[(dtype, (elements,))]))
        reference.project_step_(start, gradient, origin, numbers[0], numbers[1])
        expected.append(start)
    for (got,), want in zip(harness.run(cases), expected, strict=True):
        assert torch.equal(got, want)


def test_read_bytes() -> None:
    generator = torch.Generator().manual_seed(7)
    cases, expected = [], []
    for sizes in ((0, 0), (1, 17), (64, 15), (4 * 32768 + 5, 70000)):
        halves = [torch.randint(0, 256, (n,), generator=generator, dtype=torch.uint8) for n in sizes]
        inputs = [torch.cat([h, h.new_zeros(-len(h) % 8)]).view(torch.int64) for h in halves]
        cases.append(Case("read", [h.view(torch.int8) for h in halves], answers=[(torch.int64, (1,))]))
        total = 0
        for word in torch.cat(inputs).tolist():
            total ^= word
        expected.append(total)
    program_inputs = [Case("read", c.inputs, shape=(1, 1, 1, True), answers=c.answers) for c in cases]
    assert [int(got) for (got,) in harness.run(program_inputs)] == expected


@pytest.mark.parametrize(
    ("dtype", "shape", "columns", "count"),
    [
        (torch.bfloat16, (2, 2**23 + 1, 128), False, 128),  # many rows
        (torch.bfloat16, (2, 2**21 + 1, 520), False, 520),
        (torch.float16, (1, 2, 2**31 + 4096), False, 4096),  # long rows, cut into parts
        (torch.bfloat16, (1, 2**10, 2**21 + 2**10), True, 100),  # long columns
        (torch.float32, (2**16 + 1, 2**15 + 1, 1), True, 1),
    ],
    ids=str,
)
def test_offsets_above_2_to_the_31(dtype: torch.dtype, shape: tuple[int, int, int], columns: bool, count: int) -> None:
    values = [torch.randn(count, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (8, 9)]
    assert shape[0] * shape[1] * shape[2] > 2**31
    case = Case("last", values, shape=(*shape, columns), answers=[(accumulate_dtype(dtype), (15,))])
    ((got,),) = harness.run([case])
    z, z_adv = (torch.cat([v, v.new_zeros(1 if shape[2] > count else 0)])[None, None] for v in values)
    check_statistics(got[None, None], z, z_adv, (1, 1, count + 1), dtype)


def test_indices_above_2_to_the_31() -> None:
    cases, expected = [], []
    for n, c, s in [(3, 2**30 + 1, 3), (2**31 + 5, 3, 2), (5, 7, 2**33 + 1), (2**20, 2**11 + 1, 9), (3, 4, 5)]:
        for is_columns in (False, True):
            for element in (0, s - 1, c - 1, s * c - 1, n * c * s // 2, n * c * s - 2):
                places = []
                for e in (element, element + 1):
                    sample, rest = divmod(e, c * s)
                    channel = rest % c if is_columns else rest // s
                    places.append((sample * c + channel, channel))
                shape = (n, c, s, is_columns)
                empty = [torch.empty(0)]
                cases.append(Case("indices", empty, argument=element, shape=shape, answers=[(torch.int64, (6,))]))
                expected.append([*places[0], element, places[0][0], *places[1]])
    assert [got.tolist() for (got,) in harness.run(cases)] == expected
