"""FGSM and PGD against naive implementations, and the borders of their balls measured in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.attacks.base import NORMS

EPS = 8 / 255


def classifier(dtype: torch.dtype = torch.float32) -> Any:
    """Random weights, batch norm in training mode with uneven running statistics."""
    torch.manual_seed(1)
    model: Any = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5)
    )
    model[1].running_mean.uniform_(-0.2, 0.2)
    return model.to(dtype)


def samples(dtype: torch.dtype = torch.float32, count: int = 6) -> tuple[Tensor, Tensor]:
    """Images ``[count, 2, 8, 8]`` with many values at and near 0 and 1, and labels."""
    generator = torch.Generator().manual_seed(2)
    images = (torch.rand(count, 2, 8, 8, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return images.to(dtype), torch.randint(0, 5, (count,), generator=generator)


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    cross_entropy(model.eval()(x), y).backward()
    assert x.grad is not None
    return x.grad


def naive_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int) -> Tensor:
    x_adv = x.clone()
    for _ in range(steps):
        x_adv = x_adv + alpha * gradient(model, x_adv, y).sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def naive_pgd_l2(model: nn.Module, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int) -> Tensor:
    x_adv = x.clone()
    for _ in range(steps):
        direction = gradient(model, x_adv, y)
        x_adv = x_adv + alpha * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = x_adv - x
        change = change * (eps / change.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
        x_adv = (x + change).clamp(0, 1)
    return x_adv


def test_fgsm_equals_its_formula() -> None:
    model, (x, y) = classifier(torch.float64), samples(torch.float64)
    expected = (x + EPS * gradient(model, x, y).sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(model, eps=EPS)(x, y), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_pgd_equals_a_naive_one(steps: int) -> None:
    model, (x, y) = classifier(torch.float64), samples(torch.float64)
    attack = PGD(model, eps=EPS, alpha=3 / 255, steps=steps, random_start=False)
    torch.testing.assert_close(attack(x, y), naive_pgd(model, x, y, EPS, 3 / 255, steps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_pgd_l2_equals_a_naive_one(steps: int) -> None:
    model, (x, y) = classifier(torch.float64), samples(torch.float64)
    attack = PGD(model, eps=0.5, alpha=0.2, steps=steps, random_start=False, norm="l2")
    torch.testing.assert_close(attack(x, y), naive_pgd_l2(model, x, y, 0.5, 0.2, steps), rtol=0, atol=1e-12)


def test_pgd_l2_with_a_tiny_gradient_still_moves() -> None:
    model, (x, y) = classifier(), samples()
    nn.init.constant_(model[5].weight, 0)
    with torch.no_grad():
        model[5].weight[0] = 1e-30
    x = x.clamp(0.3, 0.7)
    change = PGD(model, eps=0.5, alpha=0.2, steps=1, random_start=False, norm="l2")(x, y) - x
    torch.testing.assert_close(change.flatten(1).norm(dim=1), torch.full((6,), 0.2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_never_beyond_the_border_in_float64(dtype: torch.dtype, norm: str, random_start: bool) -> None:
    model, (x, y) = classifier(dtype), samples(dtype, 40)
    eps = {"linf": EPS, "l2": 0.3, "l1": 2.0}[norm]
    attack = PGD(model, eps=eps, alpha=eps, steps=3, random_start=random_start, norm=norm, seed=0, sparsity=0.5)
    result = attack(x, y)
    change = result.double() - x.double()
    reached = torch.linalg.vector_norm(change.flatten(1), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    assert (reached <= eps).all()
    assert (reached > 0.5 * eps).all()
    assert result.aminmax().min >= 0
    assert result.aminmax().max <= 1
    assert result.dtype == dtype
    assert not result.requires_grad


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_and_steps_zero_return_the_input(norm: str) -> None:
    model, (x, y) = classifier(), samples()
    for attack in (PGD(model, eps=0.0, norm=norm), PGD(model, eps=0.1, steps=0, norm=norm)):
        result = attack(x, y)
        assert torch.equal(result, x)
        assert result.data_ptr() != x.data_ptr()
    assert torch.equal(FGSM(model, eps=0)(x, y), x)
    assert PGD(model)(x[:0], y[:0]).shape == (0, 2, 8, 8)


@pytest.mark.parametrize("norm", NORMS)
def test_seed_decides_the_random_start(norm: str) -> None:
    model, (x, y) = classifier(), samples()
    attack = PGD(model, seed=3, steps=1, norm=norm)
    state = torch.get_rng_state()
    first = attack(x, y)
    assert torch.equal(first, attack(x, y))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, PGD(model, seed=4, steps=1, norm=norm)(x, y))


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_seed_a_generator_or_the_global_one_decides(norm: str) -> None:
    model, (x, y) = classifier(), samples()
    drawn = PGD(model, generator=torch.Generator().manual_seed(3), steps=1, norm=norm)
    state = torch.get_rng_state()
    first = drawn(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, drawn(x, y)), "a generator moves on"
    torch.manual_seed(3)
    attack = PGD(model, steps=1, norm=norm)
    assert torch.equal(first, attack(x, y)), "without either, torch.manual_seed decides"
    assert not torch.equal(first, attack(x, y))


def sort_based_l1(change: Tensor, radius: float) -> Tensor:
    """The projection of rows onto the L1 ball by sorting (Duchi et al., ICML 2008)."""
    sizes = change.abs().sort(dim=1, descending=True).values
    places = torch.arange(1, change.shape[1] + 1)
    excess = (sizes.cumsum(1) - radius) / places
    last = (sizes > excess).sum(1, keepdim=True) - 1
    shrunk = change.sign() * (change.abs() - excess.gather(1, last)).clamp(min=0)
    return torch.where(change.abs().sum(1, keepdim=True) <= radius, change, shrunk)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_pgd_l1_equals_a_naive_one(sparsity: float) -> None:
    model, (x, y) = classifier(torch.float64), samples(torch.float64)
    eps, alpha, expected = 3.0, 2.0, x.clone()
    for _ in range(4):
        slope = gradient(model, expected, y).flatten(1)
        if sparsity:
            border = slope.abs().sort(dim=1).values[:, -13:-12]  # 128 elements, a tenth of them kept
            slope = slope.sign() * (slope.abs() >= border)
        step = alpha * slope / slope.abs().sum(1, keepdim=True)
        change = sort_based_l1((expected - x).flatten(1) + step, eps)
        expected = (x + change.view_as(x)).clamp(0, 1)
    attack = PGD(model, eps=eps, alpha=alpha, steps=4, random_start=False, norm="l1", sparsity=sparsity)
    torch.testing.assert_close(attack(x, y), expected, rtol=0, atol=1e-12)
    assert f"norm='l1', sparsity={sparsity:.6g})" in repr(attack)


def test_a_sparsity_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="sparsity is the share of elements left out and must be below 1, got 1"):
        PGD(classifier(), norm="l1", sparsity=1)


def test_loss_rises_and_torchattacks_names() -> None:
    model, (x, y) = classifier(), samples()
    attack = PGD(model, eps=0.1, alpha=0.02, steps=5, random_start=False)
    names = (attack.attack, attack.model, attack.eps, attack.alpha, attack.steps, attack.random_start)
    assert names == ("PGD", model, 0.1, 0.02, 5, False)
    assert repr(attack) == "PGD(eps=0.1, alpha=0.02, steps=5, random_start=False, norm='linf')"
    assert repr(FGSM(model, eps=0.25, high=2)) == "FGSM(eps=0.25, high=2)"
    model.eval()
    assert cross_entropy(model(attack(x, y)), y) > cross_entropy(model(x), y) + 0.01


def test_batch_size_does_not_matter() -> None:
    model, (x, y) = classifier(torch.float64), samples(torch.float64)
    attack = PGD(model, random_start=False, steps=3)
    alone = torch.cat([attack(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(attack(x, y), alone, rtol=0, atol=1e-12)
