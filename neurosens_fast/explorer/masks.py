"""Effective receptive fields: the pixels of an image that a neuron's value depends on most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurosens_fast.audit.setting import check_count

from .neuron_layer import NeuronLayer, read
from .swaps import Done


class NoGradient(ValueError):
    """The model's neurons do not depend on its input as far as autograd can tell."""


def masks(
    model: nn.Module,
    layer: NeuronLayer,
    benign: Tensor,
    adversarial: Tensor,
    neurons: Sequence[int],
    share: float = 0.5,
    batch: int = 128,
) -> Tensor:
    """Masks ``[J, S, H, W]`` bool of ``neurons`` in J images ``[J, B, H, W]`` and their adversarial versions.

    A pixel's influence is the absolute gradient of the neuron's value by the pixel, summed over colours and over both
    images; the mask is the smallest set of pixels that together have ``share`` of all influence, on ties the pixel that
    comes first row by row. It is empty where a neuron has no gradient in either image. The model is in evaluation mode
    and gets no gradients; ``batch`` images go through it at a time. Source: the effective receptive field of Luo et
    al., NeurIPS 2016; taking the smallest set, and both images, is a choice of this package.

    Raises ``ValueError`` for shapes that do not fit, neurons that do not exist, a ``share`` outside of 0 to 1,
    gradients that are not finite and a model that cuts them off.
    """
    if benign.shape != adversarial.shape:
        raise ValueError(
            f"benign and adversarial images must have one shape, got {list(benign.shape)} and {list(adversarial.shape)}"
        )
    found = [influence(model, layer, images, neurons, batch) for images in (benign, adversarial)]
    return smallest_sets(found[0] + found[1], share)


def influence(
    model: nn.Module,
    layer: NeuronLayer,
    images: Tensor,
    neurons: Sequence[int],
    batch: int = 128,
    done: Done | None = None,
) -> Tensor:
    """``[J, S, H, W]``: the absolute gradient of ``neurons`` by the pixels of ``images``, summed over colours.

    One forward serves all neurons of ``batch`` images, each of which then needs a backward pass to the pixels only.
    Without autocast: gradients in half precision would vanish. All zero where a neuron's gradient is not finite.
    ``done`` is called with images times neurons.
    """
    check_count("batch", batch)
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floating-point [J, B, H, W], got {images.dtype} {list(images.shape)}")
    wrong = [neuron for neuron in neurons if not 0 <= neuron < layer.channels]
    if wrong:
        raise ValueError(f"neuron {wrong[0]} was given, and {layer.name!r} has {layer.channels}")
    count, _, height, width = images.shape
    kind = torch.float64 if images.dtype == torch.float64 else torch.float32
    found = torch.zeros((count, len(neurons), height, width), dtype=kind, device=images.device)
    for begin in range(0, count, batch):
        some = slice(begin, begin + batch)
        leaf = images[some].detach().clone().requires_grad_()
        # a copy, since the first layer may work in place
        values = read(model, layer, leaf.clone(), gradient=True).values
        for place, neuron in enumerate(neurons):
            gradient = pixel_gradient(layer, values[:, neuron], leaf, place < len(neurons) - 1)
            found[some, place] = gradient.to(kind).abs().sum(1)
            if done is not None:
                done(len(leaf))
    broken = ~found.isfinite().flatten(2).all(2)
    return found.masked_fill_(broken[:, :, None, None], 0.0)


def pixel_gradient(layer: NeuronLayer, values: Tensor, leaf: Tensor, keep: bool) -> Tensor:
    """The gradient of the sum of ``values`` by ``leaf``, for more to come if ``keep``; ``NoGradient`` without one."""
    gradient = None
    if values.requires_grad:  # by a parameter alone, perhaps
        (gradient,) = torch.autograd.grad(values.sum(), leaf, retain_graph=keep, allow_unused=True)
    if gradient is None:
        raise NoGradient(
            f"the neurons of {layer.name!r} have no gradient by the pixels: the model's forward cuts it off"
        )
    return gradient


def smallest_sets(influence: Tensor, share: float) -> Tensor:
    """The smallest set of pixels with ``share`` of all ``influence`` ``[..., H, W]``, as bool of that shape.

    None where all influence is zero. Raises ``ValueError`` for a ``share`` that is not above 0 and at most 1.
    """
    if not (math.isfinite(share) and 0 < share <= 1):
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if influence.dim() > 3:  # one image at a time, since sorting takes several times the memory of what is sorted
        return torch.stack([smallest_sets(part, share) for part in influence])
    flat = influence.flatten(-2)
    ordered, order = flat.sort(dim=-1, descending=True, stable=True)
    sums = ordered.to(torch.float64).cumsum(-1)
    before = functional.pad(sums[..., :-1], (1, 0))
    chosen = (before < share * sums[..., -1:]) & (ordered > 0)
    return torch.zeros_like(chosen).scatter_(-1, order, chosen).view(influence.shape)
