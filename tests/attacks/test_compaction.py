"""Dropping samples that fell changes who is computed, not who falls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, APGDT, CW, MIFGSM, PGD, Attack, Square
from neurosens_fast.attacks.problem import rows_to_keep

from .networks import Counted, blobs, distances, trained


def flags(text: str) -> Tensor:
    return torch.tensor([letter == "f" for letter in text], dtype=torch.bool)


@pytest.mark.parametrize(
    ("fallen", "halving", "kept"),
    [
        ("........", False, None),
        ("f.......", False, [1, 2, 3, 4, 5, 6, 7]),
        ("f........", False, None),  # less than an eighth
        ("f.f.f.f.f", False, [1, 3, 5, 7]),
        ("ffff", False, []),
        ("ffff", True, []),
        ("........", True, None),
        ("fff.....", True, None),
        ("ffff....", True, [4, 5, 6, 7]),
        ("ffff...f", True, [4, 5, 6, 0]),  # padded to half
        ("ffffff.f", True, [6]),
        ("ffffff..", True, [6, 7]),
        (".ff", True, [0]),
        (".f.ff", True, [0, 2]),
        (".f.f.f.", True, None),  # four stand, half of seven is three
        ("f.f.f.f", True, [1, 3, 5]),
        ("f" * 60 + "." * 5, True, [60, 61, 62, 63, 64, 0, 1, 2]),
        ("f", False, []),
        (".", False, None),
        ("", False, None),
    ],
)
def test_rows_to_keep(fallen: str, halving: bool, kept: list[int] | None) -> None:
    rows = rows_to_keep(flags(fallen), halving)
    assert (None if rows is None else rows.tolist()) == kept


def standing(model: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1) == y


# Weak enough that some samples stand, in steps small enough that samples fall one after the other.
MAKE: list[Callable[..., Attack]] = [
    lambda model, **options: PGD(model, 0.05, 0.005, 12, random_start=False, **options),
    lambda model, **options: PGD(model, 0.3, 0.03, 12, random_start=False, norm="l2", **options),
    lambda model, **options: MIFGSM(model, 0.05, 0.005, 12, **options),
]


@pytest.mark.parametrize("make", MAKE)
def test_each_sample_keeps_the_first_example_that_fell(make: Callable[..., Any], device: str) -> None:
    model = trained().double().to(device)  # float64: the sign of a gradient does not hang on the size of the batch
    x, y = (tensor.to(device) for tensor in blobs(48))
    x = x.double()
    plain = {"fold": False, "channels_last": False, "graph": False}
    attack = make(model, compaction=True, **plain)
    result = attack(x, y)
    full = make(model, **plain)
    trajectory = [x]
    for steps in range(1, full.steps + 1):
        full.steps = steps
        trajectory.append(full(x, y))
    fell = torch.stack([~standing(model, images, y) for images in trajectory])
    never = ~fell[:-1].any(0)  # the last point is not judged any more
    assert 0 < int(never.sum()) < 40, "some stand, some fall"
    first = fell.int().argmax(0).where(~never, len(trajectory) - 1)
    assert len(set(first.tolist())) > 3, "they fall at different steps"
    expected = torch.stack(trajectory)[first, torch.arange(48, device=device)]
    assert largest(result, expected) < 1e-12
    assert torch.equal(standing(model, result, y), standing(model, trajectory[-1], y) & never)


def largest(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def test_those_standing_get_the_same_bits() -> None:
    x, y = blobs(48)
    model = trained()
    plain: dict[str, Any] = {"fold": False, "channels_last": False, "random_start": False}
    settings = (model, 0.05, 0.005, 12)
    result, full = PGD(*settings, compaction=True, **plain)(x, y), PGD(*settings, **plain)(x, y)
    left = standing(model, result, y)
    assert 0 < int(left.sum()) < 40
    assert torch.equal(result[left], full[left])


class Coarse(nn.Module):
    """Logits around 200, where bfloat16 has steps of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()

    def forward(self, x: Tensor) -> Tensor:
        return 200 + self.net(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, **options: PGD(model, 0.06, 0.01, 15, seed=0, **options),
        lambda model, **options: APGD(model, 0.06, 15, seed=0, restarts=2, **options),
    ],
)
def test_a_sample_is_dropped_where_it_fools_the_untouched_model(make: Callable[..., Attack]) -> None:
    """One that is dropped at the border of the model in bfloat16 would often stand."""
    model, (x, y) = Coarse(), blobs(60)
    reference = int((~standing(model, make(model, exact=True)(x, y), y)).sum())
    assert 40 < reference < 55
    attack = make(model, dtype=torch.bfloat16, compaction=True)
    assert int((~standing(model, attack(x, y), y)).sum()) >= 0.95 * reference


def test_what_cw_gives_out_fools_the_untouched_model() -> None:
    model, (x, y) = Coarse(), blobs(60)
    result = CW(model, 1.0, steps=30, lr=0.02, binary_search_steps=3, dtype=torch.bfloat16)(x, y)
    moved = distances(result, x, "l2") > 0
    assert moved.sum() > 50
    assert not standing(model, result, y)[moved].any()


class FourthClass(nn.Module):
    """One class more, for the targeted DLR loss; nothing is taken for it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return torch.cat([logits, logits[:, :1] - 20], 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, **options: PGD(model, 0.3, 0.02, 10, random_start=False, **options),
        lambda model, **options: APGD(model, 0.3, 10, seed=0, **options),
        lambda model, **options: APGDT(model, 0.3, 10, seed=0, target_classes=1, **options),
    ],
)
def test_fewer_samples_are_evaluated(make: Callable[..., Attack]) -> None:
    x, y = blobs(40)
    base = FourthClass()
    counts = {}
    for compaction in (False, True):
        model = Counted(base)
        attack = make(model, compaction=compaction)
        result = attack(x, y)
        counts[compaction] = sum(Counted.forwards)
        assert "fold: no, the model itself carries hooks" in attack.explain()
        assert f"compaction: {'yes' if compaction else 'no'}" in attack.explain()
        assert standing(base, result, y).sum() == 0
    assert counts[True] < 0.6 * counts[False]


def test_all_may_have_fallen_from_the_start() -> None:
    model, (x, _) = trained(), blobs(10)
    wrong = (model(x).argmax(1) + 1) % 3
    counted = Counted(model)
    for attack in (PGD(counted, compaction=True, random_start=False), APGD(counted, compaction=True, seed=0)):
        Counted.forwards.clear()
        assert attack(x, wrong).shape == x.shape
        assert Counted.forwards[0] == 10
        assert sum(Counted.forwards) <= 20


def test_attacks_with_a_rule_of_their_own_say_so() -> None:
    model, (x, y) = trained(), blobs(6)
    for attack, text in (
        (CW(model, steps=2, binary_search_steps=1, compaction=True), "C&W goes on with samples that fell"),
        (Square(model, 0.1, 5), "Square asks no more about samples that fell"),
    ):
        attack(x, y)
        assert f"compaction: no, {text}" in attack.explain()
