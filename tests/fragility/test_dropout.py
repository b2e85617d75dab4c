"""Nodal dropout: what is known of made networks comes out, and the cut model counts as whole forwards do."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.fragility import FragilityReport, nodal_dropout
from neurosens_fast.models import CifarResNet18, MnistCNN
from tests.trained import images, trained

from .networks import OneClassPerNeuron, one_class_each
from .reports import same_counts

Network = TypeVar("Network", bound=nn.Module)
QUIET: dict[str, Any] = {"progress": False}


def by_hand(model: nn.Module, layer: str, x: Tensor, y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Right with nothing dropped ``[1 + E, N]``, and without each neuron ``[K, 1 + E, N]``, by a hook on ``layer``."""
    model = copy.deepcopy(model).eval()
    dropped: list[int] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if not dropped:
            return output
        changed = output.clone()
        changed[:, dropped] = 0
        return changed

    model.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        before = torch.stack([model(z).argmax(1) == y for z in inputs])
        after = []
        for neuron in range(16):
            dropped[:] = [neuron]
            after.append(torch.stack([model(z).argmax(1) == y for z in inputs]))
    return before, torch.stack(after)


def test_neuron_that_carries_a_class_is_fragile_and_a_dead_one_robust() -> None:
    model, data = OneClassPerNeuron(), one_class_each(30)
    report = nodal_dropout(model, data, eps=[0.1], **QUIET)
    assert (report.layer, report.zeroed, report.channels) == ("conv", "conv", 4)
    assert report.clean_accuracy == 1
    assert report.score("clean").tolist() == pytest.approx([-1 / 3, -1 / 3, 0, 0]), "class 2 wins where nothing else is"
    assert report.classes("clean") == ("fragile", "fragile", "robust", "robust")
    assert report.counts.lost[:, 0].tolist() == [10, 10, 0, 0]
    assert any("spared" in note for note in report.notes), "zero channels are not run again"


def test_antifragile_neuron() -> None:
    """A neuron that answers every image with class 0: without it the others are right."""
    model, (x, y) = OneClassPerNeuron(), one_class_each(30)
    x[:, 3] = 1
    with torch.no_grad():
        model.conv.weight[3, 3] = 5
        model.linear.weight[0, 3] = 1
    report = nodal_dropout(model, (x, y), eps=[0.0], **QUIET)
    assert report.classes("clean") == ("robust", "robust", "robust", "antifragile")
    assert report.score("clean")[3] == pytest.approx(2 / 3)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("batch_size", [16, 60])
@pytest.mark.parametrize("where", ["before_norm", "after_norm"])
def test_counts_are_those_of_a_run_by_hand(where: str, batch_size: int, plain: bool) -> None:
    model, (x, y) = trained(), images(60)
    report = nodal_dropout(model, (x, y), eps=[0.05, 0.2], where=where, batch_size=batch_size, plain=plain, **QUIET)
    assert report.layer == "conv1"
    inputs = [x, *(FGSM(model, eps=eps)(x, y) for eps in (0.05, 0.2))]
    before, after = by_hand(model, report.zeroed, x, y, inputs)
    change = after.long() - before.long()
    assert torch.equal(report.counts.correct, before.sum(1))
    assert torch.equal(report.counts.lost, (change < 0).sum(2))
    assert torch.equal(report.counts.gained, (change > 0).sum(2))
    assert torch.equal(report.counts.joint, (change * change[:, :1]).sum(2))


def shaken(model: Network, seed: int = 0) -> Network:
    """Batch norms that do something, so that where zeros stand matters; in training mode, as users leave models."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
            nn.init.normal_(module.bias, 0, 0.5, generator=generator)
    return model.train()


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        *itertools.product(
            ["conv1", "layer1.0.conv2", "layer2.0.shortcut.0", "layer4.0.bn1"], ["before_norm", "after_norm"]
        ),
        # No norm follows these.
        *[("layer3.1.relu2", "before_norm"), ("layer4.1", "after_norm")],
        *[("pool", "before_norm"), ("linear", "after_norm")],
    ],
)
def test_cut_residual_network_counts_as_whole_forwards_do(layer: str, where: str) -> None:
    torch.manual_seed(3)
    model = shaken(CifarResNet18())
    x, y = torch.rand(6, 3, 8, 8), torch.randint(0, 10, (6,))
    arguments: dict[str, Any] = {"layer": layer, "where": where, "eps": [0.1], "neurons": [0, 3, 9], **QUIET}
    ours = nodal_dropout(model, (x, y), **arguments)
    assert "computed once" in ours.notes[0]
    same_counts(ours, nodal_dropout(model, (x, y), plain=True, **arguments))


@pytest.mark.parametrize("protocol", ["fixed", "adaptive"])
def test_seeds_repeat_a_run_and_random_attacks_do_not_depend_on_batches(protocol: str) -> None:
    model, data = trained(), images(24)
    attack = partial(PGD, steps=2, random_start=True, seed=5)

    def run(batch_size: int) -> FragilityReport:
        return nodal_dropout(
            model, data, attack=attack, eps=[0.1], protocol=protocol, neurons=[1, 2], batch_size=batch_size, **QUIET
        )

    first = run(24)
    same_counts(first, run(24))
    same_counts(first, run(7))


def test_adaptive_attacks_the_model_without_the_neuron() -> None:
    model, (x, y) = trained(), images(40)
    report = nodal_dropout(model, (x, y), eps=[0.15], protocol="adaptive", neurons=[0, 4], **QUIET)
    fixed = nodal_dropout(model, (x, y), eps=[0.15], neurons=[0, 4], **QUIET)
    for place, neuron in enumerate((0, 4)):
        without = copy.deepcopy(model)
        without.get_submodule(report.zeroed).register_forward_hook(
            lambda module, args, output, neuron=neuron: output.index_fill(1, torch.tensor([neuron]), 0)
        )
        adversarial = FGSM(without, eps=0.15)(x, y)
        with torch.no_grad():
            right = without(adversarial).argmax(1) == y
        assert report.accuracy()[place] == pytest.approx(float(right.double().mean()))
    assert torch.equal(report.counts.lost[:, 0], fixed.counts.lost[:, 0]), "clean inputs are the same in both"
    assert not torch.equal(report.accuracy(), fixed.accuracy())


@pytest.mark.parametrize("protocol", ["fixed", "adaptive"])
def test_eps_0_gives_the_clean_change(protocol: str) -> None:
    report = nodal_dropout(trained(), images(30), eps=[0.0, 0.1], protocol=protocol, **QUIET)
    assert torch.equal(report.counts.lost[:, 0], report.counts.lost[:, 1])
    assert torch.equal(report.counts.gained[:, 0], report.counts.gained[:, 1])
    assert report.score("difference", 0.0).abs().max() == 0
    assert report.standard_error("difference", 0.0).abs().max() == 0


def test_layer_that_is_no_convolution() -> None:
    for layer in ("fc4", "relu4"):
        report = nodal_dropout(MnistCNN(), (torch.rand(5, 1, 28, 28), torch.arange(5)), layer, eps=[0.1], **QUIET)
        assert report.channels == 128


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("protocol", ["fixed", "adaptive"])
def test_model_and_random_states_are_as_before(protocol: str, plain: bool) -> None:
    torch.manual_seed(0)
    model = shaken(MnistCNN())
    model.bn1.eval()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    model.fc4.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    data = torch.rand(6, 1, 28, 28), torch.arange(6)
    state = torch.get_rng_state()
    calls = []

    def attack(model: nn.Module, eps: float) -> Any:
        def failing(x: Tensor, y: Tensor) -> Tensor:
            calls.append(eps)
            model(x)
            if len(calls) == 3:
                raise OSError("the attack fails")
            return x

        return failing

    with pytest.raises(OSError, match="the attack fails"):
        nodal_dropout(model, data, attack=attack, eps=[0.1, 0.2, 0.3], protocol=protocol, plain=plain, **QUIET)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.conv1.weight.grad, torch.ones_like(model.conv1.weight))
    assert not model.fc4.weight.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "conv7"}, r"the model has no layer 'conv7'; closest: conv"),
        ({"layer": "conv1#2"}, r"layer 'conv1#2' did not run"),
        ({"where": "inside"}, "where must be one of before_norm, after_norm"),
        ({"protocol": "both"}, "protocol must be one of fixed, adaptive"),
        ({"neurons": [99]}, "neuron 99 is not among the"),
        ({"neurons": []}, "neurons must name at least one"),
        ({"neurons": 3}, r"neurons must be whole numbers, as in neurons=\[0, 5\], got 3"),
        ({"neurons": [1.0]}, r"neurons must be whole numbers.* got \[1.0\]"),
        ({"neurons": [True]}, r"neurons must be whole numbers.* got \[True\]"),
        ({"eps": None}, "eps must be a number or several of them, .* got None"),
        ({"eps": "0.1"}, "eps must be a number or several of them, .* got '0.1'"),
        ({"eps": ["much"]}, r"eps must be a number or several of them, .* got \['much'\]"),
        ({"neurons": [1, 1]}, "each once"),
        ({"eps": []}, "eps is empty"),
        ({"eps": [0.1, 0.1]}, "eps holds a strength twice"),
        ({"eps": [-0.1]}, "eps must be numbers of at least 0"),
        ({"attack": lambda model: None}, "attack cannot be called as attack"),
        ({"attack": lambda model, eps: 3}, "gave a int, not an attack"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        nodal_dropout(trained(), images(4), **QUIET, **arguments)


def test_bad_models_and_data_are_named() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="runs no convolution; name the layer"):
        nodal_dropout(linear, images(4), **QUIET)
    assert nodal_dropout(linear, images(4), "1", eps=[0.1], **QUIET).channels == 10
    with pytest.raises(ValueError, match="logits"):
        nodal_dropout(nn.Sequential(nn.Conv2d(1, 2, 3)), images(4), **QUIET)
    with pytest.raises(ValueError, match="no sample"):
        nodal_dropout(trained(), [], **QUIET)
