"""``explore``: from a model, data and attacks to everything that a page shows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit import audit
from neurosens_fast.explorer import Exploration, Explorer, Level, explore
from neurosens_fast.explorer.pictures import NOT_IMAGES
from neurosens_fast.fragility import nodal_dropout

from .networks import Pooled, images, pooled

ATTACKS = {"one step": FGSM, "three steps": partial(PGD, steps=3, seed=0)}
SIZES: dict[str, Any] = {"images": 10, "top": 3, "swap_images": 4, "swap_neurons": 5}


def explored(model: nn.Module, data: Any, attack: Any = FGSM, **options: Any) -> Exploration:
    (found,) = explore(model, data, attack, **({"progress": False} | options)).explorations
    return found


@pytest.fixture(scope="module")
def whole() -> Exploration:
    return explored(pooled(), images(), ATTACKS, eps=[0.2, 0.05], batch_size=7, **SIZES)


def test_every_part_is_there(whole: Exploration) -> None:
    assert whole.levels == tuple(Level(name, eps) for name in ("one step", "three steps") for eps in (0.05, 0.2))
    assert (whole.name, whole.layer, whole.neurons, whole.samples) == ("Pooled", "linear (its input)", 8, 24)
    assert whole.classes == ("0", "1", "2", "3")
    assert whole.missing == {}
    shown = whole.images
    assert shown.benign is not None
    assert shown.adversarial is not None
    assert (shown.benign.shape, shown.adversarial.shape) == ((10, 9, 9, 3), (4, 10, 9, 9, 3))
    assert shown.values.shape == (5, 10, 8)
    assert shown.coordinates.shape == (5, 10, 2)
    np.testing.assert_allclose(shown.probabilities.sum(2), 1, rtol=1e-5)
    np.testing.assert_allclose(shown.linf, np.repeat([[0.05], [0.2], [0.05], [0.2]], 10, 1), rtol=1e-4)
    assert whole.agreement.shape == (4, len(whole.measures), len(whole.measures))
    np.testing.assert_allclose(np.diagonal(whole.agreement, axis1=1, axis2=2)[:, 0], 1)
    assert whole.clusters is not None
    assert whole.clusters.linkage.shape == (7, 4)


def test_shown_numbers_are_those_of_the_model(whole: Exploration) -> None:
    model, (x, y) = pooled(), images()
    attacked = FGSM(model, eps=0.2)(x, y)
    with torch.no_grad():
        for level, inputs in ((0, x), (2, attacked)):
            found = model(inputs[:10]).softmax(1)
            np.testing.assert_allclose(whole.images.probabilities[level], found, rtol=1e-4, atol=1e-6)
        values = model.relu2(model.conv2(model.relu1(model.conv1(x[:10])))).mean((2, 3))
    np.testing.assert_allclose(whole.images.values[0], values, rtol=1e-4, atol=1e-6)
    assert whole.weights is not None
    np.testing.assert_allclose(whole.weights, model.linear.weight.detach())
    assert whole.images.benign is not None
    np.testing.assert_array_equal(whole.images.benign, (x[:10] * 255).round().byte().movedim(1, -1))


def test_receptive_fields_are_of_the_most_vulnerable_neurons(whole: Exploration) -> None:
    fields = whole.fields
    assert fields is not None
    assert fields.masks.shape == (4, 4, 5, 9, 9)
    drop = next(measure for measure in whole.measures if measure.name == "swap_drop").values
    assert fields.neurons.tolist() == np.argsort(-drop[1], kind="stable")[:5].tolist()  # at the largest eps
    pixels = next(measure for measure in whole.measures if measure.name == "pixel_drop").values
    assert np.isfinite(pixels[:, fields.neurons]).all()
    assert np.isnan(np.delete(pixels, fields.neurons, 1)).all()


def test_features_are_the_inputs_with_the_largest_values_of_all_samples(whole: Exploration) -> None:
    model, (x, _) = pooled(), images()
    with torch.no_grad():
        values = model.relu2(model.conv2(model.relu1(model.conv1(x)))).mean((2, 3))
    features = whole.features
    assert features is not None
    np.testing.assert_array_equal(features.samples, values.sort(dim=0, descending=True, stable=True).indices[:3].T)
    assert features.extra is not None
    every = (x * 255).round().byte().movedim(1, -1).numpy()
    for sample, row in zip(features.samples.ravel(), features.rows.ravel(), strict=True):
        picture = whole.images.benign[row] if row < 10 else features.extra[row - 10]  # type: ignore[index]
        np.testing.assert_array_equal(picture, every[sample])


def test_batch_size_does_not_matter(whole: Exploration) -> None:
    other = explored(pooled(), images(), ATTACKS, eps=[0.05, 0.2], batch_size=24, **SIZES)
    for ours, theirs in zip(whole.measures, other.measures, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-4, atol=1e-6, err_msg=ours.name)


def test_fields_asked_for_later_are_those_computed_before(whole: Exploration) -> None:
    explorer = explore(
        *(pooled(), images(), FGSM), eps=[0.05, 0.2], images=10, swap_images=3, swap_neurons=4, progress=False
    )
    (exploration,), (on_demand,) = explorer.explorations, explorer._on_demand
    fields = exploration.fields
    assert fields is not None
    assert on_demand is not None
    found = on_demand.field(1, int(fields.rows[2]), int(fields.neurons[3]))
    np.testing.assert_array_equal(found["mask"], fields.masks[1, 2, 3])
    np.testing.assert_allclose(found["drop"], fields.drop[1, 2, 3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["seen"], fields.seen[1, 2, 3], rtol=1e-4)
    with pytest.raises(ValueError, match="there is no neuron 8; they are counted from 0 to 7"):
        on_demand.field(0, 0, 8)


def test_two_models_are_attacked_by_attacks_of_their_own() -> None:
    first, second = pooled(), pooled()
    with torch.no_grad():
        second.conv1.weight.mul_(-1)
    explorer = explore(first, images(), FGSM, eps=0.1, other=second, names=["natural", "trained"], progress=False)
    assert [exploration.name for exploration in explorer.explorations] == ["natural", "trained"]
    alone = explored(second, images(), FGSM, eps=0.1)
    np.testing.assert_array_equal(explorer.explorations[1].images.adversarial, alone.images.adversarial)  # type: ignore[arg-type]
    same = explore(first, images(), FGSM, eps=0.1, other=second, progress=False)
    assert [exploration.name for exploration in same.explorations] == ["Pooled", "Pooled (other)"]


def test_reports_stand_beside_the_measures() -> None:
    model = pooled()
    report = audit(model, images(), FGSM(model, eps=0.1), "activations", progress=False)
    dropped = nodal_dropout(model, images(), "relu2", FGSM, [0.1], progress=False)
    found = explored(model, images(), FGSM, eps=[0.1], report=report, fragility=dropped)
    named = {measure.name: measure.values for measure in found.measures}
    np.testing.assert_allclose(named["audit_relative_l1"], named["relative_l1"], rtol=1e-4)
    np.testing.assert_array_equal(named["fragility_adversarial"][0], dropped.score("adversarial", 0.1))


def test_another_layer_has_activations_in_place_of_contributions() -> None:
    found = explored(pooled(), images(), FGSM, eps=0.1, layer="conv1")
    assert found.weights is None
    assert "conv1" in found.missing["weights"]
    assert not {"swap_drop", "true_contribution"} & {measure.name for measure in found.measures}
    assert found.fields is not None
    assert found.features is not None
    assert (found.features.patches[:, :, 2] - found.features.patches[:, :, 0]).max() == 3


class Vectors(nn.Module):
    """Vectors ``[N, 5]``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 7)
        self.relu = nn.ReLU()
        self.logits = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, 3]``."""
        return self.logits(self.relu(self.hidden(x)))


def test_inputs_that_are_no_images_leave_the_other_views() -> None:
    found = explored(Vectors(), (torch.rand(12, 5), torch.arange(12) % 3), FGSM, eps=0.1)
    assert (found.images.benign, found.fields, found.features) == (None, None, None)
    assert found.missing == dict.fromkeys(("images", "fields", "features"), NOT_IMAGES)
    assert found.weights is not None
    assert found.clusters is not None


class Cut(Pooled):
    """Its forward is invisible to autograd."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        return super().forward(images.detach())


def test_without_gradients_there_are_no_receptive_fields_and_that_is_said() -> None:
    def brighter(x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.1).clamp(max=1)

    found = explored(Cut().eval(), images(), brighter)
    assert found.fields is None
    assert "no gradient" in found.missing["fields"]
    assert found.features is not None
    assert (found.features.samples >= 0).all()


@pytest.mark.parametrize(
    ("count", "bands", "side", "classes"), [(1, 3, 9, 4), (5, 1, 9, 4), (5, 3, 7, 1), (4, 2, 9, 4), (3, 3, 2, 2)]
)
def test_few_images_one_class_odd_sizes_grey_and_other_channels(
    count: int, bands: int, side: int, classes: int
) -> None:
    x, y = images(count, bands, side, classes)
    found = explored(pooled(bands=bands), (x, y), FGSM, eps=0.1)
    assert len(found.images.labels) == count
    assert found.images.benign is not None
    assert found.images.benign.shape == (count, side, side, bands if bands in (1, 3) else 1)
    assert (found.fields is None) == (bands == 2)
    assert Explorer((found,), (None,)).html()


def test_the_model_is_as_it_was() -> None:
    model = pooled().train()
    model.conv2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explored(model, images(), FGSM, eps=0.1)
    assert (model.training, model.conv2.training, model.relu1.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_names_of_classes_and_options_are_checked_before_the_attack() -> None:
    def attack(x: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("the attack ran")

    for options, message in (
        ({"class_names": "abcd"}, "class_names must be a text for each class, no two alike"),
        ({"class_names": ["a", "b", "b", "c"]}, "no two alike"),
        ({"share": "half"}, "share must lie in"),
        ({"class_names": ["a", "b"]}, "class_names has 2 names, the model 4 classes"),
        ({"images": 0}, "images must be a whole number of at least 1"),
        ({"swap_images": -1}, "swap_images must be a whole number of at least 0"),
        ({"share": 0}, r"share must lie in \(0, 1\]"),
        ({"projection": "tsne"}, "projection must be one of auto, pca, umap"),
        ({"names": ["a", "b"]}, "names must be 1 texts"),
        ({"layer": "cnv1"}, "no layer 'cnv1'"),
        ({"other": Pooled()}, "give what makes an attack for a model and eps"),
    ):
        with pytest.raises(ValueError, match=message):
            explore(pooled(), images(), attack, progress=False, **options)  # type: ignore[arg-type]


def test_a_report_of_other_neurons_is_refused_before_the_attack() -> None:
    other = pooled(neurons=9)
    report = audit(other, images(), FGSM(other, eps=0.1), "activations", progress=False)

    def attack(x: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("the attack ran")

    with pytest.raises(ValueError, match="layer relu2 of the audit report has 9 neurons, that of the model 8"):
        explored(pooled(), images(), attack, report=report)


def test_a_report_of_other_weights_is_left_out_and_that_is_said() -> None:
    other = pooled()
    with torch.no_grad():
        other.conv2.weight.copy_(other.conv2.weight.flip(0))
        assert other.conv2.bias is not None
        other.conv2.bias.copy_(other.conv2.bias.flip(0))
    report = audit(other, images(), FGSM(other, eps=0.1), "activations", progress=False)
    found = explored(pooled(), images(), FGSM, eps=0.1, report=report)
    assert not [measure for measure in found.measures if measure.name.startswith("audit_")]
    assert [note for note in found.notes if "audit report" in note and "left out" in note]


def test_strengths_of_a_dropout_that_are_not_shown_are_said() -> None:
    dropped = nodal_dropout(pooled(), images(), "relu2", FGSM, [0.1], progress=False)
    found = explored(pooled(), images(), FGSM, eps=0.2, fragility=dropped)
    assert [measure.name for measure in found.measures if measure.group == "fragility"] == ["fragility_clean"]
    assert "measured at eps 0.1" in found.notes[0]


def test_probabilities_for_logits_are_said() -> None:
    found = explored(nn.Sequential(pooled(), nn.Softmax(1)).eval(), images(), FGSM, eps=0.1)
    assert [note for note in found.notes if "probabilities, not logits" in note]
    assert not explored(pooled(), images(), FGSM, eps=0.1).notes


def test_inputs_of_other_sizes_beyond_those_shown_have_no_picture() -> None:
    found = explored(pooled(), [images(4, side=8), images(4, side=10)], FGSM, eps=0.1, images=4)
    assert found.features is not None
    small = (found.features.samples >= 0) & (found.features.samples < 4)
    np.testing.assert_array_equal(found.features.rows >= 0, small)
    assert (found.features.samples >= 4).any()


class Broken(Pooled):
    """Not finite where the first pixel is white."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]``."""
        return super().forward(images * torch.where(images[:, :1, :1, :1] == 1, torch.nan, 1.0))


@pytest.mark.parametrize("white", [range(4), range(8, 12)])
def test_samples_that_are_not_finite_spoil_no_view(white: range) -> None:
    x, y = images()
    x[list(white), 0, 0, 0] = 1

    def darker(x: Tensor, y: Tensor) -> Tensor:
        return x * torch.where(x == 1, 1.0, 0.9)

    found = explored(Broken().eval(), (x, y), darker)
    assert found.layer == "linear (its input)"
    assert found.clusters is not None
    assert found.features is not None
    assert Explorer((found,), (None,)).html()


def test_an_iterator_cannot_be_read_for_two_models() -> None:
    with pytest.raises(ValueError, match="an iterator can be read once only"):
        explore(pooled(), iter([images()]), FGSM, eps=0.1, other=pooled(), progress=False)
