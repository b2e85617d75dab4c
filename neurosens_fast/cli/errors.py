"""One line for every error: what to say, with which exit status, and which file of the user's to name."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from traceback import FrameSummary
from typing import NamedTuple

TRACEBACK_OPTION = "--traceback"
TRACEBACK_VARIABLE = "NEUROSENS_FAST_TRACEBACK"

_OWN = str(Path(__file__).parents[1]) + os.sep
_LIBRARY = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LONGEST = 400

_TYPED_WRONG = (ValueError, TypeError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_MEMORY = ("out of memory", "can't allocate memory")  # what torch says on CUDA and on the CPU
_OUTSIDE = (ModuleNotFoundError, OSError, RuntimeError, FloatingPointError)


class _Fault(NamedTuple):
    filename: str
    text: str


def complain(message: str, status: int) -> int:
    """Print one line on the standard error stream; returns ``status``."""
    print(f"neurosens-fast: {message}", file=sys.stderr)
    return status


def kept(error: BaseException) -> str:
    """What was saved before ``error``, as the end of its line; nothing where nothing was."""
    from neurosens_fast.audit.kept import kept_by

    folder = kept_by(error)
    return "" if folder is None else f"; what was done is kept in {folder}, the same command with --resume goes on"


def wants_traceback(words: Sequence[str]) -> bool:
    """Whether the command line ``words`` or the environment ask for the full traceback of an error."""
    return TRACEBACK_OPTION in words or os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0")


def show_traceback(error: BaseException) -> None:
    """Print the full traceback on the standard error stream."""
    linecache.checkcache()
    traceback.print_exception(error)


def explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status for an error; None for a ``SystemExit`` that no file of the user's raised.

    Status 2 is for what was typed wrong: the usage errors of typer, and the ``ValueError``, ``TypeError`` and
    missing files that this package itself reports. Status 1 is for everything else; where a file of the user's
    took part, the line names it.
    """
    if hasattr(error, "format_message"):  # a usage error of typer, or of click in older versions of typer
        context = getattr(error, "ctx", None)
        name = getattr(context, "command_path", None) or "neurosens-fast"
        return f"{_one_line(error.format_message())} (try: {name} --help)", 2
    if isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY):
        return "out of memory; make the batch (--batch-size) or the inputs smaller", 1
    frame = users_frame(error)
    if frame is not None:
        return f"{_place(error, frame)} ({TRACEBACK_OPTION} shows more)", 1
    if isinstance(error, SystemExit):
        return None
    message = _one_line(str(error))
    if raised_here(error) and message:
        fault = _users_fault(error)
        if fault is not None:
            missing = "" if Path(fault.filename).name in message else f"; {fault.text}"
            return f"{message}{missing} ({TRACEBACK_OPTION} shows more)", 1
        if isinstance(error, _TYPED_WRONG):
            return message, 2
        if isinstance(error, _OUTSIDE):
            return message, 1
    frame = _frames(error)[-1]
    return f"{_named(error)} (in {frame.filename}, line {frame.lineno}; {TRACEBACK_OPTION} shows more)", 1


def users_frame(error: BaseException) -> FrameSummary | None:
    """The innermost frame in a file of the user's, unless this package raised the error further in."""
    for frame in reversed(_frames(error)):
        origin = _origin(frame.filename)
        if origin in ("user", "own"):
            return frame if origin == "user" else None
    return None


def raised_here(error: BaseException) -> bool:
    """Whether this package, or the standard library called by it, raised the error."""
    origins = [_origin(frame.filename) for frame in _frames(error)]
    return next((origin for origin in reversed(origins) if origin != "library"), "") == "own"


def _users_fault(error: BaseException) -> _Fault | None:
    """What in a file of the user's led to ``error``: one of the errors it was raised from."""
    seen = {id(error)}
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        frame = users_frame(cause)
        if frame is not None:
            return _Fault(frame.filename, _place(cause, frame))
        if isinstance(cause, SyntaxError) and cause.filename and _origin(cause.filename) == "user":
            return _Fault(cause.filename, f"{cause.filename}, line {cause.lineno}: {_named(cause)}")
        cause = cause.__cause__
    return None


def _place(error: BaseException, frame: FrameSummary) -> str:
    return f"{frame.filename}, line {frame.lineno}, in {frame.name}: {_named(error)}"


def _frames(error: BaseException) -> list[FrameSummary]:
    return traceback.extract_tb(error.__traceback__)


def _origin(filename: str) -> str:
    """Whose file it is: ``own``, ``package``, ``library`` (also of code without a file), or ``user``."""
    if filename.startswith(_OWN):
        return "own"
    if any(folder in filename for folder in _PACKAGES):
        return "package"
    return "library" if filename.startswith((*_LIBRARY, "<")) else "user"


def _named(error: BaseException) -> str:
    text = _one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
