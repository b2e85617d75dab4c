"""Names as they stand on axes and in legends."""

from __future__ import annotations

import re
from dataclasses import replace

from neurosens_fast.explorer.exploration import Exploration

_FORMULA = re.compile(r"\$(?=\$)|\\(?=[(\[])")


def without_formulas(exploration: Exploration) -> Exploration:
    """The exploration with class names that Bokeh does not take for formulas, for which it would load MathJax."""
    return replace(
        exploration, classes=tuple(plain(name) for name in exploration.classes), name=plain(exploration.name)
    )


def plain(text: str) -> str:
    """``text`` with a space of no width inside of ``$$``, ``\\(`` and ``\\[``, which begin formulas."""
    return _FORMULA.sub(lambda found: found.group() + "\u200b", text)


def short(text: str, longest: int) -> str:
    """``text`` of at most ``longest`` characters, with an ellipsis in its middle: names often differ at their ends."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return text[: longest - 1 - end] + "…" + text[len(text) - end :]
