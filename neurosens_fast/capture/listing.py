"""What of a model can be tapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .channels import own_axis
from .hooks import OutputHooks
from .pairs import Inputs, batch_length, hookable, plain_forward
from .rows import check_output
from .selection import groups_of, select_layers


@dataclass(frozen=True)
class LayerInfo:
    """One layer, or one call of it, that can be tapped.

    ``groups`` are the names that ``layers=`` takes and that include it. ``channel_dim`` is None where only
    a forward pass can tell, ``shape`` (of one sample's output) is None without one. ``note`` says why a row
    cannot be tapped, and is empty if it can.
    """

    name: str
    module_type: str
    groups: tuple[str, ...]
    channel_dim: int | None = None
    shape: tuple[int, ...] | None = None
    note: str = ""


def list_layers(model: nn.Module, inputs: Inputs | None = None) -> list[LayerInfo]:
    """What of ``model`` can be tapped: every module with a name, in the model's order.

    With ``inputs`` (a batch ``[N, ...]``, a tuple or dict of them) the model runs once, in evaluation mode,
    and the rows stand in the order of execution, one per call (``relu``, ``relu#2``), with shape and
    channel axis; modules that did not run come last, with a note.
    """
    model = hookable(model)
    groups = groups_of(model)
    modules = dict(model.named_modules())
    if inputs is None:
        return [
            LayerInfo(name, type(modules[name]).__name__, kinds, own_axis(modules[name]))
            for name, kinds in groups.items()
        ]
    if not groups:
        return []
    count = batch_length(inputs)
    rows: list[LayerInfo] = []
    reached: set[str] = set()

    def visit(row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        reached.add(name)
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        note = ""
        try:
            check_output(name, output, axis)
        except (ValueError, TypeError) as error:
            note = str(error)
        if not note and output.shape[0] != count:
            note = f"its first axis is {output.shape[0]} for {count} samples, so it is not the batch"
        rows.append(LayerInfo(row, type(module).__name__, groups[name], axis, shape, note))

    with OutputHooks(model, select_layers(model, "all"), visit):
        plain_forward(model, inputs)
    for name, kinds in groups.items():
        if name not in reached:
            module = modules[name]
            rows.append(
                LayerInfo(name, type(module).__name__, kinds, own_axis(module), None, "did not run as a module")
            )
    return rows
