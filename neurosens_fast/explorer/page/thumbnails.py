"""Smaller pictures: all of an exploration's by one whole factor, so that masks and patches still lie on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neurosens_fast.explorer.exploration import Array, Exploration

SMALLEST = 16
"""Pixels below which no picture's longer side is reduced (a choice of this package: less shows nothing)."""

_TOGETHER = 64  # pictures that are averaged at once, which bounds the memory


def largest_factor(exploration: Exploration) -> int:
    """The largest factor by which the exploration's pictures may be reduced; 1 without pictures."""
    benign = exploration.images.benign
    return 1 if benign is None else max(1, max(benign.shape[1:3]) // SMALLEST)


def reduced(exploration: Exploration, factor: int) -> Exploration:
    """The exploration with pictures of ``ceil(H / factor)`` x ``ceil(W / factor)`` pixels; numbers stay as they are."""
    images, fields, features = exploration.images, exploration.fields, exploration.features
    if factor == 1 or images.benign is None or images.adversarial is None:
        return exploration
    images = replace(images, benign=averaged(images.benign, factor), adversarial=averaged(images.adversarial, factor))
    if fields is not None:
        fields = replace(fields, masks=any_pixel(fields.masks, factor))
    if features is not None:
        # the smallest patch of the small picture that covers the pixels
        patches = features.patches.astype(np.int64)
        patches = np.concatenate([patches[..., :2] // factor, (patches[..., 2:] + factor - 1) // factor], -1)
        extra = None if features.extra is None else averaged(features.extra, factor)
        features = replace(features, patches=patches, extra=extra)
    return replace(exploration, images=images, fields=fields, features=features)


def averaged(pictures: Array, factor: int) -> Array:
    """uint8 ``[..., H, W, B]`` averaged over squares of ``factor`` x ``factor`` pixels, less at the far edges."""
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    height, width = (_starts(length, factor) for length in flat.shape[1:3])
    pixels = np.multiply.outer(_lengths(height, flat.shape[1]), _lengths(width, flat.shape[2]))[..., None]
    small = np.empty((len(flat), len(height), len(width), flat.shape[3]), np.uint8)
    for start in range(0, len(flat), _TOGETHER):
        part = flat[start : start + _TOGETHER].astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(part, height, 1), width, 2)
        small[start : start + _TOGETHER] = np.rint(sums / pixels)
    return small.reshape(*pictures.shape[:-3], *small.shape[1:])


def any_pixel(masks: Array, factor: int) -> Array:
    """bool ``[..., H, W]`` where any pixel of a square of ``factor`` x ``factor`` is set."""
    height, width = (_starts(length, factor) for length in masks.shape[-2:])
    result: Array = np.logical_or.reduceat(np.logical_or.reduceat(masks, height, -2), width, -1)
    return result


def _starts(length: int, factor: int) -> NDArray[np.int64]:
    return np.arange(0, length, factor)


def _lengths(starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return np.diff(starts, append=length)
