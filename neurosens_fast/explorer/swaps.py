"""What one neuron carries of an attack: its adversarial activation, or its adversarial pixels, alone are swapped in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neurosens_fast.audit.setting import check_count

from .forwards import Forwards

_CHUNK = 2**20  # logits at once: they stay in the cache

Done = Callable[[int], None]
"""Called with how many images have gone through the model since the last call."""


def activation_swap(
    logits: Tensor,
    values: Tensor,
    adversarial_values: Tensor,
    weights: Tensor,
    labels: Tensor,
    adversarial_classes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fall of ``p_y`` and rise of ``p_y'`` ``[N, C]`` when neuron n alone takes its adversarial value.

    ``logits`` ``[N, K]`` are the benign ones that a linear layer with ``weights`` ``[K, C]`` makes of the neurons'
    ``values`` ``[N, C]``; ``labels`` and ``adversarial_classes`` ``[N]`` are y and y'. It is exact: logits become
    ``logits_c + w_cn (a'_n - a_n)``, and a neuron that keeps its value has exactly 0. In float64 if ``logits`` and
    ``values`` are, else in float32; memory stays bounded for any number of classes and neurons. The measure is a
    choice of this package, after the swaps of receptive fields in Li et al., ACM TiiS 2023. Equivalent to::

        swapped = values.clone(); swapped[:, n] = adversarial_values[:, n]
        after = linear(swapped).softmax(1)
        drop, rise = before[i, y] - after[i, y], after[i, y'] - before[i, y']

    Raises ``ValueError`` for shapes that do not fit and classes that do not exist.
    """
    _check_shapes(logits, values, adversarial_values, weights)
    classes = _both_classes(labels, adversarial_classes, len(logits), logits.device)
    _check_range(classes, logits.shape[1])
    wide = logits.dtype == values.dtype == torch.float64
    kind = torch.float64 if wide else torch.float32
    place = logits.device
    logits, weights = logits.detach().to(kind), weights.detach().to(place, kind)
    change = adversarial_values.detach().to(place, kind) - values.detach().to(place, kind)
    before = logits.softmax(1).gather(1, classes)  # [N, 2]
    after = torch.empty((2, *change.shape), dtype=kind, device=place)
    samples, neurons = change.shape
    count = logits.shape[1]
    columns = max(1, min(neurons, _CHUNK // count))
    rows = max(1, _CHUNK // (count * columns))
    for top in range(0, samples, rows):
        few = slice(top, top + rows)
        own = torch.arange(len(logits[few]), device=place)[:, None]
        for left in range(0, neurons, columns):
            some = slice(left, left + columns)
            swapped = torch.addcmul(logits[few, :, None], weights[None, :, some], change[few, None, some])
            after[:, few, some] = swapped.softmax(1)[own, classes[few]].movedim(1, 0)
    difference = after - before.T[:, :, None]
    difference = torch.where(change == 0, 0.0, difference)  # what does not change is exactly that
    return -difference[0], difference[1]


def pixel_swap(
    model: nn.Module | Forwards,
    benign: Tensor,
    adversarial: Tensor,
    masks: Tensor,
    labels: Tensor,
    adversarial_classes: Tensor,
    batch: int = 128,
    autocast: torch.dtype | None = None,
    done: Done | None = None,
) -> tuple[Tensor, Tensor]:
    """Fall of ``p_y`` and rise of ``p_y'`` ``[J, S]`` of benign images with adversarial pixels inside a mask.

    ``benign`` and ``adversarial`` are ``[J, B, H, W]``, ``masks`` ``[J, S, H, W]`` bool, ``labels`` and
    ``adversarial_classes`` ``[J]``. The model sees ``batch`` images at a time, in evaluation mode, under ``autocast``
    if a dtype is given; an empty mask has exactly 0 and costs no forward. float64 if the logits are, else float32.
    Many swaps run on a private copy of the model (:class:`.forwards.Forwards`); one that exists can be given.
    Source: Li et al., ACM TiiS 2023. Equivalent to ``model(where(mask, adversarial, benign)).softmax(1)``, one by one.

    Raises ``ValueError`` for shapes that do not fit, classes that do not exist and a model without logits.
    """
    check_count("batch", batch)
    if benign.dim() != 4 or adversarial.shape != benign.shape:
        raise ValueError(
            f"benign and adversarial must be images [J, B, H, W], got {list(benign.shape)} and "
            f"{list(adversarial.shape)}"
        )
    places = len(benign), *benign.shape[2:]
    if masks.dim() != 4 or masks.dtype != torch.bool or (len(masks), *masks.shape[2:]) != places:
        raise ValueError(
            f"masks must be bool [J, S, H, W] for images {list(benign.shape)}, got {masks.dtype} {list(masks.shape)}"
        )
    images, sets = masks.shape[:2]
    classes = _both_classes(labels, adversarial_classes, images, benign.device)
    every = torch.arange(images, device=benign.device)
    if not isinstance(model, Forwards):
        model = Forwards(model, benign, images * sets, autocast)
    before = class_probabilities(model, benign.__getitem__, every, classes, batch)
    after = before[:, None].repeat(1, sets, 1).view(-1, 2)
    masks = masks.to(benign.device)
    filled = masks.flatten(0, 1).flatten(1).any(1).nonzero()[:, 0]

    def mixed(chosen: Tensor) -> Tensor:
        image = chosen // sets
        return torch.where(masks[image, chosen % sets][:, None], adversarial[image], benign[image])

    after[filled] = class_probabilities(model, mixed, filled, classes[filled // sets], batch, done)
    if done is not None:
        done(images * sets - len(filled))
    difference = after.view(images, sets, 2) - before[:, None]
    return -difference[..., 0], difference[..., 1]


def class_probabilities(
    forwards: Forwards,
    make: Callable[[Tensor], Tensor],
    numbers: Tensor,
    classes: Tensor,
    batch: int,
    done: Done | None = None,
) -> Tensor:
    """Probabilities ``[P, T]`` of ``classes`` ``[P, T]`` for the images that ``make`` makes of ``numbers`` ``[P]``.

    ``make`` is called with at most ``batch`` of the numbers, so that no more images exist at once. Raises
    ``ValueError`` for a model without logits and classes that it does not have.
    """
    found: list[Tensor] = []
    for chosen, wanted in zip(numbers.split(batch), classes.split(batch), strict=True):
        images = make(chosen)
        logits = forwards.logits(images)
        if not found:
            _check_range(classes, logits.shape[1])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        found.append(wide.softmax(1).gather(1, wanted))
        if done is not None:
            done(len(images))
    return torch.cat(found) if found else torch.zeros(classes.shape, device=classes.device)


def _both_classes(labels: Tensor, adversarial_classes: Tensor, samples: int, place: torch.device) -> Tensor:
    for name, given in (("labels", labels), ("adversarial_classes", adversarial_classes)):
        if given.shape != (samples,) or given.is_floating_point():
            raise ValueError(
                f"{name} must be {samples} whole class numbers, one per sample, got {given.dtype} {list(given.shape)}"
            )
    return torch.stack([labels.to(place, torch.int64), adversarial_classes.to(place, torch.int64)], 1)


def _check_range(classes: Tensor, count: int) -> None:
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < count:
        wrong = int(classes.max()) if int(classes.max()) >= count else int(classes.min())
        raise ValueError(f"class {wrong} was given, and the model has classes 0 to {count - 1}")


def _check_shapes(logits: Tensor, values: Tensor, adversarial_values: Tensor, weights: Tensor) -> None:
    if logits.dim() != 2 or values.dim() != 2 or len(logits) != len(values) or values.shape != adversarial_values.shape:
        raise ValueError(
            f"logits [N, K] and both values [N, C] were expected, got {list(logits.shape)}, {list(values.shape)} and "
            f"{list(adversarial_values.shape)}"
        )
    if weights.shape != (logits.shape[1], values.shape[1]):
        wanted = [logits.shape[1], values.shape[1]]
        raise ValueError(f"weights must be [K, C], here {wanted}, got {list(weights.shape)}")
