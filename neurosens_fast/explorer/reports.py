"""What reports made before say of the neurons that are explored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from neurosens_fast.audit import AuditReport
from neurosens_fast.fragility import FragilityReport
from neurosens_fast.statistics import METRICS

from .exploration import Array, Measure
from .neuron_layer import NeuronLayer

CHANGES = (
    *("sensitivity", "sensitivity_l2", "relative_l1", "relative_l2", "mean_shift", "rms_change", "activation_shift"),
    *("cosine_distance", "peak_change"),
)
"""The metrics of audits that measure a change: the variants of neuron sensitivity."""

_MEND = "give the report of this very model, or leave it out"


def check_reports(report: object, fragility: object) -> None:
    """``TypeError`` for what is no report of its kind."""
    if report is not None and not isinstance(report, AuditReport):
        got = type(report).__name__
        raise TypeError(f"report must be an AuditReport, got {got}; AuditReport.load reads a saved one")
    if fragility is not None and not isinstance(fragility, FragilityReport):
        got = type(fragility).__name__
        raise TypeError(f"fragility must be a FragilityReport, got {got}; FragilityReport.load reads a saved one")


def check_rows(report: AuditReport | None, fragility: FragilityReport | None, layer: NeuronLayer, model: str) -> None:
    """``ValueError`` with the mend for reports of other neurons, and for a dropout of another model."""
    if report is not None:
        row = _row(report, layer)
        if row is None:
            raise ValueError(
                f"the audit report knows nothing of the neurons of {layer.name}; audit {_wanted(layer)}, or leave the "
                f"report out. Its layers are {', '.join(report.layers)}"
            )
        _check_count("audit", row, report.layers[row].statistics.neurons, layer)
    if fragility is not None:
        if fragility.model != model:
            raise ValueError(
                f"the fragility report is of another model ({fragility.model}, not {model}); {_MEND}. If it is the "
                "same, explore gets its description as model_description"
            )
        if not {fragility.layer, fragility.zeroed} & set(layer.rows):
            raise ValueError(
                f"the fragility report is of layer {fragility.layer}, not of the neurons of {layer.name}; drop those "
                f"of {_wanted(layer)}, or leave the report out"
            )
        _check_count("fragility", fragility.layer, fragility.channels, layer)


def of_other_weights(report: AuditReport, layer: NeuronLayer, benign_means: Tensor) -> bool:
    """Whether mean activations of ``report`` have nothing to do with those of the neurons, ``benign_means`` ``[C]``.

    Descriptions do not tell: one model has several, and two trainings of one network the same.
    """
    row = _row(report, layer)
    assert row is not None
    return _unlike(report.layers[row].statistics.metric("mean_activation_benign"), benign_means)


def audit_measures(report: AuditReport, layer: NeuronLayer, levels: int) -> Iterator[Measure]:
    """The variants of sensitivity in an audit's ``report``, the same at every level."""
    row = _row(report, layer)
    assert row is not None
    statistics = report.layers[row].statistics
    for name in CHANGES:
        values = np.broadcast_to(statistics.metric(name).numpy(), (levels, layer.channels))
        text = f"{METRICS[name].description}, at {row} under {report.attack} ({report.samples:,} samples of an audit)"
        yield Measure(f"audit_{name}", f"audit: {name.replace('_', ' ')}", text, "audit", values)


def fragility_measures(report: FragilityReport, layer: NeuronLayer, eps: tuple[float | None, ...]) -> Iterator[Measure]:
    """The change of accuracy when a neuron is dropped: under attack, at a level's eps where it was measured, and clean.

    NaN for neurons that were not dropped.
    """

    def column(score: str, level: float | None) -> Array:
        values = np.full(layer.channels, np.nan)
        values[list(report.neurons)] = report.score(score, level).numpy()
        return values

    of = f"({report.attack}, {report.protocol}, {report.samples:,} samples)"
    unmeasured = np.full(layer.channels, np.nan)
    attacked = np.stack([column("adversarial", one) if one in report.eps else unmeasured for one in eps])
    if np.isfinite(attacked).any():
        text = f"adversarial accuracy without the neuron less that with it, at the same eps; below 0 it is fragile {of}"
        yield Measure("fragility_adversarial", "fragility Δ, adversarial", text, "fragility", attacked)
    clean = np.broadcast_to(column("clean", None), (len(eps), layer.channels))
    text = f"clean accuracy without the neuron less that with it; below 0 the network needs it {of}"
    yield Measure("fragility_clean", "fragility Δ, clean", text, "fragility", clean)


def _row(report: AuditReport, layer: NeuronLayer) -> str | None:
    return next((name for name in layer.rows if name in report.layers), None)


def _wanted(layer: NeuronLayer) -> str:
    return " or ".join(layer.rows) or "a layer with these neurons"


def _check_count(kind: str, row: str, neurons: int, layer: NeuronLayer) -> None:
    if neurons != layer.channels:
        raise ValueError(
            f"layer {row} of the {kind} report has {neurons:,} neurons, that of the model {layer.channels:,}; {_MEND}"
        )


def _unlike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two means over samples cannot be of the same neurons: correlated less than other samples explain."""
    pair = np.stack([ours.double().numpy(), theirs.double().numpy()])
    pair = pair[:, np.isfinite(pair).all(0)]
    if pair.shape[1] < 8 or (pair.std(1) == 0).any():
        return False
    return bool(np.corrcoef(pair)[0, 1] < 0.5)
