"""Every mistake gets one sentence that names what was wrong and the mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.nn import SNSLoss

from .networks import Shared, batch, small
from .test_sns_loss import step


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": -2}, ValueError, "k must be at least 1, got -2"),
        ({"k": 0.0}, ValueError, "a share k must be above 0.0 and at most 1.0, got 0.0; give a count as an int"),
        ({"k": 1.5}, ValueError, "a share k must be above 0.0 and at most 1.0, got 1.5"),
        ({"k": True}, TypeError, r"k must be a count \(int\) or a share \(float\), got bool"),
        ({"k": "all"}, TypeError, r"k must be a count \(int\) or a share \(float\), got str"),
        ({"norm": 2}, ValueError, "norm must be 1 or 'mse' or 'l2' or 'cosine', got 2"),
        ({"norm": True}, ValueError, "norm must be 1 or 'mse' or 'l2' or 'cosine', got True"),
        ({"scope": "block"}, ValueError, "scope must be 'layer' or 'model', got 'block'"),
        ({"select_by": "l1"}, ValueError, "select_by must be 'sensitivity' or 'distance', got 'l1'"),
        ({"refresh": 0}, ValueError, "refresh must be .* or a number of batches of at least 1, got 0"),
        ({"refresh": True}, ValueError, "refresh must be .*, got True"),
        ({"refresh": "step"}, ValueError, "refresh must be .*, got 'step'"),
        ({"weight": float("nan")}, ValueError, "weight must be a finite number, got nan"),
        ({"weight": "1"}, ValueError, "weight must be a finite number, got '1'"),
        ({"layers": ["act9"]}, ValueError, "the model has no layer 'act9'; closest: act"),
        ({"channel_dims": {"relu": 1}}, ValueError, "channel_dims names 'relu', which is not among the tapped layers"),
    ],
)
def test_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    model = small()
    with pytest.raises(error, match=message):
        SNSLoss(model, **settings)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_models() -> None:
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got builtin"):
        SNSLoss(torch.relu)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"nn.DataParallel runs replicas, .*; use DistributedDataParallel"):
        SNSLoss(nn.DataParallel(small()))
    with pytest.raises(TypeError, match="a scripted or traced model calls no hooks"):
        SNSLoss(torch.jit.trace(small(), batch()[0]))
    model = small()
    sns = SNSLoss(model)
    replica = model._replicate_for_data_parallel()  # type: ignore[operator]
    replica(batch()[0])
    with (
        pytest.raises(TypeError, match=r"nn.DataParallel runs replicas of the model, .*; use DistributedData"),
        sns.pairs(),
    ):
        replica(batch()[0][:4])
    sns.prepare(batch()[0])
    with pytest.raises(TypeError, match=r"nn.DataParallel runs replicas"), sns.pairs():
        model.act1._replicate_for_data_parallel()(batch()[0][:4])  # type: ignore[operator]


def test_the_order_of_calls() -> None:
    model = small()
    sns = SNSLoss(model)
    x, x_adv, _ = batch()
    joined = torch.cat((x, x_adv))
    with pytest.raises(RuntimeError, match=r"there was no paired forward, call the model inside sns.pairs\(\) before"):
        sns.loss()
    with sns.pairs():
        model(joined)
    sns.loss()
    with pytest.raises(
        RuntimeError, match=r"loss of this forward was already taken; run the model inside pairs\(\) again"
    ):
        sns.loss()
    with pytest.raises(RuntimeError, match=r"model was called twice inside one pairs\(\); call it once"), sns.pairs():
        model(joined), model(joined)
    with (
        pytest.raises(RuntimeError, match=r"benign\(\) was opened inside pairs\(\) of the same .*; leave that first"),
        sns.pairs(),
        sns.benign(),
    ):
        model(x)
    with pytest.raises(RuntimeError, match=r"adversarial\(\) needs a benign\(\) before it"), sns.adversarial():
        model(x)
    with sns.benign():
        model(x)
    with pytest.raises(RuntimeError, match=r"benign\(\) is still without its adversarial\(\); run the adversarial"):
        sns.loss()
    with sns.adversarial():
        model(x_adv)
    sns.loss()
    with pytest.raises(RuntimeError, match=r"adversarial\(\) needs a benign\(\) before it"), sns.adversarial():
        model(x_adv)
    sns.detach()
    with pytest.raises(RuntimeError, match="this SNSLoss was detached from its model; make a new one"), sns.pairs():
        model(joined)


def test_the_loss_may_be_taken_before_its_context_closes() -> None:
    model = small()
    sns = SNSLoss(model)
    x, x_adv, _ = batch()
    with torch.no_grad(), sns.pairs():
        model(torch.cat((x, x_adv)))
        inside = sns.loss()
    with sns.pairs():
        model(torch.cat((x, x_adv)))
    assert torch.equal(inside, sns.loss())


def test_batches() -> None:
    model = small()
    sns = SNSLoss(model)
    x, x_adv, _ = batch()
    with (
        pytest.raises(ValueError, match=r"model was given an odd batch of 5 inside pairs\(\); give it torch.cat"),
        sns.pairs(),
    ):
        model(x)
    with (
        pytest.raises(
            ValueError,
            match=r"no tensor with samples is among what the model was given; call sns.prepare\(x\) with some benign",
        ),
        sns.pairs(),
    ):
        model(x[:0])
    with sns.pairs():
        model.act3(x.flatten(1))
    with pytest.raises(RuntimeError, match=r"channel axes were not known .* or of one that is not called as a whole"):
        sns.loss()
    sns.prepare(x)
    with (
        pytest.raises(ValueError, match="layer 'act3' saw an odd batch of 5; a paired batch holds N benign"),
        sns.pairs(),
    ):
        model.act3(torch.rand(5, 7))
    for other, message in (
        (
            x_adv[:3],
            r"another shape in adversarial\(\) than in benign\(\): \[3, 6, 4, 4\] after \[5, 6, 4, 4\]; give both",
        ),
        (x_adv.float(), "another dtype in .*: torch.float32 after torch.float64"),
    ):
        with sns.benign():
            model.double()(x)
        with pytest.raises(ValueError, match=f"layer 'act1' puts out {message}"), sns.adversarial():
            model.to(other.dtype)(other)


def test_gradients_of_the_benign_branch() -> None:
    model = small()
    x, x_adv, _ = batch()
    for detach in (True, False):
        sns = SNSLoss(model, detach_benign=detach)
        with torch.no_grad(), sns.benign():
            model(x)
        if detach:
            with sns.adversarial():
                model(x_adv)
            assert sns.loss().requires_grad
            continue
        with (
            pytest.raises(RuntimeError, match=r"the benign forward ran without gradients, .* set detach_benign=True"),
            sns.adversarial(),
        ):
            model(x_adv)


def test_k_larger_than_a_layer() -> None:
    model = small()
    with pytest.raises(ValueError, match="layer 'act1': k must be between 1 and the number of neurons 6, got 7"):
        step(model, SNSLoss(model, k=7))
    step(model, SNSLoss(model, k=7, scope="model"))
    with pytest.raises(ValueError, match="k must be between 1 and the number of neurons 22, got 23"):
        step(model, SNSLoss(model, k=23, scope="model"))


class Odd(nn.Module):
    """``[N, 4]`` to ``[N, 4]``, with an identity in it whose input is what ``change`` makes."""

    def __init__(self, change: Callable[[Tensor], Any], training_only: bool = False) -> None:
        super().__init__()
        self.relu, self.odd, self.change, self.training_only = nn.ReLU(), nn.Identity(), change, training_only

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        if self.training or not self.training_only:
            self.odd(self.change(x))
        return x


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[0], ValueError, r"layer 'odd' puts out shape \[4\], which has no channel axis; leave it out"),
        (
            lambda x: x[:1],
            ValueError,
            r"layer 'odd' puts out 1 rows for 4 pairs .*first axis is not the batch; leave it",
        ),
        (lambda x: x.long(), TypeError, "layer 'odd' puts out torch.int64, which has no sensitivity; leave it out"),
        (lambda x: None, TypeError, "layer 'odd' puts out a NoneType, not a tensor; tap a module inside it"),
        (
            lambda x: x - x.mean(0),
            ValueError,
            "layer 'odd' puts out something else .*: it mixes the samples of a batch",
        ),
    ],
)
def test_outputs_that_cannot_be_measured(change: Any, error: type[Exception], message: str) -> None:
    model, x = Odd(change), torch.rand(8, 4)
    with pytest.raises(error, match=message), SNSLoss(model, ["relu", "odd"]) as sns, sns.pairs():
        model(x)
    with SNSLoss(model, "all") as sns, sns.pairs():
        model(x)
    assert sns.layers == ["relu"]
    assert list(sns.skipped) == ["odd"]
    assert sns.loss() > 0
    with pytest.raises(ValueError, match="none of the chosen layers can be measured: layer 'odd' puts out"):
        SNSLoss(model, "od*").prepare(x)


def test_what_verifying_found_can_be_overruled() -> None:
    model, x = Odd(lambda x: x - x.mean(0)), torch.rand(8, 4)
    sns = SNSLoss(model, ["odd"])
    sns.prepare(x, verify=False)
    with sns.pairs():
        model(x)
    assert sns.loss() > 0


def test_layers_that_do_not_run() -> None:
    model = Odd(lambda x: x, training_only=True).eval()
    x = torch.rand(8, 4)
    sns = SNSLoss(model, ["relu", "odd"])
    with sns.pairs():
        model(x)
    with pytest.raises(ValueError, match="layer 'odd' never ran in a paired forward; leave it out of layers"):
        sns.loss()
    model.train()
    with (
        pytest.raises(ValueError, match="layer 'odd' runs in training mode only, so its channel axis is not known"),
        sns.pairs(),
    ):
        model(x)
    with SNSLoss(model, "all") as sns, sns.pairs():
        model(x)
    assert "layer 'odd' did not run in evaluation mode" in sns.skipped["odd"]
    assert sns.loss() > 0
    shared = Shared()
    sns = SNSLoss(shared, ["relu#3", "relu"])
    with sns.pairs():
        shared(x)
    assert sns.loss() > 0
    sns = SNSLoss(shared, ["relu#1", "relu#3"])
    with sns.pairs():
        shared(x)
    with pytest.raises(ValueError, match="layer 'relu#3' never ran in a paired forward"):
        sns.loss()


def test_forwards_in_which_nothing_runs() -> None:
    model, x = Odd(lambda x: x, training_only=True).train(), torch.rand(8, 4)
    sns = SNSLoss(model, "od*")
    model.training_only = False
    sns.prepare(x)
    model.training_only = True
    model.eval()
    with sns.pairs():
        model(x)
    with pytest.raises(RuntimeError, match=r"none of the chosen layers ran in that forward, choose others"):
        sns.loss()
    with sns.benign():
        pass
    with pytest.raises(RuntimeError, match=r"adversarial\(\) needs a benign\(\) before it"), sns.adversarial():
        model(x)


def test_forwards_unlike_the_one_that_was_prepared() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    sns = SNSLoss(model, channel_dims={"1": 1})
    sns.prepare(torch.rand(2, 5, 4))
    with (
        pytest.raises(ValueError, match="layer '1' has 6 channels on axis 1, but had 5 when it was prepared; name the"),
        sns.pairs(),
    ):
        model(torch.rand(2, 6, 4))

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.times = nn.ReLU(), 2

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.relu(x)
            return x

    loop = Loop()
    sns = SNSLoss(loop)
    sns.prepare(torch.rand(2, 4))
    loop.times = 3
    with (
        pytest.raises(ValueError, match=r"layer 'relu' ran more than the 2 times that were prepared; call sns.prepare"),
        sns.pairs(),
    ):
        loop(torch.rand(2, 4))
    loop.times = 1
    with sns.pairs():
        loop(torch.rand(2, 4))
    assert sns.loss() > 0


def test_a_batch_axis_that_is_lost_later() -> None:
    model = Odd(lambda x: x)
    sns = SNSLoss(model, ["odd"])
    sns.prepare(torch.rand(2, 4))
    model.change = lambda x: x[:2]
    with (
        pytest.raises(
            ValueError, match="layer 'odd' puts out 2 rows for 8 samples, so its first axis is not the batch"
        ),
        sns.pairs(),
    ):
        model(torch.rand(8, 4))


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "separate"])
def test_a_layer_overwritten_in_training_only(joint: bool) -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2) if self.training else x

    model = small().train()
    model.bn2 = nn.Sequential(model.bn2, Doubling())  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match=r"output of layer 'bn2.0' was overwritten .* or leave the layer out"):
        step(model, SNSLoss(model, ["bn2.0"]), joint)


@pytest.mark.parametrize("prepared", [True, False])
def test_a_module_replaced_after_attaching(prepared: bool) -> None:
    model = small()
    sns = SNSLoss(model, ["activations", "norms"])
    if prepared:
        sns.prepare(batch()[0])
    model.bn1 = nn.BatchNorm2d(6).double()
    with pytest.raises(RuntimeError, match=r"layer 'bn1' was replaced or removed .* make it afterwards"):
        step(model, sns)


def test_layers_that_are_left_out_are_announced() -> None:
    model = small()
    model.act2 = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(9, track_running_stats=False).double(), nn.ReLU())  # type: ignore[assignment]
    sns = SNSLoss(model)
    with pytest.warns(UserWarning, match=r"SNSLoss leaves out 'act2\.2': .*sns.prepare\(x, verify=False\)"):
        sns.prepare(batch()[0])
    assert "act2.2" in sns.skipped
    sns.prepare(batch()[0], verify=False)
    assert not sns.skipped


def test_an_error_of_the_model_while_it_is_looked_at_says_so() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x.view(8, 4))

    sns = SNSLoss(Fixed())
    with pytest.raises(RuntimeError, match="invalid for input") as caught:
        sns.prepare(torch.rand(2, 4))
    assert "while SNSLoss looked at the layers with a few samples" in caught.value.__notes__[0]
