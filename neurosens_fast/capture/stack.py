"""Which module is running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .attached import AttachedHooks
from .pairs import Inputs, plain_forward


class ModuleStack(AttachedHooks):
    """Context manager that keeps ``running``: the dotted names and modules whose forward is under way, innermost last.

    A module stays on it when its forward ends with an exception, so that afterwards the last one is where it arose.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.running: list[tuple[str, nn.Module]] = []
        self._model = model

    def _attach(self) -> Iterator[RemovableHandle]:
        for name, module in self._model.named_modules():
            yield module.register_forward_pre_hook(self._push(name))
            yield module.register_forward_hook(self._pop)

    def _push(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            self.running.append((name, module))

        return hook

    def _pop(self, module: nn.Module, inputs: Any, output: Any) -> None:
        while self.running and self.running.pop()[1] is not module:
            pass  # left by an exception that the model caught itself


def failing_layer(model: nn.Module, inputs: Inputs, autocast: torch.dtype | None = None) -> str | None:
    """``'fc' (Linear): what torch says`` where a forward of ``inputs`` raises an error; None if it does not."""
    with ModuleStack(model) as stack:
        try:
            plain_forward(model, inputs, autocast)
        except torch.OutOfMemoryError:
            return None  # that is no fault of a layer's
        except Exception as error:  # whatever the model raises
            name, module = stack.running[-1] if stack.running else ("", model)
            reason = " ".join(str(error).split("\n")[0].split())
            return f"{name!r} ({type(module).__name__}): {reason}" if name else f"the model itself: {reason}"
    return None
