"""The SNS loss once more, by hooks that store every activation, plain autograd and ``torch.topk``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def stored(model: nn.Module, layers: Sequence[str]) -> Iterator[list[list[Tensor]]]:
    """Per forward of ``model`` inside, the outputs of ``layers`` (name, or ``name#call``), with their graph."""
    forwards: list[list[Tensor]] = []
    calls: dict[str, int] = {}
    outputs: dict[str, Tensor] = {}

    def begin(module: nn.Module, inputs: object) -> None:
        calls.clear()
        outputs.clear()

    def end(module: nn.Module, inputs: object, output: object) -> None:
        forwards.append([outputs[name] for name in layers])

    def hook(name: str) -> object:
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            outputs[name if calls[name] == 1 else f"{name}#{calls[name]}"] = output

        return keep

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    for name in {name.partition("#")[0] for name in layers}:
        handles.append(model.get_submodule(name).register_forward_hook(hook(name)))  # type: ignore[arg-type]
    try:
        yield forwards
    finally:
        for handle in handles:
            handle.remove()


def distances(benign: Tensor, adversarial: Tensor, norm: int | str, channel_dim: int = 1) -> Tensor:
    """Mean over samples of each neuron's distance, ``[C]``, in elementary operations."""
    z = benign.movedim(channel_dim, 1).reshape(benign.shape[0], benign.shape[channel_dim], -1)
    z_adv = adversarial.movedim(channel_dim, 1).reshape(z.shape)
    d = z_adv - z
    if norm == 1:
        rows = d.abs().mean(2)
    elif norm == "mse":
        rows = (d**2).mean(2)
    elif norm == "l2":
        square = (d**2).sum(2)
        rows = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0) / d.shape[2]
    else:
        products = [(a * b).sum(2) for a, b in ((z, z_adv), (z, z), (z_adv, z_adv))]
        alive = (products[1] > 0) & (products[2] > 0)
        cosine = products[0] / torch.where(alive, products[1] * products[2], 1).sqrt()
        one_zero = (products[1] > 0) != (products[2] > 0)
        rows = torch.where(alive, 1 - cosine, one_zero.to(z.dtype))
    return rows.mean(0)


def sns_loss(
    benign: Sequence[Tensor],
    adversarial: Sequence[Tensor],
    k: int | float = 0.1,
    norm: int | str = 1,
    scope: str = "layer",
    detach_benign: bool = False,
    channel_dims: Sequence[int] | None = None,
) -> Tensor:
    """The loss of stored outputs, one pair of tensors per layer; weight 1, chosen by sensitivity."""
    scores, values = [], []
    for z, z_adv, axis in zip(benign, adversarial, channel_dims or [1] * len(benign), strict=True):
        scores.append(distances(z.detach(), z_adv.detach(), 1, axis))
        values.append(distances(z.detach() if detach_benign else z, z_adv, norm, axis))
    if scope == "model":
        scores, values = [torch.cat(scores)], [torch.cat(values)]
    total = values[0].new_zeros(())
    for score, value in zip(scores, values, strict=True):
        count = k if isinstance(k, int) else max(1, -int(-k * len(score) // 1))
        total = total + value[score.topk(count).indices].mean()
    return total
