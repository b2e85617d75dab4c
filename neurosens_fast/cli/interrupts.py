"""Ctrl-C and SIGTERM during long work: one line that says what is kept, and the usual exit status."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Ended(Exception):
    """Work was ended from outside; ``status`` is the exit status of the process."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Terminated(BaseException):
    """SIGTERM arrived; no ``Exception``, so that code which handles failures lets it pass."""


@contextmanager
def endings_told() -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM inside into :class:`Ended`, once the work has put things in order."""

    def terminated(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    here = threading.current_thread() is threading.main_thread()  # only there may signals be handled
    before = signal.signal(signal.SIGTERM, terminated) if here else None
    try:
        yield
    except KeyboardInterrupt as error:
        raise Ended("interrupted", 130) from error
    except _Terminated as error:
        from neurosens_fast.support.processes import process_count

        why = ", which torchrun sends when another process has failed" if process_count() > 1 else ""
        raise Ended(f"ended by SIGTERM{why}", 143) from error
    finally:
        if here:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
