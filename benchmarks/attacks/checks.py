"""What must hold of two attacks before their times are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def same_images(found: Tensor, wanted: Tensor) -> str:
    """At most a thousandth of the pixels differ: where a gradient is nearly zero, rounding decides its sign."""
    other = float(((found - wanted).abs() > 1e-5).double().mean())
    assert other <= 1e-3, f"{other:.2%} of the pixels differ"
    return "same images" if other == 0 else f"images but {other:.3%} of the pixels"


def _gains(model: nn.Module, images: Tensor, labels: Tensor, *found: Tensor) -> list[float]:
    """By how much each of ``found`` raises the loss."""
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(one).float(), labels)) for one in (images, *found)]
    return [loss - losses[0] for loss in losses[1:]]


def as_strong(
    model: nn.Module, images: Tensor, labels: Tensor, found: Tensor, wanted: Tensor, within: float = 0.02
) -> str:
    """Both raise the loss by as much: the switches change how gradients are rounded, not how strong the attack is."""
    ours, theirs = _gains(model, images, labels, found, wanted)
    assert theirs > 0, "the reference does not raise the loss"
    apart = abs(ours / theirs - 1)
    assert apart <= within, f"raises the loss by {ours:.4g}, the reference by {theirs:.4g}"
    return f"gain of loss to {apart:.0e}" if apart else "same gain of loss"


def no_weaker(
    model: nn.Module, images: Tensor, labels: Tensor, found: Tensor, wanted: Tensor, whose: str, share: float = 1.0
) -> str:
    """``found`` raises the loss by at least ``share`` of what ``wanted`` does."""
    ours, theirs = _gains(model, images, labels, found, wanted)
    assert ours > 0, "does not raise the loss"
    assert ours >= share * theirs, f"raises the loss by {ours:.4g}, {whose} by {theirs:.4g}"
    return f"gain of loss {ours:.2g}, {whose} {theirs:.2g}"


def same_share(found: float, wanted: float, images: int, rounding: bool = False) -> str:
    """Equal robust accuracies; where rounding decides, up to a hundredth of the images, or one."""
    allowed = max(1, images // 100) if rounding else 0
    assert round(abs(found - wanted) * images) <= allowed, f"{found:.2%} stand, {wanted:.2%} of the reference"
    return f"both {found:.2%}" if found == wanted else f"{found:.2%} and {wanted:.2%}"
