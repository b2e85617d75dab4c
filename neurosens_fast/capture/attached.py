"""Hooks that are on a model for a while."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class AttachedHooks(ABC):
    """Context manager that puts hooks on and takes them all off at the end, also after an exception."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    @abstractmethod
    def _attach(self) -> Iterator[RemovableHandle]:
        """Register the hooks one by one."""

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("these hooks are already attached; make a second object")
        try:
            for handle in self._attach():
                self._handles.append(handle)  # one by one: an error in between leaves those before it to be removed
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()
