"""Winograd convolutions of a private copy: the function of the model, its gradient, its present weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import PGD
from neurosens_fast.capture import Taps
from neurosens_fast.folding import FusedTaps, PrivateCopy
from neurosens_fast.folding.winograd import WinogradConvolution, is_winograd
from neurosens_fast.ops import supports_winograd
from tests.attacks.networks import uneven

FAST = supports_winograd(torch.device("cpu"), torch.float32)


class Wide(nn.Module):
    """Convolutions that suit, one with 16 channels whose gradient does not, one of stride 2, one with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first, self.norm = nn.Conv2d(16, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 64, 3, padding="same")
        self.third, self.last_norm = nn.Conv2d(64, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(self.stem(x).relu())).relu()
        x = self.last_norm(self.third((self.second(x) + x).relu())).relu()
        return self.head((self.grouped(x) + x).mean((2, 3)))


def wide(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return uneven(Wide(), dtype)


def images(count: int = 6, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, size, size, generator=generator), torch.arange(count) % 5


def output_and_gradient(run: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    output = run(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    return output.detach(), gradient


def copied(model: nn.Module, tile: int = 4, dtype: torch.dtype | None = None) -> PrivateCopy:
    private = PrivateCopy(model, fold=True, channels_last=True, dtype=dtype, winograd=tile)
    private.refresh()
    return private


@pytest.mark.parametrize("tile", [2, 4])
def test_output_and_gradient_are_those_of_the_model(tile: int) -> None:
    model, (x, _) = wide(), images()
    private = copied(model, tile)
    assert private.winograd_convolutions == (2 if FAST else 0)
    lanes = x.contiguous(memory_format=torch.channels_last)
    expected = output_and_gradient(wide(torch.float64), x.double())
    for got, want in zip(output_and_gradient(private.run, lanes), expected, strict=True):
        assert (got - want).abs().amax() <= 1e-5 * want.abs().amax()
    used = [bool(module._packed) for module in private.module.modules() if isinstance(module, WinogradConvolution)]
    assert used == [True, True] * FAST
    gradients = [
        True in module._packed for module in private.module.modules() if isinstance(module, WinogradConvolution)
    ]
    assert gradients == [False, True] * FAST  # to 16 channels a direct one is as fast


def test_a_refreshed_copy_has_the_new_weights() -> None:
    model, (x, _) = wide(), images()
    private = copied(model)
    lanes = x.contiguous(memory_format=torch.channels_last)
    output_and_gradient(private.run, lanes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.25)
    private.refresh()
    for got, want in zip(output_and_gradient(private.run, lanes), output_and_gradient(model, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().amax()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_images_that_do_not_suit_run_through_the_layer_itself() -> None:
    model, (x, _) = wide(), images(1, 4)
    private = copied(model)
    assert torch.equal(private.run(x), plain_copy(model).run(x))


def test_a_copy_in_bfloat16_is_as_exact_as_one_without() -> None:
    model, (x, _) = wide(), images()
    lanes = x.contiguous(memory_format=torch.channels_last)
    exact = output_and_gradient(wide(torch.float64), x.double())
    errors = []
    for tile in (4, 0):
        private = copied(model, tile, torch.bfloat16)

        def run(given: Tensor, private: PrivateCopy = private) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                output: Tensor = private.run(given)
            return output.float()

        results = output_and_gradient(run, lanes)
        errors.append([float((got - want).norm() / want.norm()) for got, want in zip(results, exact, strict=True)])
    assert all(0 < ours < 1.5 * direct < 0.2 for ours, direct in zip(*errors, strict=True)), errors


def plain_copy(model: nn.Module) -> PrivateCopy:
    private = PrivateCopy(model, fold=True, channels_last=True, dtype=None)
    private.refresh()
    assert private.winograd_convolutions == 0
    return private


@pytest.mark.parametrize(
    ("layer", "suits"),
    [
        (nn.Conv2d(32, 32, 3, padding=1), True),
        (nn.Conv2d(32, 32, 3, padding="same", bias=False), True),
        (nn.Conv2d(32, 32, 3), False),
        (nn.Conv2d(32, 32, 3, padding=2), False),
        (nn.Conv2d(32, 32, (3, 1), padding="same"), False),
        (nn.Conv2d(32, 32, 3, padding=1, stride=(1, 2)), False),
        (nn.Conv2d(32, 32, 3, padding="same", dilation=2), False),
        (nn.Conv2d(32, 32, 3, padding=1, groups=2), False),
        (nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"), False),
        (nn.Conv2d(3, 32, 3, padding=1), False),
        (nn.Conv2d(32, 16, 3, padding=1), False),
        (nn.ConvTranspose2d(32, 32, 3, padding=1), False),
        (nn.Linear(3, 3), False),
    ],
)
def test_which_layers_suit(layer: nn.Module, suits: bool) -> None:
    assert is_winograd(layer) == suits


def test_attacks_use_it_and_say_so() -> None:
    model, (x, y) = wide(), images()
    arguments: dict[str, Any] = {"eps": 0.5, "alpha": 0.1, "steps": 4, "random_start": False, "norm": "l2"}
    expected = PGD(wide(torch.float64), exact=True, **arguments)(x.double(), y)
    attack = PGD(model, **arguments)
    assert (attack(x, y) - expected).abs().amax() < 1e-5
    said = "winograd: yes, 2 convolutions run by Winograd's algorithm where the size of their images suits it"
    assert (said in attack.explain()) == FAST
    attack = PGD(model, dtype=torch.bfloat16, **arguments)
    attack(x, y)
    assert (said in attack.explain()) == supports_winograd(x.device, torch.bfloat16)
    refused: list[dict[str, Any]] = [{"winograd": False}, {"channels_last": False}, {"exact": True}]
    for off in refused:
        attack = PGD(model, **arguments, **off)
        attack(x, y)
        assert "winograd: no, " in attack.explain(), off
    attack = PGD(wide(torch.float64), **arguments)
    torch.testing.assert_close(attack(x.double(), y), expected, rtol=0, atol=1e-9)
    assert "winograd: no, it needs float32, or bfloat16" in attack.explain()


def test_relus_may_overwrite_what_it_puts_out() -> None:
    """As in torchvision's networks; of a view that would be forbidden."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32))
    ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    models = [uneven(nn.Sequential(*plain, nn.ReLU(inplace), *ends), torch.float32) for inplace in (True, False)]
    x, y = images()
    results = [PGD(model, eps=0.5, alpha=0.1, steps=3, random_start=False, norm="l2")(x, y) for model in models]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], x)


class ByKeyword(nn.Module):
    """Calls its layers by the names of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(32 * 144, 300)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.relu(self.conv(input=self.stem(input=x))).flatten(1))


def test_layers_that_are_called_by_keyword() -> None:
    torch.manual_seed(0)
    model, (x, y) = ByKeyword().eval(), images(40)
    attack = PGD(model, eps=0.1, steps=2)
    attack(x, y)
    assert ("winograd: yes" in attack.explain()) == FAST
    fused = FusedTaps(Taps(model, "activations"), x)
    assert (fused.reason, fused.channels_last) == ("", True)
    fused.forward(x, x + 0.01)


def test_autocast_of_a_float32_copy_is_respected() -> None:
    layer = WinogradConvolution(nn.Conv2d(16, 64, 3, padding=1).requires_grad_(False), 4)
    x = torch.randn(6, 16, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == layer.layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


def test_a_layer_with_a_hook_runs_as_it_is() -> None:
    model, (x, y) = wide(), images()
    for changed in (model, exact := wide(torch.float64)):
        changed.second.register_forward_hook(lambda module, inputs, output: -output)
    arguments: dict[str, Any] = {"eps": 0.5, "alpha": 0.1, "steps": 4, "random_start": False, "norm": "l2"}
    attack = PGD(model, **arguments)
    assert (attack(x, y) - PGD(exact, exact=True, **arguments)(x.double(), y)).abs().amax() < 1e-5
    assert ("winograd: yes, 1 convolutions" in attack.explain()) == FAST
    with torch.no_grad():
        for parameter in (*model.parameters(), *exact.parameters()):
            parameter.mul_(-1.25)
    assert (attack(x, y) - PGD(exact, exact=True, **arguments)(x.double(), y)).abs().amax() < 1e-5
