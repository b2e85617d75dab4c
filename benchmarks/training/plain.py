"""SNS training as a good PyTorch user writes it: hooks keep what every ReLU puts out, and autograd does the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.training import Settings

from ..networks import flops

Attack = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
Term = Callable[[Callable[[], Tensor]], tuple[Tensor, Tensor]]
"""Runs the paired forward that it is given; returns its logits and what is to be added to the loss."""


def stored_term(model: nn.Module) -> Term:
    """The SNS term of the tenth of each ReLU's neurons that is most sensitive, of activations that hooks keep."""
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]

    def term(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        handles = [relu.register_forward_hook(lambda _m, _i, output: kept.append(output)) for relu in relus]
        try:
            logits = forward()
        finally:
            for handle in handles:
                handle.remove()
        losses = []
        for pair in kept:
            benign, adversarial = pair.chunk(2)
            others = [dim for dim in range(pair.dim()) if dim != 1]
            sensitivity = (adversarial - benign).abs().mean(others, dtype=torch.float32)
            losses.append(sensitivity.topk(-(-len(sensitivity) // 10)).values.mean())
        return logits, torch.stack(losses).sum()

    return term


def plain_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The SGD that ``fit`` makes of the settings."""
    return torch.optim.SGD(
        model.parameters(), settings.peak_lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=True
    )


def plain_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], attack: Attack) -> float:
    """One epoch; returns its mean loss."""
    losses, counts = [], []
    term_of = stored_term(model)
    for images, labels in batches:
        adversarial = attack(images, labels)
        model.train()
        logits, term = term_of(partial(model, torch.cat([images, adversarial])))
        loss = F.cross_entropy(logits[len(images) :].float(), labels) + term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach() * len(images))
        counts.append(len(images))
    return float(torch.stack(losses).sum()) / sum(counts)


def in_bfloat16(model: nn.Module, device: str) -> nn.Module:
    """The same model, with its forward under autocast."""
    model.forward = torch.autocast(device, dtype=torch.bfloat16)(model.forward)
    return model


def operations(model: nn.Module, images: Tensor, steps: int) -> int:
    """Arithmetic operations of one step of training, those of convolutions and products.

    A backward takes as many as the forward for gradients of values, and as many again for those of weights: an attack
    has ``steps`` forwards with the first alone, the update one with both, of twice as many images.
    """
    own = copy.deepcopy(model).eval()
    return flops(lambda: own(images)) * (2 * steps + 2 * 3)
