"""The CUDA kernels of the attacks' steps in the L2 and L1 ball and with momentum, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurosens_fast import reference

from . import harness
from .harness import DTYPES, Case

SHAPES = [(3, 1), (70, 5), (2, 33), (3, 4096), (2, 4097), (2, 13000), (1, 20480), (0, 3), (3, 0)]
"""Samples of one part and of several, of which the last is not whole; wide accesses and single ones."""


def tensors(shape: tuple[int, int], dtype: torch.dtype, offset: int) -> list[Tensor]:
    """Adversarial examples inside and outside of the ball, gradients and origins, ``[N, S]``."""
    generator = torch.Generator().manual_seed(sum(shape) + offset)
    count = shape[0] * shape[1]
    origin = torch.rand(count, dtype=torch.float64, generator=generator)
    spread = torch.linspace(0.01, 0.3, max(1, shape[0]), dtype=torch.float64).repeat_interleave(shape[1])
    change = spread[:count] * torch.randn(count, dtype=torch.float64, generator=generator)
    change[::5] *= 20
    gradient = torch.randn(count, dtype=torch.float64, generator=generator)
    gradient[: shape[1]] = 0  # a sample that only is projected
    placed = []
    for values in (origin + change, gradient, origin):
        memory = torch.zeros(count + offset, dtype=dtype)
        memory[offset:] = values.to(dtype)
        placed.append(memory[offset:].view(shape))
    return placed


def close(got: Tensor, want: Tensor) -> None:
    """Another order of float64 additions may lead to the next value of a dtype."""
    if got.dtype == torch.float64:
        return torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    up, down = (torch.nextafter(want, torch.full_like(want, end)) for end in (torch.inf, -torch.inf))
    assert ((got >= down) & (got <= up)).all()
    return None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_project_ball(dtype: torch.dtype) -> None:
    cases, expected = [], []
    for shape in SHAPES:
        for norm in ("l2", "l1"):
            offset = 1 if shape == (2, 33) else 0
            adversarial, gradient, origin = tensors(shape, dtype, offset)
            eps = 0.1 * shape[1] ** (0.5 if norm == "l2" else 1) + 1e-3
            inputs = [adversarial.clone(), gradient, origin]
            flat = (*shape, 1, False)
            answers = [(dtype, shape)]
            numbers = (eps / 4, eps, 0.0, 1.0)
            cases.append(
                Case("project_ball", inputs, argument=int(norm == "l2"), numbers=numbers, shape=flat, answers=answers)
            )
            reference.project_step_(adversarial, gradient, origin, eps / 4, eps, norm)
            expected.append((adversarial, origin, norm, eps))
    for (got,), (want, origin, norm, eps) in zip(harness.run(cases), expected, strict=True):
        close(got, want)
        reached = torch.linalg.vector_norm(got.double() - origin.double(), 2 if norm == "l2" else 1, dim=1)
        assert (reached <= eps).all()


def test_many_newton_steps() -> None:
    """More than all parts of a sample share, so that one block ends the search."""
    change = torch.stack([torch.logspace(0, -250, 9000, dtype=torch.float64), torch.ones(9000).double()])
    origin = torch.zeros_like(change)
    numbers = (0.0, 1e-200, -9.0, 9.0)
    case = Case("project_ball", [change.clone(), origin, origin], numbers=numbers, shape=(2, 9000, 1, False))
    case.answers = [(torch.float64, (2, 9000))]
    ((got,),) = harness.run([case])
    reference.project_step_(change, origin, origin, *numbers[:2], "l1", -9.0, 9.0)
    torch.testing.assert_close(got, change, rtol=1e-9, atol=1e-212)
    assert (got.sum(1) <= numbers[1]).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_in_its_sample(dtype: torch.dtype) -> None:
    cases = []
    for argument in (0, 1):
        for position in range(3):
            inputs = tensors((3, 4100), dtype, 0)
            inputs[position][1, 4099] = torch.nan
            numbers, shape = (0.1, 0.5, 0.0, 1.0), (3, 4100, 1, False)
            answers = [(dtype, (3, 4100))]
            cases.append(Case("project_ball", inputs, argument=argument, numbers=numbers, shape=shape, answers=answers))
    for (got,) in harness.run(cases):
        assert got.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_momentum_step(dtype: torch.dtype) -> None:
    cases, expected = [], []
    for shape in SHAPES:
        adversarial, gradient, origin = tensors(shape, dtype, 0)
        momentum = torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(dtype)
        inputs = [adversarial.clone(), momentum.clone(), gradient, origin]
        numbers, answers = (2 / 255, 8 / 255, 0.0, 1.0), [(dtype, shape), (dtype, shape)]
        cases.append(Case("momentum", inputs, argument=9, numbers=numbers, shape=(*shape, 1, False), answers=answers))
        reference.momentum_step_(adversarial, momentum, gradient, origin, *numbers[:2], 0.9)
        expected.append((adversarial, momentum))
    for (got, got_momentum), (want, momentum) in zip(harness.run(cases), expected, strict=True):
        close(got_momentum, momentum)
        same = got_momentum.sign() == momentum.sign()
        assert (same | (momentum.abs() < 1e-6)).all()
        assert torch.equal(got[same], want[same])
