"""The progress of an audit: a bar on a terminal, a call for a program, silence otherwise."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from torch import Tensor

from neurosens_fast.audit import audit


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def same(x: Tensor, y: Tensor) -> Tensor:
    """No attack."""
    return x


def test_a_function_is_called_after_each_batch(model: Any, data: Any) -> None:
    calls: list[tuple[int, int | None]] = []
    audit(model, data, same, batch_size=5, max_samples=12, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 12), (10, 12), (12, 12)]
    calls.clear()
    audit(model, iter([data]), same, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(17, None)]


def test_a_bar_on_a_terminal_only(model: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        audit(model, data, same, batch_size=5)
        assert ("17/17" in stream.getvalue() and "samples/s" in stream.getvalue()) == shown
    silent = Terminal()
    monkeypatch.setattr(sys, "stderr", silent)
    audit(model, data, same, progress=False)
    assert silent.getvalue() == ""
