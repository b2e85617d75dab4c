"""Measures of reports made before, and reports that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.descriptions import describe_model
from neurosens_fast.explorer.neuron_layer import NeuronLayer, find_neuron_layer
from neurosens_fast.explorer.reports import (
    CHANGES,
    audit_measures,
    check_reports,
    check_rows,
    fragility_measures,
    of_other_weights,
)
from neurosens_fast.fragility import FragilityReport, nodal_dropout

from .networks import images, pooled

MODEL = describe_model(pooled())


@pytest.fixture(scope="module")
def layer() -> NeuronLayer:
    return find_neuron_layer(pooled(), None, images(2)[0])


@pytest.fixture(scope="module")
def audited() -> AuditReport:
    model = pooled()
    return audit(model, images(), FGSM(model, eps=0.1), "activations", progress=False)


@pytest.fixture(scope="module")
def dropped() -> FragilityReport:
    return nodal_dropout(pooled(), images(), "relu2", FGSM, [0.1, 0.2], neurons=[0, 3, 5], progress=False)


def means(report: AuditReport) -> Tensor:
    return report.layers["relu2"].statistics.metric("mean_activation_benign")


def test_an_audit_gives_the_variants_of_sensitivity_at_the_neurons_row(
    layer: NeuronLayer, audited: AuditReport
) -> None:
    check_rows(audited, None, layer, MODEL)
    assert not of_other_weights(audited, layer, means(audited))
    measures = list(audit_measures(audited, layer, 2))
    assert [measure.name for measure in measures] == [f"audit_{name}" for name in CHANGES]
    expected = audited.metric("relative_l1")["relu2"].numpy()
    found = next(measure for measure in measures if measure.name == "audit_relative_l1")
    np.testing.assert_array_equal(found.values, np.stack([expected, expected]))


def test_fragility_is_shown_at_the_eps_where_it_was_measured(layer: NeuronLayer, dropped: FragilityReport) -> None:
    check_rows(None, dropped, layer, MODEL)
    attacked, clean = fragility_measures(dropped, layer, (0.2, 0.05))
    assert np.isnan(attacked.values[1]).all()
    np.testing.assert_array_equal(attacked.values[0, [0, 3, 5]], dropped.score("adversarial", 0.2).numpy())
    assert np.isnan(attacked.values[0, [1, 2, 4, 6, 7]]).all()
    np.testing.assert_array_equal(clean.values[:, [0, 3, 5]], np.stack([dropped.score("clean").numpy()] * 2))


def test_fragility_at_other_strengths_leaves_the_clean_one(layer: NeuronLayer, dropped: FragilityReport) -> None:
    assert [measure.name for measure in fragility_measures(dropped, layer, (None,))] == ["fragility_clean"]


def test_reports_of_other_models_are_refused_by_name(
    layer: NeuronLayer, audited: AuditReport, dropped: FragilityReport
) -> None:
    with pytest.raises(ValueError, match=r"fragility report is of another model .*model_description"):
        check_rows(None, dropped, layer, "ResNet, 3 parameters")
    with pytest.raises(ValueError, match=r"audit relu2, or leave the report out. Its layers are relu1$"):
        check_rows(replace(audited, layers={"relu1": audited.layers["relu1"]}), None, layer, MODEL)
    with pytest.raises(ValueError, match="is of layer conv1, not of the neurons of linear"):
        check_rows(None, replace(dropped, layer="conv1", zeroed="conv1"), layer, MODEL)
    with pytest.raises(ValueError, match="layer relu2 of the audit report has 6 neurons, that of the model 8"):
        check_rows(replace(audited, layers={"relu2": audited.layers["relu1"]}), None, layer, MODEL)
    with pytest.raises(ValueError, match="layer relu2 of the fragility report has 9 neurons, that of the model 8"):
        check_rows(None, replace(dropped, channels=9), layer, MODEL)


def test_a_report_of_other_weights_shows_by_its_mean_activations(layer: NeuronLayer, audited: AuditReport) -> None:
    shuffled = means(audited)[torch.tensor([5, 2, 7, 0, 6, 3, 1, 4])]
    assert of_other_weights(audited, layer, shuffled)


@pytest.mark.parametrize(("report", "fragility"), [("audit.safetensors", None), (None, {"a": 1})])
def test_what_is_no_report_is_refused(report: Any, fragility: Any) -> None:
    with pytest.raises(TypeError, match=r"load reads a saved one"):
        check_reports(report, fragility)
