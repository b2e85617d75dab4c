"""Is the first axis of each layer the batch, and does each sample's output depend on that sample alone?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast import ops
from neurosens_fast.columns import ROW_STATISTICS

from .functional import FunctionalActivation, functional_activations
from .hooks import OutputHooks
from .pairs import Inputs, batch_length, mapped, pair_inputs, plain_forward, read_flags
from .rows import check_output
from .selection import Selection
from .tokens import MASK_KEY, attention_mask, token_axes

_SAMPLES = 4
# Kernels chosen by batch size round differently; a mixed-up batch differs by the size of the activations.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}

_MEND = (
    "it mixes the samples of a batch, its first axis is not the batch, or it is random; leave it out of layers, or "
    "pass verify=False to measure it all the same"
)


@dataclass
class Findings:
    """Rows that must not be measured, with the reason; and activations that no tap can reach."""

    problems: dict[str, tuple[str, ValueError | TypeError]]  # row -> (layer, error)
    functional: list[FunctionalActivation]


def verify_pairing(
    model: nn.Module,
    selection: Selection,
    inputs: Inputs,
    channel_dims: Mapping[str, int] | None = None,
    autocast: torch.dtype | None = None,
) -> Findings:
    """Compare a forward of a few samples joined with very different ones with two separate forwards, layer by layer.

    Of the first samples of ``inputs`` ``[N, ...]`` every chosen layer's sums per sample and neuron must agree. This
    catches layouts ``[L, N, C]`` and layers that couple the samples of a batch; both would make the two halves of a
    pair wrong without any error. What stands at padding, by the attention mask of dict inputs, is not compared.
    """
    few, other = few_pairs(inputs, _SAMPLES)
    count = batch_length(few)
    paired = _sums(model, selection, pair_inputs(few, other), count, channel_dims, autocast)
    alone = [_sums(model, selection, half, None, channel_dims, autocast) for half in (few, other)]
    dtypes = [pair.dtype for pair in paired.values()] + [autocast or torch.float64]
    tolerance = max(_TOLERANCE[dtype] for dtype in dtypes)  # rounding of one layer goes on into the next
    problems: dict[str, tuple[str, ValueError | TypeError]] = {}
    doubts: dict[str, Tensor] = {}
    for row, pair in paired.items():
        halves = [part[row].sums for part in alone if row in part]
        if pair.error is not None:
            problems[row] = (pair.layer, pair.error)
        elif len(halves) < 2 or any(half.shape != pair.sums[:count].shape for half in halves):
            problems[row] = (pair.layer, _error(pair.layer))
        else:
            doubts[row] = _differ(pair.sums, torch.cat(halves), tolerance)
    for row, wrong in zip(doubts, read_flags(list(doubts.values())), strict=True):
        if wrong:
            problems[row] = (paired[row].layer, _error(paired[row].layer))
    # A pass of its own: under the watch, torch chooses other kernels.
    return Findings(problems, functional_activations(model, few))


def few_pairs(inputs: Inputs, count: int) -> tuple[Inputs, Inputs]:
    """The first ``count`` samples of ``inputs``, or all that there are, and as many that differ much from them."""
    few = mapped(inputs, lambda leaf: leaf[:count])
    other = mapped(few, _another)
    if isinstance(few, Mapping) and isinstance(other, dict) and MASK_KEY in few:
        other[MASK_KEY] = few[MASK_KEY].flip(0)  # half a mask, were it a float, is none
    return few, other


def _another(leaf: Tensor) -> Tensor:
    """Very different samples of the same kind: those of the batch in reverse, real numbers also halved.

    A single sample of whole numbers, such as token ids, is reversed itself, unless it is a mask of zeros and ones.
    """
    if leaf.is_floating_point():
        return leaf.flip(0) * 0.5
    if leaf.shape[0] > 1 or leaf.dim() < 2 or leaf.dtype == torch.bool or not leaf.numel() or int(leaf.max()) < 2:
        return leaf.flip(0)
    return leaf.flip(1)


@dataclass
class _Seen:
    """One row of one forward: sums over positions of z and of |z|, ``[N, C, 2]``, or what is wrong with it."""

    layer: str
    sums: Tensor
    dtype: torch.dtype = torch.float32
    error: ValueError | TypeError | None = None


def _error(layer: str) -> ValueError:
    return ValueError(
        f"layer {layer!r} puts out something else for a sample alone than for the same sample in a pair: {_MEND}"
    )


def _sums(
    model: nn.Module,
    selection: Selection,
    inputs: Inputs,
    pairs: int | None,
    channel_dims: Mapping[str, int] | None,
    autocast: torch.dtype | None,
) -> dict[str, _Seen]:
    found: dict[str, _Seen] = {}
    mask = attention_mask(inputs)
    columns = [ROW_STATISTICS.index(name) for name in ("benign_sum", "benign_l1")]

    def visit(row: str, layer: str, module: nn.Module, output: Any, axis: int | None) -> None:
        try:
            check_output(layer, output, axis, pairs)
        except (ValueError, TypeError) as error:
            found[row] = _Seen(layer, torch.empty(0), error=error)
            return
        assert axis is not None
        values = _without_padding(output.detach(), axis, mask)
        found[row] = _Seen(layer, ops.pair_statistics(values, values, axis)[..., columns], values.dtype)

    with OutputHooks(model, selection, visit, channel_dims):
        plain_forward(model, inputs, autocast)
    return found


def _without_padding(values: Tensor, channel: int, mask: Tensor | None) -> Tensor:
    """Activations ``[N, ...]`` with zeros at the padding, whose values a model may leave to chance."""
    axes = [] if mask is None or len(mask) != len(values) else token_axes(values.shape, channel, mask.shape[1])
    if mask is None or len(axes) != 1:
        return values
    padding = (mask == 0).to(values.device)
    shape = [len(values) if axis == 0 else mask.shape[1] if axis in axes else 1 for axis in range(values.dim())]
    return values.masked_fill(padding.view(shape), 0)


def _differ(paired: Tensor, alone: Tensor, tolerance: float) -> Tensor:
    """Whether any sum differs by more than rounding, a bool on the device."""
    size = paired[..., 1] + paired[..., 1].nan_to_num(0, 0, 0).mean(1, keepdim=True)
    near = (paired[..., 0] - alone[..., 0]).abs() <= tolerance * size
    both_bad = ~paired[..., 0].isfinite() & ~alone[..., 0].isfinite()
    return ~(near | both_bad).all()
