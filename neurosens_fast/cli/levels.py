"""The attack of several strengths that options describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurosens_fast.support.userfile import call_user_function, describe_user_function, is_user_function

from .options import ATTACK_NAMES, AttackOptions
from .parsing import fraction, listed, one_of

if TYPE_CHECKING:
    from torch import nn

EPS = "0.02,0.05,0.1"


@dataclass(frozen=True, kw_only=True)
class LevelOptions(AttackOptions):
    """The attack of a run, at several strengths."""

    attack: Annotated[
        str,
        typer.Option(
            metavar="ATTACK",
            help=f"{ATTACK_NAMES.replace('cw, ', '')}, or file.py:function, which takes model and eps and returns a "
            "callable (x, y) -> x_adv.",
            rich_help_panel="Attack",
        ),
    ] = "fgsm"
    eps: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help=f"Largest changes of an input, which lies in 0..1, as in {EPS} or 2/255,8/255. Default: {EPS}.",
            rich_help_panel="Attack",
        ),
    ] = None  # type: ignore[assignment]


def fractions(words: Sequence[str], option: str) -> list[float]:
    """The numbers of a list with commas; a usage error that names ``option`` for what is none."""
    try:
        return [fraction(text) for text in listed(words)]
    except typer.BadParameter as error:
        error.param_hint = option
        raise


def attack_maker(options: LevelOptions, seed: int) -> tuple[tuple[float, ...], Callable[..., Any], str]:
    """The strengths; what makes an attack on a model for one, called as ``(model, eps=...)``; and its description."""
    from neurosens_fast.fragility.levels import checked_eps

    from .attacks import ATTACKS, build_attack, check_attack

    levels = checked_eps(fractions(options.eps or (EPS,), "--eps"))
    name = options.attack
    given = {field.name: getattr(options, field.name) for field in fields(AttackOptions) if field.name != "eps"}
    if is_user_function(name):
        check_attack(AttackOptions(**given))

        def made_by_user(model: nn.Module, eps: float) -> Any:
            return call_user_function(name, given={"model": model, "eps": eps})

        return levels, made_by_user, describe_user_function(name)
    with_eps = [known for known, kind in ATTACKS.items() if "eps" in kind.takes]
    if name in ATTACKS and name not in with_eps:
        raise ValueError(f"--attack {name} has no eps to vary; choose one of {', '.join(with_eps)}")
    one_of(name, with_eps, "attack")
    check_attack(AttackOptions(**given))

    def made(model: nn.Module, eps: float) -> Any:
        return build_attack(AttackOptions(**given, eps=eps), model, seed)[0]

    shown = {key: value for key, value in given.items() if key != "attack" and value is not None}
    described = ", ".join([name, *(f"{key} {value}" for key, value in shown.items())])
    return levels, made, described
