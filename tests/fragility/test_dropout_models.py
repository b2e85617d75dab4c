"""Nodal dropout of models that are not usual: forwards that branch, tuples, hooks, NaN, pooling that gives places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.fragility import FragilityReport, nodal_dropout
from neurosens_fast.fragility.dropped import selected
from neurosens_fast.support.names import FRAGILITY_REPORT
from tests.capture.networks import TupleTransformer, torchvision_model
from tests.trained import images, trained

from .networks import OneClassPerNeuron, one_class_each
from .reports import same_counts

QUIET: dict[str, Any] = {"progress": False}


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
