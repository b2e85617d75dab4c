"""Finding out, before training begins, what each chosen layer puts out and where its channel axis is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_unflatten

from neurosens_fast.capture import (
    OutputHooks,
    Selection,
    check_output,
    pair_inputs,
    plain_forward,
    untouched,
    verify_pairing,
)
from neurosens_fast.support.random_state import random_state

from .records import Row, version

_SAMPLES = 4


@dataclass
class Rows:
    """What the chosen layers of a model put out."""

    chosen: list[Row] = field(default_factory=list)
    """In the order of execution."""
    calls: dict[str, list[Row | None]] = field(default_factory=dict)
    """Layer -> its calls, None where one cannot be measured."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Row or layer -> why it was left out."""
    silent: list[str] = field(default_factory=list)
    """Named layers or calls that did not run."""

    def copied(self) -> Rows:
        """The same for another model, without what forwards left."""
        copies = {row: replace(row) for calls in self.calls.values() for row in calls if row is not None}
        for row in copies.values():
            row.clear()
        return Rows(
            [copies[row] for row in self.chosen],
            {layer: [row and copies[row] for row in calls] for layer, calls in self.calls.items()},
            dict(self.skipped),
            list(self.silent),
        )


def find_rows(
    model: nn.Module,
    selection: Selection,
    axes: Mapping[str, int],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    length: int,
    samples: int,
    verify: bool,
) -> Rows:
    """Run ``model`` on a few of the first ``samples`` of a call whose batch has ``length``, and look at its layers.

    In evaluation mode without gradients; buffers and random state are as before afterwards. Raises ``ValueError`` or
    ``TypeError`` for a named layer that cannot be measured, with ``verify`` also where
    :func:`~neurosens_fast.capture.verify_pairing` finds that it mixes samples; others are left out.
    """
    call = _Call(model, args, kwargs, length)
    few = tuple(tensor[: min(_SAMPLES, samples)] for tensor in call.batched)
    every_call = replace(selection, calls={})
    kind = few[0].device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    try:
        with untouched(model), random_state(0):
            verified = verify_pairing(call, every_call, few, axes, autocast).problems if verify else {}
            outputs = _look(call, every_call, few, axes, verified)
    except Exception as error:
        error.add_note("while SNSLoss looked at the layers with a few samples; sns.prepare(x) does so with others")
        raise
    return _rows(selection, outputs)


class _Call(nn.Module):
    """A call of ``model`` as a function of its ``batched`` tensors, those of the batch's length."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], length: int) -> None:
        super().__init__()
        self._model = model
        self._leaves, self._structure = tree_flatten((args, kwargs))
        self._places = [
            place
            for place, leaf in enumerate(self._leaves)
            if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == length
        ]

    @property
    def batched(self) -> list[Tensor]:
        return [self._leaves[place] for place in self._places]

    def forward(self, *batched: Tensor) -> Any:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, batched, strict=True):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self._structure)
        return self._model(*args, **kwargs)


_Seen = tuple[str, Row | ValueError | TypeError]
"""A layer, and one call of it or what is wrong with that."""


def _look(
    call: nn.Module,
    selection: Selection,
    few: tuple[Tensor, ...],
    axes: Mapping[str, int],
    problems: Mapping[str, tuple[str, ValueError | TypeError]],
) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}
    held: list[tuple[Row, Tensor, int]] = []

    def visit(name: str, layer: str, module: nn.Module, output: Any, axis: int | None) -> None:
        try:
            check_output(layer, output, axis, len(few[0]))
            if name in problems:
                raise problems[name][1]
        except (ValueError, TypeError) as error:
            seen[name] = (layer, error)
            return
        assert axis is not None
        row = Row(name, layer, axis, output.shape[axis])
        seen[name] = (layer, row)
        held.append((row, output, version(output)))

    def dropout(module: nn.Module, inputs: Any) -> None:
        for row, output, _ in held:
            row.overwritten |= inputs[0] is output

    # Dropout in place overwrites in training only.
    dropouts = [module for module in call.modules() if isinstance(module, _DropoutNd) and module.inplace]
    with ExitStack() as hooks:
        for module in dropouts:
            hooks.callback(module.register_forward_pre_hook(dropout).remove)
        hooks.enter_context(OutputHooks(call, selection, visit, axes))
        plain_forward(call, pair_inputs(few, few))
    for row, output, before in held:
        row.overwritten |= version(output) != before
    return seen


def _rows(selection: Selection, seen: Mapping[str, _Seen]) -> Rows:
    rows = Rows()
    for name, (layer, found) in seen.items():
        calls = rows.calls.setdefault(layer, [])
        chosen = selection.wants(layer, len(calls) + 1)
        if isinstance(found, Row):
            found.chosen = chosen
            calls.append(found)
            if chosen:
                rows.chosen.append(found)
            continue
        calls.append(None)
        if chosen and layer in selection.named:
            raise found
        if chosen:
            rows.skipped[name] = str(found)
    for layer in selection.modules:
        numbers = selection.calls.get(layer, {1})
        missing = [number for number in sorted(numbers) if number > len(rows.calls.get(layer, []))]
        names = [layer if number == 1 else f"{layer}#{number}" for number in missing]
        if layer in selection.named:
            rows.silent += names
        else:
            rows.skipped.update(dict.fromkeys(names, f"layer {layer!r} did not run in evaluation mode"))
    if not rows.chosen and not rows.silent:
        raise ValueError(f"none of the chosen layers can be measured: {next(iter(rows.skipped.values()))}")
    return rows
