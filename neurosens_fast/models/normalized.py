"""The wrapper for networks that want normalised input, and the usual normalisations by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from neurosens_fast.support.messages import did_you_mean

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}
"""Name -> mean and standard deviation per channel of the training images in [0, 1], as they are in general use."""


def _normalize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    channels = mean.numel()
    if x.dim() < 2 or channels not in (1, x.shape[1]):
        raise ValueError(f"mean and std hold {channels} channels, the input is {list(x.shape)}")
    shape = (1, -1, *(1,) * (x.dim() - 2))
    return (x - mean.to(x.dtype).view(shape)) / std.to(x.dtype).view(shape)


fx.wrap("_normalize")  # torch.fx takes it as one step: it could not trace the check of the shape


class Normalized(nn.Module):
    """``model((x - mean) / std)``: lets attacks work on ``[0, 1]`` when the network wants normalised input.

    ``mean`` and ``std`` hold one number per channel of ``x`` ``[N, C, *S]``, or one for all. They are
    buffers: they move with the module and follow the dtype of the input. The network's layers get the
    prefix ``model.``.

    Raises ``ValueError`` if the lengths differ or a ``std`` is not positive and finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] | float, std: Sequence[float] | float) -> None:
        super().__init__()
        means, stds = (torch.as_tensor(value, dtype=torch.float64).flatten() for value in (mean, std))
        if means.shape != stds.shape or not means.numel():
            raise ValueError(f"mean and std need one number per channel each, got {means.numel()} and {stds.numel()}")
        if not (means.isfinite().all() and stds.isfinite().all() and (stds > 0).all()):
            raise ValueError(f"mean must be finite and std positive, got {means.tolist()} and {stds.tolist()}")
        self.model = model
        self.register_buffer("mean", means.float(), persistent=False)
        self.register_buffer("std", stds.float(), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """The model's output for the normalised ``x`` ``[N, C, *S]``; ``ValueError`` for another number of channels."""
        return self.model(_normalize(x, self.mean, self.std))


def normalized(model: nn.Module, text: str) -> Normalized:
    """``model`` behind the normalisation that ``text`` means: a name of :data:`NORMALIZATIONS`, or ``MEAN/STD``.

    ``0.5/0.25`` stands for every channel, ``0.485,0.456,0.406/0.229,0.224,0.225`` for three. Raises ``ValueError``
    for anything else.
    """
    mean, std = parse_normalization(text)
    return Normalized(model, mean, std)


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel; see :func:`normalized`."""
    if text.strip().lower() in NORMALIZATIONS:
        return NORMALIZATIONS[text.strip().lower()]
    form = f"give {', '.join(NORMALIZATIONS)} or MEAN/STD such as 0.5/0.25 or 0.485,0.456,0.406/0.229,0.224,0.225"
    mean, slash, std = text.partition("/")
    if not slash:
        raise ValueError(f"unknown normalisation {text!r}; {form}{did_you_mean(text, NORMALIZATIONS)}")
    try:
        numbers = [tuple(float(part) for part in side.split(",")) for side in (mean, std)]
        Normalized(nn.Identity(), *numbers)  # its checks of lengths and signs
    except ValueError as error:
        raise ValueError(f"normalisation {text!r} does not do ({error}); {form}") from error
    return numbers[0], numbers[1]
