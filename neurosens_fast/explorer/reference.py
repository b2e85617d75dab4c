"""Swaps one by one in pure PyTorch: what the batched ones are checked against, and compared with in benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def activation_swap_loop(
    linear: nn.Linear, values: Tensor, adversarial: Tensor, labels: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """Fall of p_y and rise of p_y' ``[N, C]``, as of ``swaps.activation_swap``: the linear layer once for each neuron.

    ``values`` and ``adversarial`` are ``[N, C]``, the classes ``labels`` (y) and ``others`` (y') ``[N]``.
    """
    drop, rise = torch.empty_like(values), torch.empty_like(values)
    every = torch.arange(len(values), device=values.device)
    with torch.no_grad():
        before = linear(values).softmax(1)
        for neuron in range(values.shape[1]):
            swapped = values.clone()
            swapped[:, neuron] = adversarial[:, neuron]
            after = linear(swapped).softmax(1)
            drop[:, neuron] = (before - after)[every, labels]
            rise[:, neuron] = (after - before)[every, others]
    return drop, rise


def pixel_swap_loop(
    model: nn.Module, benign: Tensor, adversarial: Tensor, masks: Tensor, labels: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """The same ``[J, S]`` of ``swaps.pixel_swap``: one forward of one image for each mask.

    Images are ``[J, B, H, W]``, ``masks`` ``[J, S, H, W]`` bool, ``labels`` and ``others`` ``[J]``; ``model`` is in
    evaluation mode.
    """
    drop, rise = torch.empty(2, *masks.shape[:2], dtype=benign.dtype, device=benign.device)
    with torch.no_grad():
        for image in range(len(benign)):
            before = model(benign[image : image + 1]).softmax(1)[0]
            for place in range(masks.shape[1]):
                mixed = torch.where(masks[image, place], adversarial[image], benign[image])
                after = model(mixed[None]).softmax(1)[0]
                drop[image, place] = (before - after)[labels[image]]
                rise[image, place] = (after - before)[others[image]]
    return drop, rise
