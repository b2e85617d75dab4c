"""The totals of tapped layers, one row per layer and call, and which outputs can be added to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast.columns import ROW_STATISTICS
from neurosens_fast.statistics import PairStatistics

from .selection import Selection, row_of
from .tokens import TokenChoice


@dataclass
class TapRow:
    """What one tap has seen: the module's type, the channel axis, the shape of one sample's output, the totals."""

    module_type: str
    channel_dim: int
    shape: tuple[int, ...]
    statistics: PairStatistics


class PairRows:
    """Totals of the chosen layers, to which :meth:`add` adds a pair of activations, and what was left out.

    ``rows`` maps names to :class:`TapRow` in the order of execution; ``skipped`` maps names to the reason.
    ``tokens`` is one of :data:`~neurosens_fast.capture.tokens.TOKENS`. With ``keeps_samples`` set, ``samples`` holds
    ``[N, C, 2]`` of every row for the last batch: each sample's mean |d| and mean |z|, NaN for one that adds nothing;
    that takes one more read. Rows named in ``done`` are not added to.
    """

    def __init__(self, selection: Selection, tokens: str = "all") -> None:
        self.selection = selection
        self.rows: dict[str, TapRow] = {}
        self.skipped: dict[str, str] = {}
        self.done: Collection[str] = ()
        self.keeps_samples = False
        self.samples: dict[str, Tensor] = {}
        self.tokens = tokens
        self._tokens = TokenChoice(tokens)

    @property
    def statistics(self) -> dict[str, PairStatistics]:
        """The totals by row name."""
        return {name: row.statistics for name, row in self.rows.items()}

    @property
    def mask(self) -> Tensor | None:
        """Which tokens of the next batch are real, ``[N, L]``, nonzero where one is; None: all.

        Setting it waits for its device once; see :class:`~neurosens_fast.capture.tokens.TokenChoice`.
        """
        return self._tokens.mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._tokens.mask = mask

    def silent(self) -> list[str]:
        """Tapped layers, or calls of them such as ``relu#3``, that no forward has reached yet."""
        seen = {*self.rows, *self.skipped}
        reached = {row.partition("#")[0] for row in seen} | seen
        whole = [name for name in self.selection.modules if name not in reached]
        calls = [(name, call) for name, numbers in self.selection.calls.items() for call in sorted(numbers)]
        missing = [f"{name}#{call}" for name, call in calls if row_of(name, call) not in seen]
        return [name for name in whole if name not in self.selection.calls] + missing

    def skip(self, row_name: str, name: str, error: ValueError | TypeError) -> None:
        """Leave a row out from now on; raises ``error`` where its layer ``name`` was named by the user."""
        if name in self.selection.named or row_name in self.rows:
            raise error
        self.skipped[row_name] = str(error)

    @property
    def takes_whole(self) -> bool:
        """Whether every position of every activation of the next batch counts."""
        return self.tokens == "all" and self.mask is None

    def row(
        self, row_name: str, name: str, module_type: str, shape: tuple[int, ...], channel_dim: int, device: torch.device
    ) -> TapRow:
        """The row ``row_name`` of layer ``name``, for activations of ``shape`` ``[N, ...]``; made where it is new."""
        neurons = shape[channel_dim]
        row = self.rows.get(row_name)
        if row is None:
            with torch.inference_mode(False):  # totals made in a caller's inference mode could not be added to later
                totals = PairStatistics(neurons, device)
            row = self.rows[row_name] = TapRow(module_type, channel_dim, shape[1:], totals)
        elif row.statistics.neurons != neurons:
            raise ValueError(
                f"layer {row_name!r} has {neurons} channels on axis {channel_dim}, earlier batches had "
                f"{row.statistics.neurons}; name the channel axis in channel_dims={{{name!r}: ...}} or leave the "
                "layer out"
            )
        return row

    def add(
        self, row_name: str, name: str, module_type: str, benign: Tensor, adversarial: Tensor, channel_dim: int
    ) -> None:
        """Add two activations ``[N, ...]`` of layer ``name`` to row ``row_name``; outputs must have been checked."""
        if row_name in self.done:
            return
        try:
            token_axis = self._tokens.axis(row_name, name, benign, channel_dim)
        except ValueError as error:
            self.skip(row_name, name, error)
            return
        neurons = benign.shape[channel_dim]
        row = self.row(row_name, name, module_type, tuple(benign.shape), channel_dim, benign.device)
        with torch.no_grad():
            for z, z_adv, axis, samples in self._tokens.pieces(benign, adversarial, channel_dim, token_axis):
                means = _sample_means(z, z_adv, axis) if self.keeps_samples else None  # first: memory may run out
                row.statistics.update(z, z_adv, axis)
                if means is not None:
                    if samples is None:
                        self.samples[row_name] = means
                    else:
                        empty = means.new_full((len(benign), neurons, 2), torch.nan)
                        self.samples.setdefault(row_name, empty).index_copy_(0, samples, means)


_MEANS = [ROW_STATISTICS.index(name) for name in ("change_l1", "benign_l1")]


def _sample_means(benign: Tensor, adversarial: Tensor, channel_dim: int) -> Tensor:
    positions = max(1, benign[0].numel() // max(1, benign.shape[channel_dim])) if len(benign) else 1
    return ops.pair_statistics(benign, adversarial, channel_dim)[..., _MEANS] / positions


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
