"""Exact receptive fields: by geometry, by gradient, and by changing one pixel after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.explorer.neuron_layer import NeuronLayer, find_neuron_layer, read
from neurosens_fast.explorer.receptive_field import by_gradient, geometry, patches
from neurosens_fast.models import Normalized, load_model

from .field_networks import Pooled, pooled, same_after


class Mapped(nn.Module):
    """``body`` makes a map of the images; its means over positions go through a linear layer."""

    def __init__(self, body: nn.Module | Callable[[Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.body = body
        self.last = nn.Softplus()
        self.linear = nn.Linear(channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.last(self.body(images)).mean((2, 3)))
        return logits


class Residual(nn.Module):
    """A block with a shortcut; the addition is in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=in_place)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1, stride=2)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        if self.in_place:
            y += self.shortcut(x)
            return self.relu(y)
        return self.relu(y + self.shortcut(x))


class Functional(nn.Module):
    """Only functions: windows, padding, slices, branches, a shortcut of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (3, 2), padding="same", dilation=(2, 1))
        self.weight = nn.Parameter(torch.randn(3, 3, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.leaky_relu(self.conv(x)), (1, 0, 0, 2))
        left = F.avg_pool2d(F.elu(x), 2, ceil_mode=True)
        right = F.conv2d(x, self.weight, None, (2, 2), 0)[:, :, : left.shape[2]]
        right = F.pad(right, (0, left.shape[3] - right.shape[3], 0, left.shape[2] - right.shape[2]))
        return torch.cat([left * 2, torch.sigmoid(right)], 1)


class SqueezeAndExcite(nn.Module):
    """Channels scaled by what all positions say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        scale: Tensor = torch.sigmoid(self.fc(self.squeeze(x).flatten(1))).view(x.size(0), 4, 1, 1)
        return x * scale


def drawn(model: nn.Module) -> nn.Module:
    """``model`` in double precision and evaluation mode, with other batch norm statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.double().eval()


def by_pixels(model: nn.Module, layer: NeuronLayer, sample: Tensor, draws: int = 30) -> Tensor:
    """Boxes of all positions of the map (or neurons): every pixel in turn is changed in random images."""
    bands, height, width = sample.shape[1:]
    touched: Any = None
    for _ in range(draws):
        image = torch.rand(1, bands, height, width, dtype=sample.dtype)
        changed = image.repeat(height * width, 1, 1, 1)
        every = torch.arange(height * width)
        new = torch.rand(height * width, bands, dtype=sample.dtype)
        changed[every, :, every // width, every % width] = new
        reading = read(model, layer, torch.cat([image, changed]))
        whole = reading.values[:, None] if reading.map is None else reading.map.flatten(2)
        other = (whole[1:] - whole[:1]).abs().amax(1) > 1e-14  # [pixels, positions]
        touched = other if touched is None else touched | other
    boxes = []
    for pixels in touched.T.view(-1, height, width):
        rows, columns = pixels.any(1).nonzero()[:, 0], pixels.any(0).nonzero()[:, 0]
        boxes.append(
            [int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1] if len(rows) else [0, 0, 0, 0]
        )
    return torch.tensor(boxes)


BODIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "one conv": (lambda: nn.Conv2d(2, 4, 3, padding=1), 4),
    "no padding, stride": (lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 3)), 4),
    "dilation": (lambda: nn.Conv2d(2, 4, 3, padding=2, dilation=2), 4),
    "dilation, wide padding": (lambda: nn.Conv2d(2, 4, 2, padding=3, dilation=3), 4),
    "only padding is read": (lambda: nn.Conv2d(2, 4, 1, padding=1), 4),
    "same": (lambda: nn.Conv2d(2, 4, 4, padding="same"), 4),
    "valid": (lambda: nn.Conv2d(2, 4, 4, padding="valid"), 4),
    "circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), 4),
    "reflect": (lambda: nn.Conv2d(2, 4, 5, padding=2, padding_mode="reflect"), 4),
    "replicate": (lambda: nn.Conv2d(2, 4, 5, padding=2, padding_mode="replicate"), 4),
    "groups": (lambda: nn.Conv2d(2, 4, 3, groups=2), 4),
    "two convs": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.GELU()), 4),
    "max pool": (lambda: nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), 8),
    "max pool, ceil": (lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.MaxPool2d(2, ceil_mode=True)), 8),
    "max pool, dilation": (lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.MaxPool2d(2, 1, dilation=2)), 8),
    "avg pool": (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.AvgPool2d(3, 2, 1, ceil_mode=True)), 4),
    "adaptive avg pool": (lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.AdaptiveAvgPool2d((4, 3))), 4),
    "adaptive max pool": (lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.AdaptiveMaxPool2d((3, 4))), 8),
    "upsample": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.Upsample(scale_factor=1.5)), 4),
    "upsample to a size": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.Upsample(size=(5, 7))), 4),
    "batch norm, dropout": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)), 4),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), 4),
    "residual": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Residual(False)), 4),
    "residual, in place": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), Residual(True)), 4),
    "functions": (Functional, 6),
    "squeeze and excite": (SqueezeAndExcite, 4),
    "zero padding": (lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 4, 3)), 4),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_geometry_is_what_changing_pixels_shows_and_so_is_the_gradient(name: str) -> None:
    make, channels = BODIES[name]
    model = drawn(Mapped(make(), channels))
    sample = torch.rand(2, 2, 9, 8, dtype=torch.float64)
    layer = find_neuron_layer(model, "last", sample)
    with same_after(model):
        found, reason = geometry(model, layer, sample)
    assert found is not None, reason
    assert found.shape is not None
    positions = found.shape[0] * found.shape[1]
    assert found.boxes.shape == (positions, 4)
    assert found.boxes.tolist() == by_pixels(model, layer, sample).tolist()
    assert found.boxes.tolist() == by_gradient(model, layer, sample, range(positions), draws=60).tolist()


def test_known_boxes_of_two_convolutions() -> None:
    model = Mapped(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2)), 2).eval()
    sample = torch.rand(1, 1, 9, 7)
    found, _ = geometry(model, find_neuron_layer(model, "last", sample), sample)
    assert found is not None
    assert found.shape == (4, 3)
    assert found.boxes[0].tolist() == [0, 0, 4, 4]  # a field of 5 that begins one pixel outside
    assert found.boxes[1].tolist() == [0, 1, 4, 6]
    assert found.boxes[11].tolist() == [5, 3, 9, 7]
    assert found.of_neurons().tolist() == [[0, 0, 9, 7]]


def test_field_of_a_layer_before_a_later_one_that_is_not_known() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ConvTranspose2d(2, 2, 3), nn.Flatten(), nn.Linear(128, 2))
    sample = torch.rand(1, 1, 8, 8)
    found, _ = geometry(model.eval(), find_neuron_layer(model, "1", sample), sample)
    assert found is not None
    assert found.boxes[7].tolist() == [1, 1, 4, 4]
    late, reason = geometry(model, find_neuron_layer(model, "2", sample), sample)
    assert late is None
    assert reason == "ConvTranspose2d '2' is not known"


def test_second_call_of_a_module() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)
            self.relu = nn.ReLU()
            self.linear = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.conv(self.relu(self.conv(x))))
            logits: Tensor = self.linear(x.mean((2, 3)))
            return logits

    model, sample = Twice().eval(), torch.rand(1, 1, 7, 7)
    once, _ = geometry(model, find_neuron_layer(model, "relu", sample), sample)
    twice, _ = geometry(model, find_neuron_layer(model, "relu#2", sample), sample)
    assert once is not None
    assert twice is not None
    assert once.boxes[0].tolist() == [0, 0, 3, 3]
    assert twice.boxes[0].tolist() == [0, 0, 5, 5]


def test_neurons_without_a_map_have_what_they_read() -> None:
    model = drawn(nn.Sequential(nn.Conv2d(1, 2, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)))
    sample = torch.rand(1, 1, 7, 7, dtype=torch.float64)
    layer = find_neuron_layer(model, None, sample)
    assert layer.map_row is None
    found, reason = geometry(model, layer, sample)
    assert found is not None, reason
    assert found.shape is None
    assert found.boxes.tolist() == 2 * [[0, 0, 3, 3], [0, 3, 3, 6], [3, 0, 6, 3], [3, 3, 6, 6]]
    assert found.boxes.tolist() == by_pixels(model, layer, sample).tolist()
    boxes, _ = patches(model, layer, sample, np.full((8, 2), -1))
    assert boxes[:, 0].tolist() == boxes[:, 1].tolist() == found.boxes.tolist()
    assert by_gradient(model, layer, sample).tolist() == [[0, 0, 6, 6]]


def test_hidden_linear_units_have_the_union() -> None:
    body = [nn.Conv2d(1, 2, 3, stride=3), nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)]
    model, sample = drawn(nn.Sequential(*body)), torch.rand(1, 1, 7, 7, dtype=torch.float64)
    layer = find_neuron_layer(model, None, sample)
    found, _ = geometry(model, layer, sample)
    assert found is not None
    assert found.boxes.tolist() == 5 * [[0, 0, 6, 6]]


def test_penultimate_layer_behind_a_mean() -> None:
    model, sample = pooled(), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    layer = find_neuron_layer(model, None, sample)
    assert layer.map_row == "relu2"
    found, _ = geometry(model, layer, sample)
    assert found is not None
    assert found.shape == (5, 4)
    assert found.boxes.tolist() == by_pixels(model, layer, sample).tolist()


@pytest.mark.parametrize("name", ["digits-cnn", "cifar-resnet18"])
def test_models_of_the_package_are_known(name: str) -> None:
    model = load_model(name).eval()
    sample = torch.rand(1, 1, 8, 8) if name == "digits-cnn" else torch.rand(1, 3, 32, 32)
    wrapped = Normalized(model, 0.5, 0.25).train()
    layer = find_neuron_layer(wrapped, None, sample)
    with same_after(wrapped):
        found, reason = geometry(wrapped, layer, sample)
    assert found is not None, reason
    assert found.boxes.amax(0).tolist() == [0, 0, *sample.shape[2:]]


class Untraceable(nn.Module):
    """Pooled convolutions whose forward depends on values."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) if x.sum() > -1e9 else self.inner(-x)
        return logits


def test_patches_by_gradient_where_a_trace_fails_are_those_by_geometry() -> None:
    inner = pooled()
    model, sample = Untraceable(inner), torch.rand(2, 3, 9, 7, dtype=torch.float64)
    positions = torch.randint(20, (6, 4)).numpy()
    positions[1, 2:] = -1
    wanted, geometric = patches(inner, find_neuron_layer(inner, None, sample), sample, positions)
    layer = find_neuron_layer(model, None, sample)
    assert geometry(model, layer, sample)[0] is None
    with same_after(model):
        found, how = patches(model, layer, sample, positions)
    assert np.array_equal(found, wanted)
    assert found.shape == (6, 4, 4)
    assert not found[1, 2:].any()
    assert "from the kernels" in geometric
    assert how.startswith("boxes around all pixels whose gradient")
    assert "torch.fx cannot trace the model" in how


def test_patches_are_boxes_of_the_positions() -> None:
    model, sample = pooled(), torch.rand(1, 3, 9, 7, dtype=torch.float64)
    layer = find_neuron_layer(model, None, sample)
    boxes, _ = patches(model, layer, sample, np.array([[0], [5], [19], [0], [0], [-1]]))
    assert boxes[:, 0].tolist() == [
        [0, 0, 3, 3],
        [0, 0, 5, 5],
        [6, 4, 9, 7],
        [0, 0, 3, 3],
        [0, 0, 3, 3],
        [0, 0, 0, 0],
    ]


def test_what_is_wrong_is_said() -> None:
    model, sample = pooled(), torch.rand(1, 3, 9, 7, dtype=torch.float64)
    layer = find_neuron_layer(model, None, sample)
    with pytest.raises(ValueError, match="position 20 was given, and the map has 20"):
        patches(model, layer, sample, np.full((6, 1), 20))
    with pytest.raises(ValueError, match=r"positions must be \[C, m\] with C 6, got \[5, 1\]"):
        patches(model, layer, sample, np.zeros((5, 1), np.int64))
    assert geometry(model, layer, sample[0])[1] == "inputs [3, 9, 7] are no images [N, B, H, W]"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(189, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with pytest.raises(ValueError, match="have no map; leave positions out"):
        by_gradient(flat, find_neuron_layer(flat, None, sample), sample, [0])

    class Cut(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach())

    cut = Cut().double()
    with same_after(cut), pytest.raises(ValueError, match="the model's forward cuts it off"):
        by_gradient(cut, find_neuron_layer(cut, None, sample), sample, [0])


def test_hooks_of_the_user_run_and_stay() -> None:
    model, sample = pooled(), torch.rand(1, 3, 9, 7, dtype=torch.float64)
    layer = find_neuron_layer(model, None, sample)
    plain, _ = geometry(model, layer, sample)
    model.conv2.register_forward_hook(lambda module, inputs, output: None)
    with same_after(model):
        hooked, _ = geometry(model, layer, sample)
    assert plain is not None
    assert hooked is not None
    assert torch.equal(plain.boxes, hooked.boxes)
