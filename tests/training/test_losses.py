"""The losses against slow ones, written by the papers' formulas sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast.nn import SNSLoss
from neurosens_fast.training import (
    alp_loss,
    mart_loss,
    pgd_at_loss,
    sns_objective,
    trades_loss,
    vulnerability_suppression_loss,
)

from .networks import data, network

SAMPLES, CLASSES = 7, 5


def logits(seed: int, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(SAMPLES, CLASSES, generator=generator, dtype=torch.float64)).to(dtype)


def labels() -> Tensor:
    return torch.tensor([0, 4, 2, 2, 1, 3, 0])


def activations(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(SAMPLES, 6, 3, 2), (SAMPLES, 9)]
    return [
        (
            torch.randn(*shape, generator=generator, dtype=torch.float64),
            torch.randn(*shape, generator=generator, dtype=torch.float64),
        )
        for shape in shapes
    ]


def probabilities(row: list[float]) -> list[float]:
    exps = [math.exp(value) for value in row]
    return [value / math.fsum(exps) for value in exps]


def slow_cross_entropy(z: Tensor, y: Tensor, smoothing: float = 0.0) -> float:
    total = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        p = probabilities(row)
        target = [smoothing / len(p) + (1 - smoothing) * (k == label) for k in range(len(p))]
        total.append(-math.fsum(t * math.log(q) for t, q in zip(target, p, strict=True)))
    return math.fsum(total) / len(total)


def slow_divergences(z: Tensor, z_adv: Tensor) -> list[float]:
    found = []
    for row, other in zip(z.tolist(), z_adv.tolist(), strict=True):
        p, q = probabilities(row), probabilities(other)
        found.append(math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    return found


def slow_trades(z: Tensor, z_adv: Tensor, y: Tensor, beta: float, smoothing: float) -> float:
    return slow_cross_entropy(z, y, smoothing) + beta * math.fsum(slow_divergences(z, z_adv)) / len(z)


def slow_mart(z: Tensor, z_adv: Tensor, y: Tensor, beta: float, smoothing: float) -> float:
    boost, weighted = [], []
    for row, other, label, apart in zip(
        z.tolist(), z_adv.tolist(), y.tolist(), slow_divergences(z, z_adv), strict=True
    ):
        q = probabilities(other)
        boost.append(-math.log(1 - max(value for k, value in enumerate(q) if k != label)))
        weighted.append(apart * (1 - probabilities(row)[label]))
    mean = (math.fsum(boost) + beta * math.fsum(weighted)) / len(z)
    return slow_cross_entropy(z_adv, y, smoothing) + mean


def slow_alp(z: Tensor, z_adv: Tensor, y: Tensor, weight: float, smoothing: float) -> float:
    squares = [(a - b) ** 2 for a, b in zip(z.flatten().tolist(), z_adv.flatten().tolist(), strict=True)]
    both = 0.5 * slow_cross_entropy(z, y, smoothing) + 0.5 * slow_cross_entropy(z_adv, y, smoothing)
    return both + weight * math.fsum(squares) / len(squares)


def slow_sensitivities(benign: Tensor, adversarial: Tensor) -> list[float]:
    found = []
    for c in range(benign.shape[1]):
        changes = (adversarial[:, c] - benign[:, c]).flatten().tolist()
        found.append(math.fsum(map(abs, changes)) / len(changes))
    return found


def slow_term(share: float) -> float:
    total = 0.0
    for pair in activations():
        values = sorted(slow_sensitivities(*pair), reverse=True)
        kept = values[: max(1, math.ceil(share * len(values)))]
        total += math.fsum(kept) / len(kept)
    return total


PAIRED: dict[str, tuple[Callable[..., Tensor], Callable[..., float], float]] = {
    "trades": (trades_loss, slow_trades, 6.0),
    "mart": (mart_loss, slow_mart, 5.0),
    "alp": (alp_loss, slow_alp, 0.5),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_adversarial_training(smoothing: float) -> None:
    expected = slow_cross_entropy(logits(1), labels(), smoothing)
    assert float(pgd_at_loss(logits(1), labels(), smoothing)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, 2.5])
@pytest.mark.parametrize("name", PAIRED)
def test_paired_losses(name: str, weight: float | None, smoothing: float) -> None:
    loss, slow, usual = PAIRED[name]
    given = (logits(1), logits(2), labels())
    found = loss(*given, label_smoothing=smoothing) if weight is None else loss(*given, weight, smoothing)
    expected = slow(*given, usual if weight is None else weight, smoothing)
    assert found.shape == ()
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", PAIRED)
def test_gradients(name: str) -> None:
    loss = PAIRED[name][0]
    z, z_adv = logits(1).requires_grad_(), logits(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, labels()), (z, z_adv))


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_logits_are_widened(name: str, dtype: torch.dtype) -> None:
    z, z_adv = logits(1, dtype=dtype), logits(2, dtype=dtype)
    found = PAIRED[name][0](z, z_adv, labels())
    assert found.dtype == torch.float32
    exact = PAIRED[name][0](z.double(), z_adv.double(), labels())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_mart_stays_finite_where_the_rival_takes_all() -> None:
    z = torch.full((2, CLASSES), -200.0).index_fill(1, torch.tensor([3]), 200.0).requires_grad_()
    loss = mart_loss(z, z * 1.0, torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(loss) == pytest.approx(400 + 400 - math.log(4), rel=1e-5)  # CE, and the four others share the rest
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("classify", ["adversarial", "benign", "half"])
def test_sns_objective(classify: str) -> None:
    z, z_adv = logits(1), logits(2)
    parts = {"benign": slow_cross_entropy(z, labels()), "adversarial": slow_cross_entropy(z_adv, labels())}
    parts["half"] = 0.5 * (parts["benign"] + parts["adversarial"])
    found = sns_objective(z_adv, labels(), activations(), 0.7, z, classify, k=0.3)
    assert float(found) == pytest.approx(parts[classify] + 0.7 * slow_term(0.3), rel=1e-12)


def test_vulnerability_suppression_is_sns_over_all_neurons() -> None:
    found = vulnerability_suppression_loss(logits(2), labels(), activations(), 0.7)
    assert float(found) == pytest.approx(slow_cross_entropy(logits(2), labels()) + 0.7 * slow_term(1.0), rel=1e-12)
    assert float(sns_objective(logits(2), labels(), activations(), 0.7, k=1.0)) == pytest.approx(
        float(found), rel=1e-12
    )


def test_the_term_of_a_module_and_of_pairs_agree() -> None:
    model = network(dtype=torch.float64).eval()
    (x, y), _ = data(8)
    x = x.double()
    outputs: dict[str, list[Tensor]] = {}
    hooks: list[Any] = [
        module.register_forward_hook(lambda _, __, out, name=name: outputs.setdefault(name, []).append(out))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ReLU)
    ]
    benign, adversarial = model(x), model(x.flip(0))
    for hook in hooks:
        hook.remove()
    pairs = [(first, second) for first, second in outputs.values()]
    with SNSLoss(model, k=0.3) as sns:
        with sns.pairs():
            joined = model(torch.cat([x, x.flip(0)]))
        whole = sns_objective(joined[len(x) :], y, sns.loss(), 2.0)
    torch.testing.assert_close(whole, sns_objective(adversarial, y, pairs, 2.0, benign, k=0.3), rtol=1e-10, atol=0)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="classify must be one of adversarial, benign, half, got 'both'"):
        sns_objective(logits(2), labels(), activations(), classify="both")
    with pytest.raises(ValueError, match="needs benign_logits"):
        sns_objective(logits(2), labels(), activations(), classify="half")
    with pytest.raises(ValueError, match="term has no layer"):
        sns_objective(logits(2), labels(), [])
