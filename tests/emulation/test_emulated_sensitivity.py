"""The CUDA kernels of distances, their gradients, the ReLU tap and the loss, compiled for the CPU."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from neurosens_fast import reference

from . import harness
from .harness import DTYPES, NORMS, Case, accumulate_case, accumulate_dtype, activation, pair, unit

Shape = tuple[int, int, int]

SHAPES: list[tuple[Shape, str]] = [
    *[((3, 5, 49), "rows"), ((1, 2, 8200), "rows"), ((3, 5, 3), "rows"), ((2, 3, 24), "sliced rows")],
    *[((70, 3, 1), "columns"), ((2, 9, 70), "columns"), ((2, 5, 7), "columns"), ((1, 2, 300), "sliced columns")],
]


def twice(shape: Shape) -> Shape:
    return 2 * shape[0], shape[1], shape[2]


def joined(shape: Shape, dtype: torch.dtype, layout: str, seed: int = 1) -> Tensor:
    """A batch ``[2N, C, S]``, benign half first."""
    return activation(twice(shape), dtype, layout, seed)


def sensitivity_case(inputs: list[Tensor], norm: int, flags: int = 0) -> Case:
    answers = [(accumulate_dtype(inputs[0].dtype), (inputs[0].shape[1],))] * 2
    return Case("sensitivity", inputs, argument=norm, flags=flags, answers=answers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_distances_and_sensitivity(dtype: torch.dtype) -> None:
    pairs = [joined(shape, dtype, layout) for shape, layout in SHAPES]
    cases = [sensitivity_case([x], i, harness.JOINED) for x in pairs for i in range(len(NORMS))]
    cases += [sensitivity_case(list(reference.halves(x)), i) for x in pairs for i in range(len(NORMS))]
    answers = harness.run(cases)
    for of_one_buffer, of_two in zip(answers[: len(cases) // 2], answers[len(cases) // 2 :], strict=True):
        assert all(map(torch.equal, of_one_buffer, of_two))
    prepared = itertools.product(zip(pairs, SHAPES, strict=True), range(len(NORMS)))
    for ((x, (shape, _)), i), (distances, sensitivity) in zip(prepared, answers[: len(cases) // 2], strict=True):
        tolerance = 4 * unit(shape, dtype)
        for got, norm in ((distances, NORMS[i]), (sensitivity, 1)):
            expected = reference.neuron_sensitivity(*reference.halves(x.double()), norm)
            torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
        assert i > 0 or torch.equal(distances, sensitivity)


def test_cosine_of_nearly_equal_rows_keeps_its_digits() -> None:
    z = activation((2, 4, 500), torch.float32, "rows", 1)
    z_adv = z + 1e-4 * activation((2, 4, 500), torch.float32, "rows", 2)
    ((got, _),) = harness.run([sensitivity_case([z, z_adv], 3)])
    expected = reference.neuron_sensitivity(z.double(), z_adv.double(), "cosine")
    torch.testing.assert_close(got.double(), expected, rtol=4 * unit((2, 4, 500), torch.float32), atol=0)


GRADIENT_SHAPES: list[tuple[Shape, str]] = [
    *[(shape, layout) for shape, layout in SHAPES if not layout.startswith("sliced")],
    *[((2, 6, 24), "rows"), ((2, 3, 16), "rows"), ((2, 43, 5), "columns"), ((1, 40, 130), "columns")],
]


def stored(shape: Shape, layout: str) -> Shape:
    """The shape in the order of memory."""
    return shape if layout == "rows" else (shape[0], shape[2], shape[1])


def as_shape(x: Tensor, layout: str) -> Tensor:
    return x if layout == "rows" else x.transpose(1, 2)


def weights(channels: int, dtype: torch.dtype) -> Tensor:
    """Gradients ``[C]`` of the distances, 0 in a third of the channels and a run of them."""
    grad = torch.randn(channels, generator=torch.Generator().manual_seed(4)).to(accumulate_dtype(dtype))
    grad[1::3] = 0
    grad[8:33] = -0.0
    return grad


def gradient_tolerance(expected: Tensor, grad: Tensor, z: Tensor, z_adv: Tensor, norm: int, shape: Shape) -> Tensor:
    """What rounding along a row and to the dtype of ``z`` explains, for gradients computed in float64."""
    dtype = z.dtype
    scale = expected.abs()
    if NORMS[norm] == "cosine":
        sizes = [y.double().norm(dim=2, keepdim=True) for y in (z_adv.double() - z.double(), z, z_adv)]
        scale = (grad.double().abs()[:, None] / shape[0] * sum(sizes) / (sizes[1] * sizes[2])).nan_to_num(0, 0, 0)
    rounding = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0.0
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps if dtype.itemsize == 2 else 0.0
    return 4 * unit(shape, dtype) * scale + rounding * expected.abs() + smallest


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(dtype: torch.dtype) -> None:
    """The program makes reading a channel without weight a fault, where a whole access holds nothing else."""
    prepared, cases = [], []
    for (shape, layout), i in itertools.product(GRADIENT_SHAPES, range(len(NORMS))):
        z, z_adv = pair(shape, dtype, layout)
        z_adv[0, 0] = 0  # a zero row
        z_adv[0, -1] = z[0, -1]  # an unchanged one
        grad = weights(shape[1], dtype)
        z[:, grad == 0], z_adv[:, grad == 0, 0] = torch.nan, torch.inf
        cases.append(Case("backward", [z, z_adv, grad], argument=i, answers=[(dtype, stored(shape, layout))] * 2))
        prepared.append((z, z_adv, grad, i, shape, layout))
    for (z, z_adv, grad, i, shape, layout), got in zip(prepared, harness.run(cases), strict=True):
        finite = z.double().nan_to_num(), z_adv.double().nan_to_num(posinf=0.0)
        wanted = reference.neuron_sensitivity_backward(grad.double(), *finite, NORMS[i], 1)
        for expected, ours in zip(wanted, got, strict=True):
            ours = as_shape(ours, layout).double()
            tolerance = gradient_tolerance(expected, grad, z.nan_to_num(), z_adv.nan_to_num(posinf=0.0), i, shape)
            assert ((ours - expected).abs() <= tolerance).all(), (NORMS[i], shape, layout)
            assert (ours[:, grad == 0] == 0).all()


@pytest.mark.parametrize("norm", range(len(NORMS)))
def test_backward_writes_what_is_needed(norm: int) -> None:
    cases = []
    for shape, layout in (((2, 5, 24), "rows"), ((3, 7, 5), "columns")):
        x = joined(shape, torch.float32, layout)
        z, z_adv = reference.halves(x)
        grad, size = weights(shape[1], torch.float32), stored(shape, layout)
        for inputs, flags, sizes in (
            ([z, z_adv], 0, (size, size)),
            ([x], harness.JOINED, (size, size)),
            ([z, z_adv], harness.WITHOUT_BENIGN, ((0,), size)),
            ([z, z_adv], harness.WITHOUT_ADVERSARIAL, (size, (0,))),
        ):
            answers = [(torch.float32, s) for s in sizes]
            cases.append(Case("backward", [*inputs, grad], argument=norm, flags=flags, answers=answers))
    results = harness.run(cases)
    for both, of_one_buffer, second, first in (results[:4], results[4:]):
        assert all(map(torch.equal, both, of_one_buffer))
        assert torch.equal(both[0], first[0])
        assert torch.equal(both[1], second[1])


def with_special_values(x: Tensor) -> Tensor:
    """NaN of both signs, infinities and zeros of both signs in some channels."""
    payload = torch.tensor([-torch.nan, torch.nan, torch.inf, -torch.inf, -0.0, 0.0], dtype=x.dtype)
    for i, value in enumerate(payload):
        x[i % x.shape[0], i % x.shape[1], i % x.shape[2]] = value
    return x


def storage_of(x: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


def relu_case(x: Tensor, norm: int, flags: int) -> Case:
    answers = [(torch.uint8, tuple(storage_of(x).shape)), *[(accumulate_dtype(x.dtype), (x.shape[1],))] * 2]
    return Case("relu_tap", [x], argument=norm, flags=flags | harness.JOINED, answers=answers)


def relu_accumulate_case(x: Tensor, flags: int) -> Case:
    case, sums, maxima = accumulate_case(*reference.halves(x))
    answers = [(torch.uint8, tuple(storage_of(x).shape)), *case.answers]
    return Case("relu_accumulate", [x, sums, maxima], flags=flags | harness.JOINED, answers=answers)


def rectified(x: Tensor, flags: int) -> Tensor:
    """What torch.relu gives on CUDA, lying as ``x`` does; on the CPU it changes the bits of some NaN."""
    memory = storage_of(x).clone() if flags & harness.IN_PLACE else torch.full_like(storage_of(x), 0xFF)
    out = torch.empty(0, dtype=x.dtype).set_(memory.untyped_storage(), x.storage_offset(), x.shape, x.stride())
    out.copy_(torch.where(x < 0, 0.0, x))
    if not flags & harness.NEGATIVE_ZERO:
        out[out == 0] = 0.0
    return out


@pytest.mark.parametrize("flags", [0, harness.IN_PLACE, harness.NEGATIVE_ZERO])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_relu_tap(dtype: torch.dtype, flags: int) -> None:
    pairs = [with_special_values(joined(shape, dtype, layout)) for shape, layout in SHAPES]
    pairs += [joined(shape, dtype, "rows") for shape in ((1, 3, 258), (1, 2, 300), (1, 1, 4100))]
    outs = [rectified(x, flags) for x in pairs]
    cases = [relu_case(x, i % len(NORMS), flags) for i, x in enumerate(pairs)]
    expected = harness.run([sensitivity_case([out], i % len(NORMS), harness.JOINED) for i, out in enumerate(outs)])
    for (memory, *totals), out, want in zip(harness.run(cases), outs, expected, strict=True):
        assert torch.equal(memory, storage_of(out))  # bit for bit, and nothing beside it
        for got, total in zip(totals, want, strict=True):
            torch.testing.assert_close(got, total, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("flags", [harness.IN_PLACE, harness.IN_PLACE | harness.NEGATIVE_ZERO])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_relu_accumulate(dtype: torch.dtype, flags: int) -> None:
    shapes = [
        *SHAPES,
        ((2, 300, 1), "columns"),
        ((2, 4, 700), "columns"),
        ((1, 1, 4100), "rows"),
        ((1, 2, 258), "rows"),
    ]
    pairs = [joined(shape, dtype, layout) for shape, layout in shapes]
    pairs += [with_special_values(x.clone(memory_format=torch.preserve_format)) for x in pairs]
    outs = [rectified(x, flags) for x in pairs]
    cases = [relu_accumulate_case(x, flags) for x in pairs]
    expected = harness.run([accumulate_case(*reference.halves(out))[0] for out in outs])
    for (memory, *totals), out, want in zip(harness.run(cases), outs, expected, strict=True):
        assert torch.equal(memory, storage_of(out))  # bit for bit, and nothing beside it
        for got, total in zip(totals, want, strict=True):
            torch.testing.assert_close(got, total, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_relu_accumulate_of_nothing(layout: str) -> None:
    for shape in [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)]:
        x = joined(shape, torch.float32, layout)
        cases = [relu_accumulate_case(x, harness.IN_PLACE), accumulate_case(*reference.halves(x))[0]]
        (memory, *totals), want = harness.run(cases)
        assert torch.equal(memory, storage_of(x))
        for got, total in zip(totals, want, strict=True):
            torch.testing.assert_close(got, total, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("detach", [False, True])
def test_relu_tap_backward(dtype: torch.dtype, detach: bool) -> None:
    prepared, cases = [], []
    for (shape, layout), i in itertools.product(GRADIENT_SHAPES, range(len(NORMS))):
        out = joined(shape, dtype, layout).relu()
        grad_out = joined(shape, dtype, layout, 3)
        grad = weights(shape[1], dtype)
        out[0, grad == 0], out[-1, grad == 0, 0] = torch.nan, torch.inf
        out[0, :, -1] = -0.0
        flags = harness.JOINED | (harness.WITHOUT_BENIGN if detach else 0)
        answers = [(dtype, stored(twice(shape), layout))]
        cases.append(Case("relu_tap_backward", [out, grad_out, grad], argument=i, flags=flags, answers=answers))
        prepared.append((out, grad_out, grad, i, shape, layout))
    for (out, grad_out, grad, i, shape, layout), (got,) in zip(prepared, harness.run(cases), strict=True):
        ours = as_shape(got, layout)
        expected = reference.relu_tap_backward(grad_out.double(), grad.double(), out.double(), NORMS[i], 1, detach)
        unweighted = torch.where(out <= 0, 0, grad_out)[:, grad == 0]
        assert torch.equal(ours[:, grad == 0], unweighted)
        z, z_adv = reference.halves(out)
        for half, (a, b) in enumerate(zip(reference.halves(ours), reference.halves(expected), strict=True)):
            alone = reference.halves(expected - grad_out.double())[half]
            tolerance = gradient_tolerance(alone, grad, z, z_adv, i, shape) + torch.finfo(dtype).eps * b.abs()
            close = (a.double() - b).abs() <= tolerance
            assert close[:, grad != 0].all(), (NORMS[i], shape, layout)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_relu_tap_of_nothing(layout: str) -> None:
    for shape in [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)]:
        x, grad = joined(shape, torch.float32, layout), torch.ones(shape[1])
        cases = [relu_case(x, i, flags) for i in range(len(NORMS)) for flags in (0, harness.IN_PLACE)]
        answers = [(torch.float32, twice(shape))]
        cases += [
            Case("relu_tap_backward", [x, x, grad], argument=i, flags=harness.JOINED, answers=answers)
            for i in range(len(NORMS))
        ]
        results = harness.run(cases)
        for i, (memory, *totals) in enumerate(results[: 2 * len(NORMS)]):
            assert memory.numel() == 0
            for got, norm in zip(totals, (NORMS[i // 2], 1), strict=True):
                expected = reference.neuron_sensitivity(*reference.halves(x), norm)
                torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
        assert all(gradient.numel() == 0 for (gradient,) in results[2 * len(NORMS) :])


def test_mean_of_neurons() -> None:
    generator = torch.Generator().manual_seed(5)
    cases, expected = [], []
    for dtype, (channels, k) in itertools.product(DTYPES[:2], [(1, 1), (9, 5), (300, 256), (300, 257), (40, 1000)]):
        distances = torch.rand(channels, dtype=dtype, generator=generator)
        neurons = torch.randint(0, channels, (k,), generator=generator)
        for wrong in (None, -1, channels, 2**62):
            if wrong is not None:
                neurons = neurons.clone()
                neurons[k // 2] = wrong
            for copied in (0, 1):
                answers = [(dtype, ()), (torch.int64, (k,))]
                cases.append(Case("mean_of_neurons", [distances, neurons], argument=copied, answers=answers))
                cases[-1].shape = (1, channels, 1, True)
                mean = distances[neurons].double().mean() if wrong is None else torch.tensor(torch.nan).double()
                expected.append((mean, neurons if copied else torch.full((k,), -1)))
    for (loss, copy), (mean, neurons) in zip(harness.run(cases), expected, strict=True):
        torch.testing.assert_close(loss.double(), mean, rtol=torch.finfo(loss.dtype).eps * 4, atol=0, equal_nan=True)
        assert torch.equal(copy, neurons)


def test_weights_of_neurons() -> None:
    """What the gradient of the mean gives each distance: a neuron chosen twice gets twice, one out of range nothing."""
    generator = torch.Generator().manual_seed(6)
    cases, expected = [], []
    for dtype, (channels, k) in itertools.product(DTYPES[:2], [(1, 1), (9, 5), (300, 257), (700, 3), (40, 1000)]):
        neurons = torch.randint(0, channels, (k,), generator=generator)
        for wrong in (None, -1, channels, 2**62):
            grad = torch.randn(1, dtype=dtype, generator=generator)
            weights = grad.new_zeros(channels).index_add_(0, neurons, grad.expand(k), alpha=1 / k)
            given = neurons
            if wrong is not None:
                given = torch.cat((neurons, torch.tensor([wrong])))
                weights = grad.new_zeros(channels).index_add_(0, neurons, grad.expand(k), alpha=1 / (k + 1))
            cases.append(Case("weights_of_neurons", [grad, given], answers=[(dtype, (channels,))]))
            cases[-1].shape = (1, channels, 1, True)
            expected.append(weights)
    for (weights,), wanted in zip(harness.run(cases), expected, strict=True):
        assert torch.equal(weights, wanted)
