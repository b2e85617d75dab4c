"""The attack that options describe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from neurosens_fast.support.userfile import call_user_function, describe_user_function, is_user_function

from .options import AttackOptions
from .parsing import one_of

_EPS = 8 / 255
_STEPS = 10
_STEP_SHARE = 2.5
"""A step of pgd is this many times eps / steps, as in Madry et al.: enough to cross the ball."""

_TAKES: dict[str, tuple[str, ...]] = {
    "pgd": ("eps", "alpha", "steps", "norm", "random_start"),
    "fgsm": ("eps",),
    "none": (),
}
"""Name of an attack -> the options that mean something to it."""


def check_attack(options: AttackOptions) -> None:
    """``ValueError`` for an attack that does not exist, and for options that say nothing to the chosen one."""
    in_file = is_user_function(options.attack)
    if not in_file:
        one_of(options.attack, _TAKES, "attack")
    taken = _TAKES.get(options.attack, ())
    for name in _TAKES["pgd"]:
        if getattr(options, name) is not None and name not in taken:
            option = f"--{name.replace('_', '-')}"
            mend = "set it inside that function" if in_file else "leave it out"
            raise ValueError(f"{option} says nothing to --attack {options.attack}; {mend}")


def build_attack(options: AttackOptions, model: nn.Module, seed: int) -> tuple[Callable[[Any, Any], Any], str]:
    """The attack on ``model`` as a callable ``(x, y) -> x_adv``, and its description."""
    from neurosens_fast.attacks import FGSM, PGD

    eps = _EPS if options.eps is None else options.eps
    if options.attack == "none":
        return unchanged, "none, inputs unchanged"
    if options.attack == "fgsm":
        fgsm = FGSM(model, eps)
        return fgsm, repr(fgsm)
    if options.attack == "pgd":
        steps = _STEPS if options.steps is None else options.steps
        alpha = _STEP_SHARE * eps / max(1, steps) if options.alpha is None else options.alpha
        start = options.random_start is not False
        pgd = PGD(model, eps, alpha, steps, start, options.norm or "linf", seed=seed)
        return pgd, repr(pgd)
    attack = call_user_function(options.attack, given={"model": model})
    if not callable(attack):
        raise TypeError(
            f"{options.attack} returned a {type(attack).__name__}; it must return a callable (x, y) -> x_adv"
        )
    return attack, describe_user_function(options.attack)


def unchanged(x: Any, y: Any) -> Any:
    """The attack that does nothing: ``x``."""
    return x
