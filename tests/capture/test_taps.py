"""Taps against a hook-and-store computation, the channel rule, and what they refuse."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neurosens_fast.capture import Taps, paired_forward, select_layers
from neurosens_fast.models import DigitsCNN

MEASURED = ["convolutions", "norms", "linear", "activations"]


def network() -> Any:
    """Convolution, batch norm with running statistics that differ from 0 and 1, in-place ReLU, linear."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(5 * 16, 7), nn.GELU()
    )
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    return model.eval()


def pair(batch: int = 4) -> tuple[Tensor, Tensor]:
    """Benign and adversarial inputs ``[batch, 3, 6, 6]``."""
    generator = torch.Generator().manual_seed(batch)
    benign = torch.rand(batch, 3, 6, 6, generator=generator)
    return benign, benign + 0.1 * torch.randn(benign.shape, generator=generator)


def stored(model: nn.Module, inputs: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Float64 outputs of the named modules, cloned at once: the independent computation."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: kept.__setitem__(name, output.detach().double().clone())

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return kept


def test_equal_to_hook_and_store_over_uneven_batches() -> None:
    model = network()
    taps = Taps(model, MEASURED)
    names = list(taps.selection.modules)
    assert names == ["0", "1", "2", "4", "5"]
    batches = [pair(4), pair(7), pair(1)]
    for benign, adversarial in batches:
        with taps, torch.no_grad():
            model(torch.cat((benign, adversarial)))
    for name in names:
        z = torch.cat([stored(model, benign, [name])[name] for benign, _ in batches])
        z_adv = torch.cat([stored(model, adversarial, [name])[name] for _, adversarial in batches])
        z, z_adv = z.reshape(*z.shape[:2], -1), z_adv.reshape(*z.shape[:2], -1)
        expected = {
            "sensitivity": (z_adv - z).abs().mean((0, 2)),
            "rms_change": (z_adv - z).square().mean((0, 2)).sqrt(),
            "peak_change": (z_adv - z).abs().amax((0, 2)),
            "mean_activation_benign": z.mean((0, 2)),
            "max_activation_adversarial": z_adv.amax((0, 2)),
            "active_share_adversarial": (z_adv > 0).double().mean((0, 2)),
        }
        assert taps.statistics[name].samples == 12
        for metric, value in expected.items():
            torch.testing.assert_close(taps.statistics[name].metric(metric), value, rtol=1e-5, atol=1e-6)


def test_in_place_relu_does_not_spoil_the_layer_before() -> None:
    model = network()
    benign, adversarial = pair()
    with Taps(model, ["1"]) as taps, torch.no_grad():
        model(torch.cat((benign, adversarial)))
    assert (taps.statistics["1"].metric("mean_activation_benign") < 0).any(), "only ReLU's output was seen"
    assert (taps.statistics["1"].metric("active_share_benign") < 1).any()


def test_outputs_and_hooks_are_as_before_also_after_an_exception() -> None:
    model = network()
    kept = model[0].register_forward_hook(lambda module, args, output: None)
    batch = torch.cat(pair())
    expected = model(batch)
    with Taps(model, MEASURED) as taps:
        assert torch.equal(model(batch), expected)
    with pytest.raises(ZeroDivisionError), taps:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError), taps:
        model(batch[:, :1])
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert sum(hooks) == 1
    assert list(model[0]._forward_hooks) == [kept.id]


def test_exception_inside_a_tap_removes_the_hooks() -> None:
    model = network()
    with pytest.raises(ValueError, match="odd batch of 3"), Taps(model):
        model(pair(3)[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_module_called_twice_gives_a_row_per_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.relu(x) - 0.5)

    benign, adversarial = torch.rand(3, 2, 4), torch.rand(3, 2, 4)
    model = Twice()
    taps = Taps(model, ["relu"])
    for _ in range(2):
        with taps:
            model(torch.cat((benign, adversarial)))
    assert list(taps.rows) == ["relu", "relu#2"]
    assert [row.statistics.samples for row in taps.rows.values()] == [6, 6]
    second = ((adversarial - 0.5).relu() - (benign - 0.5).relu()).abs().mean((0, 2)).double()
    torch.testing.assert_close(taps.statistics["relu#2"].metric("sensitivity"), second)


def test_channel_follows_the_producer_and_can_be_overridden() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act1 = nn.Conv1d(2, 3, 1), nn.GELU()
            self.linear, self.act2 = nn.Linear(6, 4), nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act2(self.linear(self.act1(self.conv(x))))

    batch = torch.rand(4, 2, 6)
    model = Mixed()
    with Taps(model, MEASURED) as taps:
        model(batch)
    assert {name: (row.channel_dim, row.statistics.neurons) for name, row in taps.rows.items()} == {
        "conv": (1, 3),
        "act1": (1, 3),
        "linear": (-1, 4),
        "act2": (-1, 4),
    }
    with Taps(model, ["act2"], {"act*": 1}) as alone:
        model(batch)
    assert alone.statistics["act2"].neurons == 3
    with Taps(model, ["act2"]) as untold:
        model(batch)
    assert untold.statistics["act2"].neurons == 4, "the producer counts even where it is not tapped"


class NoWaiting(TorchDispatchMode):
    """Refuses to read a value off the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default), func
        return func(*args, **(kwargs or {}))


def test_taps_never_wait_for_the_device(device: str) -> None:
    model = network().to(device)
    benign, adversarial = (half.to(device) for half in pair())
    taps = Taps(model, MEASURED)
    for _ in range(2):
        with NoWaiting(), taps:
            paired_forward(model, benign, adversarial)
    assert taps.statistics["5"].samples == 8
    with pytest.raises(AssertionError), NoWaiting():
        bool(benign.sum() > 0)


def test_taps_keep_no_activation_alive() -> None:
    """When a layer's output is there, that of two layers before is gone."""
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(6)))
    alive: list[weakref.ref[Tensor]] = []

    def watch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert all(reference() is None for reference in alive[:-1])
        alive.append(weakref.ref(output))

    with Taps(model, "linear") as taps:
        for module in model:
            module.register_forward_hook(watch)
        paired_forward(model, torch.rand(2, 3), torch.rand(2, 3))
    assert len(taps.rows) == len(alive) == 6
    assert all(reference() is None for reference in alive)


def test_totals_made_under_inference_mode_can_be_added_to_later() -> None:
    model = network()
    taps = Taps(model, ["0"])
    with torch.inference_mode(), taps:
        model(torch.cat(pair()))
    with taps:
        model(torch.cat(pair()))
    assert taps.statistics["0"].samples == 8


def test_unknown_layer_lists_the_closest() -> None:
    with pytest.raises(ValueError, match="no layer 'rellu2'; closest: relu2"):
        select_layers(DigitsCNN(), ["conv1", "rellu2"])
    with pytest.raises(ValueError, match="its layers begin conv1, bn1"):
        Taps(DigitsCNN(), ["zzz"])
    with pytest.raises(ValueError, match=r"channel_dims names 'conv1', .* closest: conv2"):
        Taps(DigitsCNN(), ["conv2"], {"conv1": 1})


def test_two_names_of_one_module() -> None:
    model = nn.Sequential(nn.ReLU())
    model.add_module("again", model[0])
    with pytest.raises(ValueError, match="'0' and 'again' are the same module"):
        Taps(model, ["0", "again"])


class Emits(nn.Module):
    """Puts out what it is told to, through a child named ``odd``."""

    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.odd = nn.Identity()
        self.odd.forward = output  # type: ignore[assignment, method-assign]

    def forward(self, x: Tensor) -> Any:
        return self.odd(x)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda x: None, TypeError, "layer 'odd' puts out a NoneType, not a tensor; tap a module inside it"),
        (lambda x: (), TypeError, "layer 'odd' puts out a tuple, not a tensor"),
        (lambda x: {"hidden": (x.long(), x)}, TypeError, "layer 'odd' puts out torch.int64.*leave it out"),
        (lambda x: x.long(), TypeError, "layer 'odd' puts out torch.int64.*leave it out"),
        (lambda x: x[:, 0], ValueError, r"layer 'odd' puts out shape \[4\], which has no channel axis"),
        (lambda x: x.transpose(0, 1), ValueError, "layer 'odd' puts out 3 rows for 2 pairs .4 expected."),
    ],
)
def test_outputs_that_cannot_be_tapped(output: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    taps = Taps(Emits(output), ["odd"])
    taps.pairs = 2
    with pytest.raises(error, match=message), taps:
        taps.model(torch.rand(4, 3))


def test_channel_axis_that_does_not_fit_or_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    for axis in (0, 2, -2, -3):
        with (
            pytest.raises(ValueError, match=f"layer '0': channel axis {axis} does not fit"),
            Taps(model, ["0"], {"0": axis}),
        ):
            model(torch.rand(2, 3))
    taps = Taps(model, ["0"], {"0": 1})
    with taps:
        model(torch.rand(2, 4, 3))
        with pytest.raises(ValueError, match="layer '0' has 5 channels on axis 1, earlier batches had 4"):
            model(torch.rand(2, 5, 3))
