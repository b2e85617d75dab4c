"""Where the neurons are: the input of the last linear layer, or the output of a layer by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.explorer.neuron_layer import NO_WEIGHTS, find_neuron_layer, read
from neurosens_fast.models import CifarResNet18, DigitsCNN

from .networks import images, pooled


def test_penultimate_neurons_are_what_the_last_linear_layer_reads() -> None:
    model = pooled()
    x, _ = images(3)
    layer = find_neuron_layer(model, None, x)
    assert (layer.name, layer.channels, layer.classes) == ("linear (its input)", 8, 4)
    assert layer.map_row == "relu2"
    assert layer.rows == ("relu2",)
    found = read(model, layer, x)
    assert layer.weights is not None
    assert layer.bias is not None
    torch.testing.assert_close(found.values @ layer.weights.T + layer.bias, found.logits)
    assert found.map is not None
    assert found.map.shape == (3, 8, 5, 5)
    torch.testing.assert_close(found.map.mean((2, 3)), found.values)


def test_values_of_hidden_units_have_no_positions() -> None:
    model = DigitsCNN().eval()
    layer = find_neuron_layer(model, None, torch.rand(3, 1, 8, 8))
    assert (layer.row, layer.map_row, layer.rows, layer.channels) == ("logits", None, ("relu4",), 128)
    assert read(model, layer, torch.rand(2, 1, 8, 8)).map is None


def test_the_pooled_map_of_a_residual_network_is_found() -> None:
    layer = find_neuron_layer(CifarResNet18().eval(), None, torch.rand(2, 3, 32, 32))
    assert (layer.map_row, layer.channels) == ("layer4", 512)
    assert "layer4.1.relu2" in layer.rows


def test_a_layer_by_name_is_read_at_its_output_and_has_no_weights() -> None:
    model = pooled()
    x, _ = images(3)
    layer = find_neuron_layer(model, "conv1", x)
    assert (layer.row, layer.channels, layer.weights, layer.map_row) == ("conv1", 6, None, "conv1")
    assert "conv1" in layer.unweighted
    torch.testing.assert_close(read(model, layer, x).values, model.conv1(x).mean((2, 3)))


def test_what_an_in_place_activation_does_next_is_not_read() -> None:
    model = pooled()
    x, _ = images(3)
    found = read(model, find_neuron_layer(model, "conv2", x), x)
    assert found.map is not None
    assert (found.map < 0).any()


class Functional(nn.Module):
    """Logits of a function, not of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.weight = nn.Parameter(torch.rand(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, 4]``."""
        return nn.functional.linear(self.conv(x).relu().mean((2, 3)), self.weight)


class LogProbabilities(nn.Module):
    """Puts out log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, 3]``."""
        return self.linear(x).log_softmax(1)


def test_without_such_a_linear_layer_the_last_activation_or_convolution_is_taken() -> None:
    layer = find_neuron_layer(Functional().eval(), None, torch.rand(2, 3, 8, 8))
    assert (layer.row, layer.weights, layer.unweighted) == ("conv", None, NO_WEIGHTS)


def test_log_probabilities_come_of_the_linear_layer_too() -> None:
    layer = find_neuron_layer(LogProbabilities().eval(), None, torch.rand(2, 6))
    assert layer.weights is not None
    assert layer.channels == 6


def test_gradients_pass_to_the_input_and_leave_no_trace() -> None:
    model = pooled().train()
    model.conv1.eval()
    x = images(3)[0].requires_grad_()
    layer = find_neuron_layer(model, None, x.detach())
    (gradient,) = torch.autograd.grad(read(model, layer, x, gradient=True).values.sum(), x)
    assert gradient.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (model.training, model.conv1.training, model.conv2.training) == (True, False, True)
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_of_a_model_with_compiled_parts() -> None:
    model, plain = pooled(), pooled()
    model.conv1.compile(backend="eager")
    model.relu2.compile(backend="eager")
    x = images(3)[0].requires_grad_()
    found: list[torch.Tensor] = []
    for network in (model, plain):
        layer = find_neuron_layer(network, None, x.detach())
        found += torch.autograd.grad(read(network, layer, x, gradient=True).values.sum(), x)
    torch.testing.assert_close(*found)


class Sums(nn.Module):
    """No logits of at least two classes."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1]``."""
        return x.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (pooled(), "cnv1", "no layer 'cnv1'.*conv1"),
        (pooled(), "conv1#3", "did not run"),
        (Sums(), None, "logits"),
    ],
)
def test_bad_layers_are_named(model: nn.Module, layer: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_neuron_layer(model, layer, images(2)[0])
