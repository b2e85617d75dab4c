"""The attacks that options describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from neurosens_fast.support.userfile import call_user_function, describe_user_function, is_user_function

from .options import AttackOptions
from .parsing import one_of

_EPS = 8 / 255
_STEPS = 10
_STEP_SHARE = 2.5
"""A step of pgd is this many times eps / steps, as in Madry et al.: enough to cross the ball."""

_OPTIONS = ("eps", "alpha", "steps", "norm", "random_start", "queries")


@dataclass(frozen=True)
class _Known:
    """An attack with a name: its class in ``neurosens_fast.attacks``, the options it takes, and its fixed arguments."""

    kind: str
    takes: tuple[str, ...]
    fixed: tuple[tuple[str, Any], ...] = ()


ATTACKS = {
    "pgd": _Known("PGD", ("eps", "alpha", "steps", "norm", "random_start")),
    "fgsm": _Known("FGSM", ("eps",)),
    "ffgsm": _Known("FFGSM", ("eps", "alpha")),
    "bim": _Known("BIM", ("eps", "alpha", "steps")),
    "mifgsm": _Known("MIFGSM", ("eps", "alpha", "steps")),
    "apgd-ce": _Known("APGD", ("eps", "steps", "norm"), (("loss", "ce"),)),
    "apgd-dlr": _Known("APGD", ("eps", "steps", "norm"), (("loss", "dlr"),)),
    "apgd-t": _Known("APGDT", ("eps", "steps", "norm")),
    "cw": _Known("CW", ("steps",)),
    "square": _Known("Square", ("eps", "queries")),
    "none": _Known("", ()),
}
"""Name of an attack -> what it is."""


def check_attack(options: AttackOptions) -> None:
    """``ValueError`` for an attack that does not exist, and for options that say nothing to the chosen one."""
    check_attacks(options, [options.attack])


def check_attacks(options: AttackOptions, names: list[str]) -> None:
    """The same for several attacks, each of which takes the options that mean something to it."""
    for name in names:
        if not is_user_function(name):
            one_of(name, ATTACKS, "attack")
    taken = {option for name in names if name in ATTACKS for option in ATTACKS[name].takes}
    for name in _OPTIONS:
        if getattr(options, name) is not None and name not in taken:
            option = f"--{name.replace('_', '-')}"
            mend = "set it inside that function" if all(map(is_user_function, names)) else "leave it out"
            raise ValueError(f"{option} says nothing to --attack {','.join(names)}; {mend}")


def build_attack(
    options: AttackOptions, model: nn.Module, seed: int, name: str | None = None, **switches: Any
) -> tuple[Callable[..., Any], str]:
    """The attack on ``model`` as a callable ``(x, y) -> x_adv``, and its description.

    ``name`` (default: that of the options) is a key of :data:`ATTACKS` or a function in a file; ``switches`` are those
    of :class:`~neurosens_fast.attacks.engine.Switches`.
    """
    from neurosens_fast import attacks

    name = options.attack if name is None else name
    if name == "none":
        return unchanged, "none, inputs unchanged"
    if name not in ATTACKS:
        attack = call_user_function(name, given={"model": model})
        if not callable(attack):
            raise TypeError(f"{name} returned a {type(attack).__name__}; it must return a callable (x, y) -> x_adv")
        return attack, describe_user_function(name)
    known = ATTACKS[name]
    arguments: dict[str, Any] = {"seed": seed, **dict(known.fixed), **switches}
    for option in known.takes:
        value = getattr(options, option)
        if value is not None:
            arguments["n_queries" if option == "queries" else option] = value
    if "eps" in known.takes:
        arguments.setdefault("eps", _EPS)
    if {"alpha", "steps"} <= set(known.takes):
        steps = arguments.setdefault("steps", _STEPS)
        arguments.setdefault("alpha", _STEP_SHARE * arguments["eps"] / max(1, steps))
    elif "alpha" in known.takes:
        arguments.setdefault("alpha", 1.25 * arguments["eps"])  # Wong et al.: 10/255 for eps 8/255
    built: attacks.Attack = getattr(attacks, known.kind)(model, **arguments)
    return built, repr(built)


def unchanged(x: Any, y: Any) -> Any:
    """The attack that does nothing: ``x``."""
    return x
