"""Text that was typed, as values; what does not fit gives one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import typer

from neurosens_fast.support.messages import did_you_mean, listing


def fraction(text: str) -> float:
    """``8/255`` or ``0.03`` as a number that is finite and at least 0."""
    top, slash, bottom = str(text).partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise typer.BadParameter(f"{text!r} is not a number of at least 0; write 0.03 or 8/255")
    return value


def count_or_share(text: str) -> int | float:
    """``20`` as a count; ``5%`` or ``0.05`` as a share in (0, 1]."""
    text = str(text).strip()
    if re.fullmatch(r"\d+", text):
        return int(text)
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise typer.BadParameter(f"{text!r} is neither a count nor a share; write 20, 5% or 0.05")
    return share


def seed_number(text: str) -> int:
    """A whole number that every random generator takes as its seed."""
    if not re.fullmatch(r"\d{1,10}", str(text)) or int(text) >= 2**32:
        raise typer.BadParameter(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def shape(text: str) -> tuple[int, ...]:
    """``3,224,224`` or ``3x224x224`` as sizes of one sample."""
    if not re.fullmatch(r"[1-9]\d*([,x][1-9]\d*)*", text):
        raise typer.BadParameter(f"{text!r} is not the shape of a sample; write its sizes, as in 3,224,224")
    return tuple(int(size) for size in re.split("[,x]", text))


def listed(words: Sequence[str]) -> list[str]:
    """``["a,b", "c"]`` as ``["a", "b", "c"]``."""
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def axes(words: Iterable[str]) -> dict[str, int]:
    """``["blocks.*=-1"]`` as ``{"blocks.*": -1}``. ``ValueError`` for anything else."""
    found: dict[str, int] = {}
    for word in words:
        name, equals, axis = word.rpartition("=")
        if not (equals and name and re.fullmatch(r"-?\d+", axis)):
            raise ValueError(f"--channel-dim {word!r} is not NAME=AXIS; write for example --channel-dim 'blocks.*=-1'")
        if found.setdefault(name, int(axis)) != int(axis):
            raise ValueError(f"--channel-dim gives {name!r} two axes, {found[name]} and {axis}; give one")
    return found


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """``name``, if it is among ``known``; else ``ValueError`` with the closest of them, or all."""
    names = list(known)
    if name in names:
        return name
    mend = did_you_mean(name, names) or f"; choose one of {listing(names, 20)}"
    raise ValueError(f"unknown {what} {name!r}{mend}")
