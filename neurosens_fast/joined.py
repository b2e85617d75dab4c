"""The operators of a joined batch, benign half first; part of :mod:`neurosens_fast.ops`, which holds the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _gradients
from . import _registration as _registration
from ._arguments import check_channel_dim, check_norm, check_tensor, check_totals, detached, mutated

_ops = torch.ops.neurosens_fast


def _check(pair: Tensor, channel_dim: int) -> int:
    """Return ``channel_dim`` counted from the front."""
    check_tensor("pair", pair)
    if pair.dim() < 2:
        raise ValueError(f"pair must be [2N, C, *S] with at least 2 dimensions, got shape {list(pair.shape)}")
    if pair.shape[0] % 2:
        raise ValueError(f"pair must hold N benign, then N adversarial samples, got an odd batch of {pair.shape[0]}")
    return check_channel_dim(pair, channel_dim)


def _check_overwritable(pair: Tensor) -> None:
    steps = pair.stride()
    if 0 in steps and any(size > 1 and step == 0 for size, step in zip(pair.shape, steps, strict=True)):
        raise ValueError(
            "pair has elements that share memory, as expand makes them, and cannot be overwritten; clone it first"
        )


def paired_sensitivity(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, *, detach_benign: bool = False
) -> tuple[Tensor, Tensor]:
    """Sensitivities of a batch ``[2N, C, *S]``, benign half first, in ``norm`` and in 1: ``[C]`` each.

    They are those of :func:`~neurosens_fast.ops.neuron_sensitivity`. The first is differentiable once
    (through the adversarial half only with ``detach_benign``); its gradient is written as one tensor of the shape
    of ``pair``. The second, by which neurons are chosen, has none.
    Source: choice of this package. Equivalent to::

        benign, adversarial = pair.chunk(2)
        neuron_sensitivity(benign, adversarial, norm), neuron_sensitivity(benign, adversarial).detach()
    """
    channel_dim, text = _check(pair, channel_dim), check_norm(norm)
    distances, sensitivity = _gradients.paired_sensitivity(pair, text, channel_dim, detach_benign)
    return distances, sensitivity


def relu_tap(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, *, detach_benign: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """``relu(pair)`` and its :func:`paired_sensitivity` in the same pass: ``[2N, C, *S]``, ``[C]``, ``[C]``.

    The first equals ``torch.relu`` in every bit. The gradients of the first two are joined in one pass over
    ``pair``; the third has none. Source: choice of this package. Equivalent to::

        out = pair.relu()
        out, *paired_sensitivity(out, norm)
    """
    channel_dim, text = _check(pair, channel_dim), check_norm(norm)
    out, distances, sensitivity = _gradients.relu_tap(pair, text, channel_dim, detach_benign)
    return out, distances, sensitivity


def relu_tap_(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, *, detach_benign: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`relu_tap` that overwrites ``pair``, as ``torch.relu_`` does, and returns it first.

    Raises ``ValueError`` for a leaf that requires a gradient, and for elements that share memory.
    """
    channel_dim, text = _check(pair, channel_dim), check_norm(norm)
    compiling = torch.compiler.is_compiling()
    needs_gradient = pair.requires_grad and torch.is_grad_enabled()
    if not compiling and needs_gradient and pair.is_leaf:
        raise ValueError("pair is a leaf that requires a gradient and cannot be overwritten; use relu_tap")
    _check_overwritable(pair)
    if compiling or (needs_gradient and pair._is_view()):  # a write that compiler and base of the view learn of
        out, distances, sensitivity = _gradients.relu_tap(pair, text, channel_dim, detach_benign)
        return pair.copy_(out), distances, sensitivity
    out, distances, sensitivity = _gradients.ReluTapInPlace.apply(pair, text, channel_dim, detach_benign)
    return out, distances, sensitivity


def relu_accumulate_pair_statistics_(sums: Tensor, maxima: Tensor, pair: Tensor, channel_dim: int = 1) -> None:
    """Overwrite a batch ``[2N, C, *S]``, benign half first, with its ReLU and add that to the totals in the same pass.

    ``pair`` becomes ``torch.relu(pair)`` in every bit, in its own memory and strides; ``sums`` ``[C, 14]`` and
    ``maxima`` ``[C, 3]`` are those of :func:`~neurosens_fast.ops.accumulate_pair_statistics_`, which would add the
    same. Not differentiable: ``ValueError`` for a ``pair`` that requires a gradient while gradients are recorded, and
    for one whose elements share memory. Source: choice of this package. Equivalent to::

        benign, adversarial = pair.relu_().chunk(2)
        accumulate_pair_statistics_(sums, maxima, benign, adversarial, channel_dim)
    """
    channel_dim = _check(pair, channel_dim)
    check_totals(sums, maxima, "pair", pair, channel_dim)
    if pair.requires_grad and torch.is_grad_enabled():
        raise ValueError("pair requires a gradient and this operator has none; call it under torch.no_grad()")
    _check_overwritable(pair)
    _ops.relu_accumulate_pair_statistics_(sums, maxima, detached(pair), channel_dim)
    mutated(sums, maxima, pair)
