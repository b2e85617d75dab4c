"""Receptive fields of the most vulnerable neurons, what swapping their pixels does, and whether they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import Setting, check_count
from neurosens_fast.capture import untouched
from neurosens_fast.support.random_state import random_state

from .exploration import Fields
from .forwards import Forwards
from .masks import influence, smallest_sets
from .neuron_layer import NeuronLayer, read
from .swaps import Done, class_probabilities, pixel_swap


def receptive_fields(
    setting: Setting,
    layer: NeuronLayer,
    inputs: Tensor,
    adversarial: Tensor,
    rows: Sequence[int],
    labels: Tensor,
    adversarial_classes: Tensor,
    neurons: Sequence[int],
    share: float = 0.5,
    batch: int = 128,
    seed: int = 0,
    progress: Report | None = None,
) -> Fields:
    """:class:`Fields` of S ``neurons`` in J images ``inputs`` ``[J, B, H, W]``, grey or coloured, of any size.

    ``adversarial`` is ``[E, J, B, H, W]``, ``rows`` and ``labels`` ``[J]``, ``adversarial_classes`` ``[E, J]``. Masks
    are those of :func:`~neurosens_fast.explorer.masks.masks`, ``drop`` and ``rise`` those of
    :func:`~neurosens_fast.explorer.swaps.pixel_swap`. Grey is the mean of the benign image in each colour, also in its
    adversarial version.

    ``own`` is the mean over images of the relative fall ``1 - a(filled) / a`` of the neuron's value ``a`` when its
    mask in the benign image is made grey, ``control`` the same with the mask that another of the S neurons, drawn by
    ``seed`` for every image, has there. Masks are those of the level that changes pixels most. Each fall is limited to
    -1 to 1, so that values next to zero do not decide; images in which a neuron is zero are left out, and a neuron has
    NaN if none is left, or if there is no other. These are choices of this package, after the occlusion of Zeiler and
    Fergus, ECCV 2014.

    ``progress`` is called with the passes of an image that are done and their total. The model and the global random
    states are afterwards as before, also when an exception passes through. Raises ``ValueError`` for inputs that are
    no images, shapes that do not fit, and neurons or classes that do not exist.
    """
    check_count("batch", batch)
    if not len(neurons):
        raise ValueError("neurons is empty; name at least one")
    images, labels = _on_device(setting, inputs, labels)
    levels = _levels(images, adversarial, adversarial_classes, rows)
    changed = [_on_device(setting, level, labels)[0] for level in adversarial]
    classes = adversarial_classes.to(images.device, torch.int64)
    count, sets = len(images), len(neurons)
    shape = (levels, count, sets)
    counted = _Counter(progress, count * sets * (1 + levels + 3 * levels + 2))
    with random_state(seed), untouched(setting.model), setting.explained(images[:batch]):
        model = setting.model
        forwards = Forwards(model, images, 3 * levels * count * sets, setting.autocast)
        benign = influence(model, layer, images, neurons, batch, counted)
        masks = torch.zeros((*shape, *images.shape[2:]), dtype=torch.bool, device=images.device)
        swapped = torch.zeros((2, *shape), dtype=torch.float64)
        seen = torch.zeros((*shape, 2, 2), dtype=torch.float64)
        for level, other in enumerate(changed):
            both = benign + influence(model, layer, other, neurons, batch, counted)
            own = masks[level] = smallest_sets(both, share)
            pairs = labels, classes[level]
            swapped[:, level] = torch.stack(pixel_swap(forwards, images, other, own, *pairs, batch, done=counted)).cpu()
            seen[level] = _seen(forwards, images, other, own, torch.stack(pairs, 1), batch, counted)
        strongest = max(range(levels), key=lambda level: float((changed[level] - images).abs().mean()))
        own_fall, control = _occluded(setting, layer, images, masks[strongest], neurons, batch, seed, counted)
    return Fields(
        rows=np.array([int(row) for row in rows], np.int64),
        neurons=np.array([int(neuron) for neuron in neurons], np.int64),
        masks=masks.cpu().numpy(),
        drop=swapped[0].float().numpy(),
        rise=swapped[1].float().numpy(),
        seen=seen.float().numpy(),
        own=own_fall,
        control=control,
        share=float(share),
    )


def one_field(
    setting: Setting,
    layer: NeuronLayer,
    image: Tensor,
    adversarial: Tensor,
    row: int,
    label: int,
    adversarial_class: int,
    neuron: int,
    share: float = 0.5,
) -> Fields:
    """:func:`receptive_fields` of one neuron in one ``image`` ``[B, H, W]`` at one level: E, J and S are 1.

    Mask, swap and probabilities are those that many at once have, up to rounding; ``own`` is of this image alone, and
    there is no ``control``.
    """
    classes = torch.tensor([[adversarial_class]])
    images = image[None], adversarial[None, None]
    return receptive_fields(setting, layer, *images, [row], torch.tensor([label]), classes, [neuron], share, batch=2)


def validated(fields: Fields) -> tuple[float, float, float]:
    """The share of neurons whose own fall is larger than the control, and the medians of both; NaN without any.

    Neurons that lack one of the two are left out.
    """
    both = np.isfinite(fields.own) & np.isfinite(fields.control)
    if not both.any():
        return float("nan"), float("nan"), float("nan")
    own, control = fields.own[both].astype(np.float64), fields.control[both].astype(np.float64)
    return float((own > control).mean()), float(np.median(own)), float(np.median(control))


class _Counter:
    """Adds up passes of images for a report."""

    def __init__(self, progress: Report | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)


def _on_device(setting: Setting, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if inputs.dim() != 4 or inputs.shape[1] not in (1, 3) or not inputs.is_floating_point() or not len(inputs):
        raise ValueError(
            "receptive fields are of floating-point images [J, B, H, W] with B 1 or 3, "
            f"got {inputs.dtype} {list(inputs.shape)}"
        )
    images: Any
    images, labels = setting.batch(inputs.detach(), labels)
    return images, labels


def _levels(images: Tensor, adversarial: Tensor, classes: Tensor, rows: Sequence[int]) -> int:
    levels = len(adversarial) if adversarial.dim() else 0
    if not levels or adversarial.shape[1:] != images.shape:
        raise ValueError(
            f"adversarial must be [E, J, B, H, W] for images {list(images.shape)}, got {list(adversarial.shape)}"
        )
    if classes.shape != (levels, len(images)):
        raise ValueError(f"adversarial_classes must be {[levels, len(images)]}, got {list(classes.shape)}")
    if len(rows) != len(images):
        raise ValueError(f"rows must name {len(images)} images, got {len(rows)}")
    return levels


def _grey(images: Tensor) -> Tensor:
    """What masked pixels are filled with: ``[J, B, 1, 1]``."""
    return images.mean((2, 3), keepdim=True)


def _seen(
    forwards: Forwards, benign: Tensor, adversarial: Tensor, masks: Tensor, classes: Tensor, batch: int, done: Done
) -> Tensor:
    """Probabilities ``[J, S, 2, 2]`` of ``classes`` ``[J, 2]`` for both images with all but the mask grey."""
    count, sets = masks.shape[:2]
    grey, both = _grey(benign), torch.stack([benign, adversarial], 1)

    def only_mask(chosen: Tensor) -> Tensor:
        image, neuron, version = chosen // (2 * sets), chosen // 2 % sets, chosen % 2
        return torch.where(masks[image, neuron][:, None], both[image, version], grey[image])

    numbers = torch.arange(count * sets * 2, device=benign.device)
    wanted = classes[numbers // (2 * sets)]
    found = class_probabilities(forwards, only_mask, numbers, wanted, batch, done)
    return found.view(count, sets, 2, 2).cpu()


def _occluded(
    setting: Setting,
    layer: NeuronLayer,
    images: Tensor,
    masks: Tensor,
    neurons: Sequence[int],
    batch: int,
    seed: int,
    done: Done,
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]:
    """Mean relative falls ``[S]`` with the own mask grey, and with that of another neuron."""
    count, sets = masks.shape[:2]
    every = torch.arange(sets, device=images.device)
    generator = torch.Generator().manual_seed(seed)
    further = torch.randint(1, max(sets, 2), (count, sets), generator=generator).to(images.device)
    partners = (every + further) % sets
    grey = _grey(images)
    columns = torch.tensor(list(neurons), device=images.device)

    def values(make: Callable[[Tensor], Tensor], numbers: Tensor) -> Tensor:
        parts = [read(setting.model, layer, make(some), setting.autocast).values for some in numbers.split(batch)]
        return torch.cat(parts)

    def filled(masked: Tensor) -> Tensor:
        """The neurons' values ``[J, S]`` with the mask of neuron ``masked`` ``[J, S]`` grey."""
        parts = []
        for chosen in torch.arange(count * sets, device=images.device).split(batch):
            image, neuron = chosen // sets, chosen % sets
            hidden = masks[image, masked[image, neuron]][:, None]
            given = torch.where(hidden, grey[image], images[image])
            found = read(setting.model, layer, given, setting.autocast).values
            parts.append(found.gather(1, columns[neuron][:, None])[:, 0])
            done(len(chosen))
        return torch.cat(parts).view(count, sets)

    whole = values(images.__getitem__, torch.arange(count, device=images.device))[:, columns]
    own = _mean_fall(whole, filled(every.expand(count, sets)))
    control = _mean_fall(whole, filled(partners))
    return own, control if sets > 1 else np.full_like(control, np.nan)


def _mean_fall(whole: Tensor, filled: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    before, after = whole.double().cpu(), filled.double().cpu()
    fall = (1 - after / before).clamp(-1, 1)
    return fall.masked_fill(before == 0, torch.nan).nanmean(0).float().numpy()
