"""Checks of the arguments that attacks take."""

from __future__ import annotations

import math
from collections.abc import Iterable


def check_number(name: str, value: float, minimum: float = 0.0) -> float:
    """``value`` as a float; ``TypeError`` if it is no number, ``ValueError`` if not finite or below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    if not math.isfinite(value) or value < minimum:
        bound = f" and at least {minimum:g}" if math.isfinite(minimum) else ""
        raise ValueError(f"{name} must be finite{bound}, got {value}")
    return float(value)


def check_count(name: str, value: int, minimum: int = 0) -> int:
    """``value`` as an int; ``TypeError`` if it is none, ``ValueError`` if below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__} {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value


def check_choice(name: str, value: object, known: Iterable[object]) -> None:
    """``ValueError`` if ``value`` is none of ``known``."""
    known = tuple(known)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
