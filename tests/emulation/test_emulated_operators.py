"""The CUDA operators as a whole, checks and choice of kernels included, on CPU tensors of every layout.

Their sources are compiled by the host compiler, kernels run in the emulation; see ``build_operators``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import _C, reference
from neurosens_fast.statistics import new_totals

from . import harness
from .harness import NORMS, accumulate_dtype, unit

# The sources need the headers of the torch that the extension was built with; the oldest torch runs that binary.
BUILT_WITH = _C.build_info()["torch_built"]
pytestmark = pytest.mark.skipif(
    torch.__version__ != BUILT_WITH, reason=f"compiles the operators against the headers of torch {BUILT_WITH}"
)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module")
def ops() -> Any:
    torch.ops.load_library(str(harness.build_operators()))
    return torch.ops.emulated


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# Batches of 2N with the dimension of their channels; what a slice or a permutation makes of them is kept.
LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], int]] = {
    "contiguous": (lambda x: x, (4, 5, 6, 4), 1),
    "odd": (lambda x: x, (6, 5, 3, 3), 1),
    "long": (lambda x: x, (2, 2, 8200), 1),
    "linear": (lambda x: x, (10, 12), 1),
    "tokens": (lambda x: x, (4, 7, 6), -1),
    "channel in the middle": (lambda x: x, (2, 3, 4, 5), 2),
    "channel last": (lambda x: x, (2, 3, 4, 5), 3),
    "channels_last": (lambda x: x.to(memory_format=torch.channels_last), (4, 16, 5, 30), 1),
    "odd channels_last": (lambda x: x.to(memory_format=torch.channels_last), (4, 7, 5, 3), 1),
    "one channel": (lambda x: x, (4, 1, 6, 4), 1),
    "samples sliced": (lambda x: x[::2], (12, 5, 8), 1),
    "channels sliced": (lambda x: x[:, 2:7], (4, 9, 8), 1),
    "linear sliced": (lambda x: x[:, ::2], (10, 24), 1),
    "tokens sliced": (lambda x: x[..., 3:9], (4, 7, 12), 2),
    "width sliced": (lambda x: x[..., 1:5], (4, 5, 6, 8), 1),
    "unaligned": (lambda x: x[1:].view(4, 5, 8), (4 * 5 * 8 + 1,), 1),
    "positions transposed": (lambda x: x.transpose(2, 3), (4, 5, 6, 4), 1),
    "samples last": (lambda x: x.permute(2, 0, 1), (5, 6, 4), 1),
    "expanded positions": (lambda x: x.expand(4, 5, 6, 4), (4, 5, 1, 4), 1),
    "expanded channels": (lambda x: x.expand(4, 5, 6, 4), (4, 1, 6, 4), 1),
    "no samples": (lambda x: x, (0, 3, 4), 1),
    "no positions": (lambda x: x, (4, 3, 0), 1),
}


class Given:
    """A batch in one layout and dtype, and what rounding explains."""

    def __init__(self, layout: str, dtype: torch.dtype) -> None:
        of, shape, self.channel_dim = LAYOUTS[layout]
        self.pair = of(rand(*shape).to(dtype))
        self.halves = reference.halves(self.pair)
        self.channels = self.pair.shape[self.channel_dim]
        self.samples = self.pair.shape[0] // 2
        self.positions = self.pair.numel() // max(1, self.pair.shape[0] * self.channels)
        self.grad = rand(self.channels).to(accumulate_dtype(dtype))
        self.grad[1::2] = 0
        self.tolerance = 4 * unit((self.samples, self.channels, self.positions), dtype)
        self.rounding = 2 * torch.finfo(dtype).eps

    def check(self, got: Tensor, expected: Tensor, rounded: bool = False) -> None:
        tolerance = self.tolerance + (self.rounding if rounded else 0)
        assert got.shape == expected.shape
        torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.fixture(params=list(itertools.product(LAYOUTS, DTYPES)), ids=lambda p: f"{p[0]}-{p[1]}")
def given(request: pytest.FixtureRequest) -> Given:
    return Given(*request.param)


def test_statistics(ops: Any, given: Given) -> None:
    z, z_adv = given.halves
    wide = z.double(), z_adv.double()
    rows = ops.pair_statistics(z, z_adv, given.channel_dim)
    scale = 1 + reference.pair_statistics(wide[0].abs(), -wide[1].abs(), given.channel_dim).abs()
    expected = reference.pair_statistics(*wide, given.channel_dim)
    given.check((rows.double() / scale).nan_to_num(), (expected / scale).nan_to_num())
    sums, maxima = new_totals(given.channels)
    ops.accumulate_pair_statistics_(sums, maxima, z, z_adv, given.channel_dim)
    assert torch.equal(maxima, rows[..., -3:].amax(0).double() if given.samples else maxima)
    terms = reference.sample_terms(expected, given.positions).sum(0)
    given.check(sums[:, :2], terms[:, :2])


@pytest.mark.parametrize("norm", NORMS)
def test_sensitivities(ops: Any, given: Given, norm: int | str) -> None:
    z, z_adv = given.halves
    expected = [reference.neuron_sensitivity(z.double(), z_adv.double(), n, given.channel_dim) for n in (norm, 1)]
    together = ops.paired_sensitivity(given.pair, str(norm), given.channel_dim, False)
    for got, want in zip(together, expected, strict=True):
        assert got.dtype == accumulate_dtype(given.pair.dtype)
        given.check(got, want)
    assert not given.channels or together[0].data_ptr() != together[1].data_ptr()
    assert torch.equal(
        ops.neuron_sensitivity(z, z_adv, str(norm), given.channel_dim).nan_to_num(), together[0].nan_to_num()
    )


def same_layout(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() and a.dtype == b.dtype


@pytest.mark.parametrize("norm", NORMS)
def test_gradients(ops: Any, given: Given, norm: int | str) -> None:
    z, z_adv = given.halves
    elsewhere = z_adv.transpose(0, -1).contiguous().transpose(0, -1)
    for second, needs in itertools.product((z_adv, elsewhere), itertools.product((True, False), repeat=2)):
        got = ops.neuron_sensitivity_backward(given.grad, z, second, str(norm), given.channel_dim, *needs)
        wanted = reference.neuron_sensitivity_backward(
            given.grad.double(), z.double(), second.double(), norm, given.channel_dim, *needs
        )
        for gradient, expected, like, needed in zip(got, wanted, (z, second), needs, strict=True):
            given.check(gradient, expected, rounded=True)
            assert not needed or same_layout(gradient, torch.empty_like(like))
    if given.channels:
        loss_gradient, neurons = given.grad[:1], torch.tensor([given.channels - 1, 0, 0])
        weighted = loss_gradient, neurons, z, z_adv, str(norm), given.channel_dim
        wide = loss_gradient.double(), neurons, z.double(), z_adv.double(), norm, given.channel_dim
        for gradient, expected in zip(
            ops.sns_loss_backward(*weighted), reference.sns_loss_backward(*wide), strict=True
        ):
            given.check(gradient, expected, rounded=True)
    for detach in (False, True):
        gradient = ops.paired_sensitivity_backward(given.grad, given.pair, str(norm), given.channel_dim, detach)
        expected = reference.paired_sensitivity_backward(
            given.grad.double(), given.pair.double(), norm, given.channel_dim, detach
        )
        given.check(gradient, expected, rounded=True)
        assert same_layout(gradient, torch.empty_like(given.pair))


@pytest.mark.parametrize("norm", NORMS)
def test_relu_tap(ops: Any, given: Given, norm: int | str) -> None:
    before = given.pair.clone()
    out, *totals = ops.relu_tap(given.pair, str(norm), given.channel_dim, False)
    assert torch.equal(given.pair, before)
    assert torch.equal(out, given.pair.relu())
    assert same_layout(out, torch.empty_like(given.pair))
    expected = ops.paired_sensitivity(given.pair.relu(), str(norm), given.channel_dim, False)
    for got, want in zip(totals, expected, strict=True):
        given.check(got, want)
    incoming = [rand(*out.shape).to(out.dtype), torch.empty_like(out).fill_(2), out.new_ones(()).expand(out.shape)]
    for grad_out, detach in itertools.product(incoming, (False, True)):
        gradient = ops.relu_tap_backward(grad_out, given.grad, out, str(norm), given.channel_dim, detach)
        wide = grad_out.double(), given.grad.double(), out.double()
        wanted = reference.relu_tap_backward(*wide, norm, given.channel_dim, detach)
        given.check(gradient, wanted, rounded=True)
        assert same_layout(gradient, torch.empty_like(out))


def test_relu_tap_in_place(ops: Any, given: Given) -> None:
    if 0 in given.pair.stride() and given.pair.numel():
        given.pair = given.pair.contiguous()  # torch does not write to expanded tensors either
    memory = torch.empty(0, dtype=given.pair.dtype).set_(given.pair.untyped_storage())
    place = given.pair.shape, given.pair.stride(), given.pair.storage_offset()
    wanted, expected = memory.clone(), ops.relu_tap(given.pair, "1", given.channel_dim, False)
    wanted.as_strided(*place).relu_()
    totals = ops.relu_tap_(given.pair, "1", given.channel_dim)
    assert torch.equal(memory, wanted)
    for got, want in zip(totals, expected[1:], strict=True):
        given.check(got, want)


def test_relu_accumulate(ops: Any, given: Given) -> None:
    if 0 in given.pair.stride() and given.pair.numel():
        given.pair = given.pair.contiguous()
    memory = torch.empty(0, dtype=given.pair.dtype).set_(given.pair.untyped_storage())
    place = given.pair.shape, given.pair.stride(), given.pair.storage_offset()
    wanted, out = memory.clone(), given.pair.relu()
    wanted.as_strided(*place).relu_()
    totals, expected = (new_totals(given.channels) for _ in range(2))
    ops.accumulate_pair_statistics_(*expected, *reference.halves(out), given.channel_dim)
    ops.relu_accumulate_pair_statistics_(*totals, given.pair, given.channel_dim)
    assert torch.equal(memory, wanted)
    for got, want in zip(totals, expected, strict=True):
        given.check(got, want)


@pytest.mark.parametrize("norm", NORMS)
def test_sns_loss(ops: Any, norm: int | str) -> None:
    z, z_adv = rand(3, 9, 4), rand(3, 9, 5)[..., 1:]
    wide = z.double(), z_adv.double()
    loss, chosen, sensitivity = ops.sns_loss(z, z_adv, 4, str(norm), 1, None)
    expected = reference.sns_loss(*wide, 4, norm)
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(sensitivity.double(), expected[2], rtol=1e-6, atol=0)
    assert torch.equal(chosen, expected[1])
    for neurons in (torch.tensor([8, 0, 0]), torch.tensor([1, 5, 2, 5])[::2]):
        loss, chosen, _ = ops.sns_loss(z, z_adv, len(neurons), str(norm), 1, neurons)
        expected = reference.sns_loss(*wide, len(neurons), norm, 1, neurons)
        torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
        assert torch.equal(chosen, neurons)
        assert chosen.data_ptr() != neurons.data_ptr()
    assert ops.sns_loss(z, z_adv, 2, str(norm), 1, torch.tensor([0, 9]))[0].isnan()


def test_project_step_of_every_layout(ops: Any, given: Given) -> None:
    origin, gradient = given.pair.contiguous().sigmoid(), rand(*given.pair.shape).to(given.pair.dtype)
    ours = torch.empty_like(given.pair).copy_(origin)
    wanted = ours.clone()
    ops.project_step_(ours, gradient, origin, 2 / 255, 8 / 255, "linf", 0.0, 1.0)
    reference.project_step_(wanted, gradient, origin, 2 / 255, 8 / 255)
    assert torch.equal(ours, wanted)


@pytest.mark.parametrize("norm", ["l2", "l1", "momentum"])
def test_steps_with_a_norm_of_every_layout(ops: Any, given: Given, norm: str) -> None:
    origin, gradient = given.pair.contiguous().sigmoid(), rand(*given.pair.shape).to(given.pair.dtype)
    ours, momentum = torch.empty_like(given.pair).copy_(origin), torch.zeros_like(given.pair)
    wanted, expected = ours.clone(), momentum.clone()
    if norm == "momentum":
        ops.momentum_step_(ours, momentum, gradient, origin, 0.05, 0.1, 0.9, "linf", 0.0, 1.0)
        reference.momentum_step_(wanted, expected, gradient, origin, 0.05, 0.1, 0.9)
    else:
        ops.project_step_(ours, gradient, origin, 0.3, 0.2, norm, 0.0, 1.0)
        reference.project_step_(wanted, gradient, origin, 0.3, 0.2, norm)
    for got, want in ((ours, wanted), (momentum, expected)):
        torch.testing.assert_close(got, want, rtol=torch.finfo(got.dtype).eps, atol=0)


REFUSED: list[tuple[str, Callable[[Any], Any]]] = [
    ("odd batch", lambda ops: ops.relu_tap(torch.ones(3, 4), "1", 1, False)),
    ("odd batch", lambda ops: ops.relu_tap_(torch.ones(3, 4), "1", 1)),
    ("odd batch", lambda ops: ops.relu_accumulate_pair_statistics_(*new_totals(4), torch.ones(3, 4), 1)),
    ("channel_dim 0", lambda ops: ops.relu_accumulate_pair_statistics_(*new_totals(4), torch.ones(4, 4), 0)),
    ("sums must", lambda ops: ops.relu_accumulate_pair_statistics_(*new_totals(3), torch.ones(2, 4), 1)),
    ("clone it", lambda ops: ops.relu_accumulate_pair_statistics_(*new_totals(4), torch.ones(2, 1).expand(2, 4), 1)),
    ("2N", lambda ops: ops.paired_sensitivity(torch.ones(3, 4), "1", 1, False)),
    ("2N", lambda ops: ops.paired_sensitivity(torch.ones(4), "1", 0, False)),
    ("channel_dim 5", lambda ops: ops.paired_sensitivity(torch.ones(4, 3), "1", 5, False)),
    ("channel_dim 0", lambda ops: ops.relu_tap(torch.ones(4, 3), "1", 0, False)),
    ('got "3"', lambda ops: ops.paired_sensitivity(torch.ones(4, 3), "3", 1, False)),
    ("float16", lambda ops: ops.paired_sensitivity(torch.ones(4, 3, dtype=torch.int64), "1", 1, False)),
    ("adversarial", lambda ops: ops.neuron_sensitivity(torch.ones(4, 3), torch.ones(4, 3).double(), "1", 1)),
    ("grad_out", lambda ops: ops.relu_tap_backward(torch.ones(4, 3), torch.ones(4), torch.ones(4, 4), "1", 1, False)),
    ("grad must", lambda ops: ops.relu_tap_backward(torch.ones(4, 4), torch.ones(3), torch.ones(4, 4), "1", 1, False)),
    ("norm must", lambda ops: ops.project_step_(*[torch.ones(4, 3)] * 3, 0.1, 0.1, "l3", 0.0, 1.0)),
    ("a norm per sample", lambda ops: ops.project_step_(*[torch.ones(())] * 3, 0.1, 0.1, "l2", 0.0, 1.0)),
    ("the only one", lambda ops: ops.momentum_step_(*[torch.ones(4, 3)] * 4, 0.1, 0.1, 1.0, "l2", 0.0, 1.0)),
    ("k must", lambda ops: ops.sns_loss(torch.ones(4, 3), torch.ones(4, 3), 4, "1", 1, None)),
    ("neurons", lambda ops: ops.sns_loss(torch.ones(4, 3), torch.ones(4, 3), 1, "1", 1, torch.ones(1))),
]


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[f"{i}: {text}" for i, (text, _) in enumerate(REFUSED)])
def test_wrong_arguments_are_refused(ops: Any, number: int) -> None:
    text, call = REFUSED[number]
    with pytest.raises(RuntimeError, match=text):
        call(ops)
