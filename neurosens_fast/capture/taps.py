"""Taps: forward hooks that reduce what each layer puts out at once and keep nothing.

A tap splits the output of its module into the benign and the adversarial half and feeds them to that layer's
:class:`~neurosens_fast.statistics.PairStatistics`. Because the reduction happens inside the hook, an in-place
module that follows cannot spoil the values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.statistics import PairStatistics

from .hooks import OutputHooks
from .selection import Layers, Selection, row_of, select_layers


@dataclass
class TapRow:
    """What one tap has seen: the module's type, the channel axis, the shape of one sample's output, the totals."""

    module_type: str
    channel_dim: int
    shape: tuple[int, ...]
    statistics: PairStatistics


class Taps:
    """Context manager that reduces the paired outputs of chosen modules to per-neuron totals.

    Inside, each forward of ``model`` on a batch of 2N (benign half first) adds N pairs to every tapped
    layer. ``rows`` maps layer names to :class:`TapRow` in the order of execution; a module called
    several times per forward gives one row per call: ``relu``, ``relu#2``, ... Of an output that is a
    tuple or mapping, the first tensor is read.

    ``layers`` is anything that :func:`select_layers` takes. The channel axis follows the module that
    produced the values (:mod:`~neurosens_fast.capture.channels`); ``channel_dims`` (name or glob ->
    axis) overrides it. ``pairs``, when set, is the N that every tapped output must have.

    A layer that was named raises ``ValueError`` or ``TypeError`` with the mend where its output is no
    tensor, not floating point, has no channel axis, or where its first axis is not the batch; a layer
    that came with a group or glob is left out then, and ``skipped`` says why.
    """

    def __init__(
        self, model: nn.Module, layers: Layers = "activations", channel_dims: Mapping[str, int] | None = None
    ) -> None:
        self.model = model
        self.selection: Selection = select_layers(model, layers)
        self.rows: dict[str, TapRow] = {}
        self.skipped: dict[str, str] = {}
        self.pairs: int | None = None
        self._hooks = OutputHooks(model, self.selection, self.reduce, channel_dims)
        self.channel_dims = self._hooks.axes
        """The axes that were given, by layer name."""
        self.selection.named.update(self.channel_dims)  # an axis that was given must fit

    def fresh(self) -> Taps:
        """Taps of the same layers, without those that are skipped, which have seen nothing yet."""
        other = copy.copy(self)
        other.rows, other.skipped, other.pairs = {}, dict(self.skipped), None
        other._hooks = OutputHooks(self.model, self.selection, other.reduce, self.channel_dims)
        return other

    @property
    def statistics(self) -> dict[str, PairStatistics]:
        """The totals by row name."""
        return {name: row.statistics for name, row in self.rows.items()}

    def silent(self) -> list[str]:
        """Tapped layers, or calls of them such as ``relu#3``, that no forward has reached yet."""
        seen = {*self.rows, *self.skipped}
        reached = {row.partition("#")[0] for row in seen} | seen
        whole = [name for name in self.selection.modules if name not in reached]
        calls = [(name, call) for name, numbers in self.selection.calls.items() for call in sorted(numbers)]
        missing = [f"{name}#{call}" for name, call in calls if row_of(name, call) not in seen]
        return [name for name in whole if name not in self.selection.calls] + missing

    def __enter__(self) -> Taps:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def skip(self, row_name: str, name: str, error: ValueError | TypeError) -> None:
        """Leave a row out from now on; raises ``error`` where its layer ``name`` was named by the user."""
        if name in self.selection.named or row_name in self.rows:
            raise error
        self.skipped[row_name] = str(error)

    def reduce(self, row_name: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        """Add what ``module``, called ``name``, put out: a batch of 2N whose channels are at ``axis``."""
        row = self._row(row_name, name, type(module).__name__, output, axis)
        if row is None:
            return
        assert axis is not None
        values, half = output.detach(), output.shape[0] // 2
        with torch.no_grad():
            row.statistics.update(values.narrow(0, 0, half), values.narrow(0, half, half), axis)

    def reduce_relu_(self, row_name: str, name: str, output: Tensor, axis: int | None) -> None:
        """:meth:`reduce` of the ReLU of ``output``, which takes the place of ``output`` in the same pass."""
        row = self._row(row_name, name, nn.ReLU.__name__, output, axis)
        with torch.no_grad():
            if row is None:
                output.relu_()
                return
            assert axis is not None
            row.statistics.update_relu_(output, axis)

    def _row(self, row_name: str, name: str, kind: str, output: Any, axis: int | None) -> TapRow | None:
        """The row to which a checked ``output`` is to be added; None where it is left out."""
        if row_name in self.skipped:
            return None
        try:
            check_output(name, output, axis, self.pairs)
        except (ValueError, TypeError) as error:
            self.skip(row_name, name, error)
            return None
        if output.shape[0] % 2:
            raise ValueError(
                f"layer {name!r} saw an odd batch of {output.shape[0]}; a paired batch holds N benign, then N "
                "adversarial samples"
            )
        assert axis is not None
        neurons = output.shape[axis]
        row = self.rows.get(row_name)
        if row is None:
            with torch.inference_mode(False):  # totals made in a caller's inference mode could not be added to later
                totals = PairStatistics(neurons, output.device)
            row = self.rows[row_name] = TapRow(kind, axis, tuple(output.shape[1:]), totals)
        elif row.statistics.neurons != neurons:
            raise ValueError(
                f"layer {row_name!r} has {neurons} channels on axis {axis}, earlier batches had "
                f"{row.statistics.neurons}; name the channel axis in channel_dims={{{name!r}: ...}} or leave the "
                "layer out"
            )
        return row


def check_output(name: str, output: Any, axis: int | None, pairs: int | None = None) -> None:
    """Raise one sentence that names the layer if ``output`` is no floating-point activation ``[2 * pairs, ...]``."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"layer {name!r} puts out a {type(output).__name__}, not a tensor; tap a module inside it or leave it out"
        )
    if not output.is_floating_point():
        raise TypeError(f"layer {name!r} puts out {output.dtype}, which has no sensitivity; leave it out of layers")
    if output.dim() < 2:
        raise ValueError(
            f"layer {name!r} puts out shape {list(output.shape)}, which has no channel axis; leave it out of layers"
        )
    if axis is None or not -output.dim() <= axis < output.dim() or axis % output.dim() == 0:
        raise ValueError(
            f"layer {name!r}: channel axis {axis} does not fit its output {list(output.shape)}; "
            f"give another in channel_dims={{{name!r}: ...}}"
        )
    length = output.shape[0]
    if pairs is not None and length != 2 * pairs:
        raise ValueError(
            f"layer {name!r} puts out {length} rows for {pairs} pairs ({2 * pairs} expected), so its first axis is "
            "not the batch; leave it out of layers"
        )
