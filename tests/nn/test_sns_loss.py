"""The loss and its gradients against an independent computation, and when neurons are chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from neurosens_fast import ops
from neurosens_fast.nn import SNSLoss
from tests.capture.networks import TupleTransformer

from .independent import sns_loss, stored
from .networks import KINDS, LAYERS, Shared, batch, gradients, small

NORMS = [1, "mse", "l2", "cosine"]


def close(actual: Any, expected: Any) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def layers_of(kind: str) -> list[str]:
    return [f"{name}.1" for name in LAYERS] if kind == "SensitivityTap" else LAYERS


def step(model: Any, sns: SNSLoss, joint: bool = True, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a training step: cross-entropy of the adversarial half and the SNS loss."""
    x, x_adv, y = batch(seed=seed)
    if joint:
        with sns.pairs():
            logits = model(torch.cat((x, x_adv)))[len(x) :]
    else:
        with sns.benign():
            model(x)
        with sns.adversarial():
            logits = model(x_adv)
    loss = cross_entropy(logits, y) + sns.loss()
    loss.backward()
    return loss.detach(), gradients(model)


def independent_step(
    model: nn.Module, joint: bool = True, weight: float = 1.0, seed: int = 0, **settings: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same by stored activations."""
    x, x_adv, y = batch(seed=seed)
    with stored(model, LAYERS) as outputs:
        if joint:
            logits = model(torch.cat((x, x_adv)))[len(x) :]
            halves = [[z[: len(x)] for z in outputs[0]], [z[len(x) :] for z in outputs[0]]]
        else:
            model(x)
            logits = model(x_adv)
            halves = outputs
    loss = cross_entropy(logits, y) + weight * sns_loss(halves[0], halves[1], **settings)
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_training_step_equals_the_independent_one(kind: str, joint: bool, training: bool) -> None:
    """For every norm, both scopes, with and without the gradient of the benign branch."""
    for norm in NORMS:
        for scope in ("layer", "model"):
            for detach in (False, True):
                chosen: dict[str, Any] = {"k": 0.3, "norm": norm, "scope": scope, "detach_benign": detach}
                expected = independent_step(small().train(training), joint, 0.7, **chosen)
                model = small(kind).train(training)
                sns = SNSLoss(model, layers_of(kind), weight=0.7, **chosen)
                loss, found = step(model, sns, joint)
                close(loss, expected[0])
                named = {name.replace("act1.0.", "act1."): value for name, value in found.items()}
                close(named, expected[1])


@pytest.mark.parametrize("norm", NORMS)
def test_joint_and_separate_agree_in_evaluation_mode(norm: int | str) -> None:
    results = []
    for joint in (True, False):
        model = small()
        results.append(step(model, SNSLoss(model, norm=norm), joint))
    close(results[0], results[1])


def test_what_it_tells_about_the_last_forward() -> None:
    model = small()
    sns = SNSLoss(model, ["act2", "act1"], k=2)
    assert sns.layers == ["act1", "act2"]
    assert sns.sensitivity == sns.neurons == {}
    x, x_adv, _ = batch()
    with stored(model, LAYERS) as outputs, sns.pairs():
        model(torch.cat((x, x_adv)))
    sns.loss()
    for name, z in zip(["act1", "act2"], outputs[-1], strict=False):
        expected = ops.neuron_sensitivity(z[:5], z[5:]).detach()
        close(sns.sensitivity[name], expected)
        assert torch.equal(sns.neurons[name], expected.topk(2).indices)
        assert not sns.sensitivity[name].requires_grad
    assert list(sns.sensitivity) == list(sns.neurons) == ["act1", "act2"]
    assert not list(sns.parameters())
    assert not list(sns.children())


def test_neurons_of_the_whole_model() -> None:
    model = small()
    sns = SNSLoss(model, k=4, scope="model", weight=2)
    loss, _ = step(model, sns)
    every = torch.cat(list(sns.sensitivity.values()))
    names = [(name, i) for name, values in sns.sensitivity.items() for i in range(len(values))]
    expected = {names[i] for i in every.topk(4).indices.tolist()}
    assert {(name, i) for name, neurons in sns.neurons.items() for i in neurons.tolist()} == expected
    _, x_adv, y = batch()
    close(loss, cross_entropy(model(x_adv), y) + 2 * every.topk(4).values.mean())


def test_selecting_by_the_distance_of_the_loss() -> None:
    model = small()
    x, x_adv, _ = batch()
    with stored(model, ["act2"]) as outputs:
        model(torch.cat((x, x_adv)))
    z = outputs[0][0]
    distance = ops.neuron_sensitivity(z[:5], z[5:], "cosine")
    for select_by, score in (("distance", distance), ("sensitivity", ops.neuron_sensitivity(z[:5], z[5:]))):
        sns = SNSLoss(model, ["act2"], k=3, norm="cosine", select_by=select_by)
        with sns.pairs():
            model(torch.cat((x, x_adv)))
        loss = sns.loss()
        assert torch.equal(sns.neurons["act2"], score.topk(3).indices)
        close(loss, distance[score.topk(3).indices].mean())
    assert not torch.equal(distance.topk(3).indices, score.topk(3).indices), "the two must differ to tell them apart"


def choices(sns: SNSLoss, model: nn.Module, steps: int, refresh_before: int | None = None) -> list[bool]:
    """Per step on another batch, whether the choice is that of the step's own sensitivities."""
    found = []
    for seed in range(steps):
        if seed == refresh_before:
            sns.refresh()
        step(model, sns, seed=seed)
        fresh = {name: ops.topk_neurons(values, 9)[1] for name, values in sns.sensitivity.items()}
        found.append(all(torch.equal(sns.neurons[name], fresh[name]) for name in fresh))
    return found


def test_how_often_neurons_are_chosen() -> None:
    model = small()
    assert choices(SNSLoss(model, ["conv2"], k=9), model, 5) == [True] * 5
    assert choices(SNSLoss(model, ["conv2"], k=9, refresh=3), model, 5) == [True, False, False, True, False]
    assert choices(SNSLoss(model, ["conv2"], k=9, refresh="epoch"), model, 5, 3) == [True, False, False, True, False]
    assert choices(SNSLoss(model, ["conv2"], k=9, refresh=3), model, 5, 2) == [True, False, True, False, False]


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_the_choice_survives_a_checkpoint(scope: Any, tmp_path: Any) -> None:
    model = small()
    sns = SNSLoss(model, k=2, refresh=3, scope=scope)
    for seed in range(2):
        step(model, sns, seed=seed)
    torch.save(sns.state_dict(), tmp_path / "sns.pt")
    again = SNSLoss(model, k=2, refresh=3, scope=scope)
    again.load_state_dict(torch.load(tmp_path / "sns.pt", weights_only=True))
    for seed in range(2, 5):
        assert torch.equal(step(model, sns, seed=seed)[0], step(model, again, seed=seed)[0])
        assert str(sns.neurons) == str(again.neurons)
    other = SNSLoss(model, ["act1"], k=2, refresh=3)
    other.load_state_dict(torch.load(tmp_path / "sns.pt", weights_only=True))
    with pytest.raises(ValueError, match=r"chosen for other layers or another k .*call sns.refresh\(\)"):
        step(model, other)
    other.refresh()
    step(model, other)


def test_a_module_called_twice_has_two_rows_and_calls_can_be_named() -> None:
    torch.manual_seed(1)
    model, x = Shared().double(), torch.randn(8, 4, dtype=torch.float64)
    for layers, rows in ((["relu"], ["relu", "relu#2"]), (["relu#2"], ["relu#2"])):
        sns = SNSLoss(model, layers, k=2)
        with stored(model, rows) as outputs, sns.pairs():
            model(x)
        assert sns.layers == rows
        expected = sns_loss([z[:4] for z in outputs[-1]], [z[4:] for z in outputs[-1]], 2)
        torch.testing.assert_close(sns.loss(), expected)


def test_a_layer_that_does_not_run_this_time_adds_nothing() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.skip = nn.ReLU(), nn.ReLU(), False

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return x if self.skip else self.second(x - 0.5)

    model, x = Optional(), torch.rand(6, 4).double()
    for scope in ("layer", "model"):
        sns = SNSLoss(model, k=2, scope=scope)
        sns.prepare(x)
        model.skip = True
        with sns.pairs():
            model(x)
        expected = (x[3:] - x[:3]).abs().mean(0).topk(2).values.mean()
        close(sns.loss(), expected)
        assert list(sns.sensitivity) == ["first"]
        model.skip = False
        with sns.pairs():
            model(x)
        assert list(sns.sensitivity) == ["first", "second"]


def test_channels_of_tokens_and_their_override() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU())
    x = torch.randn(4, 5, 4)
    with SNSLoss(model, k=1) as sns, sns.pairs():
        model(x)
    assert [len(values) for values in sns.sensitivity.values()] == [6]
    with SNSLoss(model, k=1, channel_dims={"1": 1}) as sns, sns.pairs():
        model(x)
    assert [len(values) for values in sns.sensitivity.values()] == [5]
    assert not model[1]._forward_hooks
    assert not model._forward_pre_hooks


def test_inputs_by_keyword_and_arguments_that_are_no_batch() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = TupleTransformer()

        def forward(self, x: Tensor, scale: Tensor, *, mask: Tensor, flag: str | None = None) -> Any:
            assert flag == "on"
            return self.net(inputs_embeds=x * scale, attention_mask=mask)

    torch.manual_seed(3)
    model, x, mask = Scaled().double(), torch.randn(6, 3, 5, dtype=torch.float64), torch.ones(6, 3)
    by_hand = SNSLoss(model.net)
    by_hand.prepare({"inputs_embeds": x[:3], "attention_mask": mask[:3]})
    sns = SNSLoss(model)
    with sns.pairs(), by_hand.pairs():
        model(x, torch.tensor([2.0]).double(), mask=mask, flag="on")
    assert sns.layers == ["net.layer.0.activation", "net.layer.1.activation"]
    assert [f"net.{name}" for name in by_hand.layers] == sns.layers
    assert [len(values) for values in sns.sensitivity.values()] == [12, 12]
    assert torch.equal(sns.loss(), by_hand.loss())


def test_several_losses_before_one_backward_and_a_scaled_one() -> None:
    model = small()
    sns = SNSLoss(model)
    parts = [step(model, sns, seed=seed)[1] for seed in range(3)]
    total = torch.zeros((), dtype=torch.float64)
    for seed in range(3):
        x, x_adv, y = batch(seed=seed)
        with sns.pairs():
            logits = model(torch.cat((x, x_adv)))[5:]
        total = total + cross_entropy(logits, y) + sns.loss()
    (total * 1024).backward()
    found = gradients(model)
    for name, gradient in found.items():
        close(gradient / 1024, sum(part[name] for part in parts))


def test_two_losses_on_one_model_are_independent() -> None:
    for kind in ("hook", "TappedReLU"):
        model = small(kind)
        alone = [step(model, sns)[0] for sns in (SNSLoss(model), SNSLoss(model, norm="mse", k=2))]
        first, second = SNSLoss(model), SNSLoss(model, norm="mse", k=2)
        x, x_adv, y = batch()
        with first.pairs(), second.pairs():
            logits = model(torch.cat((x, x_adv)))[5:]
        part = cross_entropy(logits, y)
        close(part + first.loss(), alone[0])
        close(part + second.loss(), alone[1])
        first.detach()
        assert torch.equal(step(model, second)[0], alone[1])


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
@pytest.mark.parametrize("overwriting", ["relu", "dropout", "addition"])
def test_a_layer_that_is_overwritten_after_it(overwriting: str, joint: bool) -> None:
    """The same as without the overwriting, in training mode; dropout in place does so in training only."""

    class Adding(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.inplace = inplace

        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1) if self.inplace else x + 1

    after: Any = {"relu": nn.ReLU, "dropout": lambda inplace: nn.Dropout(0.5, inplace), "addition": Adding}[overwriting]
    results = []
    for inplace in (False, True):
        model = small()
        model.bn1 = nn.Sequential(model.bn1, after(inplace=inplace))  # type: ignore[assignment]
        model.act2 = nn.Sequential(nn.GELU(), after(inplace=inplace))  # type: ignore[assignment]
        sns = SNSLoss(model.train(), ["bn1.0", "act2.0"])
        torch.manual_seed(3)
        results.append(step(model, sns, joint))
    close(results[0], results[1])
