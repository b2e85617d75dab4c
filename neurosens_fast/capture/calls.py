"""Every call of a module in one forward: what it read, what it put out, and where its channels are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attached import AttachedHooks
from .channels import ChannelTracker
from .hooks import main_tensor
from .selection import row_of


@dataclass
class Call:
    """One call: ``row`` (``relu#2``: the second of ``relu``; empty for the model itself), what it ``read`` first, and
    its main ``output``. ``axis`` is that of the channels."""

    row: str
    module: nn.Module
    read: Any
    output: Any
    versions: tuple[int, int]
    """How often what was read and put out had been written to."""
    axis: int

    def reads(self, other: Call) -> bool:
        """Whether it read what ``other`` put out, as it was then: not what a ReLU in place made of it."""
        return self.read is other.output and self.versions[0] == other.versions[1]


class CallRecorder(AttachedHooks):
    """The calls of all modules in one forward, in the order in which they end; of the model itself if it has no parts.

    With ``copied``, tensors are copies, which nothing that runs later writes to, and no call :meth:`Call.reads`
    another.
    """

    def __init__(self, model: nn.Module, copied: bool = False) -> None:
        super().__init__()
        self.seen: list[Call] = []
        self._model = model
        self._copied = copied
        self._tracker = ChannelTracker()
        self._counts: dict[str, int] = {}

    def _attach(self) -> Iterator[RemovableHandle]:
        for name, module in self._model.named_modules():
            if name or next(module.children(), None) is None:
                yield module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            read, output = inputs[0] if inputs else None, main_tensor(output)
            axis = self._tracker.observe(module, output) if isinstance(output, Tensor) else 1
            call = self._counts[name] = self._counts.get(name, 0) + 1
            versions = _version(read), _version(output)
            self.seen.append(Call(row_of(name, call), module, self._kept(read), self._kept(output), versions, axis))

        return hook

    def _kept(self, value: Any) -> Any:
        return value.detach().clone() if self._copied and isinstance(value, Tensor) else value


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
