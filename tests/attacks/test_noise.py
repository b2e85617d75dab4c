"""Random numbers of samples: decided by seed, purpose and index alone, and of the distribution they should have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, APGDT, FFGSM, PGD, Attack, Square
from neurosens_fast.attacks.noise import Noise

from .networks import convolutional, images

CPU = torch.device("cpu")
KINDS = ("uniform", "normal", "laplace")


def seeded(index: list[int], seed: int = 3, purpose: int = 0) -> Noise:
    return Noise(seed, None, torch.tensor(index), CPU, purpose)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_index_alone(kind: str) -> None:
    noise = seeded([0, 1, 2, 7])
    first, second = getattr(noise, kind)(2, 3), getattr(noise, kind)(4)
    assert first.shape == (4, 2, 3)
    assert first.dtype == torch.float64
    other = seeded([7, 0])
    assert torch.equal(getattr(other, kind)(2, 3), first[[3, 0]])
    assert torch.equal(getattr(other, kind)(4), second[[3, 0]])
    noise.rows(torch.tensor([2]))
    third = getattr(noise, kind)(5)
    alone = seeded([2])
    for shape, expected in (((2, 3), first[2:3]), ((4,), second[2:3]), ((5,), third)):
        assert torch.equal(getattr(alone, kind)(*shape), expected)


def test_streams_differ() -> None:
    draws = [
        *seeded([0, 1, 10**12]).uniform(8),
        *seeded([0], seed=4).uniform(8),
        *seeded([0], seed=2**70).uniform(8),
        *seeded([0], purpose=1).uniform(8),
        *seeded([3], seed=0).uniform(8),
    ]
    for place, row in enumerate(draws):
        assert all(not (row == other).any() for other in draws[:place])


def test_distributions() -> None:
    """Mean and variance within six standard errors, for 200 streams of 500 draws."""
    count = 200 * 500
    for kind, mean, variance, fourth in (
        ("uniform", 0.5, 1 / 12, 1 / 80),
        ("normal", 0.0, 1.0, 3.0),
        ("laplace", 0.0, 2.0, 24.0),
    ):
        for noise in (seeded(list(range(200))), Noise(None, None, torch.arange(200), CPU)):
            drawn: Tensor = getattr(noise, kind)(500)
            assert abs(drawn.mean() - mean) < 6 * (variance / count) ** 0.5
            assert abs((drawn - mean).square().mean() - variance) < 6 * ((fourth - variance**2) / count) ** 0.5
    flat = seeded([0]).uniform(10_000)
    assert flat.min() >= 0
    assert flat.max() < 1


def test_generators_and_the_global_one() -> None:
    index = torch.arange(3)
    generator = torch.Generator().manual_seed(1)
    own = Noise(None, generator, index, CPU)
    state = torch.get_rng_state()
    first = own.uniform(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(own.uniform(2), first)
    torch.manual_seed(1)
    shared = Noise(None, None, index, CPU)
    assert torch.equal(shared.uniform(2), first)
    shared.rows(torch.tensor([0, 2]))
    assert shared.normal(4).shape == (2, 4)
    assert seeded([]).uniform(2).shape == (0, 2)


RANDOM: list[Callable[..., Attack]] = [
    lambda model, **options: PGD(model, 0.1, 0.02, 3, **options),
    lambda model, **options: PGD(model, 0.5, 0.1, 3, norm="l2", **options),
    lambda model, **options: PGD(model, 3.0, 1.0, 3, norm="l1", **options),
    lambda model, **options: FFGSM(model, 0.1, 0.1, **options),
    lambda model, **options: APGD(model, 0.05, 6, restarts=2, **options),
    lambda model, **options: APGD(model, 0.3, 6, "l2", restarts=2, **options),
    lambda model, **options: APGDT(model, 0.05, 4, target_classes=2, **options),
    lambda model, **options: Square(model, 0.05, 70, **options),
]


@pytest.mark.parametrize("make", RANDOM)
@pytest.mark.parametrize("compaction", [False, True])
def test_examples_depend_on_neither_batches_nor_order(make: Callable[..., Attack], compaction: bool) -> None:
    model, (x, y) = convolutional(torch.float64), images(8, torch.float64)
    attack = make(model, seed=6, compaction=compaction)
    index = torch.tensor([3, 10, 4, 0, 99, 5, 6, 7])
    state = torch.get_rng_state()
    whole = attack(x, y, index)
    assert torch.equal(torch.get_rng_state(), state)
    for size in (1, 3):
        parts = zip(x.split(size), y.split(size), index.split(size), strict=True)
        joined = torch.cat([attack(*part) for part in parts])
        torch.testing.assert_close(joined, whole, rtol=0, atol=1e-12)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    torch.testing.assert_close(attack(x[order], y[order], index[order]), whole[order], rtol=0, atol=1e-12)
    assert not torch.equal(attack(x, y), whole), "without an index the samples are numbered from 0"
    assert torch.equal(attack(x, y), attack(x, y, torch.arange(8, dtype=torch.int32)))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.arange(7), r"one whole number per sample, \[8\]"),
        (torch.rand(8), "one whole number per sample"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "one whole number per sample"),
        (torch.arange(8) - 1, "index must not be negative"),
    ],
)
def test_refused_indices(index: Any, message: str) -> None:
    model: nn.Module = convolutional()
    with pytest.raises(ValueError, match=message):
        PGD(model, seed=0)(*images(8), index)
