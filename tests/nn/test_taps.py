"""Tap modules: what they leave as it was, and putting them in and out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import list_layers, select_layers
from neurosens_fast.models import DigitsCNN
from neurosens_fast.nn import SensitivityTap, SNSLoss, Tapped, TappedReLU, tap, untap

from .networks import KINDS, Shared, batch, small


def network() -> nn.Module:
    """A block, a layer with weights, one activation in two places."""
    torch.manual_seed(0)
    gelu = nn.GELU()
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), gelu)
    return nn.Sequential(block, gelu, nn.Flatten(), nn.Linear(4 * 16, 5))


@pytest.mark.parametrize("layers", ["activations", ["0.1", "3"], "all", ["0"]], ids=str)
def test_a_tapped_model_computes_names_saves_and_loads_the_same(layers: Any) -> None:
    plain, x = network().eval(), torch.rand(2, 3, 6, 6)
    model = tap(copy.deepcopy(plain), layers)
    assert torch.equal(model(x), plain(x))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert model.state_dict()._metadata.keys() == plain.state_dict()._metadata.keys()  # type: ignore[attr-defined]
    for names in ("named_parameters", "named_buffers"):
        assert [name for name, _ in getattr(model, names)()] == [name for name, _ in getattr(plain, names)()]
    assert list(dict(model.named_modules())) == list(dict(plain.named_modules()))
    assert model.get_parameter("3.weight") is model[3].weight  # type: ignore[index]
    other = network()
    nn.init.ones_(other[3].weight)  # type: ignore[index]
    for target, source in ((model, other), (tap(copy.deepcopy(plain), layers), tap(other, layers))):
        assert not any(target.load_state_dict(source.state_dict()))
        assert torch.equal(target[3].weight, torch.ones(5, 64))  # type: ignore[index]
    state = plain.state_dict()
    del state["3.weight"]
    found = model.load_state_dict({**state, "3.other": torch.ones(1)}, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["3.weight"], ["3.other"])


def test_training_mode_device_and_functional_call_reach_what_is_tapped() -> None:
    model = tap(network(), "all").train()
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.eval().modules())
    model.double()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    doubled = {name: 2 * parameter.detach() for name, parameter in model.named_parameters()}
    once, before = torch.func.functional_call(model, doubled, (x,)), model(x)
    assert not torch.equal(once, before)
    assert torch.equal(model(x), before), "the parameters are back"
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(doubled[name])
    assert torch.equal(model(x), once)


def test_tap_replaces_every_place_and_untap_restores_the_same_objects() -> None:
    model = network()
    before = dict(model.named_modules(remove_duplicate=False))
    types = {name: type(module) for name, module in before.items()}
    assert tap(model) is model
    assert type(before["0.2"]) is TappedReLU
    assert isinstance(model[0][3], Tapped)  # type: ignore[index]
    assert model[0][3] is model[1]  # type: ignore[index]
    tap(model)
    assert model[1].tapped_module is before["1"], "what is tapped is left alone"  # type: ignore[index]
    assert untap(model) is model
    after = dict(model.named_modules(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is module for name, module in before.items())
    assert {name: type(module) for name, module in after.items()} == types
    with pytest.raises(
        ValueError, match=r"tap\(\) takes whole layers, not single calls of 'relu'; name those in SNSLoss"
    ):
        tap(Shared(), ["relu#2"])


def test_a_subclass_of_relu_keeps_its_class() -> None:
    class Mine(nn.ReLU):
        pass

    model = tap(nn.Sequential(nn.Linear(2, 2), Mine()))
    assert isinstance(model[1], Tapped)
    assert type(model[1].tapped_module) is Mine


def test_tapped_forwards_attributes() -> None:
    linear = nn.Linear(3, 2)
    tapped: Any = Tapped(linear)
    assert tapped.weight is linear.weight
    assert tapped.out_features == 2
    tapped.out_features = 7
    assert linear.out_features == 7
    tapped.weight = nn.Parameter(torch.ones(2, 3))
    assert torch.equal(linear.weight, torch.ones(2, 3))
    assert "weight" not in tapped.__dict__
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'weights'"):
        _ = tapped.weights
    assert Tapped(nn.Sequential(linear))[0] is linear
    assert list(iter(Tapped(nn.Sequential(linear)))) == [linear]  # type: ignore[call-overload]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_work_and_feed_no_loss(copied: Any) -> None:
    x, x_adv, _ = batch()
    for kind in KINDS:
        model = small(kind)
        sns = SNSLoss(model)
        with sns.pairs():
            out = model(torch.cat((x, x_adv)))
        sns.loss()
        measured = sns.sensitivity
        other = copied(model)
        assert {type(a) for a in other.modules()} == {type(a) for a in model.modules()}
        with sns.pairs():
            other(torch.cat((x, x_adv)))
        with pytest.raises(RuntimeError, match="there was no paired forward"):
            sns.loss()
        with SNSLoss(other) as own, own.pairs():
            assert torch.equal(other(torch.cat((x, x_adv))), out)
        assert all(torch.equal(own.sensitivity[name], measured[name]) for name in measured)


def test_taps_do_nothing_without_a_loss_that_collects() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    assert SensitivityTap()(x) is x
    assert torch.equal(TappedReLU()(x), x.relu())
    assert TappedReLU()(x).grad_fn.name() == x.relu().grad_fn.name()  # type: ignore[union-attr]
    y = x.detach().clone()
    assert TappedReLU(inplace=True)(y) is y
    model = small("TappedReLU")
    SNSLoss(model, ["act1"])
    names = [node.name() for node in _nodes(model(batch()[0]).sum())]
    assert "ReluBackward0" in names
    assert not any("tap" in name.lower() for name in names)


def _nodes(tensor: Tensor) -> list[Any]:
    found, open_nodes = [], [tensor.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None:
            found.append(node)
            open_nodes += [following for following, _ in node.next_functions]
    return found


def test_the_loss_finds_all_taps_and_their_axes() -> None:
    model = nn.Sequential(
        nn.Linear(4, 6), TappedReLU(), Tapped(nn.Linear(6, 5), channel_dim=1), SensitivityTap(channel_dim=2), nn.ReLU()
    )
    with SNSLoss(model, k=1) as sns, sns.pairs():
        model(torch.rand(4, 3, 4))
    assert {name: len(values) for name, values in sns.sensitivity.items()} == {"1": 6, "2": 3, "3": 5}
    with SNSLoss(model, k=1, channel_dims={"3": 1, "2": 2}) as sns, sns.pairs():
        model(torch.rand(4, 3, 4))
    assert {name: len(values) for name, values in sns.sensitivity.items()} == {"1": 6, "2": 5, "3": 3}
    assert SNSLoss(untap(model), ["4"]).layers == ["4"]


def test_capture_sees_through_taps() -> None:
    plain, model = DigitsCNN(), tap(DigitsCNN(), "all")
    x = torch.rand(2, 1, 8, 8)
    for group in ("activations", "convolutions", "norms", "linear", "all"):
        assert list(select_layers(model, group).modules) == list(select_layers(plain, group).modules)
    assert [(row.name, row.channel_dim, row.groups) for row in list_layers(model, x)] == [
        (row.name, row.channel_dim, row.groups) for row in list_layers(plain, x)
    ]
    blocks = nn.Sequential(nn.Sequential(nn.ReLU(), Shared()), nn.ReLU())
    assert list(select_layers(tap(blocks, ["0.1", "1", "0.0"]), "blocks").modules) == ["0.1"]


def test_an_attached_loss_survives_tap_and_untap() -> None:
    x, x_adv, _ = batch()
    model = small()
    sns = SNSLoss(model, ["act1", "bn2", "act3"])
    losses = []
    for change in (lambda model: model, lambda model: tap(model, ["act1", "bn2", "act3"]), untap):
        change(model)
        with sns.pairs():
            model(torch.cat((x, x_adv)))
        losses.append(sns.loss())
    torch.testing.assert_close(losses[1:], losses[:1] * 2, rtol=1e-12, atol=0)
