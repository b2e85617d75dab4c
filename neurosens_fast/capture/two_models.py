"""Two models on the same input: float against quantised, before against after fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import OutputHooks
from .pairs import Inputs, batch_length, hookable, mapped, parameters_device, plain_forward
from .rows import PairRows, check_output
from .selection import Layers, Selection, closest, select_layers
from .tokens import attention_mask


@dataclass
class _Kept:
    """What a layer of the first model put out, and what is needed to add it once the second model's is there."""

    layer: str
    module_type: str
    axis: int
    values: Tensor
    version: int | None  # of ``values`` when it was kept; None for a copy, which nothing overwrites


class PairedModels(PairRows):
    """Reduces the outputs of the same layers of two models on the same inputs to per-neuron totals.

    :meth:`forward` runs ``model_a`` and keeps what the chosen layers put out for one batch; then ``model_b``, whose
    hooks add ``(a's, b's)`` of each layer to that row and let a's go at once. ``rows``, ``skipped``, ``silent()``,
    ``tokens`` and ``mask`` (taken from the inputs where they are a dict that holds one) are as in :class:`Taps`:
    "benign" is what a puts out, "adversarial" what b does. Rows have a's names and channel axes.

    ``layers`` is chosen on ``model_a``; ``channel_dims`` goes by a's names. A layer is compared with the one of the
    same name in ``model_b``, or with the one to which ``layers_b`` maps its name. Shapes must agree; dtypes may
    differ and are brought to the wider floating-point one, quantised tensors to float32.

    A layer that was named raises ``ValueError`` or ``TypeError`` with the mend where model_b has no such layer or does
    not run it, where shapes differ, or its output is no activation ``[N, ...]``; one that came with a group or glob is
    left out then, and ``skipped`` says why. Unknown names in ``layers_b``, two names for one layer of model_b, and
    models on different devices raise ``ValueError``. A choice of this package.
    """

    def __init__(
        self,
        model_a: nn.Module,
        model_b: nn.Module,
        layers: Layers = "activations",
        channel_dims: Mapping[str, int] | None = None,
        layers_b: Mapping[str, str] | None = None,
        tokens: str = "all",
    ) -> None:
        self.model_a, self.model_b = hookable(model_a), hookable(model_b)
        places = parameters_device(self.model_a), parameters_device(self.model_b)
        if None not in places and places[0] != places[1]:
            raise ValueError(f"model_a is on {places[0]} and model_b on {places[1]}; move one to the other's device")
        super().__init__(select_layers(self.model_a, layers), tokens)
        self._keeping = OutputHooks(self.model_a, self.selection, self._keep, channel_dims)
        self.selection.named.update(self._keeping.axes)
        self._names = self._matched(dict(layers_b or {}))
        known = dict(self.model_b.named_modules(remove_duplicate=False))
        calls = {name: self.selection.calls.get(theirs) for name, theirs in self._names.items()}
        chosen = Selection({name: known[name] for name in self._names}, set(), {n: c for n, c in calls.items() if c})
        self._chosen = chosen
        self._adding = OutputHooks(self.model_b, chosen, self._add)
        self._kept: dict[str, _Kept] = {}
        self._overwritten: set[str] = set()  # rows that later code of model_a changes in place
        self._samples = 0

    def forward(self, inputs: Inputs, autocast: torch.dtype | None = None) -> tuple[Any, Any]:
        """Outputs of both models for ``inputs`` ``[N, ...]``, and N more pairs in every row.

        Both run in evaluation mode without gradients, on copies of the inputs; modes are restored per module and
        hooks removed, also after an exception. In the first batch model_a runs twice if it overwrites in place what a
        chosen layer put out: from then on that is copied, and nothing else is.
        """
        self._samples = batch_length(inputs)
        if isinstance(inputs, Mapping):
            self.mask = attention_mask(inputs)
        try:
            output_a = self._kept_forward(inputs, autocast)
            with self._adding:
                output_b = plain_forward(self.model_b, mapped(inputs, torch.clone), autocast)
            for row, kept in self._kept.items():
                self.skip(row, kept.layer, ValueError(f"layer {row!r} ran in model_a but not in model_b; leave it out"))
        finally:
            self._kept.clear()
        return output_a, output_b

    def sides(self) -> tuple[tuple[nn.Module, Selection, dict[str, int]], ...]:
        """Both models with their chosen layers and the channel axes that were given for them."""
        axes = self._keeping.axes
        theirs = {name: axes[ours] for name, ours in self._names.items() if ours in axes}
        return (self.model_a, self.selection, axes), (self.model_b, self._chosen, theirs)

    def names_in_a(self, model: nn.Module, row: str, name: str) -> tuple[str, str]:
        """Row and layer of ``model_a`` that stand for ``row`` of layer ``name`` in ``model``, one of the two."""
        if model is self.model_a:
            return row, name
        return self._names[name] + row.removeprefix(name), self._names[name]

    def _kept_forward(self, inputs: Inputs, autocast: torch.dtype | None) -> Any:
        """The output of model_a, with every chosen layer's in ``_kept`` as that layer put it out."""
        while True:
            with self._keeping:
                output = plain_forward(self.model_a, mapped(inputs, torch.clone), autocast)
            spoilt = {
                row
                for row, kept in self._kept.items()
                if kept.version is not None and kept.version != kept.values._version
            }
            if not spoilt:
                return output
            self._overwritten |= spoilt
            self._kept.clear()

    def _matched(self, layers_b: dict[str, str]) -> dict[str, str]:
        """Name in model_b -> name in model_a; chosen layers that model_b lacks are left out of the selection."""
        chosen, known = self.selection.modules, dict(self.model_b.named_modules(remove_duplicate=False))
        known.pop("", None)
        for name, theirs in layers_b.items():
            if name not in chosen:
                raise ValueError(
                    f"layers_b maps {name!r}, which is not among the chosen layers of model_a; "
                    f"{closest(name, list(chosen))}"
                )
            if theirs not in known:
                raise ValueError(
                    f"layers_b maps {name!r} to {theirs!r}, which model_b does not have; {closest(theirs, list(known))}"
                )
        names: dict[str, str] = {}
        taken: dict[int, str] = {}
        for name in list(chosen):
            theirs = layers_b.get(name, name)
            if theirs not in known:
                hint = closest(theirs, list(known))
                self.skip(name, name, ValueError(f"model_b has no layer {name!r}; map it in layers_b; {hint}"))
                del chosen[name]
            elif taken.setdefault(id(known[theirs]), name) != name:
                first = taken[id(known[theirs])]
                raise ValueError(
                    f"{first!r} and {name!r} of model_a meet the same layer {theirs!r} of model_b; keep one"
                )
            else:
                names[theirs] = name
        if not names:
            raise ValueError(next(iter(self.skipped.values())))
        return names

    def _keep(self, row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        if row in self.skipped:
            return
        output = _plain(output)
        try:
            check_output(name, output, axis)
            if output.shape[0] != self._samples:
                raise ValueError(
                    f"layer {name!r} puts out {output.shape[0]} rows for {self._samples} samples, so its first axis is "
                    "not the batch; leave it out of layers"
                )
        except (ValueError, TypeError) as error:
            self.skip(row, name, error)
            return
        assert axis is not None
        copied = row in self._overwritten or output.is_inference()  # inference tensors do not count their writes
        values = output.detach().clone() if copied else output.detach()
        version = None if copied else values._version
        self._kept[row] = _Kept(name, type(module).__name__, axis, values, version)

    def _add(self, row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        layer = self._names[name]
        row = layer + row.removeprefix(name)
        if row in self.skipped:
            return
        kept, output = self._kept.pop(row, None), _plain(output)
        try:
            if kept is None:
                raise ValueError(f"layer {row!r} ran in model_b but not in model_a; leave it out of layers")
            check_output(name, output, kept.axis)
            if output.shape != kept.values.shape:
                raise ValueError(
                    f"layer {layer!r} puts out {list(kept.values.shape)} in model_a and {list(output.shape)} in model_b"
                    f" ({name!r}); map it to another layer in layers_b or leave it out of layers"
                )
        except (ValueError, TypeError) as error:
            self.skip(row, layer, error)
            return
        wide = torch.promote_types(kept.values.dtype, output.dtype)
        self.add(row, layer, kept.module_type, kept.values.to(wide), output.detach().to(wide), kept.axis)


def _plain(output: Any) -> Any:
    """A quantised tensor as float32; anything else as it is."""
    return output.dequantize() if isinstance(output, Tensor) and output.is_quantized else output
