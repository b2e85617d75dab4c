"""Nodal dropout: what is known of made networks comes out, and the cut model counts as whole forwards do."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.fragility import FragilityReport, nodal_dropout
from neurosens_fast.fragility.dropped import selected
from neurosens_fast.models import CifarResNet18, MnistCNN
from neurosens_fast.support.names import FRAGILITY_REPORT
from tests.capture.networks import TupleTransformer, torchvision_model
from tests.trained import images, trained

from .networks import OneClassPerNeuron, one_class_each

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


def same_counts(ours: FragilityReport, theirs: FragilityReport) -> None:
    for name in ("correct", "lost", "gained", "joint"):
        assert torch.equal(getattr(ours.counts, name), getattr(theirs.counts, name)), name


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


class Sized(nn.Module):
    """Reads sizes of tensors before the cut behind it, and sends the image past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.linear = nn.Linear(6 * 16, 4)
        self.past = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        count = images.shape[0]
        scale = torch.arange(1, images.shape[2] + 1, dtype=images.dtype) / images.shape[2]
        return self.linear((self.conv(images) * scale).view(count, -1)) + self.past(images.mean((2, 3)))


class Branching(nn.Module):
    """Cannot be traced: the forward looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.linear = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        if features.sum() > 1e6:
            features = -features
        return self.linear(features.mean((2, 3)))


@pytest.mark.parametrize(("make", "cut"), [(Sized, True), (Branching, False)])
def test_unusual_forwards(make: type[nn.Module], cut: bool) -> None:
    torch.manual_seed(0)
    model = make()
    data = torch.rand(9, 3, 4, 4), torch.randint(0, 4, (9,))
    ours = nodal_dropout(model, data, eps=[0.1], batch_size=5, **QUIET)
    assert ("computed once" in ours.notes[0]) == cut
    same_counts(ours, nodal_dropout(model, data, eps=[0.1], batch_size=9, plain=True, **QUIET))


class Scaled(nn.Module):
    """Multiplies, behind the cut, by a tensor ``[1, C, 1, 1]`` that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(6))
        self.linear = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear((self.conv(images) * self.scale.view(1, -1, 1, 1)).mean((2, 3)))
        return logits


def test_first_batch_of_one_sample_before_larger_ones() -> None:
    torch.manual_seed(0)
    model, x, y = Scaled(), torch.rand(9, 3, 4, 4), torch.randint(0, 4, (9,))
    ours = nodal_dropout(model, [(x[:1], y[:1]), (x[1:], y[1:])], eps=[0.1], **QUIET)
    assert "computed once" in ours.notes[0]
    same_counts(ours, nodal_dropout(model, (x, y), eps=[0.1], plain=True, **QUIET))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2), (1, 4, 1, 1), (5, 4, 3, 2, 2)])
def test_samples_are_taken_in_the_memory_layout_that_they_have(shape: tuple[int, ...]) -> None:
    dense, samples = torch.rand(shape), torch.tensor([0, shape[0] - 1, 0, 0])
    last = dense.movedim(1, -1).contiguous().movedim(-1, 1)
    first = dense.movedim(0, -1).contiguous().movedim(-1, 0)  # samples are not apart in memory
    for values in (dense, last, first, dense[:1].expand(shape)):
        assert torch.equal(selected(values, samples), values[samples])
    assert selected(dense, samples).is_contiguous()
    assert selected(last, samples).movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("protocol", ["fixed", "adaptive"])
def test_attacks_that_draw_when_they_are_made_are_repeated_by_seed(protocol: str) -> None:
    model, data = trained(), images(20)
    drawn = []

    def attack(model: nn.Module, eps: float) -> Any:
        drawn.append(torch.randn(1, 1, 8, 8))
        return lambda x, y: (x + eps * drawn[-1]).clamp(0, 1) + 0 * model(x).sum()

    def run(seed: int) -> Tensor:
        nodal_dropout(model, data, attack=attack, eps=0.5, protocol=protocol, neurons=[1], seed=seed, **QUIET)
        return drawn[-1]

    first = run(3)
    state = torch.get_rng_state()
    assert torch.equal(run(3), first)
    assert not torch.equal(run(4), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("neurons", [numpy.array([3, 1]), torch.tensor([3, 1]), (numpy.int64(3), 1)])
def test_neurons_of_numpy_and_torch(neurons: Any, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"eps": numpy.float32(0.5), "checkpoint": tmp_path, **QUIET}
    report = nodal_dropout(OneClassPerNeuron(), one_class_each(6), neurons=neurons, **arguments)
    assert report.neurons == (3, 1)
    assert report.eps == (0.5,)
    assert FragilityReport.load(tmp_path / FRAGILITY_REPORT).neurons == (3, 1)


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("vit", "encoder.layers.encoder_layer_0.mlp.0", 32),
        ("swin", "features.1.0.mlp.0", 32),
        ("densenet121", None, 32),
    ],
)
def test_networks_of_torchvision(name: str, layer: str | None, size: int) -> None:
    model = torchvision_model(name)
    torch.manual_seed(1)
    data = torch.rand(5, 3, size, size), torch.randint(0, 5, (5,))
    arguments: dict[str, Any] = {"eps": [0.3], "neurons": [0, 2, 7], **QUIET}
    same_counts(
        nodal_dropout(model, data, layer, **arguments), nodal_dropout(model, data, layer, plain=True, **arguments)
    )


def test_inputs_by_keyword() -> None:
    torch.manual_seed(0)
    model = TupleTransformer()
    inputs = {"inputs_embeds": torch.randn(6, 4, 5), "attention_mask": torch.ones(6, 4)}

    def stronger(model: nn.Module, eps: float) -> Any:
        return lambda x, y: {**x, "inputs_embeds": x["inputs_embeds"] * (1 + eps)}

    report = nodal_dropout(
        model, [(inputs, torch.arange(6) % 3)], "embedding", stronger, eps=[0.5, 5], neurons=[0, 5], **QUIET
    )
    assert report.channels == 6
    assert "the whole model ran for each neuron" in report.notes[0]
    with torch.no_grad():
        model.embedding.weight[5] = 0
        model.embedding.bias[5] = 0
        right = model(**stronger(model, 5)(inputs, None))["logits"].argmax(1) == torch.arange(6) % 3
    assert report.accuracy(5)[1] == pytest.approx(float(right.double().mean()))


class Coupled(nn.Module):
    """The output for a sample depends on the others in its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.linear = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images).mean((2, 3))
        logits: Tensor = self.linear(features - features.mean(0))
        return logits


def test_samples_that_depend_on_each_other_are_not_cut_apart() -> None:
    torch.manual_seed(0)
    model, data = Coupled(), (torch.rand(9, 3, 4, 4), torch.randint(0, 4, (9,)))
    ours = nodal_dropout(model, data, eps=[0.1], **QUIET)
    assert "depends on the others in its batch" in ours.notes[0]
    same_counts(ours, nodal_dropout(model, data, eps=[0.1], plain=True, **QUIET))


@pytest.mark.parametrize("plain", [False, True])
def test_logits_that_are_nan_are_no_right_answer(plain: bool) -> None:
    """An attacked image overflows float16: its logits are NaN, which argmax would take for class 0."""
    model, (x, _) = OneClassPerNeuron(), one_class_each(6)
    x, y = x * 2, torch.zeros(6, dtype=torch.int64)

    def huge(model: nn.Module, eps: float) -> Any:
        return lambda x, y: torch.full_like(x, torch.inf) * eps

    report = nodal_dropout(model, (x, y), attack=huge, eps=[1.0], plain=plain, **QUIET)
    assert report.adversarial_accuracy() == 0
    assert report.accuracy()[0] == 0


def test_pooling_that_gives_places_too() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2, return_indices=True)
            self.linear = nn.Linear(24, 4)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.linear(self.pool(self.conv(images))[0].flatten(1))
            return logits

    model, data = Pooled(), (torch.rand(9, 3, 4, 4), torch.randint(0, 4, (9,)))
    report = nodal_dropout(model, data, eps=[0.1], **QUIET)
    assert "computed once" in report.notes[0]
    same_counts(report, nodal_dropout(model, data, eps=[0.1], plain=True, **QUIET))


def test_user_hooks_stay_in_force() -> None:
    model, data = trained(), images(20)
    seen = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        seen.append(1)
        return output * 0

    with model.conv2.register_forward_hook(hook):
        report = nodal_dropout(model, data, eps=[0.1], neurons=[0], **QUIET)
    assert seen
    assert report.counts.lost.sum() == report.counts.gained.sum() == 0, "nothing gets through"


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
