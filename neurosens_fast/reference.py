"""Every operator in pure PyTorch: the oracle of the tests and the baseline of the benchmarks.

The functions have the signatures of :mod:`neurosens_fast.ops` and run on any device. They read an
activation several times and allocate temporaries of its size; that is what the kernels avoid.
Reduced precision is raised to float32 first, float64 stays float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference_steps import momentum_step_ as momentum_step_
from .reference_steps import project_step_ as project_step_
from .reference_steps import sign
from .reference_winograd import winograd_convolution as winograd_convolution
from .reference_winograd import winograd_weight as winograd_weight

ACTIVATION_FREQUENCY_SHARE = 0.01
"""A neuron counts as firing above this share of its sample's largest channel mean (CAS, ICLR 2021)."""


def _rows(activation: Tensor, channel_dim: int) -> Tensor:
    """View ``[N, C, *S]`` (channel at ``channel_dim``) as ``[N, C, S]`` in the accumulation dtype."""
    rows = activation.movedim(channel_dim, 1)
    rows = rows.flatten(2) if rows.dim() > 2 else rows.unsqueeze(2)
    return rows if rows.dtype == torch.float64 else rows.float()


def _maximum(rows: Tensor) -> Tensor:
    """Largest element of each row ``[N, C, S]``; -inf, the identity of max, for an empty row."""
    return rows.amax(2) if rows.shape[2] else rows.new_full(rows.shape[:2], -torch.inf)


def pair_statistics(benign: Tensor, adversarial: Tensor, channel_dim: int = 1) -> Tensor:
    """Row statistics ``[N, C, 15]`` in the order of ``columns.ROW_STATISTICS``."""
    z, z_adv = _rows(benign, channel_dim), _rows(adversarial, channel_dim)
    d = z_adv - z
    return torch.stack(
        [
            torch.linalg.vector_norm(d, 1, dim=2),
            d.sum(2),
            d.square().sum(2),
            (d * z).sum(2),
            z.sum(2),
            z_adv.sum(2),
            torch.linalg.vector_norm(z, 1, dim=2),
            z.square().sum(2),
            z_adv.square().sum(2),
            (z * z_adv).sum(2),
            (z > 0).sum(2).to(z.dtype),
            (z_adv > 0).sum(2).to(z.dtype),
            _maximum(d.abs()),
            _maximum(z),
            _maximum(z_adv),
        ],
        dim=2,
    )


def cosine_distance(
    change_sq: Tensor, change_dot: Tensor, benign_sq: Tensor, adversarial_sq: Tensor, pair_dot: Tensor
) -> Tensor:
    """``1 - cosine`` of row pairs from their second moments, without cancellation for nearly equal rows.

    For rows closer than their length, ``1 - cosine = (|d|^2 - delta^2) / (2 |z| |z'|)`` with
    ``delta = |z'| - |z|``; the difference of norms is formed from ``<d, z>`` and ``|d|^2`` for the
    same reason. Other rows use the dot product. 0 where both rows are zero, 1 where one is.
    """
    norm, norm_adv = benign_sq.sqrt(), adversarial_sq.sqrt()
    product = norm * norm_adv
    delta = (2 * change_dot + change_sq) / (norm + norm_adv)
    near = (change_sq - delta.square()) / (2 * product)
    far = 1 - pair_dot / product
    distance = torch.where(change_sq <= product, near, far).clamp(0, 2)
    one_zero = (benign_sq == 0).to(distance.dtype) - (adversarial_sq == 0).to(distance.dtype)
    degenerate = one_zero.abs() + (benign_sq + adversarial_sq) * 0
    return torch.where((benign_sq == 0) | (adversarial_sq == 0), degenerate, distance)


def _relative(change: Tensor, size: Tensor) -> Tensor:
    """``change / size``, and 1 where ``size`` is 0 (unless the change is NaN)."""
    return torch.where((size == 0) & ~change.isnan(), torch.ones_like(change), change / size)


def _frequency(means: Tensor) -> Tensor:
    """1 where a channel mean ``[N, C]`` exceeds the sample's threshold, NaN where it is NaN, else 0."""
    if means.shape[1] == 0:
        return means.clone()
    finite = torch.where(means.isfinite(), means, -torch.inf)
    threshold = ACTIVATION_FREQUENCY_SHARE * finite.amax(1, keepdim=True)
    threshold = torch.where(threshold == -torch.inf, torch.inf, threshold)
    return torch.where(means.isnan(), means, (means > threshold).to(means.dtype))


def sample_terms(rows: Tensor, positions: int) -> Tensor:
    """Finalised per-sample terms ``[N, C, 14]`` of row statistics, in the order of ``columns.SUMS``."""
    (change_l1, change_sum, change_sq, change_dot, benign_sum, adversarial_sum, benign_l1, benign_sq,
     adversarial_sq, pair_dot, benign_positive, adversarial_positive) = rows[..., :-3].unbind(2)  # fmt: skip
    share = 1 / positions if positions else torch.nan
    change_l2 = change_sq.sqrt()
    benign_mean = benign_sum * share
    adversarial_mean = adversarial_sum * share
    return torch.stack(
        [
            change_l1 * share,
            change_l2 * share,
            _relative(change_l1, benign_l1),
            _relative(change_l2, benign_sq.sqrt()),
            (change_sum * share).abs(),
            change_sq * share,
            change_l2,
            cosine_distance(change_sq, change_dot, benign_sq, adversarial_sq, pair_dot),
            benign_mean,
            adversarial_mean,
            benign_positive * share,
            adversarial_positive * share,
            _frequency(benign_mean),
            _frequency(adversarial_mean),
        ],
        dim=2,
    )


def accumulate_pair_statistics_(
    sums: Tensor, maxima: Tensor, benign: Tensor, adversarial: Tensor, channel_dim: int = 1
) -> None:
    """Add a batch to the totals ``sums`` ``[C, 14]`` and ``maxima`` ``[C, 3]`` (float64), in place."""
    rows = pair_statistics(benign, adversarial, channel_dim)  # the totals may be on another device
    if rows.shape[0] == 0:
        return
    positions = benign.numel() // max(1, rows.shape[0] * rows.shape[1])
    sums += sample_terms(rows, positions).to(sums).sum(0)
    torch.maximum(maxima, rows[..., -3:].amax(0).to(maxima), out=maxima)


def row_distance(benign: Tensor, adversarial: Tensor, norm: int | str = 1, channel_dim: int = 1) -> Tensor:
    """The distance of each row, ``[N, C]``, of which ``ops.neuron_sensitivity`` is the mean over samples.

    Differentiable by autograd away from ties.
    """
    z, z_adv = _rows(benign, channel_dim), _rows(adversarial, channel_dim)
    d = z_adv - z
    if norm == 1:
        return d.abs().mean(2)
    if norm == "mse":
        return d.square().mean(2)
    if norm == "l2":
        return torch.linalg.vector_norm(d, dim=2) / d.shape[2]
    if norm == "cosine":
        return cosine_distance(
            d.square().sum(2), (d * z).sum(2), z.square().sum(2), z_adv.square().sum(2), (z * z_adv).sum(2)
        )
    raise ValueError(f'norm must be 1, "mse", "l2" or "cosine", got {norm!r}')


def neuron_sensitivity(benign: Tensor, adversarial: Tensor, norm: int | str = 1, channel_dim: int = 1) -> Tensor:
    """Mean over samples of :func:`row_distance`, ``[C]``; the paper's sensitivity for ``norm=1``."""
    rows = row_distance(benign, adversarial, norm, channel_dim)
    return rows.mean(0, dtype=torch.float64).to(rows.dtype)


def neuron_sensitivity_backward(
    grad: Tensor,
    benign: Tensor,
    adversarial: Tensor,
    norm: int | str,
    channel_dim: int,
    needs_benign: bool = True,
    needs_adversarial: bool = True,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`neuron_sensitivity` in the dtype of its inputs, for ``grad`` ``[C]``.

    0 where a distance has no gradient: no change for 1 and ``"l2"``, a zero row for ``"cosine"``. A neuron whose
    ``grad`` is 0 gets zeros whatever its activations are. A gradient that is not needed is an empty tensor.
    """
    z, z_adv = _rows(benign, channel_dim), _rows(adversarial, channel_dim)
    d = z_adv - z
    samples, _, positions = d.shape
    scale = (grad.to(d.dtype) / max(samples, 1))[:, None]  # [C, 1]
    pull = pull_adv = torch.zeros((), dtype=d.dtype, device=d.device)
    if norm == 1:
        change = scale / positions * sign(d)
    elif norm == "mse":
        change = scale * 2 / positions * d
    elif norm == "l2":
        length = torch.linalg.vector_norm(d, dim=2, keepdim=True)
        change = scale * d / torch.where(length == 0, torch.inf, length) / positions
    else:
        product = torch.linalg.vector_norm(z, dim=2) * torch.linalg.vector_norm(z_adv, dim=2)
        weight = (scale[:, 0] / torch.where(product == 0, torch.inf, product))[:, :, None]
        size, size_adv = z.square().sum(2, keepdim=True), z_adv.square().sum(2, keepdim=True)
        change = weight * d
        pull = weight * ((d * z).sum(2, keepdim=True) / torch.where(size == 0, torch.inf, size)) * z
        share_adv = (d * z_adv).sum(2, keepdim=True) / torch.where(size_adv == 0, torch.inf, size_adv)
        pull_adv = -weight * share_adv * z_adv
    chosen = (grad != 0)[:, None]

    def shaped(gradient: Tensor, x: Tensor) -> Tensor:
        gradient = torch.where(chosen, gradient, 0).to(x.dtype)
        return torch.empty_like(x).copy_(gradient.reshape(x.movedim(channel_dim, 1).shape).movedim(1, channel_dim))

    return (
        shaped(pull - change, benign) if needs_benign else benign.new_empty(0),
        shaped(pull_adv + change, adversarial) if needs_adversarial else adversarial.new_empty(0),
    )


def halves(pair: Tensor) -> tuple[Tensor, Tensor]:
    """The benign and the adversarial half of a batch ``[2N, ...]``, as views."""
    half = pair.shape[0] // 2
    return pair.narrow(0, 0, half), pair.narrow(0, half, half)


def paired_sensitivity(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, detach_benign: bool = False
) -> tuple[Tensor, Tensor]:
    """Distances ``[C]`` and sensitivity ``[C]`` of a batch ``[2N, ...]``, benign half first."""
    benign, adversarial = halves(pair)
    if detach_benign:
        benign = benign.detach()
    distances = neuron_sensitivity(benign, adversarial, norm, channel_dim)
    return distances, neuron_sensitivity(benign, adversarial, 1, channel_dim).detach().clone()


def paired_sensitivity_backward(
    grad: Tensor, pair: Tensor, norm: int | str, channel_dim: int, detach_benign: bool
) -> Tensor:
    """Gradient of the distances of :func:`paired_sensitivity`, shaped as ``pair``."""
    benign, adversarial = halves(pair)
    first, second = neuron_sensitivity_backward(grad, benign, adversarial, norm, channel_dim)
    if detach_benign:
        first = torch.zeros_like(first)
    return torch.empty_like(pair).copy_(torch.cat((first, second)))


def relu_tap(
    pair: Tensor, norm: int | str = 1, channel_dim: int = 1, detach_benign: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """``relu(pair)`` and the :func:`paired_sensitivity` of that."""
    out = pair.relu()
    return out, *paired_sensitivity(out, norm, channel_dim, detach_benign)


def relu_tap_(pair: Tensor, norm: int | str = 1, channel_dim: int = 1) -> tuple[Tensor, Tensor]:
    """The same in place."""
    return paired_sensitivity(pair.relu_(), norm, channel_dim)


def relu_accumulate_pair_statistics_(sums: Tensor, maxima: Tensor, pair: Tensor, channel_dim: int = 1) -> None:
    """:func:`accumulate_pair_statistics_` of ``relu(pair)``, which overwrites ``pair``."""
    accumulate_pair_statistics_(sums, maxima, *halves(pair.relu_()), channel_dim)


def relu_tap_backward(
    grad_out: Tensor, grad: Tensor, out: Tensor, norm: int | str, channel_dim: int, detach_benign: bool
) -> Tensor:
    """Gradient of :func:`relu_tap` for ``grad_out``, shaped as its output, and ``grad`` ``[C]`` of the distances."""
    total = grad_out + paired_sensitivity_backward(grad, out, norm, channel_dim, detach_benign)
    return torch.empty_like(out).copy_(torch.where(out <= 0, 0, total))


def sns_loss(
    benign: Tensor,
    adversarial: Tensor,
    k: int,
    norm: int | str = 1,
    channel_dim: int = 1,
    neurons: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean distance of the ``k`` most sensitive neurons (or of ``neurons``), their indices, all sensitivities."""
    distances = neuron_sensitivity(benign, adversarial, norm, channel_dim)
    sensitivity = neuron_sensitivity(benign, adversarial, 1, channel_dim).detach().clone()
    neurons = topk_neurons(sensitivity, k)[1] if neurons is None else neurons.clone()
    return distances[neurons].mean(dtype=torch.float64).to(distances.dtype), neurons, sensitivity


def sns_loss_backward(
    grad: Tensor,
    neurons: Tensor,
    benign: Tensor,
    adversarial: Tensor,
    norm: int | str,
    channel_dim: int,
    needs_benign: bool = True,
    needs_adversarial: bool = True,
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss of :func:`sns_loss` for ``grad`` ``[]``; a neuron chosen twice counts twice."""
    share = grad.expand(len(neurons)) / len(neurons)
    weights = grad.new_zeros(benign.shape[channel_dim]).index_add(0, neurons, share)
    return neuron_sensitivity_backward(weights, benign, adversarial, norm, channel_dim, needs_benign, needs_adversarial)


def topk_neurons(sensitivity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of ``[C]`` in descending order; ties go to the lowest index, NaN is largest."""
    values, indices = torch.sort(sensitivity, descending=True, stable=True)
    return values[:k].clone(), indices[:k].clone()
