"""Synaptic filters leave no trace in the model, treat shared weights as one, and name bad input in a sentence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from neurosens_fast.attacks import FGSM
from neurosens_fast.fragility.synaptic_filter import synaptic_filter
from neurosens_fast.models import DigitsCNN
from tests.trained import images, trained

QUIET: dict[str, Any] = {"progress": False}


def traces(model: nn.Module) -> list[Any]:
    """Everything of a model that a run must leave as it was."""
    found: list[Any] = [torch.get_rng_state().tolist(), torch.is_grad_enabled()]
    for name, module in model.named_modules(remove_duplicate=False):
        found.append((name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks)))
        held = {**module._parameters, **module._buffers}
        for key, value in ((key, value) for key, value in held.items() if value is not None):
            grad = None if value.grad is None else value.grad.tolist()
            found.append((key, id(value), value.requires_grad, grad, value.detach().numpy().tobytes()))
    return found


def used() -> DigitsCNN:
    """A network in training mode as users leave it: a gradient, a frozen layer, a hook, one norm in evaluation mode."""
    model = trained()
    model.train()
    model(images(8)[0]).sum().backward()
    model.bn2.eval()
    model.conv3.weight.requires_grad_(False)
    model.fc4.register_forward_hook(lambda module, inputs, output: None)
    return model


def unchanged(model: nn.Module, eps: float) -> Any:
    """An attack that changes nothing."""
    return lambda x, y: x


class Breaks:
    """An attack that writes gradients, and fails at its call number ``last``."""

    def __init__(self, model: nn.Module, eps: float, last: int = 2) -> None:
        self.model, self.calls, self.last = model, 0, last

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        self.model.train()
        self.model(x).sum().backward()
        if self.calls == self.last:
            raise KeyError("stop")
        return x


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_no_trace_in_the_model(scope: str) -> None:
    model = used()
    before = traces(model)
    synaptic_filter(model, images(20), eps=[0.1], scope=scope, thresholds=4, batch_size=8, **QUIET)
    assert traces(model) == before


@pytest.mark.parametrize("where", ["attack", "filter"])
def test_no_trace_after_an_exception(where: str) -> None:
    model = used()
    if where == "filter":  # a hook of the user's that fails once the weights are filtered
        original = model.fc4.weight.detach().clone()

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if not torch.equal(module.weight, original):
                raise KeyError("stop")

        model.fc4.register_forward_hook(hook)
    before = traces(model)
    with pytest.raises(KeyError, match="stop"):
        synaptic_filter(
            model, images(20), FGSM if where == "filter" else Breaks, [0.1], thresholds=4, batch_size=8, **QUIET
        )
    assert traces(model) == before


def test_attacks_meet_the_unfiltered_model_once_per_batch_and_eps() -> None:
    model = trained()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    calls: list[tuple[float, int]] = []

    def attack(model: DigitsCNN, eps: float) -> Any:
        def made(x: Tensor, y: Tensor) -> Tensor:
            assert all(torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True))
            assert not model.bn1.training
            calls.append((eps, len(x)))
            return x

        return made

    synaptic_filter(model, images(20), attack, [0.1, 0.3], thresholds=4, batch_size=12, **QUIET)
    assert calls == [(0.1, 12), (0.3, 12), (0.1, 8), (0.3, 8)]


def test_norm_statistics_are_those_of_evaluation_mode() -> None:
    """In training mode a norm would hide that a whole layer is scaled, and move its statistics."""
    model, data = trained(), images(30)
    arguments: dict[str, Any] = {"eps": [0.1], "thresholds": 5, **QUIET}
    expected = synaptic_filter(model.eval(), data, **arguments)
    before = traces(model.train())
    assert torch.equal(synaptic_filter(model, data, **arguments).correct, expected.correct)
    assert traces(model) == before


class Sharing(nn.Module):
    """Two layers hold one weight, and one of them has a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.again = self.first
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.tied(torch.relu(self.again(self.first(x)))))
        return logits


def test_shared_weights_are_filtered_once_and_everywhere() -> None:
    torch.manual_seed(1)
    model = Sharing()
    x = 3 * torch.randn(60, 4)
    y = model(x).argmax(1)
    before = traces(model)
    steps = [0, 0.3, 0.5, 0.7, 0.9, 1]
    report = synaptic_filter(model, (x, y), unchanged, [0.1], "low", thresholds=steps, **QUIET)
    whole = synaptic_filter(model, (x, y), unchanged, [0.1], scope="global", thresholds=[0, 1], **QUIET)
    assert traces(model) == before
    assert report.curves == ("first", "last")
    assert (report.weights, whole.weights) == ((16, 12), (28,))
    assert report.notes == (
        "the weight of first is also again.weight, tied.weight: it is filtered once, in all of them",
    )
    everywhere, only_first = [], []
    for step in steps:
        weight = model.first.weight.detach()
        filtered = nn.Parameter(weight * (weight.abs() <= step * weight.abs().max()))
        changed = copy.deepcopy(model)
        changed.first.weight = filtered
        only_first.append(int((changed(x).argmax(1) == y).sum()))
        changed.tied.weight = filtered
        everywhere.append(int((changed(x).argmax(1) == y).sum()))
    assert report.correct[0, :, 0].tolist() == everywhere
    assert everywhere != only_first, "this could not fail"


def test_layers_without_a_weight_of_their_own_are_left_out_and_told_of() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    parametrizations.weight_norm(model[0])
    prune.random_unstructured(model[2], "weight", 0.5)  # type: ignore[no-untyped-call]
    nn.init.zeros_(model[3].weight)  # type: ignore[arg-type]
    data = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
    report = synaptic_filter(model, data, eps=[0.1], thresholds=3, **QUIET)
    assert report.curves == ("4",)
    assert report.notes == (
        "left out 0: it computes its weight from other parameters",
        "left out 2: it computes its weight from other parameters",
        "left out 3: it has a weight that is 0 throughout",
    )
    with pytest.raises(ValueError, match=r"layer '0' computes its weight .* choose layers with weights"):
        synaptic_filter(model, data, eps=[0.1], layers=["0", "4"], **QUIET)
    with pytest.raises(ValueError, match="no weights to filter"):
        synaptic_filter(model[:4], data, eps=[0.1], **QUIET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "band"}, "kind must be one of high, low, pulse, got 'band'"),
        ({"scope": "model"}, "scope must be one of layer, global, got 'model'"),
        ({"thresholds": 1}, "thresholds=1 are too few; give a number"),
        ({"thresholds": True}, "thresholds=True are too few"),
        ({"thresholds": [0.5]}, "thresholds are too few, repeated or out of order"),
        ({"thresholds": [0.5, 0.1]}, "out of order"),
        ({"thresholds": [0.5, 0.5]}, "repeated"),
        ({"thresholds": [0, 1.5]}, r"thresholds must lie between 0 and 1, got 1\.5"),
        ({"thresholds": [-0.1, 1]}, "must lie between 0 and 1"),
        ({"thresholds": [0, float("nan")]}, "must lie between 0 and 1"),
        ({"thresholds": "many"}, "thresholds must be numbers, got 'many'"),
        ({"thresholds": None}, "thresholds must be numbers, got None"),
        ({"layers": "conv7"}, "the model has no layer 'conv7'"),
        ({"layers": "relu1"}, "layer 'relu1' has no weight of its own"),
        ({"layers": "bn1"}, "layer 'bn1' is a norm"),
        ({"layers": "conv1#2"}, "a weight is the same in every call of its layer; name 'conv1' without #"),
        ({"layers": "activations"}, "no weights to filter"),
        ({"layers": "norms"}, "no weights to filter"),
        ({"eps": []}, "eps is empty"),
        ({"attack": lambda model: None}, "attack cannot be called as attack"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"max_samples": 0}, "max_samples must be a whole number"),
        ({"device": "cuda:7"}, "the model is on cpu"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        synaptic_filter(trained(), images(4), **QUIET, **arguments)


def test_bad_models_and_data_are_named() -> None:
    with pytest.raises(ValueError, match="logits"):
        synaptic_filter(nn.Sequential(nn.Conv2d(1, 2, 3)), images(4), unchanged, [0.1], **QUIET)
    with pytest.raises(ValueError, match="no weights to filter"):
        synaptic_filter(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), images(4), **QUIET)
    with pytest.raises(ValueError, match=r"bare layer without a name; wrap it as in nn\.Sequential"):
        synaptic_filter(nn.Linear(4, 3), (torch.rand(4, 4), torch.zeros(4)), **QUIET)
    with pytest.raises(ValueError, match="no sample"):
        synaptic_filter(trained(), [], **QUIET)
    with pytest.raises(TypeError, match="model must be a"):
        synaptic_filter("model", images(4), **QUIET)  # type: ignore[arg-type]
    broken = trained()
    nn.init.constant_(broken.conv2.weight, torch.nan)
    with pytest.raises(ValueError, match=r"'conv2\.weight' holds NaN"):
        synaptic_filter(broken, images(4), **QUIET)
