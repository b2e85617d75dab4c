"""APGD against a slow loop over samples, and what restarts and targets do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, APGDT, PGD
from neurosens_fast.attacks.losses import (
    cross_entropy,
    difference_of_logits_ratio,
    targeted_difference_of_logits_ratio,
)
from neurosens_fast.attacks.noise import Noise

from .networks import blobs, convolutional, images, largest_difference, trained

FUNCTIONS: dict[str, Any] = {"ce": cross_entropy, "dlr": difference_of_logits_ratio}


def into_ball(point: Tensor, origin: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return point.clamp(origin - eps, origin + eps).clamp(0, 1)
    change = point - origin
    length = float(change.norm())
    return (origin + change * min(1.0, eps / max(length, 1e-30))).clamp(0, 1)


class Slow:
    """The paper's algorithm for one sample, with Python numbers; ``history`` holds the losses."""

    def __init__(self, model: nn.Module, loss: Any, x: Tensor, y: Tensor, eps: float, norm: str, rho: float) -> None:
        self.model, self.loss, self.x, self.y, self.eps, self.norm, self.rho = model, loss, x, y, eps, norm, rho
        self.halvings: list[int] = []

    def value(self, point: Tensor) -> tuple[float, Tensor, bool]:
        placed = point[None].clone().requires_grad_(True)
        logits = self.model(placed)
        value = self.loss(logits, self.y[None]).sum()
        return float(value.detach()), torch.autograd.grad(value, placed)[0][0], bool(logits.argmax() != self.y)

    def checkpoints(self, steps: int) -> list[int]:
        lengths, places = max(int(0.22 * steps), 1), []
        place = 0
        while place + lengths <= steps:
            place += lengths
            places.append(place)
            lengths = max(lengths - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        return places

    def run(self, start: Tensor, steps: int) -> tuple[Tensor, bool, float]:
        point, last_fooling = start, None
        loss, gradient, fooled = self.value(point)
        last_fooling = point if fooled else None
        best, best_point, best_gradient = loss, point, gradient
        history, before = [loss], point
        size, places = 2 * self.eps, self.checkpoints(steps)
        previous_check, best_at_check, halved_at_check = 0, best, True
        for step in range(steps):
            direction = gradient.sign() if self.norm == "linf" else gradient / (gradient.norm() + 1e-12)
            ahead = into_ball(point + size * direction, self.x, self.eps, self.norm)
            if step:
                ahead = point + 0.75 * (ahead - point) + 0.25 * (point - before)
                ahead = into_ball(ahead, self.x, self.eps, self.norm)
            before, point = point, ahead
            loss, gradient, fooled = self.value(point)
            history.append(loss)
            last_fooling = point if fooled else last_fooling
            if loss > best:
                best, best_point, best_gradient = loss, point, gradient
            if step + 1 in places:
                window = range(previous_check, step + 1)
                rises = sum(history[at + 1] > history[at] for at in window)
                few = rises <= self.rho * len(window)
                stuck = not halved_at_check and best <= best_at_check
                halved_at_check, best_at_check, previous_check = few or stuck, best, step + 1
                if few or stuck:
                    self.halvings.append(step + 1)
                    size, point, gradient = size / 2, best_point, best_gradient
        return (best_point, False, best) if last_fooling is None else (last_fooling, True, best)


def starts(x: Tensor, eps: float, norm: str, seed: int) -> Tensor:
    drawn = Noise(seed, None, torch.arange(len(x)), torch.device("cpu"))
    if norm == "linf":
        noise = 2 * drawn.uniform(*x.shape[1:]) - 1
        noise = noise / noise.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    else:
        noise = drawn.normal(*x.shape[1:])
        noise = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return torch.stack([into_ball(x0 + eps * n, x0, eps, norm) for x0, n in zip(x, noise, strict=True)])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("steps", [1, 7, 15])  # before rounding decides whether a loss still rises
def test_apgd_equals_the_slow_one(norm: str, loss: Any, steps: int) -> None:
    model, (x, y) = convolutional(torch.float64), images(10, torch.float64)
    y[:8] = model(x[:8]).argmax(1)
    eps, halvings = {"linf": 0.1, "l2": 0.2}[norm], []
    expected = []
    for number, start in enumerate(starts(x, eps, norm, 5)):
        slow = Slow(model, FUNCTIONS[loss], x[number], y[number], eps, norm, 0.75)
        expected.append(slow.run(start, steps)[0])
        halvings.append(tuple(slow.halvings))
    attack = APGD(model, eps, steps, norm, seed=5, loss=loss)
    tolerance = 1e-10 if loss == "ce" else 1e-7  # the gradient of a ratio cancels, of a fifth of the starts by more
    assert largest_difference(attack(x, y), torch.stack(expected)) < tolerance
    assert (
        largest_difference(APGD(model, eps, steps, norm, seed=5, loss=loss, exact=True)(x, y), attack(x, y)) < tolerance
    )
    if steps == 15:
        assert len(set(halvings)) > 1, "the samples halve at different steps"
        assert min(map(len, halvings)) < max(map(len, halvings))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_climbs_higher_than_its_start_and_than_pgd(norm: str) -> None:
    model, (x, y) = convolutional(torch.float64), images(30, torch.float64)
    y = model(x).argmax(1)
    eps = {"linf": 0.01, "l2": 0.1}[norm]
    result = APGD(model, eps, 30, norm, seed=0)(x, y)
    with torch.no_grad():
        reached = cross_entropy(model(result), y)
        start = cross_entropy(model(starts(x, eps, norm, 0)), y)
        pgd = cross_entropy(model(PGD(model, eps, eps / 4, 30, norm=norm, seed=0)(x, y)), y)
    standing = model(result).argmax(1) == y
    assert standing.sum() > 15
    assert (reached[standing] >= start[standing]).all()
    assert reached[standing].mean() > pgd[standing].mean() - 1e-3


def test_restarts_never_make_it_worse() -> None:
    model, (x, y) = trained(), blobs(60)
    outcomes = []
    for restarts in (1, 2, 3):
        with torch.no_grad():
            logits = model(APGD(model, 0.05, 6, restarts=restarts, seed=1, exact=True)(x, y))
        outcomes.append((logits.argmax(1) != y, cross_entropy(logits, y)))
    for (fewer, low), (more, high) in itertools.pairwise(outcomes):
        assert (more | ~fewer).all(), "who fell stays down"
        both = ~fewer & ~more
        assert both.any()
        assert (high[both] >= low[both] - 1e-6).all()
        assert torch.equal(low[fewer], high[fewer]), "and is attacked no more"
    assert outcomes[-1][1].sum() > outcomes[0][1].sum()


def test_rho_decides_when_to_halve() -> None:
    """With rho = 0 a step is halved only where the loss never rose or the best one stands still."""
    model, (x, y) = convolutional(torch.float64), images(8, torch.float64)
    y = model(x).argmax(1)
    results = [APGD(model, 0.05, 20, rho=rho, seed=0)(x, y) for rho in (0.0, 0.75, 1.0)]
    assert not torch.equal(results[0], results[1])
    slow = [Slow(model, cross_entropy, x[0], y[0], 0.05, "linf", rho) for rho in (0.0, 1.0)]
    start = starts(x[:1], 0.05, "linf", 0)[0]
    for attack in slow:
        attack.run(start, 20)
    assert len(slow[0].halvings) < len(slow[1].halvings) == len(slow[1].checkpoints(20))


def test_targets_are_tried_in_the_order_of_the_model() -> None:
    """One class after the other, best-ranked first, each sample from where its stream stands."""
    model, (x, y) = convolutional(torch.float64), images(6, torch.float64)
    y = model(x).argmax(1)
    attack = APGDT(model, 0.02, 10, target_classes=2, seed=2)
    result = attack(x, y)
    ranked = model(x).argsort(1, descending=True)[:, 1:3]
    noise = [Noise(2, None, torch.tensor([sample]), torch.device("cpu")) for sample in range(6)]
    for sample in range(6):
        best = None
        for target in ranked[sample]:
            drawn = 2 * noise[sample].uniform(3, 8, 8)[0] - 1
            start = into_ball(x[sample] + 0.02 * drawn / drawn.abs().max(), x[sample], 0.02, "linf")
            loss = lambda z, y, t=target: targeted_difference_of_logits_ratio(z, y, t[None])  # noqa: E731
            found = Slow(model, loss, x[sample], y[sample], 0.02, "linf", 0.75).run(start, 10)
            if found[1] or best is None or found[2] > best[2]:
                best = found
            if found[1]:
                break
        assert best is not None
        assert largest_difference(result[sample], best[0]) < 1e-10
    fewer = APGDT(model, 0.02, 10, target_classes=40, seed=2)
    assert fewer(x, y).shape == x.shape, "there are only four others"
    assert attack.evaluations() == 22
    assert "target_classes=2" in repr(attack)
