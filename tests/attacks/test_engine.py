"""Attacks on the private copy and on the model give the same examples, whatever happens to the model in between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import APGD, PGD, Attack

from .networks import convolutional, distances, images, largest_difference

# Steps of a gradient that is no sign: rounding shows in the result at its own size, not at that of a step.
STEPS: dict[str, Any] = {"eps": 0.5, "alpha": 0.1, "steps": 4, "random_start": False, "norm": "l2"}


def used(attack: Attack) -> set[str]:
    """The switches of the last call that were used."""
    return {line.split(":")[0] for line in attack.explain().splitlines() if line.split(": ")[1].startswith("yes")}


def close(attack: Attack, x: Tensor, y: Tensor) -> None:
    """The attack, run again, gives what a plain loop gives in float64."""
    expected = PGD(attack.model, exact=True, **STEPS)(x, y)
    assert largest_difference(expected, x) > 0.01
    torch.testing.assert_close(attack(x, y), expected, rtol=0, atol=1e-9)


def change_weights(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.mul_(-2)


def change_data(model: Any) -> None:
    model[0].weight.data = -model[0].weight.data
    model[1].running_var.data = model[1].running_var * 3


def optimise(model: Any) -> None:
    x, y = images(4, model[0].weight.dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    model.zero_grad()


def load(model: Any) -> None:
    model.load_state_dict({name: value * 1.5 + 1 for name, value in model.state_dict().items()})


def load_by_assignment(model: Any) -> None:
    model.load_state_dict({name: value * 1.5 + 1 for name, value in model.state_dict().items()}, assign=True)


def replace_layer(model: Any) -> None:
    model[2] = nn.Tanh()


def replace_convolution(model: Any) -> None:
    torch.manual_seed(9)
    model[3] = nn.Conv2d(6, 8, 3, stride=2).to(model[0].weight.dtype)


def change_flag(model: Any) -> None:
    model[0].stride, model[7] = (2, 2), nn.Linear(8, 5).to(model[0].weight.dtype)


def train(model: Any) -> None:
    x, _ = images(8, model[0].weight.dtype)
    model.train()(x)


def hook(model: Any) -> None:
    model[2].register_forward_hook(lambda module, inputs, output: -output)


def override(model: Any) -> None:
    model[1].forward = lambda x: -x


CHANGES = [
    *(change_weights, change_data, optimise, load, load_by_assignment, replace_layer, replace_convolution),
    *(change_flag, train, hook, override),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_two_calls_are_seen(change: Callable[[Any], None], device: str) -> None:
    model = convolutional(torch.float64).to(device)
    x, y = (tensor.to(device) for tensor in images(dtype=torch.float64))
    attack = PGD(model, **STEPS)
    first = attack(x, y)
    assert {"fold", "channels_last"} <= used(attack)
    close(attack, x, y)
    change(model)
    model.to(device)
    close(attack, x, y)
    assert largest_difference(attack(x, y), first) > 1e-3
    close(attack, x[:3], y[:3])


def test_another_dtype_of_the_model_is_seen() -> None:
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    attack = PGD(model, **STEPS)
    close(attack, x, y)
    model.float()
    assert attack(x.float(), y).dtype == torch.float32
    model.double()
    close(attack, x, y)


class Scaled(nn.Module):
    """A network with everything outside of parameters that a forward may read."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = convolutional(torch.float64)
        self.register_buffer("table", torch.ones(5, dtype=torch.float64))
        self.plain, self.flag, self.factors = torch.ones(5, dtype=torch.float64), False, [1.0]
        self.options: dict[str, Any] = {"act": ("relu", {"none"})}
        self.settings = Settings()

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x) * (self.table * 0.3).exp() * self.plain
        x = x * self.factors[0] * self.settings.factor
        x = torch.tanh(x) if self.options["act"][0] == "tanh" else x
        return x.flip(1) if self.flag else x


class Settings:
    factor = 1.0


WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.table.copy_(WEIGHTS),
        lambda model: model.plain.copy_(WEIGHTS),
        lambda model: setattr(model, "plain", WEIGHTS),
        lambda model: setattr(model, "flag", True),
        lambda model: model.factors.insert(0, -1.0),
        lambda model: model.options.update(act=("tanh", {"none"})),
        lambda model: setattr(model.settings, "factor", -1.0),
    ],
)
def test_changed_buffers_and_attributes_are_seen(change: Callable[[Any], None]) -> None:
    model, (x, y) = Scaled(), images(dtype=torch.float64)
    attack = PGD(model, **STEPS)
    first = attack(x, y)
    assert "fold" in used(attack)
    change(model)
    close(attack, x, y)
    assert largest_difference(attack(x, y), first) > 1e-3


def test_the_module_in_the_place_of_another_is_seen() -> None:
    """Also where it gets the address in memory of the one that was there."""

    class Negative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x

    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    attack = PGD(model, **STEPS)
    for number in range(6):
        del model[2]
        model.insert(2, Negative() if number % 2 else Positive())
        close(attack, x, y)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_of_the_images_is_kept(memory_format: torch.memory_format, exact: bool) -> None:
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    x = x.contiguous(memory_format=memory_format)
    attack = PGD(model, exact=exact, **STEPS)
    assert attack(x, y).stride() == x.stride()
    close(attack, x, y)
    every_second = torch.rand(6, 3, 8, 16, dtype=torch.float64)[..., ::2]
    assert attack(every_second, y).shape == every_second.shape


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_bfloat16_is_close_and_inside_the_ball(norm: str, device: str) -> None:
    model = convolutional().to(device)
    x, y = (tensor.to(device) for tensor in images(40))
    eps = {"linf": 0.1, "l2": 0.8, "l1": 8.0}[norm]
    settings: dict[str, Any] = {"eps": eps, "alpha": eps / 4, "steps": 8, "random_start": False, "norm": norm}
    attack = PGD(model, dtype=torch.bfloat16, **settings)
    result = attack(x, y)
    assert "dtype: yes, the model runs in bfloat16, perturbation and loss in float32" in attack.explain()
    assert result.dtype == torch.float32
    assert (distances(result, x, norm) <= eps).all()
    assert result.aminmax().min >= 0
    assert result.aminmax().max <= 1
    plain = PGD(model, exact=True, **settings)(x, y)
    with torch.no_grad():
        clean, ours, theirs = (F.cross_entropy(model(images), y) for images in (x, result, plain))
    assert theirs > clean + 0.03
    assert abs(ours - theirs) < 0.05 * (theirs - clean)


def test_bfloat16_leaves_float64_alone() -> None:
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    attack = PGD(model, dtype=torch.bfloat16, **STEPS)
    close(attack, x, y)
    assert "dtype: no, the model runs in the dtype of the images, float64, which autocast leaves alone" in (
        attack.explain()
    )


def test_copies_and_pickles_of_an_attack_run_alike() -> None:
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    attack = PGD(model, **STEPS)
    expected = attack(x, y)
    for other in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        assert other.model is not model
        assert torch.equal(other(x, y), expected)
        assert other.explain() == attack.explain()


def test_a_graph_gives_the_results_of_the_model(device: str) -> None:
    model = convolutional(torch.float64).to(device)
    x, y = (tensor.to(device) for tensor in images(dtype=torch.float64))
    attack = PGD(model, **STEPS)
    for _ in range(2):
        close(attack, x, y)
        close(attack, x[:4], y[:4])
        change_weights(model)
    assert ("graph" in used(attack)) == (device == "cuda")
    settings: dict[str, Any] = {"eps": 0.3, "steps": 10, "seed": 1, "norm": "l2"}
    with_graph, without = (APGD(model, graph=graph, **settings)(x, y) for graph in (True, False))
    torch.testing.assert_close(with_graph, without, rtol=0, atol=1e-9)
