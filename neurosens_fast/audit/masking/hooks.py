"""Setting neurons to zero while a model runs, and what must be known of the model before that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurosens_fast.audit.report import AuditReport
from neurosens_fast.capture import (
    AttachedHooks,
    Inputs,
    Layers,
    OutputHooks,
    Selection,
    batch_length,
    closest,
    logits_of,
    main_tensor,
    plain_forward,
    select_layers,
)

ADAPTIVE_MEND = "build it on this very model, or use protocol='fixed'"


class Masks(AttachedHooks):
    """Context manager that sets the neurons of ``active`` to zero in every forward of ``model``.

    ``active`` maps rows of a report (``relu``, ``relu#2``) to bool masks along the axes ``channel_dims``: ``[C]``, or
    ``[N, C]`` with one for each sample.
    Of an output that is a tuple, list or mapping, its first tensor is masked. Outputs are never written in place: they
    may be a module's input too. ``applied`` counts the outputs that were masked.
    """

    def __init__(self, model: nn.Module, channel_dims: Mapping[str, int]) -> None:
        super().__init__()
        self.active: Mapping[str, Tensor] = {}
        self.applied = 0
        self._model = model
        self._axes = channel_dims
        self._calls: dict[str, int] = {}
        self._inside = False

    def _attach(self) -> Iterator[RemovableHandle]:
        modules = dict(self._model.named_modules(remove_duplicate=False))
        yield self._model.register_forward_pre_hook(self._begin)
        yield self._model.register_forward_hook(self._end)
        for name in dict.fromkeys(split_row(row, modules)[0] for row in self._axes):
            yield modules[name].register_forward_hook(self._hook(name))

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self._calls.clear()
        self._inside = True

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._inside = False

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not self._inside:  # calls could not be told apart
                raise ValueError(f"the attack runs layer {name!r} outside of the model's own forward; {ADAPTIVE_MEND}")
            call = self._calls[name] = self._calls.get(name, 0) + 1
            row = name if call == 1 else f"{name}#{call}"
            mask = self.active.get(row)
            if mask is None:
                return None
            self.applied += 1
            return _changed(output, lambda values: _zeroed(values, mask, self._axes[row]))

        return hook


def _zeroed(values: Tensor, mask: Tensor, axis: int) -> Tensor:
    shape = [1] * values.dim()
    shape[axis] = mask.shape[-1]
    if mask.dim() == 2:
        shape[0] = len(mask)
    return values.masked_fill(mask.view(shape).to(values.device), 0)


def _changed(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output with ``change`` made to the tensor that ``capture.main_tensor`` finds in it."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        first, changed = next(iter(output)), copy(output)
        changed[first] = _changed(output[first], change)  # type: ignore[index]
        return changed
    parts = [_changed(output[0], change), *output[1:]]
    return output._make(parts) if hasattr(output, "_make") else type(output)(parts)


def eager() -> AbstractContextManager[Any]:
    """Runs an attack's compiled model as plain code inside, since compiled code calls no hooks."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def split_row(row: str, known: Mapping[str, Any]) -> tuple[str, int]:
    """The layer's name and the number of the call, from 1: ``("relu", 2)`` of ``relu#2``."""
    name, mark, call = row.rpartition("#")
    return (name, int(call)) if row not in known and mark and call.isdecimal() else (row, 1)


def choose_rows(model: nn.Module, report: AuditReport, layers: Layers | None) -> dict[str, bool]:
    """Rows of ``report`` that ``layers`` means (all by default) -> whether they were named one by one.

    Raises ``ValueError`` for a report of another model, a named layer that it did not measure, and nothing left.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    places = {row: split_row(row, modules) for row in report.layers}
    for name, _ in places.values():
        if name not in modules:
            raise ValueError(
                f"the report is of another model: it has a layer {name!r}, this one has none; "
                f"{closest(name, [known for known in modules if known])}"
            )
    if layers is None:
        return dict.fromkeys(report.layers, False)
    selection = select_layers(model, layers)
    chosen = {
        row: name in selection.named
        for row, (name, call) in places.items()
        if name in selection.modules and selection.wants(name, call)
    }
    measured = {places[row][0] for row in chosen}
    missing = [name for name in selection.modules if name in selection.named and name not in measured]
    if missing or not chosen:
        what = f"layer {missing[0]!r}" if missing else "any of the chosen layers"
        raise ValueError(f"the report did not measure {what}; {closest(missing[0] if missing else '', list(places))}")
    return chosen


def right_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest of ``logits`` ``[N, classes]`` is that of the label, ``[N]`` bool; never where one is NaN."""
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def needed_logits(output: Any, samples: int) -> Tensor:
    """The logits ``[samples, classes]`` in a model's output, or ``ValueError``."""
    logits = logits_of(output, samples)
    if logits is None:
        found = main_tensor(output)
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"accuracy needs a model that puts out logits [N, classes]; for {samples} samples it gave {got}"
        )
    return logits


def find_output_rows(
    model: nn.Module, report: AuditReport, rows: Mapping[str, bool], inputs: Inputs, autocast: torch.dtype | None
) -> list[str]:
    """Those of ``rows`` whose neurons are the model's classes: as many, and no module with weights runs after them.

    Raises ``ValueError`` where one forward of ``inputs`` shows that the report is of another model.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    places = {row: split_row(row, modules) for row in rows}
    selection = Selection({name: modules[name] for name, _ in places.values()})
    for name, call in places.values():
        selection.calls.setdefault(name, set()).add(call)
    seen: set[str] = set()
    last: list[str] = []

    def visit(row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        axis, neurons = report.layers[row].channel_dim, report.layers[row].statistics.neurons
        if not isinstance(output, Tensor) or not -output.dim() <= axis < output.dim() or output.shape[axis] != neurons:
            got = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"the report is of another model: there layer {row!r} has {neurons} neurons on axis {axis}, and here "
                f"it puts out {got}"
            )
        seen.add(row)
        last.append(row)

    def begins(module: nn.Module, inputs: Any) -> None:
        last.clear()

    with ExitStack() as stack:
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                stack.callback(module.register_forward_pre_hook(begins).remove)
        stack.enter_context(OutputHooks(model, selection, visit))
        output = plain_forward(model, inputs, autocast)
    missing = [row for row in rows if row not in seen]
    if missing:
        raise ValueError(f"the report is of another model: layer {missing[0]!r} does not run in this one's forward")
    classes = needed_logits(output, batch_length(inputs)).shape[1]
    return [row for row in last if report.layers[row].statistics.neurons == classes]
