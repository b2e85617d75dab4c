"""Parts of error sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean a, b?`` with up to three names of ``known`` that are close to ``name``, or nothing."""
    originals = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), originals, n=3, cutoff=0.6)
    return f"; did you mean {', '.join(originals[entry] for entry in close)}?" if close else ""


def listing(items: Sequence[str], limit: int = 4) -> str:
    """``a, b, c and 4 more``: the first ``limit`` items and how many are left."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more:,} more" if more > 0 else "")


def with_article(noun: str) -> str:
    """``an audit``, ``a run``: by the first letter, so not for words such as hour."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def one_line(error: BaseException, limit: int = 200) -> str:
    """The text of an error on one line, cut after ``limit`` characters; its type where it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
