"""Taps: forward hooks that reduce what each layer puts out at once and keep nothing.

A tap splits the output of its module into the benign and the adversarial half and feeds them to that layer's
:class:`~neurosens_fast.statistics.PairStatistics`. Because the reduction happens inside the hook, an in-place
module that follows cannot spoil the values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import OutputHooks
from .rows import PairRows, check_output
from .selection import Layers, select_layers


class Taps(PairRows):
    """Context manager that reduces the paired outputs of chosen modules to per-neuron totals.

    Inside, each forward of ``model`` on a batch of 2N (benign half first) adds N pairs to every tapped
    layer. ``rows`` maps layer names to :class:`TapRow` in the order of execution; a module called
    several times per forward gives one row per call: ``relu``, ``relu#2``, ... Of an output that is a
    tuple or mapping, the first tensor is read.

    ``layers`` is anything that :func:`select_layers` takes. The channel axis follows the module that
    produced the values (:mod:`~neurosens_fast.capture.channels`); ``channel_dims`` (name or glob ->
    axis) overrides it. ``pairs``, when set, is the N that every tapped output must have.

    ``tokens`` says which positions of token activations ``[2N, L, C]`` count: ``"all"``, ``"cls"`` (the first) or
    ``"last"``. ``mask``, when set before a batch, is the ``[N, L]`` of its real tokens: padding then counts nowhere,
    and first and last are those of the real ones. :mod:`~neurosens_fast.capture.tokens` has the details.

    A layer that was named raises ``ValueError`` or ``TypeError`` with the mend where its output is no
    tensor, not floating point, has no channel axis, or where its first axis is not the batch; a layer
    that came with a group or glob is left out then, and ``skipped`` says why.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "activations",
        channel_dims: Mapping[str, int] | None = None,
        tokens: str = "all",
    ) -> None:
        super().__init__(select_layers(model, layers), tokens)
        self.model = model
        self.pairs: int | None = None
        self._hooks = OutputHooks(model, self.selection, self.reduce, channel_dims)
        self.channel_dims = self._hooks.axes
        """The axes that were given, by layer name."""
        self.selection.named.update(self.channel_dims)  # an axis that was given must fit

    def fresh(self) -> Taps:
        """Taps of the same layers, without those that are skipped, which have seen nothing yet."""
        other = copy.copy(self)
        PairRows.__init__(other, self.selection, self.tokens)
        other.skipped, other.pairs = dict(self.skipped), None
        other._hooks = OutputHooks(self.model, self.selection, other.reduce, self.channel_dims)
        return other

    def __enter__(self) -> Taps:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def reduce(self, row_name: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        """Add what ``module``, called ``name``, put out: a batch of 2N whose channels are at ``axis``."""
        if self._fits(row_name, name, output, axis):
            assert axis is not None
            self._add_halves(row_name, name, type(module).__name__, output, axis)

    def reduce_relu_(self, row_name: str, name: str, output: Tensor, axis: int | None) -> None:
        """:meth:`reduce` of the ReLU of ``output``, which takes the place of ``output`` in the same pass."""
        kind = nn.ReLU.__name__
        with torch.no_grad():
            if not self._fits(row_name, name, output, axis):
                output.relu_()
                return
            assert axis is not None
            if row_name in self.done or self.keeps_samples or not self.takes_whole:
                self._add_halves(row_name, name, kind, output.relu_(), axis)
            else:
                row = self.row(row_name, name, kind, tuple(output.shape), axis, output.device)
                row.statistics.update_relu_(output, axis)

    def _add_halves(self, row_name: str, name: str, kind: str, output: Tensor, axis: int) -> None:
        values, half = output.detach(), output.shape[0] // 2
        self.add(row_name, name, kind, values.narrow(0, 0, half), values.narrow(0, half, half), axis)

    def _fits(self, row_name: str, name: str, output: Any, axis: int | None) -> bool:
        """Whether ``output`` can be added to its row; False where that is left out."""
        if row_name in self.skipped:
            return False
        try:
            check_output(name, output, axis, self.pairs)
        except (ValueError, TypeError) as error:
            self.skip(row_name, name, error)
            return False
        if output.shape[0] % 2:
            raise ValueError(
                f"layer {name!r} saw an odd batch of {output.shape[0]}; a paired batch holds N benign, then N "
                "adversarial samples"
            )
        return True
