"""The numbers of the page as the scripts want them, and as many of them as its size allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurosens_fast.explorer.exploration import Exploration, strongest

from .colours import class_colours, class_markers
from .packing import all_packed, packed, text_size
from .text import without_formulas
from .thumbnails import largest_factor, reduced

Packed = dict[str, dict[str, Any]]

PICTURES = ("benign", "adversarial", "features_extra", "features_patches", "fields_masks")
"""What thumbnails change."""

_MANY_CLASSES = 64
_TRIED = 16  # pictures that tell how well all of them compress
_CERTAIN = 0.85  # share of the estimate that all of them take at least; few compress less well than many
_SHARES = {2: "half", 3: "a third", 4: "a quarter"}


def content(explorations: Sequence[Exploration], budget: int, served: bool = False, taken: int = 0) -> dict[str, Any]:
    """``{page, models: [{meta, arrays}]}`` for ``core.js``.

    ``budget`` is for the whole page, of which other things take ``taken`` bytes. Where the arrays do not fit,
    thumbnails are reduced by a whole factor, and then fewer images keep the values of their neurons; ``page["notes"]``
    say what the page does not show in full.
    Raises ``ValueError`` for models that were not explored with the same images and attacks.
    """
    check_same(explorations)
    first = explorations[0]
    room = budget - taken
    others = [_others(one) for one in explorations]
    factor, pictures = _fitting_pictures(explorations, room - _size(others))
    over = _size(others) + _size(pictures) - room
    kept = [one.images.values.shape[1] for one in explorations]
    if over > 0:
        kept, others = _fewer_values(explorations, others, over)
        over = _size(others) + _size(pictures) - room
    arrays = [_not_twice(index, other | pictures[index], others[0] | pictures[0]) for index, other in enumerate(others)]
    page = {
        "count": len(first.images.labels),
        "classes": list(without_formulas(first).classes),
        "colours": class_colours(len(first.classes)),
        "markers": class_markers(len(first.classes)),
        "level": strongest(first.levels),
        "levels": [{"attack": one.attack, "eps": one.eps, "label": str(one)} for one in first.levels],
        "factor": factor,
        "served": served,
        "notes": _notes(explorations, factor, kept, budget, over),
    }
    models = [{"meta": _meta(one, index), "arrays": arrays[index]} for index, one in enumerate(explorations)]
    return {"page": page, "models": models}


def check_same(explorations: Sequence[Exploration]) -> None:
    """Raise ``ValueError`` unless all explorations show the same images, classes and levels."""
    first = explorations[0]
    for other in explorations[1:]:
        pairs = {
            "classes": (first.classes, other.classes),
            "attacks": (first.levels, other.levels),
            "images": (first.images.samples.tolist(), other.images.samples.tolist()),
            "labels": (first.images.labels.tolist(), other.images.labels.tolist()),
        }
        for what, (one, another) in pairs.items():
            if one != another:
                raise ValueError(
                    f"{first.name!r} and {other.name!r} were explored with different {what}; "
                    "explore both models with the same data and attacks to compare them on one page"
                )


def _fitting_pictures(explorations: Sequence[Exploration], room: int) -> tuple[int, list[Packed]]:
    """The smallest factor with which the pictures fit, else the largest allowed, and the pictures."""
    largest = min(largest_factor(one) for one in explorations)
    factor = 1
    while factor < largest and _CERTAIN * _estimated(explorations, factor) > room:
        factor += 1
    while True:
        pictures = [all_packed(_pictures(reduced(one, factor))) for one in explorations]
        if factor >= largest or _size(pictures) <= room:
            return factor, pictures
        factor += 1


def _estimated(explorations: Sequence[Exploration], factor: int) -> float:
    """About how much text the pictures are, from a few of them: packing all takes long."""
    sizes = 0.0
    few = []
    for one in explorations:
        images = one.images
        if images.benign is None or images.adversarial is None:
            return 0
        rows = np.unique(np.linspace(0, len(images.benign) - 1, _TRIED).astype(int))
        part = replace(images, benign=images.benign[rows], adversarial=images.adversarial[:, rows])
        few.append(all_packed(_pictures(reduced(replace(one, images=part, features=None, fields=None), factor))))
        sizes = len(images.benign) / len(rows)
    return sizes * _size(few)


def _fewer_values(
    explorations: Sequence[Exploration], others: list[Packed], over: int
) -> tuple[list[int], list[Packed]]:
    """How many images keep their values, the same share for each model, and what all but the pictures then are."""
    images = [one.images for one in explorations]
    while True:
        size = sum(text_size(other["values"]) for other in others)
        share = max(1 - 1.02 * over / size, 0)
        kept = [max(1, int(share * one.values.shape[1])) for one in images]
        before = _size(others)
        for other, one, count in zip(others, images, kept, strict=True):
            other["values"] = packed(one.values[:, :count], spread=True)
        over -= before - _size(others)
        if over <= 0 or max(kept) == 1:
            return kept, others
        images = [replace(one, values=one.values[:, :count]) for one, count in zip(images, kept, strict=True)]


def _notes(explorations: Sequence[Exploration], factor: int, kept: Sequence[int], budget: int, over: int) -> list[str]:
    limit = f"{budget / 1e6:.1f} MB"
    notes = []
    if factor > 1:
        share = _SHARES.get(factor, f"1/{factor}")
        notes.append(f"Pictures are shown at {share} of their size so that the page stays below {limit}.")
    for one, count in zip(explorations, kept, strict=True):
        samples, before = one.images.samples, one.images.values.shape[1]
        if count == len(samples):
            continue
        numbers = samples[:count]
        row = count > 1 and np.array_equal(numbers, np.arange(numbers[0], numbers[0] + count))
        which = f" (numbers {numbers[0]} to {numbers[-1]})" if row else ""
        why = f" so that the page stays below {limit}" if count < before else ""
        of = f" of {one.name}" if len(explorations) > 1 else ""
        notes.append(
            f"Values of single neurons{of} are on the page for the first {count:,} of {len(samples):,} images{which}"
            f"{why}; measures are over all {one.samples:,} samples."
        )
    if over > 0:
        notes.append(f"The page is larger than {limit}: what is left cannot be made smaller.")
    return notes


def _not_twice(index: int, arrays: Packed, first: Packed) -> Packed:
    """``{same: True}`` for the arrays that are those of the first model."""
    return {name: {"same": True} if index > 0 and first.get(name) == entry else entry for name, entry in arrays.items()}


def _size(models: Sequence[Packed]) -> int:
    """Bytes of all texts, each once."""
    return sum(
        text_size(entry) for index, one in enumerate(models) for entry in _not_twice(index, one, models[0]).values()
    )


def _meta(exploration: Exploration, index: int) -> dict[str, Any]:
    fields, features, clusters = exploration.fields, exploration.features, exploration.clusters
    return {
        "index": index,
        "name": exploration.name,
        "layer": exploration.layer,
        "neurons": exploration.neurons,
        "samples": exploration.samples,
        "measures": [
            {"name": one.name, "label": one.label, "definition": one.definition, "group": one.group}
            for one in exploration.measures
        ],
        "facts": [list(fact) for fact in exploration.facts],
        "notes": list(exploration.notes),
        "missing": exploration.missing,
        "projection": exploration.images.projection,
        "focus": _first_focus(exploration),
        "fieldShare": None if fields is None else fields.share,
        "featuresHow": None if features is None else features.how,
        "clustersHow": None if clusters is None else clusters.how,
    }


def _pictures(exploration: Exploration) -> dict[str, Any]:
    images, fields, features = exploration.images, exploration.fields, exploration.features
    arrays: dict[str, Any] = {}
    if images.benign is not None and images.adversarial is not None:
        arrays["benign"] = images.benign
        # As differences modulo 256, which compress well.
        arrays["adversarial"] = images.adversarial.view(np.uint8) - images.benign.view(np.uint8)
    if features is not None:
        arrays["features_patches"] = features.patches
        if features.extra is not None:
            arrays["features_extra"] = features.extra
    if fields is not None:
        arrays["fields_masks"] = fields.masks
    return arrays


def _first_focus(exploration: Exploration) -> int:
    """The neuron that the page begins with: the most vulnerable one with a receptive field, else by a measure."""
    if exploration.fields is not None:
        return int(exploration.fields.neurons[0])
    values = exploration.measures[0].values[strongest(exploration.levels)]
    return int(np.nanargmax(values)) if np.isfinite(values).any() else 0


def _others(exploration: Exploration) -> Packed:
    images = exploration.images
    arrays: dict[str, Any] = {
        "samples": images.samples,
        "labels": images.labels,
        "linf": images.linf,
        "l2": images.l2,
        "probabilities": packed(images.probabilities, spread=True),
        # of the numbers before they were spread, since that may turn a near tie
        "predictions": images.probabilities.argmax(-1),
        "adversarial_classes": images.adversarial_classes,
        "coordinates": images.coordinates,
        "values": packed(images.values, spread=True),
        "measures": np.stack([one.values for one in exploration.measures], 1),
        "agreement": exploration.agreement,
    }
    if exploration.weights is not None:
        arrays["weights"] = packed(exploration.weights, spread=len(exploration.classes) > _MANY_CLASSES)
    for prefix, part in (
        ("features", exploration.features),
        ("fields", exploration.fields),
        ("clusters", exploration.clusters),
    ):
        for name, value in vars(part).items() if part is not None else ():
            if isinstance(value, np.ndarray) and f"{prefix}_{name}" not in PICTURES:
                arrays[f"{prefix}_{name}"] = value
    return all_packed(arrays)
