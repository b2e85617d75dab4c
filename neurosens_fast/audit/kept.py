"""What an error says about the work that was saved before it."""

from __future__ import annotations

from pathlib import Path

_NAME = "_neurosens_fast_kept"


def note_kept(error: BaseException, folder: Path, noun: str) -> None:
    """Note on ``error`` that the experiment so far, called ``noun``, is kept in ``folder``."""
    setattr(error, _NAME, folder)
    error.add_note(f"what was done is kept in {folder}; the same {noun} with resume=True goes on from there")


def kept_by(error: BaseException) -> Path | None:
    """The folder that :func:`note_kept` noted on ``error``, or on an error that it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        folder: Path | None = getattr(current, _NAME, None)
        if folder is not None:
            return folder
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None
