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

from typing import NamedTuple

import torch
from torch import Tensor

from . import _gradients
from . import _registration as _registration
from ._arguments import DTYPES as DTYPES
from ._arguments import NORMS as NORMS
from ._arguments import check_channel_dim as _check_channel_dim
from ._arguments import check_k as _check_k
from ._arguments import check_like as _check_like
from ._arguments import check_norm as _check_norm
from ._arguments import check_tensor as _check_tensor
from ._arguments import check_totals as _check_totals
from ._arguments import detached as _detached
from ._arguments import mutated as _mutated
from ._arguments import share_of as _share_of
from .joined import paired_sensitivity as paired_sensitivity
from .joined import relu_accumulate_pair_statistics_ as relu_accumulate_pair_statistics_
from .joined import relu_tap as relu_tap
from .joined import relu_tap_ as relu_tap_
from .steps import BALLS as BALLS
from .steps import momentum_step_ as momentum_step_
from .steps import project_step_ as project_step_
from .winograd import WINOGRAD_TILES as WINOGRAD_TILES
from .winograd import suits_winograd as suits_winograd
from .winograd import supports_winograd as supports_winograd
from .winograd import winograd_convolution as winograd_convolution
from .winograd import winograd_weight as winograd_weight

_ops = torch.ops.neurosens_fast


def _check_pair(benign: Tensor, adversarial: Tensor, channel_dim: int) -> int:
    """Return ``channel_dim`` counted from the front."""
    _check_tensor("benign", benign)
    _check_like("adversarial", adversarial, "benign", benign)
    if benign.dim() < 2:
        raise ValueError(f"benign must be [N, C, *S] with at least 2 dimensions, got shape {list(benign.shape)}")
    return _check_channel_dim(benign, channel_dim)


def pair_statistics(benign: Tensor, adversarial: Tensor, channel_dim: int = 1) -> Tensor:
    """Row statistics of a pair, ``[N, C, 15]``, in one read; columns as in ``columns.ROW_STATISTICS``.

    float32 (float64 for float64 input); not differentiable. Maxima of a row without positions are -inf.
    Source: choice of this package, see ``columns``. Equivalent to::

        d = adversarial - benign                                    # [N, C, S]
        torch.stack([d.abs().sum(2), d.sum(2), (d * d).sum(2), ..., adversarial.amax(2)], dim=2)
    """
    channel_dim = _check_pair(benign, adversarial, channel_dim)
    result: Tensor = _ops.pair_statistics(_detached(benign), _detached(adversarial), channel_dim)
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
    _check_totals(sums, maxima, "benign", benign, channel_dim)
    _ops.accumulate_pair_statistics_(sums, maxima, _detached(benign), _detached(adversarial), channel_dim)
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
    result: Tensor = _gradients.neuron_sensitivity(benign, adversarial, _check_norm(norm), channel_dim)
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
    _check_k(k)
    if neurons < 1:
        raise ValueError("there are no neurons to choose from")
    if isinstance(k, int):
        if not 1 <= k <= neurons:
            raise ValueError(f"k must be between 1 and the number of neurons {neurons}, got {k}")
        return k
    return max(1, _share_of(k, neurons))


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
        benign = _detached(benign)
    return SNSLossResult(*_gradients.sns_loss(benign, adversarial, count, text, channel_dim, neurons))


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
    values, indices = _ops.topk_neurons(_detached(sensitivity), k)
    return values, indices
