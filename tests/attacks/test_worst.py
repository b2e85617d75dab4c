"""Worst: each attack works on who still stands, and who falls to any is fallen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import FGSM, PGD, Worst, judged, run_attack

from .networks import blobs, trained


class Recorded:
    """An attack of this package as a stranger's callable, which notes what it got."""

    def __init__(self, attack: Any) -> None:
        self.attack, self.model = attack, attack.model
        self.batches: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.batches.append((x, y))
        return self.attack(x, y)


def test_each_attack_gets_who_still_stands() -> None:
    model, (x, y) = trained(), blobs(60)
    y = torch.cat([y[:50], (y[50:] + 1) % 3])  # the last ten are wrong from the start
    attacks = [Recorded(PGD(model, eps, eps / 4, 6, random_start=False)) for eps in (0.03, 0.05, 0.2)]
    result = Worst(attacks)(x, y)
    expected, rows = x.clone(), judged(model, x, y)[0].nonzero()[:, 0]
    assert len(rows) <= 50
    for attack in attacks:
        ((images, labels),) = attack.batches
        assert torch.equal(images, x[rows])
        assert torch.equal(labels, y[rows])
        tried = attack.attack(x[rows], y[rows])
        right, _ = judged(model, tried, y[rows])
        expected[rows[~right]] = tried[~right]
        assert 0 < int((~right).sum()) <= len(rows)
        rows = rows[right]
    fell = torch.ones(60, dtype=torch.bool)
    fell[rows] = False
    assert torch.equal(result[fell], expected[fell])
    assert torch.equal(~judged(model, result, y)[0], fell)
    assert torch.equal(result[50:], x[50:])


def test_a_sample_is_fooled_if_any_attack_fools_it() -> None:
    model, (x, y) = trained(), blobs(60)
    attacks = [FGSM(model, 0.05), PGD(model, 0.05, 0.01, 10, random_start=False), PGD(model, 0.4, norm="l2", seed=0)]
    alone = torch.stack([~judged(model, attack(x, y), y)[0] for attack in attacks])
    assert len({tuple(row.tolist()) for row in alone}) == 3, "each fools others"
    result = Worst(attacks[:2])(x, y)
    assert torch.equal(~judged(model, result, y)[0], alone[:2].any(0))


def test_who_stands_gets_the_highest_loss() -> None:
    model, (x, y) = trained(), blobs(30)
    weak, weaker = PGD(model, 0.01, 0.01, 1, random_start=False), PGD(model, 0.005, 0.005, 1, random_start=False)
    away = lambda x, y: x.flip(0) * 0 + x  # noqa: E731
    orders: list[list[Any]] = [[weak, weaker, away], [away, weaker, weak]]
    for order in orders:
        result = Worst(order, model)(x, y)
        left = judged(model, result, y)[0]
        assert left.sum() > 25
        assert torch.equal(result[left], weak(x, y)[left])
    nothing = Worst([away], model)(x, y)
    assert torch.equal(nothing, x)
    assert nothing.data_ptr() != x.data_ptr()


def test_the_index_of_a_sample_goes_along() -> None:
    model, (x, y) = trained().double(), blobs(40)
    x = x.double()
    worst = Worst([PGD(model, 0.04, 0.01, 5, seed=2), PGD(model, 0.05, 0.01, 5, seed=3)])
    index = torch.arange(40) + 7
    whole = worst(x, y, index)
    parts = [worst(*part) for part in zip(x.split(9), y.split(9), index.split(9), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    assert not torch.equal(worst(x, y), whole)
    nested = Worst([worst, PGD(model, 0.2)], model)
    assert (~judged(model, nested(x, y, index), y)[0]).sum() >= (~judged(model, whole, y)[0]).sum()


def test_judging() -> None:
    model, (x, y) = trained(), blobs(10)
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    right, losses = judged(model, x, y)
    assert [module.training for module in model.modules()] == modes
    model.eval()
    with torch.no_grad():
        logits = model(x)
    assert torch.equal(right, logits.argmax(1) == y)
    torch.testing.assert_close(losses, F.cross_entropy(logits, y, reduction="none"))
    assert not losses.requires_grad
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 1\.\.3"):
        judged(model, x[:3], torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got -1\.\.1"):
        Worst([FGSM(model)])(x[:3], torch.tensor([1, -1, 0], dtype=torch.int32))
    with pytest.raises(ValueError, match=r"the model must return logits \[N, classes\]"):
        judged(nn.Identity(), x, y)


def test_running_an_attack() -> None:
    x, y = blobs(4)
    index = torch.arange(4)
    assert run_attack(lambda x, y: x.double().requires_grad_(True) * 2, x, y, index).dtype == torch.float32
    assert not run_attack(lambda x, y: x.clone().requires_grad_(True), x, y, index).requires_grad
    with pytest.raises(ValueError, match=r"the attack must return images of shape \[4, 3, 4, 4\], got \[2, 3, 4, 4\]"):
        run_attack(lambda x, y: x[:2], x, y, index)
    with pytest.raises(ValueError, match="got tuple"):
        run_attack(lambda x, y: (x, y), x, y, index)


def test_empty_and_shown() -> None:
    model, (x, y) = trained(), blobs(4)
    worst = Worst([FGSM(model, 0.25), PGD(model, 0.25, steps=3)])
    assert worst(x[:0], y[:0]).shape == (0, 3, 4, 4)
    assert repr(worst).startswith("Worst([FGSM(eps=0.25), PGD(eps=0.25, ")


def test_refusals() -> None:
    model, other = trained(), trained()
    with pytest.raises(ValueError, match="Worst needs at least one attack"):
        Worst([])
    with pytest.raises(ValueError, match=r"none of the attacks names its model; give Worst\(attacks, model=...\)"):
        Worst([lambda x, y: x])
    with pytest.raises(ValueError, match="PGD attacks another model"):
        Worst([FGSM(model), PGD(other)])
    with pytest.raises(ValueError, match="FGSM attacks another model"):
        Worst([FGSM(model)], other)
    with pytest.raises(ValueError, match="PGD is targeted; Worst takes true labels"):
        Worst([PGD(model, targeted=True)])
