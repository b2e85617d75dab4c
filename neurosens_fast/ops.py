"""The operators: typed, checked, documented. Kernels are in ``csrc/``, the same functions in pure
PyTorch in :mod:`neurosens_fast.reference`.

A pair is two activations of one shape ``[N, C, *S]``, float32, float64, float16 or bfloat16, the channel
at ``channel_dim`` (1 for feature maps, -1 for token layouts ``[N, L, C]``). Contiguous and channels_last
memory is read as it is, anything else is copied once. Rows (one sample, one neuron) accumulate in
float32, float64 input in float64; across samples everything is float64. Results are the same bits for
every run, number of threads and instruction set. NaN and infinity reach their own neuron and no other.

Every function raises ``TypeError`` for what is no tensor or has the wrong dtype and ``ValueError`` for a
wrong shape, device or value, naming the argument.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _registration as _registration
from ._arguments import DTYPES as DTYPES
from ._arguments import check_like as _check_like
from ._arguments import check_tensor as _check_tensor
from ._arguments import mutated as _mutated
from .columns import MAXIMA, SUMS
from .steps import BALLS as BALLS
from .steps import momentum_step_ as momentum_step_
from .steps import project_step_ as project_step_

NORMS: tuple[int | str, ...] = (1, "mse", "l2", "cosine")
"""Distances between the rows of a pair."""

_ops = torch.ops.neurosens_fast


def _check_pair(benign: Tensor, adversarial: Tensor, channel_dim: int) -> int:
    """Return ``channel_dim`` counted from the front."""
    _check_tensor("benign", benign)
    _check_like("adversarial", adversarial, "benign", benign)
    if benign.dim() < 2:
        raise ValueError(f"benign must be [N, C, *S] with at least 2 dimensions, got shape {list(benign.shape)}")
    return _check_channel_dim(benign, channel_dim)


def _check_channel_dim(x: Tensor, channel_dim: int) -> int:
    """Return ``channel_dim`` counted from the front."""
    if not -x.dim() <= channel_dim < x.dim():
        raise ValueError(f"channel_dim {channel_dim} is out of range for shape {list(x.shape)}")
    front = channel_dim % x.dim()
    if front == 0:
        raise ValueError("channel_dim must not be 0, the sample dimension")
    return front


def _check_norm(norm: int | str) -> str:
    if isinstance(norm, bool) or norm not in NORMS:
        raise ValueError(f'norm must be 1, "mse", "l2" or "cosine", got {norm!r}')
    return "1" if norm == 1 else str(norm)


def pair_statistics(benign: Tensor, adversarial: Tensor, channel_dim: int = 1) -> Tensor:
    """Row statistics of a pair, ``[N, C, 15]``, in one read; columns as in ``columns.ROW_STATISTICS``.

    float32 (float64 for float64 input); not differentiable. Maxima of a row without positions are -inf.
    Source: choice of this package, see ``columns``. Equivalent to::

        d = adversarial - benign                                    # [N, C, S]
        torch.stack([d.abs().sum(2), d.sum(2), (d * d).sum(2), ..., adversarial.amax(2)], dim=2)
    """
    channel_dim = _check_pair(benign, adversarial, channel_dim)
    result: Tensor = _ops.pair_statistics(benign.detach(), adversarial.detach(), channel_dim)
    return result


def accumulate_pair_statistics_(
    sums: Tensor, maxima: Tensor, benign: Tensor, adversarial: Tensor, channel_dim: int = 1
) -> None:
    """Add a batch to the totals ``sums`` ``[C, 14]`` and ``maxima`` ``[C, 3]``, in place, in one read.

    Totals are contiguous float64, columns as in ``columns.SUMS`` and ``columns.MAXIMA``, on the device of
    the pair (on the CPU where that device has no float64). Not differentiable. Start from
    ``statistics.new_totals``. Source: choice of this package. Equivalent to::

        rows = pair_statistics(benign, adversarial, channel_dim)    # [N, C, 15]
        sums += sample_terms(rows, positions).sum(0)
        maxima = torch.maximum(maxima, rows[..., -3:].amax(0))
    """
    channel_dim = _check_pair(benign, adversarial, channel_dim)
    channels = benign.shape[channel_dim]
    for name, total, columns in (("sums", sums, len(SUMS)), ("maxima", maxima, len(MAXIMA))):
        _check_tensor(name, total, (torch.float64,))
        if tuple(total.shape) != (channels, columns) or not total.is_contiguous():
            raise ValueError(f"{name} must be contiguous with shape [{channels}, {columns}], got {list(total.shape)}")
        if total.device != benign.device and not (total.device.type == "cpu" and benign.device.type == "mps"):
            raise ValueError(f"{name} is on {total.device} but benign is on {benign.device}")
    _ops.accumulate_pair_statistics_(sums, maxima, benign.detach(), adversarial.detach(), channel_dim)
    _mutated(sums, maxima)


def neuron_sensitivity(benign: Tensor, adversarial: Tensor, norm: int | str = 1, channel_dim: int = 1) -> Tensor:
    """Sensitivity of every neuron, ``[C]``: the mean over samples of the distance of its rows.

    ``norm`` 1: mean_s |d| (Zhang et al., IEEE TIP 30:1291, 2021); ``"mse"``: mean_s d^2; ``"l2"``:
    ||d||_2 / |S| (AISafety EvalBox); ``"cosine"``: 1 - cosine (choice of this package).
    float32 (float64 for float64 input). Differentiable once in both inputs; the gradient is 0 at d = 0
    for 1 and ``"l2"``, and for zero rows with ``"cosine"`` (choice of this package). Equivalent to::

        d = adversarial - benign                                    # [N, C, S]
        d.abs().mean(2).mean(0)
    """
    channel_dim = _check_pair(benign, adversarial, channel_dim)
    result: Tensor = _ops.neuron_sensitivity(benign, adversarial, _check_norm(norm), channel_dim)
    return result


class SNSLossResult(NamedTuple):
    """What :func:`sns_loss` returns."""

    loss: Tensor
    """``[]``, the mean distance of the chosen neurons; the only one with a gradient."""
    neurons: Tensor
    """``[k]`` int64, the chosen neurons, most sensitive first."""
    sensitivity: Tensor
    """``[C]``, the sensitivity of every neuron."""


def neuron_count(k: int | float, neurons: int) -> int:
    """How many of ``neurons`` a choice ``k`` means: an integer counts, a float is a share, at least 1, rounded up.

    Raises ``TypeError`` for another type and ``ValueError`` unless 1 <= k <= neurons or 0.0 < k <= 1.0.
    """
    if isinstance(k, bool) or not isinstance(k, int | float):
        raise TypeError(f"k must be a count (int) or a share (float), got {type(k).__name__}")
    if neurons < 1:
        raise ValueError("there are no neurons to choose from")
    if isinstance(k, int):
        if not 1 <= k <= neurons:
            raise ValueError(f"k must be between 1 and the number of neurons {neurons}, got {k}")
        return k
    if not 0 < k <= 1:
        raise ValueError(f"a share k must be above 0.0 and at most 1.0, got {k}; give a count as an int")
    return max(1, math.ceil(k * neurons - 1e-9))


def sns_loss(
    benign: Tensor,
    adversarial: Tensor,
    k: int | float | None = 0.1,
    norm: int | str = 1,
    channel_dim: int = 1,
    *,
    neurons: Tensor | None = None,
    detach_benign: bool = False,
) -> SNSLossResult:
    """Mean distance of the most sensitive neurons of a layer, in one read: the similarity loss of SNS training.

    The ``k`` neurons (a count, or a share of C as in :func:`neuron_count`) of highest sensitivity (``norm`` 1,
    whatever the loss uses) are chosen as by :func:`topk_neurons`; the loss is the mean of their distances in
    ``norm``, as :func:`neuron_sensitivity` defines them. ``neurons`` ``[k]`` (int64) fixes the choice instead.
    float32 (float64 for float64 input). Differentiable once in both inputs, or in ``adversarial`` only with
    ``detach_benign``; the choice is constant. Only chosen neurons are read for the gradient; all others get 0,
    also where they are not finite. At d = 0 and for zero rows the gradient is 0, as :func:`neuron_sensitivity`
    says. Source: Zhang et al., IEEE TIP 30:1291, 2021; the form of the loss is a choice of this package.
    Equivalent to::

        d = adversarial - benign                                    # [N, C, S]
        sensitivity = d.abs().mean(2).mean(0)
        sensitivity.topk(k).values.mean()                           # norm=1
    """
    channel_dim = _check_pair(benign, adversarial, channel_dim)
    channels = benign.shape[channel_dim]
    text = _check_norm(norm)
    if neurons is None:
        if k is None:
            raise ValueError("give k or neurons")
        count = neuron_count(k, channels)
    else:
        count = _check_neurons(neurons, benign, channels)
    if detach_benign:
        benign = benign.detach()
    return SNSLossResult(*_ops.sns_loss(benign, adversarial, count, text, channel_dim, neurons))


def _check_neurons(neurons: Tensor, benign: Tensor, channels: int) -> int:
    _check_tensor("neurons", neurons, (torch.int64,))
    if neurons.dim() != 1 or not neurons.shape[0]:
        raise ValueError(f"neurons must be [k] with k at least 1, got shape {list(neurons.shape)}")
    if neurons.device != benign.device:
        raise ValueError(f"neurons is on {neurons.device} but benign is on {benign.device}")
    readable = neurons.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere it would be a wait
    if readable and not 0 <= int(neurons.min()) <= int(neurons.max()) < channels:
        raise ValueError(f"neurons must lie between 0 and {channels - 1}, got {neurons.tolist()}")
    return neurons.shape[0]


def _check_joined(pair: Tensor, channel_dim: int, norm: int | str) -> tuple[int, str]:
    _check_tensor("pair", pair)
    if pair.dim() < 2:
        raise ValueError(f"pair must be [2N, C, *S] with at least 2 dimensions, got shape {list(pair.shape)}")
    if pair.shape[0] % 2:
        raise ValueError(f"pair must hold N benign, then N adversarial samples, got an odd batch of {pair.shape[0]}")
    return _check_channel_dim(pair, channel_dim), _check_norm(norm)


def paired_sensitivity(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, *, detach_benign: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`neuron_sensitivity` of a batch ``[2N, C, *S]``, benign half first, in ``norm`` and in 1: ``[C]`` each.

    The first is differentiable once (through the adversarial half only with ``detach_benign``); its gradient is
    written as one tensor of the shape of ``pair``. The second, by which neurons are chosen, has none.
    Source: choice of this package. Equivalent to::

        benign, adversarial = pair.chunk(2)
        neuron_sensitivity(benign, adversarial, norm), neuron_sensitivity(benign, adversarial).detach()
    """
    channel_dim, text = _check_joined(pair, channel_dim, norm)
    distances, sensitivity = _ops.paired_sensitivity(pair, text, channel_dim, detach_benign)
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
    channel_dim, text = _check_joined(pair, channel_dim, norm)
    out, distances, sensitivity = _ops.relu_tap(pair, text, channel_dim, detach_benign)
    return out, distances, sensitivity


def relu_tap_(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, *, detach_benign: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`relu_tap` that overwrites ``pair``, as ``torch.relu_`` does, and returns it first.

    Raises ``ValueError`` for a leaf that requires a gradient.
    """
    channel_dim, text = _check_joined(pair, channel_dim, norm)
    compiling = torch.compiler.is_compiling()
    needs_gradient = pair.requires_grad and torch.is_grad_enabled()
    if not compiling and needs_gradient and pair.is_leaf:
        raise ValueError("pair is a leaf that requires a gradient and cannot be overwritten; use relu_tap")
    if compiling or (needs_gradient and pair._is_view()):  # a write that compiler and base of the view learn of
        out, distances, sensitivity = _ops.relu_tap(pair, text, channel_dim, detach_benign)
        return pair.copy_(out), distances, sensitivity
    out, distances, sensitivity = _ReluTapInPlace.apply(pair, text, channel_dim, detach_benign)
    return out, distances, sensitivity


class _ReluTapInPlace(torch.autograd.Function):
    """An operator's own autograd formula must not mutate its input; this may."""

    @staticmethod
    def forward(ctx: Any, pair: Tensor, norm: str, channel_dim: int, detach_benign: bool) -> tuple[Tensor, ...]:
        distances, sensitivity = _ops.relu_tap_(pair, norm, channel_dim)
        ctx.mark_dirty(pair)
        ctx.mark_non_differentiable(sensitivity)
        ctx.save_for_backward(pair)
        ctx.arguments = norm, channel_dim, detach_benign
        return pair, distances, sensitivity

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (out,) = ctx.saved_tensors
        return _ops.relu_tap_backward(grad_out, grad, out, *ctx.arguments), None, None, None


def topk_neurons(sensitivity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of ``sensitivity`` ``[C]``, descending: values ``[k]`` and int64 indices ``[k]``.

    Stable: ties go to the lowest index; NaN counts as largest, as in ``torch.topk``. Source: choice of
    this package. Not differentiable; index ``sensitivity`` with the result where a gradient is wanted.
    Equivalent to::

        values, indices = sensitivity.sort(descending=True, stable=True)
        values[:k], indices[:k]
    """
    _check_tensor("sensitivity", sensitivity)
    if sensitivity.dim() != 1:
        raise ValueError(f"sensitivity must be [C], got shape {list(sensitivity.shape)}")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 0 <= k <= sensitivity.shape[0]:
        raise ValueError(f"k must be between 0 and the number of neurons {sensitivity.shape[0]}, got {k}")
    values, indices = _ops.topk_neurons(sensitivity.detach(), k)
    return values, indices
