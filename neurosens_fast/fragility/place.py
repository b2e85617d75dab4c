"""Where the neurons of a layer are set to zero: at its output, or behind the norm that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurosens_fast.capture import AttachedHooks, Inputs, check_output, closest, main_tensor, plain_forward
from neurosens_fast.capture.channels import CONVOLUTIONS, ChannelTracker, is_norm
from neurosens_fast.capture.selection import row_of

WHERE: dict[str, str] = {
    "before_norm": "at the output of the layer; a norm behind it then shifts the zeros",
    "after_norm": "at the output of the norm that reads the layer, where there is one; else of the layer",
}
"""Places for the zeros of dropped neurons (a choice of this package)."""


@dataclass(frozen=True)
class Place:
    """Neurons of one call of a layer: ``layer`` as in reports (``relu#2``), and where they are set to zero.

    ``zeroed`` is the row at whose output they are, ``axis`` their axis there, from the front; ``module_type`` is that
    of the layer, ``channels`` their number.
    """

    layer: str
    zeroed: str
    module_type: str
    axis: int
    channels: int


def find_place(
    model: nn.Module, layer: str | None, where: str, few: Inputs, autocast: torch.dtype | None = None
) -> Place:
    """The place of ``layer`` (None: the first convolution that runs) in a forward on ``few`` samples.

    Raises ``ValueError`` or ``TypeError`` with the mend: an unknown ``where`` or layer, one that does not run, without
    a tensor ``[N, ..., C, ...]`` as output, or no convolution to take.
    """
    check_layer(model, layer, where)
    with _Recorder(model) as calls:
        plain_forward(model, few, autocast)
    found = next((call for call in calls.seen if _is_meant(call, layer)), None)
    if found is None:
        if layer is None:
            raise ValueError("the model runs no convolution; name the layer whose neurons are to be dropped")
        raise ValueError(f"layer {layer!r} did not run in a forward of the model; choose one that does")
    norm = None
    if where == "after_norm" and not is_norm(found.module):
        norm = next((call for call in calls.seen if is_norm(call.module) and call.reads(found)), None)
    zeroed = norm or found
    check_output(zeroed.row, zeroed.output, zeroed.axis)
    axis = zeroed.axis % zeroed.output.dim()
    return Place(found.row, zeroed.row, type(found.module).__name__, axis, zeroed.output.shape[axis])


def check_layer(model: nn.Module, layer: str | None, where: str) -> None:
    """``ValueError`` or ``TypeError`` with the mend for a ``where`` or a layer that does not exist."""
    if where not in WHERE:
        raise ValueError(f"where must be one of {', '.join(WHERE)}, got {where!r}")
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f"layer must be the name of one, got a {type(layer).__name__}; {closest('', names)}")
    if layer is not None and layer.partition("#")[0] not in names and layer not in names:
        raise ValueError(f"the model has no layer {layer!r}; {closest(layer, names)}")


@dataclass
class _Call:
    row: str
    module: nn.Module
    read: Any
    output: Any
    versions: tuple[int, int]
    """How often what was read and put out had been written to."""
    axis: int

    def reads(self, other: _Call) -> bool:
        """Whether it read what ``other`` put out, as it was then: not what a ReLU in place made of it."""
        return self.read is other.output and self.versions[0] == other.versions[1]


def _is_meant(call: _Call, layer: str | None) -> bool:
    return isinstance(call.module, CONVOLUTIONS) if layer is None else call.row == layer


class _Recorder(AttachedHooks):
    """The calls of all modules that have a name in one forward, in the order in which they end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.seen: list[_Call] = []
        self._model = model
        self._tracker = ChannelTracker()
        self._calls: dict[str, int] = {}

    def _attach(self) -> Iterator[RemovableHandle]:
        for name, module in self._model.named_modules():
            if name:
                yield module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            output = main_tensor(output)
            axis = self._tracker.observe(module, output) if isinstance(output, Tensor) else 1
            self._calls[name] = self._calls.get(name, 0) + 1
            read = inputs[0] if inputs else None
            versions = _version(read), _version(output)
            self.seen.append(_Call(row_of(name, self._calls[name]), module, read, output, versions, axis))

        return hook


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
