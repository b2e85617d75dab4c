"""What an SNSLoss keeps, waits for and leaves behind: nothing that was not asked for."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import weakref
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from neurosens_fast.attacks import PGD
from neurosens_fast.nn import SNSLoss, tap
from tests.capture.test_taps import NoWaiting

from .networks import KINDS, LAYERS, Shared, batch, gradients, small
from .test_sns_loss import close, step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_no_activation_outlives_the_backward_pass(kind: str, joint: bool) -> None:
    model = small(kind)
    sns = SNSLoss(model)
    alive: list[weakref.ref[Tensor]] = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: alive.append(weakref.ref(output)))
    step(model, sns, joint)
    assert len(alive) > 20
    assert all(reference() is None for reference in alive)


def test_without_gradients_no_activation_outlives_its_layer() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(6)))
    sns = SNSLoss(model, "linear")
    x = torch.rand(4, 3)
    sns.prepare(x)
    alive: list[weakref.ref[Tensor]] = []

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert all(reference() is None for reference in alive[:-1])
        alive.append(weakref.ref(output))

    for module in model:
        module.register_forward_hook(watch)
    with torch.no_grad(), sns.pairs():
        model(x)
    assert len(alive) == 6
    loss = sns.loss()
    assert not loss.requires_grad
    assert loss > 0


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_a_step_never_waits_for_the_device(scope: str, joint: bool, device: str) -> None:
    model = tap(small(dtype=torch.float32)).to(device)
    sns = SNSLoss(model, scope=scope, select_by="distance", norm="mse", refresh=2)
    x, x_adv, y = (tensor.to(device) for tensor in batch(dtype=torch.float32))
    sns.prepare(x)
    for _ in range(3):
        with NoWaiting():
            if joint:
                with sns.pairs():
                    logits = model(torch.cat((x, x_adv)))[5:]
            else:
                with sns.benign():
                    model(x)
                with sns.adversarial():
                    logits = model(x_adv)
            (cross_entropy(logits, y) + sns.loss()).backward()
    sns.check()


def test_looking_at_a_model_leaves_it_as_it_was() -> None:
    class Restless(nn.Module):
        """Draws random numbers and counts its calls in a buffer, in evaluation mode too."""

        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.small, self.dropout = small(), nn.Dropout(0.5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            torch.rand(1), random.random(), numpy.random.rand()  # noqa: NPY002
            return self.dropout(self.small(x))

    model = Restless().train()
    model.small.bn1.eval()
    modes = [module.training for module in model.modules()]
    x, x_adv, _ = batch()
    model(x).sum().backward()
    kept = {name: parameter.grad for name, parameter in model.named_parameters()}
    buffers = copy.deepcopy(dict(model.named_buffers()))
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    states = [torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()]  # type: ignore[index]  # noqa: NPY002
    with SNSLoss(model) as sns:
        sns.prepare(x)
        assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
        assert modes == [module.training for module in model.modules()]
        assert all(parameter.grad is kept[name] for name, parameter in model.named_parameters())
        after = [torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()]  # type: ignore[index]  # noqa: NPY002
        assert str(after) == str(states)
        assert torch.equal(after[0], states[0])  # type: ignore[arg-type]
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    with SNSLoss(model) as sns, sns.pairs():  # the first forward looks by itself
        model(torch.cat((x, x_adv)))
    assert model.calls == buffers["calls"] + 1


def test_the_first_forward_under_autocast_keeps_the_gradients_of_the_weights() -> None:
    model = small(dtype=torch.float32)
    x, x_adv, _ = batch(dtype=torch.float32)
    sns = SNSLoss(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with sns.pairs():
            model(torch.cat((x, x_adv)))
        loss = sns.loss()
    assert loss.dtype == torch.float32
    loss.backward()
    found = gradients(model)
    assert found["conv1.weight"].abs().sum() > 0
    plain = small(dtype=torch.float32)
    other = SNSLoss(plain)
    with other.pairs():
        plain(torch.cat((x, x_adv)))
    torch.testing.assert_close(loss, other.loss(), rtol=0.05, atol=0)


def test_channels_last() -> None:
    results = []
    for memory in (torch.contiguous_format, torch.channels_last):
        model = small("TappedReLU").to(memory_format=memory)  # type: ignore[call-overload]
        sns = SNSLoss(model)
        x, x_adv, _ = batch()
        with sns.pairs():
            model(torch.cat((x, x_adv)).contiguous(memory_format=memory))
        sns.loss().backward()
        results.append(gradients(model))
    close(results[0], results[1])


def test_a_lost_loss_takes_its_hooks_along() -> None:
    model = small()
    sns = SNSLoss(model)
    assert len(model._forward_pre_hooks) == len(model.act1._forward_hooks) == 1
    del sns
    gc.collect()
    assert not model._forward_pre_hooks
    assert not any(module._forward_hooks for module in model.modules())


def test_an_exception_leaves_nothing_half_done() -> None:
    model = small()
    sns = SNSLoss(model)
    expected = step(model, sns)
    x, x_adv, _ = batch()

    def fail(logits: Tensor) -> None:
        raise ZeroDivisionError

    for context in (sns.pairs, sns.benign):
        with pytest.raises(ZeroDivisionError), context():
            fail(model(torch.cat((x, x_adv))))
        with pytest.raises(RuntimeError, match="there was no paired forward"):
            sns.loss()
        close(step(model, sns), expected)
    with sns.benign():
        model(x)
    with pytest.raises(ZeroDivisionError), sns.adversarial():
        fail(model(x_adv))
    close(step(model, sns, joint=False), expected)
    model.act2.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), sns.pairs():
        model(torch.cat((x, x_adv)))
    model.act2._forward_hooks.popitem()
    close(step(model, sns), expected)


@pytest.mark.parametrize("kind", ["hook", "TappedReLU"])
def test_a_copy_of_both_is_a_loss_on_the_copied_model(kind: str) -> None:
    model = small(kind)
    sns = SNSLoss(model, LAYERS[:2], k=2, refresh="epoch", weight=0.5)
    step(model, sns)
    for pair in ([model, sns], [sns, model]):
        both = copy.deepcopy(nn.ModuleList(pair))
        other, own = (both[pair.index(model)], both[pair.index(sns)])
        assert isinstance(own, SNSLoss)
        close(step(other, own, seed=1), step(model, sns, seed=1))
        assert own.neurons.keys() == sns.neurons.keys()
        with own.pairs():
            model(batch()[0][:4])
        with pytest.raises(RuntimeError, match="there was no paired forward"):
            own.loss()
    alone = copy.deepcopy(sns)
    own_model = alone._attachment.model
    assert own_model is not model
    close(step(own_model, alone, seed=2), step(model, sns, seed=2))
    with pytest.raises(TypeError, match=r"an SNSLoss hooks its model and cannot be pickled; save its state_dict\(\)"):
        pickle.dumps(sns)
    model.sns = sns
    with pytest.raises(RuntimeError, match="inside the model that it watches cannot be copied; keep it beside"):
        copy.deepcopy(model)


def test_check_names_neurons_that_were_not_finite_since_the_last_check() -> None:
    model = small()
    sns = SNSLoss(model)
    x, x_adv, _ = batch()
    sns.check()
    step(model, sns)
    sns.check()
    with torch.no_grad():
        bias = model.conv2.bias
        assert bias is not None
        bias[[1, 4]] += torch.nan
    with torch.no_grad(), sns.pairs():
        model(torch.cat((x, x_adv)))
    with torch.no_grad():
        bias[[1, 4]] = 0
    step(model, sns)
    with pytest.raises(FloatingPointError) as caught:
        sns.check()
    assert "layer 'act2' neurons 1, 4, in layer 'act3' neurons 0, 1, 2, 3, 4 and 2 more; look for" in str(caught.value)
    sns.check()


def test_a_model_that_moves_takes_choice_and_flags_along() -> None:
    model = Shared()
    x = torch.rand(4, 4)
    sns = SNSLoss(model, refresh="epoch")
    with sns.pairs():
        model(x)
    sns.loss()
    model.to("meta")
    with sns.pairs():
        model(x.to("meta"))
    assert sns.loss().device.type == "meta"


def test_attacks_fold_around_a_loss_that_does_not_collect() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    sns = SNSLoss(model, k=1)
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    attack = PGD(model, steps=2, random_start=False)
    x_adv = attack(x, y)
    assert "fold: yes" in attack.explain()
    with pytest.raises(RuntimeError, match="called twice inside one pairs"), sns.pairs():
        attack(x, y)  # inside, its hooks are seen: nothing is measured without a word
    exact = PGD(model, steps=2, random_start=False, exact=True)(x, y)
    torch.testing.assert_close(x_adv, exact, rtol=0, atol=1e-6)
    with sns.pairs():
        model(torch.cat([x, x_adv]))
    assert sns.loss() > 0
