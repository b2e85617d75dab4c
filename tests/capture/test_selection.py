"""What ``layers=`` takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import LAYER_GROUPS, list_layers, select_layers
from neurosens_fast.models import DigitsCNN

from .networks import Conv1dNet, TupleTransformer, torchvision_model


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("activations", ["relu1", "relu2", "relu3", "relu4"]),
        ("convolutions", ["conv1", "conv2", "conv3"]),
        ("linear", ["fc4", "logits"]),
        ("norms", ["bn1", "bn2", "bn3"]),
        (["linear", "norms"], ["bn1", "bn2", "bn3", "fc4", "logits"]),
        ("*3", ["conv3", "bn3", "relu3", "pool3"]),
        ("conv[12]", ["conv1", "conv2"]),
        (["relu2", "conv1"], ["conv1", "relu2"]),
        (["relu?", "relu1"], ["relu1", "relu2", "relu3", "relu4"]),
        (lambda name, module: isinstance(module, nn.MaxPool2d), ["pool2", "pool3"]),
        (["relu1", "blocks"], ["relu1"]),
    ],
)
def test_chosen(layers: Any, chosen: list[str]) -> None:
    assert list(select_layers(DigitsCNN(), layers).modules) == chosen


def test_all_and_blocks() -> None:
    model = torchvision_model("resnet18")
    assert len(select_layers(model, "all").modules) == len(list(model.modules())) - 1
    blocks = list(select_layers(model, "blocks").modules)
    assert blocks == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert list(select_layers(TupleTransformer(), "blocks").modules) == ["layer.0", "layer.1"]
    assert list(select_layers(torchvision_model("vit"), "blocks").modules) == [
        "encoder.layers.encoder_layer_0",
        "encoder.layers.encoder_layer_1",
    ]


def test_one_call_of_a_module() -> None:
    selection = select_layers(Conv1dNet(), ["relu#2"])
    assert list(selection.modules) == ["relu"]
    assert (selection.wants("relu", 1), selection.wants("relu", 2)) == (False, True)
    both = select_layers(Conv1dNet(), ["relu#2", "relu"])
    assert both.wants("relu", 1)
    assert select_layers(Conv1dNet(), ["relu#2", "activations"]).wants("relu", 1)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("rellu2", ValueError, "no layer 'rellu2'; closest: relu2"),
        ("activation", ValueError, "no layer 'activation'; closest: activations"),
        (["conv1", "relu1#0"], ValueError, "no layer 'relu1#0'; closest: relu1"),
        ("relu1#x", ValueError, "no layer 'relu1#x'"),
        ("konv*", ValueError, r"no layer of the model fits the pattern 'konv\*'; closest: conv"),
        ("blocks", ValueError, "nothing to tap: the model has no blocks; choose among its activations, convolutions"),
        ([], ValueError, "no layer named"),
        (lambda name, module: False, ValueError, "chose none"),
        ([1], TypeError, "got int"),
        (3, TypeError, "got 3"),
    ],
)
def test_refused(layers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select_layers(DigitsCNN(), layers)


def test_no_activation_module_is_explained() -> None:
    with pytest.raises(
        ValueError, match=r"no activations; functions such as F.relu cannot be hooked .* choose .* linear"
    ):
        select_layers(nn.Sequential(nn.Linear(2, 2)), "activations")


def test_every_group_has_a_description() -> None:
    assert list(LAYER_GROUPS) == ["activations", "convolutions", "linear", "norms", "blocks", "all"]
    assert all(LAYER_GROUPS.values())


def test_norms_and_linear_layers_of_transformers() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x * x.square().mean(-1, keepdim=True).rsqrt()

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf, self.weight = 6, nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    class NewGELUActivation(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.gelu(x, approximate="tanh")

    class FusedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

    model = nn.Sequential(Conv1D(), LlamaRMSNorm(), NewGELUActivation(), FusedRMSNorm())
    assert list(select_layers(model, "linear").modules) == ["0", "3.inner"]
    assert list(select_layers(model, "norms").modules) == ["1"]
    rows = {row.name: row.channel_dim for row in list_layers(model[:3], torch.rand(2, 6, 5))}
    assert rows == {"0": -1, "1": -1, "2": -1}
