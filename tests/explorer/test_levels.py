"""Which attacks and strengths a page switches between."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from torch import Tensor

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.explorer.exploration import Level, strongest
from neurosens_fast.explorer.levels import levels_of

from .networks import pooled


def test_a_class_gives_a_level_for_each_strength_in_rising_order() -> None:
    levels = levels_of(FGSM, [0.1, 0.02])
    assert levels.levels == (Level("FGSM", 0.02), Level("FGSM", 0.1))
    assert strongest(levels.levels) == 1
    model = pooled()
    assert [attack.eps for attack in levels.attacks(model, 0)] == [0.02, 0.1]  # type: ignore[attr-defined]


def test_strengths_have_a_default_for_classes_and_partials() -> None:
    levels = levels_of(partial(PGD, steps=3), None)
    assert [str(level) for level in levels.levels] == [f"PGD (steps=3), eps {eps}" for eps in (0.02, 0.05, 0.1)]


def test_several_attacks_stand_one_after_another() -> None:
    levels = levels_of({"one step": FGSM, "three": partial(PGD, steps=3)}, 0.1)
    assert levels.levels == (Level("one step", 0.1), Level("three", 0.1))
    assert strongest(levels.levels) == 0
    assert [type(attack).__name__ for attack in levels.attacks(pooled(), 0)] == ["FGSM", "PGD"]


def test_an_attack_as_it_is_is_one_level_with_its_strength() -> None:
    attack = FGSM(pooled(), eps=0.25)
    levels = levels_of(attack, None)
    assert levels.levels == (Level("FGSM", 0.25),)
    assert levels.attacks(pooled(), 0) == [attack]
    assert strongest(levels.levels) == 0


def test_a_function_is_an_attack_without_strengths_and_makes_attacks_with_them() -> None:
    def brighter(x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.1).clamp(max=1)

    assert levels_of(brighter, None).levels == (Level("brighter", None),)

    def make(model: Any, eps: float) -> Any:
        return lambda x, y: (x + eps).clamp(max=1)

    assert levels_of(make, [0.5]).levels == (Level("make", 0.5),)


@pytest.mark.parametrize(
    ("attack", "eps", "error", "message"),
    [
        ("pgd", None, TypeError, "callable, got str.*FGSM"),
        ({}, None, ValueError, "without attacks"),
        ({"FGSM": 3}, None, TypeError, "'FGSM' is a int"),
        ({3: FGSM}, None, ValueError, "no texts"),
        (FGSM, [0.1, 0.1], ValueError, "twice"),
        (FGSM, -0.1, ValueError, "at least 0"),
        (FGSM, "0.1", TypeError, "number"),
        (FGSM(pooled(), eps=0.1), 0.2, ValueError, "FGSM has its own already; leave eps out"),
    ],
)
def test_what_is_no_attack_is_said(attack: Any, eps: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        levels_of(attack, eps)
