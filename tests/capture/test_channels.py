"""The channel axis of every layer, by architecture, and the shapes that list_layers tells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import LayerInfo, list_layers

from .networks import Conv1dNet, TupleTransformer, torchvision_model


def neurons(row: LayerInfo) -> int:
    """Length of the channel axis."""
    assert row.shape is not None
    assert row.channel_dim is not None
    return row.shape[row.channel_dim - 1 if row.channel_dim > 0 else row.channel_dim]


def expected_neurons(module: nn.Module) -> int | None:
    """What a module with weights says of itself, read differently than the package does."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        return module.weight.shape[0]
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
        return module.weight.shape[-1]
    return None


@pytest.mark.parametrize("name", ["vit", "swin", "convnext_tiny", "resnet18", "vgg11_bn", "mobilenet_v3_small"])
def test_layers_with_weights_and_the_element_wise_ones_after_them(name: str) -> None:
    """Every weight's channels are found; element-wise modules have the axis length of what ran before them."""
    model = torchvision_model(name)
    rows = list_layers(model, torch.rand(2, 3, 32, 32))
    modules = dict(model.named_modules())
    previous = 0
    seen = 0
    for row in rows:
        if row.note:
            assert row.note == "did not run as a module", row
            continue
        expected = expected_neurons(modules[row.name.partition("#")[0]])
        if expected is not None:
            assert neurons(row) == expected, row
            previous, seen = expected, seen + 1
        elif row.module_type in ("ReLU", "GELU", "Hardswish"):
            assert neurons(row) == previous, row
    assert seen >= 10


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("vit", {"conv_proj": (1, 24), "encoder.dropout": (2, 24), "encoder.layers.encoder_layer_0": (-1, 24)}),
        (
            "swin",
            {"features.0.1": (3, 12), "features.1.0": (-1, 12), "features.1.1.mlp.1": (-1, 48), "permute": (1, 24)},
        ),
        ("convnext_tiny", {"features.0.1": (1, 96), "features.1.0.block.4": (-1, 384), "features.1.0": (1, 96)}),
        ("resnet18", {"relu": (1, 64), "layer1.0.relu#2": (1, 64), "layer4": (1, 512), "avgpool": (1, 512)}),
    ],
)
def test_axes_of_single_layers(model: str, rows: dict[str, tuple[int, int]]) -> None:
    size = 64 if model == "convnext_tiny" else 32
    found = {row.name: row for row in list_layers(torchvision_model(model), torch.rand(2, 3, size, size))}
    for name, (axis, channels) in rows.items():
        shape = found[name].shape
        assert shape is not None
        assert found[name].channel_dim in (axis, axis % (len(shape) + 1)), name
        assert neurons(found[name]) == channels, name


def test_one_dimensional_network() -> None:
    rows = {row.name: (row.channel_dim, row.shape) for row in list_layers(Conv1dNet().eval(), torch.rand(3, 2, 9))}
    assert rows == {
        "conv1": (1, (6, 9)),
        "norm1": (1, (6, 9)),
        "relu": (1, (6, 9)),
        "conv2": (1, (8, 4)),
        "relu#2": (1, (8, 4)),
        "head": (-1, (4,)),
    }


def test_transformer_that_returns_tuples_and_dicts() -> None:
    inputs = {"inputs_embeds": torch.rand(3, 7, 5), "attention_mask": torch.ones(3, 7)}
    rows = {row.name: row for row in list_layers(TupleTransformer().eval(), inputs)}
    for name, width in (("layer.0", 6), ("layer.1.attention", 6), ("layer.1.activation", 12), ("classifier", 3)):
        assert neurons(rows[name]) == width, name
    assert rows["layer.0.activation"].groups == ("activations", "all")
    assert rows["layer.1"].groups == ("blocks", "all")
    assert rows["layer.0.attention.out_proj"].note == "did not run as a module"


def test_rows_that_cannot_be_tapped_say_why() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes, self.flat, self.turned = nn.Identity(), nn.Flatten(0), nn.Identity()
            self.turned.forward = lambda x: x.transpose(0, 1)  # type: ignore[assignment, method-assign]

        def forward(self, x: Tensor) -> Tensor:
            self.codes(x.long())
            self.turned(x)
            return self.flat(x)

    notes = {row.name: row.note for row in list_layers(Odd(), torch.rand(2, 3))}
    assert "puts out torch.int64" in notes["codes"]
    assert "no channel axis" in notes["flat"]
    assert notes["turned"] == "its first axis is 3 for 2 samples, so it is not the batch"


def test_without_inputs_the_axis_is_told_where_the_module_decides() -> None:
    rows = {row.name: row for row in list_layers(Conv1dNet())}
    assert [rows[name].channel_dim for name in ("conv1", "norm1", "relu", "head")] == [1, 1, None, -1]
    assert rows["conv1"].shape is None
    assert list_layers(nn.ReLU(), torch.rand(2, 3)) == []


class SqueezeExcitation(nn.Module):
    """Linear layers on pooled channels, between element-wise modules on maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()
        self.fc, self.gate, self.after = nn.Linear(32, 32), nn.Sigmoid(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        return self.after(x * self.gate(self.fc(x.mean((2, 3))))[:, :, None, None])


class Joined(nn.Module):
    """Twice the channels of the convolution, on maps whose height is the number of channels before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.relu(torch.cat((x, -x), 1))


@pytest.mark.parametrize(
    ("model", "size", "row", "channels"),
    [
        (SqueezeExcitation(), (32, 32), "after", 32),
        (Joined(), (16, 24), "relu", 32),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm([8, 32, 32]), nn.ReLU()), (32, 32), "1", 8),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm([8, 32, 32]), nn.ReLU()), (32, 32), "2", 8),
    ],
)
def test_sizes_that_could_be_taken_for_channels(
    model: nn.Module, size: tuple[int, int], row: str, channels: int
) -> None:
    found = {info.name: info for info in list_layers(model, torch.rand(2, 3, *size))}
    assert (found[row].channel_dim, neurons(found[row])) == (1, channels)
