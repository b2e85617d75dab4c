"""Attacks through one neuron: it goes where it is driven, and its hook is gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, MIFGSM, PGD, neuron_loss

from .networks import convolutional, images, largest_difference

SETTINGS: dict[str, Any] = {"eps": 0.2, "alpha": 0.05, "steps": 5, "random_start": False}


def activation(model: Any, layer: int, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model[: layer + 1](x)


def liveliest(model: Any, layer: int, x: Tensor) -> int:
    """The neuron that moves most from sample to sample: one of a ReLU that is not dead."""
    return int(activation(model, layer, x).transpose(0, 1).flatten(1).std(1).argmax())


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_neuron_moves_as_it_is_driven(layer: int, sign: float) -> None:
    """Before, at, and behind layers that are folded; the result is that of a plain loop."""
    model, (x, y) = convolutional(torch.float64), images(20, torch.float64)
    neuron = liveliest(model, layer, x)
    loss = neuron_loss(str(layer), neuron, sign=sign)
    attack = PGD(model, loss=loss, **SETTINGS)
    result = attack(x, y)
    change = activation(model, layer, result) - activation(model, layer, x)
    assert (sign * change[:, neuron]).mean() > 0.01
    assert largest_difference(result, PGD(model, loss=loss, exact=True, **SETTINGS)(x, y)) < 1e-12
    assert "fold: yes" in attack.explain()
    assert f"loss=neuron_loss('{layer}', {neuron}{', sign=-1' if sign < 0 else ''})" in repr(attack)
    assert hooks(model) == 0


def test_the_loss_is_the_mean_over_positions() -> None:
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    x = x.clamp(0.2, 0.8)
    placed = x.clone().requires_grad_(True)
    slope = torch.autograd.grad(model[:4](placed)[:, 3].mean((1, 2)).sum(), placed)[0]
    unit = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    attack = PGD(model, 0.1, 0.1, 1, False, "l2", loss=neuron_loss("3", 3))
    torch.testing.assert_close(attack(x, y), x + 0.1 * unit, rtol=0, atol=1e-9)


def test_tokens_have_their_neurons_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)).double()
    x, y = torch.rand(5, 3, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    for channel_dim, neuron in ((-1, 5), (2, 5), (1, 2)):
        loss = neuron_loss("1", neuron, channel_dim)
        assert (f"channel_dim={channel_dim}" in repr(loss)) == (channel_dim != 1)
        result = PGD(model, loss=loss, **SETTINGS)(x, y)
        gain = (activation(model, 1, result) - activation(model, 1, x)).select(channel_dim, neuron).mean(1)
        assert (gain > 0.01).all()


@pytest.mark.parametrize("make", [PGD, APGD, MIFGSM])
def test_other_attacks_and_compaction(make: Any) -> None:
    model, (x, y) = convolutional(), images(20)
    neuron = liveliest(model, 5, x)
    attack = make(model, 0.2, steps=8, loss=neuron_loss("5", neuron))
    gain = activation(model, 5, attack(x, y)) - activation(model, 5, x)
    assert gain[:, neuron].mean() > 0.01
    compacted = make(model, 0.2, steps=8, loss=neuron_loss("5", neuron), compaction=True)
    assert compacted(x, y).shape == x.shape
    assert hooks(model) == 0


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.spare, self.sum = convolutional(), nn.Linear(2, 2), Sum()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + 0 * self.sum(x)


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


@pytest.mark.parametrize(
    ("layer", "neuron", "channel_dim", "message"),
    [
        ("net.22", 0, 1, r"net\.22"),
        ("conv", 0, 1, "conv"),
        ("net.0", 6, 1, r"layer 'net\.0' has 6 neurons, got neuron 6"),
        ("net.0", 0, 4, r"channel_dim is 4, layer 'net\.0' puts out 4 axes"),
        ("net.0", 0, -5, r"channel_dim is -5, layer 'net\.0' puts out 4 axes"),
        ("spare", 0, 1, "layer 'spare' did not run in the model's forward; choose another layer"),
        ("sum", 0, 1, r"layer 'sum' puts out no activation \[N, C, ...\]"),
        ("net.*", 0, 1, r"'net\.\*' chooses 8 layers; name the one of the neuron"),
        ("activations", 0, 1, "'activations' chooses 2 layers"),
    ],
)
def test_refused_neurons(layer: str, neuron: int, channel_dim: int, message: str) -> None:
    model, (x, y) = Unused(), images()
    with pytest.raises(ValueError, match=message):
        PGD(model, loss=neuron_loss(layer, neuron, channel_dim))(x, y)
    assert hooks(model) == 0


def test_the_hook_goes_with_an_exception() -> None:
    model, (x, y) = convolutional(), images()

    class Stop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model.append(Stop())
    loss = neuron_loss("2", 1)
    with pytest.raises(KeyboardInterrupt):
        PGD(model, loss=loss)(x, y)
    assert hooks(model) == 0
    assert loss._activation is None


def test_refused_arguments() -> None:
    with pytest.raises(ValueError, match="neuron must be at least 0, got -1"):
        neuron_loss("0", -1)
    with pytest.raises(TypeError, match="neuron must be a whole number"):
        neuron_loss("0", 1.5)  # type: ignore[arg-type]
