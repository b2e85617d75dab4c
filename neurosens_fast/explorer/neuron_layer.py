"""The neurons that are explored: by default those that the last linear layer reads, the penultimate layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurosens_fast.audit.masking.hooks import split_row
from neurosens_fast.capture import (
    AttachedHooks,
    Call,
    CallRecorder,
    Inputs,
    batch_length,
    check_output,
    logits_of,
    main_tensor,
    plain_forward,
)
from neurosens_fast.capture.channels import CONVOLUTIONS, is_activation
from neurosens_fast.fragility.place import check_layer

NO_WEIGHTS = (
    "The model's logits do not come out of a linear layer (torch.nn.Linear), so no weights say what a neuron adds to a "
    "class; activations are shown in their place"
)
OTHER_LAYER = "The neurons of {!r} are not those that the last linear layer reads; activations are shown in their place"


@dataclass(frozen=True)
class NeuronLayer:
    """Where C neurons are read: what module ``row`` (``relu#2``: its second call) takes in or puts out.

    A neuron's value for a sample is its mean over positions. ``name`` is how the page calls the layer, ``axis`` the
    channel axis, from the front. ``weights`` ``[K, C]`` and ``bias`` ``[K]`` are those of the linear layer that makes
    the logits of the neurons, None with the reason ``unweighted`` where none does. ``map_row`` is a module whose output
    ``[N, C, *S]`` has the neurons' values as means over positions, None without one.
    """

    name: str
    row: str
    input: bool
    axis: int
    channels: int
    classes: int
    weights: Tensor | None
    bias: Tensor | None
    unweighted: str
    map_row: str | None
    map_axis: int
    rows: tuple[str, ...]
    """Modules that put out these neurons' values, or maps of them: the names under which reports may know them."""


class Reading(NamedTuple):
    """Of one forward logits ``[N, K]``, the neurons' ``values`` ``[N, C]``, their ``map`` ``[N, C, *S]`` if any."""

    logits: Tensor
    values: Tensor
    map: Tensor | None


def find_neuron_layer(
    model: nn.Module, layer: str | None, few: Inputs, autocast: torch.dtype | None = None
) -> NeuronLayer:
    """The place of the neurons in a forward on ``few`` samples.

    ``layer`` None means the input of the linear layer whose output are the logits; without such a layer, the last
    activation or convolution that runs. A name means the output of that layer. Raises ``ValueError`` with the mend for
    a model without logits ``[N, classes]``, an unknown layer, and one that does not run or puts out no tensor.
    """
    check_layer(model, layer, "before_norm")
    with CallRecorder(model, copied=True) as calls:
        output = plain_forward(model, few, autocast)
    logits = logits_of(output, batch_length(few))
    if logits is None:
        raise ValueError("the model must put out logits [N, classes]; wrap one that puts out something else")
    classes = logits.shape[1]
    linear = next((call for call in reversed(calls.seen) if _makes(call, logits)), None)
    if layer is None and linear is not None:
        values = linear.read
        pooled = next((call for call in reversed(calls.seen) if _pooled_is(call, values)), None)
        return NeuronLayer(
            name=f"{linear.row or 'the model'} (its input)",
            row=linear.row,
            input=True,
            axis=1,
            channels=values.shape[1],
            classes=classes,
            weights=_copy(linear.module.weight),
            bias=_copy(linear.module.bias),
            unweighted="",
            map_row=None if pooled is None else pooled.row,
            map_axis=1 if pooled is None else pooled.axis,
            rows=tuple(call.row for call in calls.seen if _is_same(call, values) or _pooled_is(call, values)),
        )
    if layer is None:
        found = next((call for call in reversed(calls.seen) if _is_plain(call)), None)
        if found is None:
            raise ValueError("the model runs no linear layer, activation or convolution; name the layer to explore")
    else:
        found = next((call for call in calls.seen if call.row == layer), None)
        if found is None:
            raise ValueError(f"layer {layer!r} did not run in a forward of the model; choose one that does")
    check_output(found.row, found.output, found.axis)
    axis = found.axis % found.output.dim()
    spatial = found.output.dim() > 2
    return NeuronLayer(
        name=found.row,
        row=found.row,
        input=False,
        axis=axis,
        channels=found.output.shape[axis],
        classes=classes,
        weights=None,
        bias=None,
        unweighted=NO_WEIGHTS if layer is None or linear is None else OTHER_LAYER.format(found.row),
        map_row=found.row if spatial else None,
        map_axis=axis,
        rows=(found.row,),
    )


def read(
    model: nn.Module, layer: NeuronLayer, inputs: Inputs, autocast: torch.dtype | None = None, gradient: bool = False
) -> Reading:
    """One forward of ``inputs`` in evaluation mode, with a graph for ``gradient``; modes and hooks are as before then.

    The map keeps its own layout with the channel axis moved to 1. Raises ``ValueError`` if the layer does not run.
    """
    with _Reader(model, layer) as reader:
        output = plain_forward(model, inputs, autocast, gradient=gradient)
    logits = logits_of(output, batch_length(inputs))
    if logits is None or reader.values is None:
        raise ValueError(f"layer {layer.row!r} did not run for a batch; choose one that always does")
    values = reader.values.movedim(layer.axis, 1)
    whole = None if reader.map is None else reader.map.movedim(layer.map_axis, 1)
    return Reading(logits, values.flatten(2).mean(2) if values.dim() > 2 else values, whole)


def _copy(weight: Any) -> Tensor | None:
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach().cpu()
    return weight.clone() if weight.dtype == torch.float64 else weight.to(torch.float32, copy=True)


def _makes(call: Call, logits: Tensor) -> bool:
    """Whether a linear layer of vectors puts out ``logits``, or what log-softmax makes them of."""
    if not isinstance(call.module, nn.Linear) or not isinstance(call.read, Tensor) or call.read.dim() != 2:
        return False
    made = call.output
    if made.shape != logits.shape:
        return False
    same = torch.allclose(made, logits, rtol=0, atol=0, equal_nan=True)
    return same or torch.allclose(made.log_softmax(1), logits, atol=1e-5, equal_nan=True)


def _is_same(call: Call, values: Tensor) -> bool:
    output = call.output
    return (
        isinstance(output, Tensor)
        and output.shape == values.shape
        and torch.allclose(output, values, rtol=0, atol=0, equal_nan=True)
    )


def _pooled_is(call: Call, values: Tensor) -> bool:
    """Whether ``values`` ``[N, C]`` are the means over positions of what a module puts out."""
    output = call.output
    if not isinstance(output, Tensor) or output.dim() < 3 or len(output) != len(values):
        return False
    axis = call.axis % output.dim()
    if output.shape[axis] != values.shape[1] or output.movedim(axis, 1).flatten(2).shape[2] < 2:
        return False
    means = output.movedim(axis, 1).flatten(2).float().mean(2)
    size = values.float().nan_to_num().abs().max()  # dead neurons alone are those of any map
    return bool(size > 0) and torch.allclose(means, values.float(), rtol=1e-3, atol=1e-4 * float(size), equal_nan=True)


def _is_plain(call: Call) -> bool:
    kind = is_activation(call.module) or isinstance(call.module, CONVOLUTIONS)
    return kind and isinstance(call.output, Tensor) and call.output.dim() >= 2


class _Reader(AttachedHooks):
    """What one forward shows of a :class:`NeuronLayer`."""

    def __init__(self, model: nn.Module, layer: NeuronLayer) -> None:
        super().__init__()
        self.values: Tensor | None = None
        self.map: Tensor | None = None
        self._model, self._layer = model, layer

    def _attach(self) -> Iterator[RemovableHandle]:
        modules = dict(self._model.named_modules(remove_duplicate=False))
        for row in {self._layer.row, self._layer.map_row} - {None}:
            assert row is not None
            name, call = split_row(row, modules)
            yield modules[name].register_forward_hook(self._hook(row, call))

    def _hook(self, row: str, wanted: int) -> Any:
        seen = 0

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal seen
            seen += 1
            if seen != wanted:
                return
            # Copied, since what runs next may write in place; the copy is part of the graph.
            if row == self._layer.row:
                self.values = (inputs[0] if self._layer.input else main_tensor(output)).clone()
            if row == self._layer.map_row:
                self.map = main_tensor(output).clone()

        return hook
