"""C&W: smaller norms than PGD's, the search over the weight, and rows that do not see each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import CW, PGD
from neurosens_fast.attacks.losses import margin

from .networks import blobs, distances, largest_difference, trained

SETTINGS: dict[str, Any] = {"c": 0.1, "steps": 30, "lr": 0.03, "binary_search_steps": 4}


def standing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def slow_cw(model: nn.Module, x: Tensor, y: Tensor, c: float, steps: int, lr: float, searches: int) -> Tensor:
    """The attack on one sample with torch's own Adam, without an early end."""
    best, shortest, below, above = x, float("inf"), 0.0, float("inf")
    start = torch.atanh((x * 2 - 1) * 0.999999)
    origin = (torch.tanh(start) + 1) / 2
    for _ in range(searches):
        w = start.clone().requires_grad_(True)
        adam, fooled = torch.optim.Adam([w], lr=lr), False
        for _ in range(steps):
            image = (torch.tanh(w) + 1) / 2
            logits = model(image[None])
            length = float((image.detach() - x).norm())
            if int(logits.argmax()) != int(y):
                fooled = True
                if length < shortest:
                    best, shortest = image.detach(), length
            loss = (image - origin).square().sum() + c * (-margin(logits, y[None])).clamp(min=0).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        above, below = (c, below) if fooled else (above, c)
        c = c * 10 if above == float("inf") else (above + below) / 2
    model.zero_grad()
    return best


def test_cw_equals_a_slow_one() -> None:
    model, (x, y) = trained().double(), blobs(3)
    x = x.double()
    attack = CW(model, 0.1, steps=15, lr=0.05, binary_search_steps=4, abort_early=False)
    expected = torch.stack([slow_cw(model, *pair, 0.1, 15, 0.05, 4) for pair in zip(x, y, strict=True)])
    assert largest_difference(attack(x, y), expected) < 1e-10
    assert not standing(model, expected, y).any()


def test_it_finds_smaller_perturbations_than_pgd() -> None:
    model, (x, y) = trained(), blobs(40)
    result = CW(model, 0.1, steps=60, lr=0.02, binary_search_steps=5)(x, y)
    assert not standing(model, result, y).any()
    ours = distances(result, x, "l2")
    smallest = torch.full((40,), torch.inf, dtype=torch.float64)
    for eps in torch.linspace(0.05, 0.8, 16).tolist():
        pgd = PGD(model, eps, eps / 5, 10, random_start=False, norm="l2")(x, y)
        fallen = ~standing(model, pgd, y)
        smallest = torch.where(fallen & smallest.isinf(), distances(pgd, x, "l2"), smallest)
    assert smallest.isfinite().all()
    assert ours.mean() < smallest.mean()
    assert (ours < smallest * 1.15 + 0.01).all()


@pytest.mark.parametrize("abort_early", [True, False])
def test_rows_do_not_see_each_other(abort_early: bool) -> None:
    model, (x, y) = trained().double(), blobs(3)
    attack = CW(model, abort_early=abort_early, **SETTINGS)
    whole = attack(x.double(), y)
    alone = torch.cat([attack(x[row : row + 1].double(), y[row : row + 1]) for row in range(3)])
    assert largest_difference(whole, alone) < 1e-10


def test_an_early_end_costs_little_and_saves_forwards() -> None:
    model, (x, y) = trained(), blobs(20)
    counts, lengths = [], []
    for abort_early in (True, False):
        seen: list[int] = []
        handle = model.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(output)))
        result = CW(model, abort_early=abort_early, **SETTINGS)(x, y)
        handle.remove()
        assert not standing(model, result, y).any()
        counts.append(sum(seen))
        lengths.append(float(distances(result, x, "l2").mean()))
    assert counts[1] == 20 * 30 * 4
    assert counts[0] < 0.8 * counts[1]
    assert lengths[0] < 1.1 * lengths[1]


def test_more_searches_never_end_farther() -> None:
    model, (x, y) = trained(), blobs(20)
    settings = {**SETTINGS, "c": 100.0}
    previous = None
    for searches in (1, 3, 5):
        result = CW(model, **{**settings, "binary_search_steps": searches})(x, y)
        length = distances(result, x, "l2")
        assert previous is None or (length <= previous + 1e-6).all()
        previous = length


def test_kappa_asks_for_a_margin() -> None:
    model, (x, y) = trained(), blobs(20)
    for targeted in (False, True):
        labels = model(x).argsort(1)[:, -2] if targeted else y
        result = CW(model, kappa=2.0, targeted=targeted, **SETTINGS)(x, labels)
        found = distances(result, x, "l2") > 0
        with torch.no_grad():
            margins = margin(model(result), labels)
        assert found.sum() > 15
        assert ((-margins if targeted else margins)[found] >= 2.0).all()
        near = CW(model, targeted=targeted, **SETTINGS)(x, labels)
        assert (distances(near, x, "l2")[found] < distances(result, x, "l2")[found]).all()


def test_who_is_wrong_already_stays_and_who_cannot_fall_gets_the_input_back() -> None:
    model, (x, y) = trained(), blobs(10)
    wrong = (model(x).argmax(1) + 1) % 3
    close = CW(model, **SETTINGS)(x, wrong)
    assert not standing(model, close, wrong).any()
    assert distances(close, x, "l2").max() < 1e-5
    weak = CW(model, c=1e-9, steps=5, lr=1e-4, binary_search_steps=1)(x, y)
    assert torch.equal(weak, x)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0)])
def test_images_at_the_ends_of_the_range(low: float, high: float) -> None:
    model, (x, y) = trained(), blobs(10)
    x = (low + (high - low) * (x > 0.5).float()).contiguous()
    y = model(x).argmax(1)
    result = CW(model, c=10.0, steps=40, lr=0.4, binary_search_steps=3, low=low, high=high)(x, y)
    assert result.min() >= low
    assert result.max() <= high
    moved = distances(result, x, "l2") > 0
    assert moved.any()
    assert not standing(model, result, y)[moved].any()
