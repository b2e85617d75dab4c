"""Attacks of several strengths on one model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_data, describe_model, package_versions
from neurosens_fast.audit.setting import AttackCallable, Setting
from neurosens_fast.capture import untouched
from neurosens_fast.support.random_state import random_state

MakeAttack = Callable[..., AttackCallable]
"""Called as ``attack(model, eps=eps)``, gives an attack ``(x, y) -> x_adv``: an attack class such as ``FGSM``, a
``functools.partial`` of one, or a function."""


EPS = (0.02, 0.05, 0.1)
"""Strengths of attacks by default (a choice of this package)."""


def checked_eps(eps: float | Iterable[float]) -> tuple[float, ...]:
    """The strengths as numbers; ``TypeError`` for what is none, ``ValueError`` for none, negative, repeated ones."""
    mend = "eps must be a number or several of them, as in eps=[0.02, 0.05, 0.1]"
    given: Any = (
        [eps] if isinstance(eps, int | float) or getattr(eps, "ndim", None) == 0 else eps
    )  # numpy's and torch's
    try:
        if isinstance(given, str):
            raise TypeError("a text")
        levels = tuple(float(value) for value in given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{mend}, got {eps!r:.80}") from error
    if not levels:
        raise ValueError("eps is empty; give at least one strength, as in eps=[0.02, 0.05, 0.1]")
    for level in levels:
        if not (math.isfinite(level) and level >= 0):
            raise ValueError(f"eps must be numbers of at least 0, got {level:g}")
    if len(set(levels)) < len(levels):
        raise ValueError("eps holds a strength twice; give each once")
    return levels


def attacks_of(model: nn.Module, attack: MakeAttack, eps: Iterable[float], seed: int) -> list[AttackCallable]:
    """One attack on ``model`` for each of ``eps``; ``TypeError`` with the mend for what makes none.

    Random numbers that are drawn while they are made depend on ``seed``. The global random states and the model are
    afterwards as before.
    """
    mend = "give what makes one for a model and eps, as in attack=FGSM or functools.partial(PGD, steps=10)"
    if not callable(attack):
        raise TypeError(f"attack must be a callable (model, eps=...) -> attack, got {type(attack).__name__}; {mend}")
    made = []
    with random_state(seed), untouched(model):
        for level in eps:
            try:
                made.append(attack(model, eps=level))
            except TypeError as error:
                raise TypeError(f"attack cannot be called as attack(model, eps={level:g}) ({error}); {mend}") from error
            if not callable(made[-1]):
                raise TypeError(f"attack(model, eps={level:g}) gave a {type(made[-1]).__name__}, not an attack; {mend}")
    return made


def described_run(
    setting: Setting,
    data: Data,
    attack: str,
    seed: int,
    model_description: str | None,
    data_description: str | None,
) -> dict[str, Any]:
    """What every report of fragility says of how it was measured, by the names of its fields."""
    return {
        "model": model_description or describe_model(setting.model),
        "attack": attack,
        "data": data_description or describe_data(data),
        "dtype": str(setting.dtype or "as given").removeprefix("torch."),
        "device": str(setting.device or "cpu"),
        "seed": seed,
        "versions": package_versions(),
    }
