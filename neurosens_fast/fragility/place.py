"""Where the neurons of a layer are set to zero: at its output, or behind the norm that reads it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from neurosens_fast.capture import Call, CallRecorder, Inputs, check_output, closest, plain_forward
from neurosens_fast.capture.channels import CONVOLUTIONS, is_norm

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
    with CallRecorder(model) as recorder:
        plain_forward(model, few, autocast)
    calls = [call for call in recorder.seen if call.row]  # a layer has a name
    found = next((call for call in calls if _is_meant(call, layer)), None)
    if found is None:
        if layer is None:
            raise ValueError("the model runs no convolution; name the layer whose neurons are to be dropped")
        raise ValueError(f"layer {layer!r} did not run in a forward of the model; choose one that does")
    norm = None
    if where == "after_norm" and not is_norm(found.module):
        norm = next((call for call in calls if is_norm(call.module) and call.reads(found)), None)
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


def _is_meant(call: Call, layer: str | None) -> bool:
    return isinstance(call.module, CONVOLUTIONS) if layer is None else call.row == layer
