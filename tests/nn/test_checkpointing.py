"""Activation checkpointing, which runs layers again inside the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from neurosens_fast.nn import SNSLoss, Tapped, tap

from .networks import KINDS, Shared, batch, gradients, small
from .test_sns_loss import close, step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_a_checkpointed_model_gives_the_same_step(kind: str, joint: bool) -> None:
    results = []
    for replay in (None, False):
        model = small(kind, replay=replay).train()
        sns = SNSLoss(model, norm="mse")
        results.append([step(model, sns, joint, seed) for seed in range(2)])
        assert all(len(sns.sensitivity[name]) for name in sns.layers)
        assert sns._attachment.rows[0].distances is None, "what the repeated forward gave is thrown away"
    close(results[0], results[1])


def test_backward_passes_in_any_order() -> None:
    """Several paired forwards and plain ones, before and after, alone and joined with the loss of the paired ones."""
    for kind in ("hook", "TappedReLU"):
        results = []
        for replay in (None, False):
            model = small(kind, replay=replay)
            sns = SNSLoss(model)
            x, x_adv, y = batch()
            found = []
            early = cross_entropy(model(x), y)
            with sns.pairs():
                logits = model(torch.cat((x, x_adv)))
            loss = sns.loss()
            late = cross_entropy(model(x_adv[:3]), y[:3])
            (attack,) = torch.autograd.grad(late, model.conv1.weight, retain_graph=True)
            found.append({"attack": attack})
            (logits[5:].sum() + loss).backward(retain_graph=True)
            found.append(gradients(model))
            (early + late + loss).backward(retain_graph=True)
            found.append(gradients(model))
            logits.sum().backward(retain_graph=True)
            found.append(gradients(model))
            with sns.pairs():
                model(torch.cat((x, x_adv))[::2].repeat(2, 1, 1, 1)[:6])
            (loss + sns.loss()).backward()
            found.append(gradients(model))
            results.append(found)
        close(results[0], results[1])


def test_an_attack_between_forward_and_backward() -> None:
    results = []
    for replay in (None, False):
        model = tap(small(replay=replay))
        sns = SNSLoss(model)
        x, x_adv, y = batch()
        with sns.pairs():
            logits = model(torch.cat((x, x_adv)))[5:]
        loss = cross_entropy(logits, y) + sns.loss()
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(x), y), x)
        loss.backward()
        results.append([gradient, gradients(model)])
    close(results[0], results[1])


@pytest.mark.parametrize("layers", [["relu"], ["relu#2"], ["relu#1", "head"]], ids=str)
def test_single_calls_of_a_module(layers: list[str]) -> None:
    results = []
    for replay in (False, True):
        torch.manual_seed(2)
        model = Shared(replay).double()
        sns = SNSLoss(model, layers, k=2)
        with sns.pairs():
            logits = model(torch.linspace(-1, 1, 24, dtype=torch.float64).view(6, 4))
        (logits.sum() + sns.loss()).backward()
        results.append(gradients(model))
    close(results[0], results[1])


def test_nested_checkpoints_and_a_checkpointed_whole_model() -> None:
    class Nested(nn.Module):
        def __init__(self, replay: bool) -> None:
            super().__init__()
            self.inner, self.fc, self.replay = Shared(replay), Tapped(nn.Linear(3, 3)), replay

        def forward(self, x: Tensor) -> Tensor:
            def run(x: Tensor) -> Tensor:
                return self.fc(self.inner(x))

            return checkpoint(run, x, use_reentrant=False) if self.replay else run(x)

    results = []
    for replay in (False, True):
        torch.manual_seed(2)
        model = Nested(replay).double()
        sns = SNSLoss(model, ["inner.relu", "fc"], k=2)
        x = torch.randn(6, 4, dtype=torch.float64)
        for whole in (False, True):
            with sns.pairs():
                logits: Any = checkpoint(model, x, use_reentrant=False) if replay and whole else model(x)
            (logits.sum() + sns.loss()).backward()
        results.append(gradients(model))
    close(results[0], results[1])


def test_reentrant_checkpointing_is_refused() -> None:
    model = small(replay=True)
    x, x_adv, _ = batch()
    sns = SNSLoss(model)
    with (
        pytest.raises(RuntimeError, match=r"layer 'act1' ran without gradients .* checkpoint with use_reentrant=False"),
        sns.pairs(),
    ):
        model(torch.cat((x.requires_grad_(), x_adv)))
    with torch.no_grad(), sns.pairs():
        model(torch.cat((x, x_adv)))
    assert sns.loss() > 0, "without any gradient it can be measured"


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_a_layer_overwritten_inside_a_checkpoint(joint: bool) -> None:
    results = []
    for kind, replay in (("hook", None), ("hook, in place", False)):
        model = small(kind, replay=replay)
        results.append(step(model, SNSLoss(model, ["bn1", "act2"]), joint))
    close(results[0], results[1])
