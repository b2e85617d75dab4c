"""The exploration of one model: a pass over the data, then what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosens_fast.audit import AuditReport
from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import Setting
from neurosens_fast.fragility import FragilityReport

from .agreement import rank_agreement
from .clusters import cluster
from .collected import Collected, adversarial_class
from .exploration import Array, Exploration, Features, Fields, Images, Measure, strongest
from .first_samples import NOT_SHOWN
from .levels import Levels
from .masks import NoGradient
from .measures import collected_measures, contributions, most_vulnerable, pixel_measures
from .neuron_layer import NeuronLayer
from .on_demand import FieldsOnDemand
from .pictures import NOT_IMAGES, Pictures, images_to_swap, is_pictures
from .projection import project
from .receptive_field import patches
from .reports import audit_measures, check_rows, fragility_measures, of_other_weights
from .stream import collect

OTHER_CHANNELS = "Receptive fields are shown of images with 1 or 3 channels, and these have {}"
PROBABILITIES = (
    "the model seems to put out probabilities, not logits: what the page calls probabilities is their softmax; explore "
    "the model without its last softmax"
)
NOT_ASKED = "Receptive fields were not asked for: swap_images or swap_neurons is 0"


@dataclass(frozen=True)
class Wanted:
    """What was asked for, the same for both models; as in :func:`~neurosens_fast.explorer.explore`."""

    layer: str | None
    class_names: tuple[str, ...] | None
    images: int
    top: int
    swap_images: int
    swap_neurons: int
    share: float
    projection: str
    batch_size: int
    max_samples: int | None
    progress: bool | Report
    seed: int


def explored(
    setting: Setting,
    data: Data,
    levels: Levels,
    name: str,
    described: dict[str, Any],
    reports: tuple[AuditReport | None, FragilityReport | None],
    wanted: Wanted,
) -> tuple[Exploration, FieldsOnDemand | None]:
    """The exploration of the model of ``setting``, called ``name``, and what computes more receptive fields later."""
    audit, fragility = reports

    def check(layer: NeuronLayer) -> None:
        """Before anything costs time."""
        if wanted.class_names is not None and len(wanted.class_names) != layer.classes:
            raise ValueError(f"class_names has {len(wanted.class_names)} names, the model {layer.classes} classes")
        check_rows(audit, fragility, layer, described["model"])

    eps = tuple(level.eps for level in levels.levels)
    strong = strongest(levels.levels)
    collected = collect(
        setting,
        wanted.layer,
        data,
        levels.attacks(setting.model, wanted.seed),
        shown=wanted.images,
        top=wanted.top,
        batch_size=wanted.batch_size,
        max_samples=wanted.max_samples,
        progress=wanted.progress,
        seed=wanted.seed,
        eps=eps,
        on_layer=check,
    )
    layer = collected.layer
    notes = list(collected.notes)
    if (collected.logits >= 0).all() and np.allclose(collected.logits.sum(2), 1, atol=1e-4):
        notes.append(PROBABILITIES)
    missing = {} if layer.weights is not None else {"weights": layer.unweighted}
    probabilities = torch.from_numpy(collected.logits).softmax(2).numpy()
    classes = adversarial_class(torch.from_numpy(collected.logits[1:]), torch.from_numpy(collected.labels)).numpy()
    measures = collected_measures(collected, levels.levels)
    pictures = None
    fields, on_demand, features = None, None, None
    if collected.inputs is not None and is_pictures(collected.inputs):
        pictures = Pictures(collected.inputs)
        notes += pictures.notes
        fields, on_demand, why = _fields(setting, collected, classes, measures, strong, wanted)
        if why:
            missing["fields"] = why
        if fields is not None:
            after = next((place for place, one in enumerate(measures) if one.group not in ("activation", "swap")), None)
            measures[after:after] = pixel_measures(fields, layer.channels)
        features = _features(setting, collected, pictures)
    else:
        why = NOT_SHOWN.capitalize() if collected.inputs is None else NOT_IMAGES
        missing |= dict.fromkeys(("images", "fields", "features"), why)
    if audit is not None:
        if of_other_weights(audit, layer, collected.statistics[0].metric("mean_activation_benign")):
            notes.append(
                f"the audit report ({audit.model}) is left out: its neurons are active in other ways than these, so it "
                "is of other weights or other data"
            )
        else:
            measures += audit_measures(audit, layer, len(levels.levels))
    if fragility is not None:
        if not set(fragility.eps) & set(eps):
            measured = ", ".join(f"{strength:g}" for strength in fragility.eps)
            notes.append(
                f"fragility under attack is not shown: it was measured at eps {measured}, none of which is here"
            )
        measures += fragility_measures(fragility, layer, eps)
    roles = contributions(collected.class_means, collected.class_samples, layer.weights, [strong])
    exploration = Exploration(
        name=name,
        layer=layer.name,
        classes=wanted.class_names or tuple(str(number) for number in range(layer.classes)),
        levels=levels.levels,
        samples=collected.samples,
        images=_images(collected, pictures, probabilities, classes, wanted.projection),
        measures=tuple(measures),
        agreement=rank_agreement(measures),
        weights=None if layer.weights is None else layer.weights.float().numpy(),
        features=features,
        fields=fields,
        clusters=cluster(roles, wanted.seed),
        facts=tuple(_facts(collected, levels, described)),
        notes=tuple(notes),
        missing=missing,
    )
    return exploration, on_demand


def _fields(
    setting: Setting, collected: Collected, classes: Array, measures: list[Measure], level: int, wanted: Wanted
) -> tuple[Fields | None, FieldsOnDemand | None, str]:
    """Receptive fields of the most vulnerable neurons at ``level``, what computes others, and why there are none."""
    assert collected.inputs is not None
    assert collected.adversarial is not None
    if collected.inputs.shape[1] not in (1, 3):
        return None, None, OTHER_CHANNELS.format(collected.inputs.shape[1])
    samples = collected.inputs, collected.adversarial, torch.from_numpy(collected.labels)
    on_demand = FieldsOnDemand(setting, collected.layer, *samples, torch.from_numpy(classes), wanted.share)
    predictions = collected.logits[[0, 1 + level]].argmax(2)
    rows = images_to_swap(collected.labels, predictions, wanted.swap_images).tolist()
    neurons = most_vulnerable(measures, level, wanted.swap_neurons).tolist()
    if not rows or not neurons:
        return None, on_demand, NOT_ASKED
    try:
        return on_demand.many(rows, neurons, wanted.batch_size, wanted.seed, wanted.progress), on_demand, ""
    except NoGradient as error:
        return None, None, f"There are no receptive fields: {error}"


def _images(
    collected: Collected, pictures: Pictures | None, probabilities: Array, classes: Array, projection: str
) -> Images:
    coordinates = np.full((*probabilities.shape[:2], 2), np.nan, np.float32)
    found, how = project(collected.values, projection)
    coordinates[:, : found.shape[1]] = found

    def shown(inputs: Tensor | None) -> Array | None:
        return None if pictures is None or inputs is None else pictures(inputs)

    return Images(
        samples=collected.numbers,
        labels=collected.labels,
        benign=shown(collected.inputs),
        adversarial=shown(collected.adversarial),
        linf=collected.linf,
        l2=collected.l2,
        probabilities=probabilities,
        adversarial_classes=classes,
        coordinates=coordinates,
        projection=how,
        values=collected.values,
    )


def _features(setting: Setting, collected: Collected, pictures: Pictures) -> Features:
    """The inputs that stimulate neurons most; those that are not among the first samples have pictures of their own."""
    top = collected.top
    samples, shown = top.samples, len(collected.numbers)
    extra = sorted(top.pictures)
    places = {sample: shown + place for place, sample in enumerate(extra)}
    rows = np.array(
        [[sample if sample < shown else places.get(sample, -1) for sample in row] for row in samples.tolist()]
    )
    assert collected.inputs is not None
    try:
        boxes, how = patches(setting.model, collected.layer, collected.inputs[:1], top.positions)
    except NoGradient as error:
        boxes, how = np.zeros((*samples.shape, 4), np.int64), f"none, since {error}"
    return Features(
        values=top.values,
        samples=samples,
        rows=rows.reshape(samples.shape),
        patches=boxes,
        extra=np.stack([pictures(top.pictures[sample]) for sample in extra]) if extra else None,
        how=how,
    )


def _facts(collected: Collected, levels: Levels, described: dict[str, Any]) -> list[tuple[str, str]]:
    layer, accuracy = collected.layer, collected.accuracy
    under = "; ".join(f"{share:.1%} under {level}" for level, share in zip(levels.levels, accuracy[1:], strict=True))
    return [
        ("model", described["model"]),
        ("neurons", f"{layer.channels:,}, {layer.name}"),
        ("data", f"{described['data']}, {collected.samples:,} samples"),
        ("attack", described["attack"]),
        ("accuracy", f"{accuracy[0]:.1%} benign; {under}"),
        ("computed", f"{described['dtype']} on {described['device']}, seed {described['seed']}"),
        ("versions", ", ".join(f"{package} {version}" for package, version in described["versions"].items())),
    ]
