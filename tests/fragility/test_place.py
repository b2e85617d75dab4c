"""Where neurons are set to zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.fragility.place import find_place
from neurosens_fast.models import CifarResNet18, DigitsCNN
from tests.capture.networks import torchvision_model


class Late(nn.Module):
    """The convolution that runs first is registered last; its output is read by two norms after a ReLU, and by none."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(4, 5, 1)
        self.group = nn.GroupNorm(5, 5)
        self.relu = nn.ReLU()
        self.first = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.relu(self.group(self.second(self.relu(self.first(images))))).mean((2, 3))
        return logits


FEW = torch.rand(2, 3, 8, 8)


def test_first_convolution_is_the_one_that_runs_first() -> None:
    place = find_place(Late(), None, "after_norm", FEW)
    assert (place.layer, place.zeroed, place.module_type, place.channels) == ("first", "first", "Conv2d", 4)


@pytest.mark.parametrize(
    ("layer", "where", "zeroed"),
    [
        ("second", "before_norm", "second"),
        ("second", "after_norm", "group"),
        ("group", "after_norm", "group"),
        ("relu", "after_norm", "relu"),
        ("relu#2", "before_norm", "relu#2"),
    ],
)
def test_norm_behind_a_layer_is_the_one_that_reads_its_output(layer: str, where: str, zeroed: str) -> None:
    place = find_place(Late(), layer, where, FEW)
    assert (place.layer, place.zeroed) == (layer, zeroed)
    assert place.channels == (4 if layer == "relu" else 5)


@pytest.mark.parametrize("inplace", [False, True])
def test_norm_behind_an_activation_does_not_read_the_layer(inplace: bool) -> None:
    """In place, the norm is given the very tensor that the layer put out, and other values."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2))
    assert find_place(model, "0", "after_norm", FEW).zeroed == "0"
    assert find_place(model, "1", "after_norm", FEW).zeroed == "2"


def test_networks_with_names() -> None:
    assert find_place(DigitsCNN(), None, "after_norm", torch.rand(2, 1, 8, 8)).zeroed == "bn1"
    model = CifarResNet18()
    assert find_place(model, "layer2.0.shortcut.0", "after_norm", FEW).zeroed == "layer2.0.shortcut.1"
    linear = find_place(model, "linear", "after_norm", FEW)
    assert (linear.zeroed, linear.axis, linear.channels) == ("linear", 1, 10)


def test_tokens_have_their_channels_last() -> None:
    model = torchvision_model("vit")
    place = find_place(model, "encoder.layers.encoder_layer_0.mlp.0", "after_norm", torch.rand(2, 3, 32, 32))
    assert (place.axis, place.channels) == (2, 40)


def test_what_cannot_be_dropped_is_named() -> None:
    with pytest.raises(ValueError, match="the model has no layer 'third'; its layers begin second"):
        find_place(Late(), "third", "after_norm", FEW)
    with pytest.raises(ValueError, match="'relu#3' did not run"):
        find_place(Late(), "relu#3", "after_norm", FEW)
    with pytest.raises(TypeError, match="layer must be the name of one, got a Conv2d; its layers begin second"):
        find_place(Late(), Late().first, "after_norm", FEW)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="runs no convolution"):
        find_place(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), None, "after_norm", FEW)
