"""An SNSLoss on a model: its hooks, and the rows that they fill."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from neurosens_fast.capture import OutputHooks, Selection

from .hooks import LayerHook, RootHook
from .preparation import Rows, find_rows
from .records import Recorder, Row


class Attachment:
    """The hooks of one SNSLoss on ``model``, and its rows in the order of execution."""

    def __init__(
        self, model: nn.Module, selection: Selection, recorder: Recorder, channel_dims: Mapping[str, int]
    ) -> None:
        axes = OutputHooks(model, selection, lambda *_: None, channel_dims).axes
        selection.named.update(axes)  # an axis that was given must fit
        self.model = model
        self.selection = selection
        self.recorder = recorder
        self.axes = axes
        self.found = Rows()
        self._hooks = [
            LayerHook(recorder, module, name, name in selection.named) for name, module in selection.modules.items()
        ]
        root = RootHook(recorder, model, self._hooks, self.prepare)
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(root, with_kwargs=True)]
        self._handles += [hook.module.register_forward_hook(hook) for hook in self._hooks]

    @property
    def rows(self) -> list[Row]:
        """The chosen rows."""
        return self.found.chosen

    @property
    def attached(self) -> bool:
        """Whether the hooks are there."""
        return bool(self._handles)

    def detach(self) -> None:
        """Remove all hooks."""
        while self._handles:
            self._handles.pop().remove()

    def check_present(self) -> None:
        """Raise ``RuntimeError`` where a chosen module is no longer in the model."""
        present = set(map(id, self.model.modules()))
        for hook in self._hooks:
            if id(hook.module) not in present:
                raise RuntimeError(
                    f"layer {hook.name!r} was replaced or removed after this SNSLoss was made; make it afterwards"
                )

    def begin(self) -> None:
        """A new forward."""
        self.recorder.begin()
        for hook in self._hooks:
            hook.begin()

    def clear(self) -> None:
        """Forget what forwards left."""
        for row in self.rows:
            row.clear()

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], length: int, samples: int, verify: bool = True
    ) -> None:
        """Find the rows with the first ``samples`` of a call of the model with a batch of ``length``."""
        Recorder.looking = True
        try:
            self.install(find_rows(self.model, self.selection, self.axes, args, kwargs, length, samples, verify))
        finally:
            Recorder.looking = False
        if left_out := [f"{row!r}: {why}" for row, why in self.found.skipped.items()]:
            warnings.warn(
                f"SNSLoss leaves out {'; '.join(left_out)} (sns.skipped holds the reasons, "
                "sns.prepare(x, verify=False) measures what mixes samples all the same)",
                stacklevel=2,
            )

    def install(self, found: Rows) -> None:
        """Let the hooks fill the rows that were found."""
        self.found = found
        self.recorder.prepared = True
        for hook in self._hooks:
            hook.install(found.calls.get(hook.name, []))
