"""Measures of how an attack changes each neuron, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from neurosens_fast.statistics import METRICS, NOTATION

from .collected import Collected
from .exploration import Array, Fields, Level, Measure
from .percentiles import bluff_score
from .reports import CHANGES

# (name, label, definition, group, sign) of what Collected has; all grow with harm.
_COLLECTED = (
    ("activation_change", "activation change", "mean |a' - a|", "activation", 1),
    (
        *("true_contribution", "activation × weight, true class"),
        *("mean w_y (a - a'): what the attack takes from the logit of the true class y", "activation", -1),
    ),
    (
        *("adversarial_contribution", "activation × weight, adversarial class"),
        *(
            "mean w_y' (a' - a): what it gives to the logit of y', the most probable other class under attack",
            "activation",
            1,
        ),
    ),
    (
        *("swap_drop", "drop of p(y), activation swapped"),
        *("mean fall of p_y where this neuron alone takes its value under attack, exact", "swap", 1),
    ),
    (
        *("swap_rise", "rise of p(y'), activation swapped"),
        *("mean rise of p_y' where this neuron alone takes its value under attack, exact", "swap", 1),
    ),
)


def collected_measures(collected: Collected, levels: Sequence[Level]) -> list[Measure]:
    """What one pass over the data shows: changes, activation swaps, the Bluff score, and the variants of sensitivity.

    Variants that are the same number for neurons without positions stand once.
    """
    measures = []
    for name, label, text, group, sign in _COLLECTED:
        values = getattr(collected, name)
        if values is not None:
            measures.append(Measure(name, label, f"{text} ({collected.samples:,} samples)", group, sign * values))
    eps = [level.eps for level in levels]
    attacks = dict.fromkeys(level.attack for level in levels)
    groups = [[place for place, level in enumerate(levels) if level.attack == attack] for attack in attacks]
    score = bluff_score(collected.medians, groups, eps)
    if np.isfinite(score).any():
        text = (
            "sum over eps of |median percentile under attack - benign median percentile| / eps, percentiles of the "
            "neuron's value among those of the layer (Das et al., IEEE VIS 2020)"
        )
        measures.append(Measure("bluff_score", "Bluff score", text, "levels", score))
    for name in CHANGES:
        values = np.stack([total.metric(name).numpy() for total in collected.statistics])
        alike = (np.allclose(one.values, values, rtol=1e-6, atol=0, equal_nan=True) for one in measures)
        place = next((place for place, found in enumerate(alike) if found), None)
        if place is not None:
            same = measures[place]
            text = f"{same.definition}; for these neurons {name} is the same number"
            measures[place] = Measure(same.name, same.label, text, same.group, same.values)
            continue
        label = name.replace("_", " ")
        measures.append(Measure(name, label, f"{METRICS[name].description}; {NOTATION}", "audit", values))
    return measures


def pixel_measures(fields: Fields, neurons: int) -> list[Measure]:
    """Mean drop and rise by swapping the pixels of a neuron's receptive field, NaN for neurons that have none."""
    of = f"mean over {len(fields.rows)} images, for {len(fields.neurons)} neurons"
    named = (
        ("pixel_drop", "drop of p(y), pixels swapped", "fall of p_y", fields.drop),
        ("pixel_rise", "rise of p(y'), pixels swapped", "rise of p_y'", fields.rise),
    )
    measures = []
    for name, label, what, found in named:
        values = np.full((found.shape[0], neurons), np.nan)
        values[:, fields.neurons] = found.astype(np.float64).mean(1)
        text = f"{what} where adversarial pixels are put inside the neuron's receptive field only ({of})"
        measures.append(Measure(name, label, text, "pixels", values))
    return measures


def most_vulnerable(measures: Sequence[Measure], level: int, count: int) -> Array:
    """Up to ``count`` neurons with the largest drop of p(y) by swapping, else activation change; NaN last."""
    named = {measure.name: measure for measure in measures}
    chosen = named.get("swap_drop") or named["activation_change"]
    values = chosen.values[level].astype(np.float64)
    return np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")[:count]


def contributions(class_means: Array, class_samples: Array, weights: Tensor | None, levels: Sequence[int]) -> Array:
    """The role of each neuron, ``[C, D]``: class means of activation × the class's weight, benign and at ``levels``.

    Without weights, class means of activations. Classes without samples are left out.
    """
    means = class_means[[0, *(1 + level for level in levels)]]
    present = class_samples > 0
    means = means[:, present]
    if weights is not None:
        means = means * weights.double().numpy()[None, present]
    found: Array = np.ascontiguousarray(means.reshape(-1, means.shape[2]).T)
    return found
