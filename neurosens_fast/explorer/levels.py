"""Attacks and strengths that a page switches between."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from neurosens_fast.attacks import Attack, Worst
from neurosens_fast.audit.descriptions import describe_callable
from neurosens_fast.audit.setting import AttackCallable
from neurosens_fast.fragility.levels import EPS, MakeAttack, attacks_of, checked_eps

from .exploration import Level

_MEND = (
    "give an attack (x, y) -> x_adv, or what makes attacks for a model and eps, as FGSM or functools.partial(PGD, "
    "steps=10), or several of these by name in a dict"
)


@dataclass(frozen=True)
class Levels:
    """The levels of a page, and how to make their attacks; ``ready`` is the one attack that was given as it is."""

    levels: tuple[Level, ...]
    makers: dict[str, MakeAttack]
    eps: tuple[float, ...]
    ready: AttackCallable | None

    def attacks(self, model: nn.Module, seed: int) -> list[AttackCallable]:
        """One attack on ``model`` for each level."""
        if self.ready is not None:
            return [self.ready]
        return [attack for maker in self.makers.values() for attack in attacks_of(model, maker, self.eps, seed)]

    @property
    def description(self) -> str:
        """All attacks and strengths in one line."""
        if self.ready is not None:
            return describe_callable(self.ready)
        makers = ", ".join(describe_callable(maker) for maker in self.makers.values())
        return f"{makers}, eps {', '.join(f'{strength:g}' for strength in self.eps)}"


def levels_of(
    attack: AttackCallable | MakeAttack | Mapping[str, MakeAttack], eps: float | Iterable[float] | None
) -> Levels:
    """The levels of ``attack``: with ``eps``, a class, a partial or a dict of such, one for each of its strengths.

    ``TypeError`` or ``ValueError`` with the mend for what is no attack.
    """
    if isinstance(attack, Mapping):
        makers = dict(attack)
        if not makers or not all(isinstance(name, str) and name for name in makers):
            raise ValueError("attack is a dict without attacks or with names that are no texts; " + _MEND)
    elif not callable(attack):
        raise TypeError(f"attack must be callable, got {type(attack).__name__}; {_MEND}")
    elif eps is not None and isinstance(attack, Attack | Worst):
        raise ValueError(
            f"eps was given, and the attack {_name(attack)} has its own already; leave eps out, or {_MEND}"
        )
    elif eps is None and not isinstance(attack, type | functools.partial):
        strength = getattr(attack, "eps", None)
        level = Level(_name(attack), float(strength) if isinstance(strength, int | float) else None)
        return Levels((level,), {}, (), attack)
    else:
        makers = {_name(attack): attack}
    for name, maker in makers.items():
        if not callable(maker):
            raise TypeError(f"attack {name!r} is a {type(maker).__name__}; {_MEND}")
    strengths = tuple(sorted(checked_eps(EPS if eps is None else eps)))
    levels = tuple(Level(name, strength) for name in makers for strength in strengths)
    return Levels(levels, makers, strengths, None)


def _name(attack: object) -> str:
    if isinstance(attack, functools.partial):
        given = ", ".join(f"{name}={value}" for name, value in attack.keywords.items())
        return f"{_name(attack.func)} ({given})" if given else _name(attack.func)
    own = getattr(attack, "attack", None)  # the name that attacks of torchattacks and of this package bear
    return own if isinstance(own, str) else getattr(attack, "__name__", type(attack).__name__)
