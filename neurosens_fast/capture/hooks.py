"""Looking at the outputs of chosen modules while a model runs, with the channel axis of each."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attached import AttachedHooks
from .channels import ChannelTracker, decides_axis
from .selection import Selection, closest, row_of

Visit = Callable[[str, str, nn.Module, Any, int | None], None]
"""Called with row name (``relu#2``), layer name (``relu``), module, output, channel axis (None: no tensor)."""


def main_tensor(output: Any) -> Any:
    """The tensor of a module's output: itself, or the first item of the tuple, list or mapping it is."""
    for _ in range(2):  # ((hidden, ...), ...) as recurrent layers put out
        if isinstance(output, Mapping) and output:
            output = next(iter(output.values()))
        elif isinstance(output, tuple | list) and output:
            output = output[0]
    return output


def logits_of(output: Any, samples: int) -> Tensor | None:
    """The logits ``[samples, classes]`` in a model's output, called ``logits`` or its main tensor; None without any."""
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    logits = main_tensor(getattr(output, "logits", output))
    fits = isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] == samples and logits.shape[1] > 1
    return logits if fits else None


class OutputHooks(AttachedHooks):
    """Context manager that calls ``visit`` for every output of the chosen modules, in the order of execution.

    The hooks return nothing and are removed at the end, also after an exception. ``channel_dims`` maps names or
    globs to the axis where the rule of :mod:`~neurosens_fast.capture.channels` does not fit; ``ValueError`` for one
    that fits no chosen layer.
    """

    def __init__(
        self, model: nn.Module, selection: Selection, visit: Visit, channel_dims: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self._model = model
        self._selection = selection
        self._visit = visit
        self.axes = _resolved(channel_dims or {}, list(selection.modules))
        self._tracker = ChannelTracker()
        self._calls: dict[str, int] = {}

    def _attach(self) -> Iterator[RemovableHandle]:
        yield self._model.register_forward_pre_hook(self._begin)
        chosen = {id(module): name for name, module in self._selection.modules.items()}
        for module in self._model.modules():
            name = chosen.get(id(module))
            if name is not None or decides_axis(module):
                yield module.register_forward_hook(self._hook(name))

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._calls.clear()
        self._tracker.begin()

    def _hook(self, name: str | None) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            output = main_tensor(output)
            axis = self._tracker.observe(module, output) if isinstance(output, Tensor) else None
            if name is None:
                return
            call = self._calls[name] = self._calls.get(name, 0) + 1
            if self._selection.wants(name, call):
                self._visit(row_of(name, call), name, module, output, self.axes.get(name, axis))

        return hook


def _resolved(channel_dims: Mapping[str, int], names: list[str]) -> dict[str, int]:
    axes: dict[str, int] = {}
    for pattern, axis in channel_dims.items():
        fitting = [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not fitting:
            raise ValueError(
                f"channel_dims names {pattern!r}, which is not among the tapped layers; {closest(pattern, names)}"
            )
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"channel_dims must map names to axes (int), got {axis!r} for {pattern!r}")
        axes.update(dict.fromkeys(fitting, axis))
    return axes
