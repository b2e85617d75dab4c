"""Taps: forward hooks that reduce what each layer puts out at once and keep nothing.

A tap splits the output of its module into the benign and the adversarial half and feeds them to that layer's
:class:`~neurosens_fast.statistics.PairStatistics`. Because the reduction happens inside the hook, an in-place
module that follows cannot spoil the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from torch import nn

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
        self._hooks = OutputHooks(model, self.selection, self._reduce, channel_dims)
        self.selection.named.update(self._hooks.axes)  # an axis that was given must fit

    def __enter__(self) -> Taps:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _reduce(self, row_name: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        if row_name in self.skipped:
            return
        try:
            check_output(name, output, axis, self.pairs)
        except (ValueError, TypeError) as error:
            self.skip(row_name, name, error)
            return
        assert axis is not None
        if output.shape[0] % 2:
            raise ValueError(
                f"layer {name!r} saw an odd batch of {output.shape[0]}; a paired batch holds N benign, then N "
                "adversarial samples"
            )
        half = output.shape[0] // 2
        values = output.detach()
        benign, adversarial = values.narrow(0, 0, half), values.narrow(0, half, half)
        self.add(row_name, name, type(module).__name__, benign, adversarial, axis)
