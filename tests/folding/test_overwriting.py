"""A fused ReLU overwrites its input: only where nobody else reads that, or where the ReLU itself would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import Taps
from neurosens_fast.folding import FusedTaps
from tests.attacks.networks import uneven

from .networks import pair
from .test_taps import measured, same_metrics


class Net(nn.Module):
    """A convolution, batch norm and ReLUs that ``forward`` puts together: ``(net, x) -> features [N, 4, H, W]``."""

    shift: Tensor

    def __init__(self, put_together: Callable[[Any, Tensor], Any], inplace: bool) -> None:
        super().__init__()
        self.put_together = put_together
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.identity = nn.ReLU(inplace), nn.Identity()
        self.block = Pair(inplace)
        self.weight = nn.Parameter(torch.randn(6, 4, 8, 8))
        self.register_buffer("shift", torch.randn(6, 4, 8, 8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.other = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1))  # something to gain in any case

    def forward(self, x: Tensor) -> Tensor:
        other = self.pool(self.other(x))
        return self.pool(self.put_together(self, x)).flatten(1) + other.flatten(1)


class Pair(nn.Module):
    """Puts out its ReLU's input and output: the input is tapped as the module's, after the ReLU."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.relu(x)


def add_in_place(x: Tensor, other: Tensor | float) -> Tensor:
    x += other
    return x


def skip(net: Any, x: Tensor) -> Tensor:
    x = net.norm(net.conv(x))
    return net.relu(x) + x


def skip_of_a_sum(net: Any, x: Tensor) -> Tensor:
    before = net.conv(x)
    total = add_in_place(before, 0.5 * x.mean())
    return net.relu(total) + before


def later_view(net: Any, x: Tensor) -> Tensor:
    x = net.norm(net.conv(x))
    seen = x.flatten(2)
    return net.relu(x) + seen.mean(2)[..., None, None]


def twice(net: Any, x: Tensor) -> Tensor:
    x = net.relu(net.norm(net.conv(x)))
    return net.relu(x - x.mean()) - net.relu(x + 0.1)


def sum_of_convolutions(net: Any, x: Tensor) -> Tensor:
    identity = net.conv(x)
    out = net.norm(net.conv(x.flip(3)))
    return net.relu(add_in_place(out, identity)) + identity


CASES: list[Any] = [  # fused rows with inplace=False, and with inplace=True
    ("behind a norm", lambda net, x: net.relu(net.norm(net.conv(x))), 1, 1),
    ("behind a sum", lambda net, x: net.relu(net.conv(x) + net.norm(net.conv(x))), 1, 1),
    ("behind torch.add", lambda net, x: net.relu(torch.add(net.conv(x), net.conv(x), alpha=0.5)), 1, 1),
    ("behind x.add", lambda net, x: net.relu(net.conv(x).add(0.1)), 1, 1),
    ("behind x.add_", lambda net, x: net.relu(net.conv(x).add_(0.1)), 1, 1),
    ("behind a sum in place", sum_of_convolutions, 1, 1),
    ("sum in place of the input", lambda net, x: net.relu(add_in_place(x, 0.5)), 1, 1),
    ("skip connection", skip, 0, 1),
    ("skip connection of a sum in place", skip_of_a_sum, 0, 1),
    ("view that is read later", later_view, 0, 1),
    ("one ReLU three times", twice, 2, 3),
    ("the input", lambda net, x: net.relu(x - 0.5) + net.relu(x), 0, 2),
    ("a view of the input", lambda net, x: net.relu(x[:, :2]).mean() + x, 0, 1),
    ("through an identity", lambda net, x: net.relu(net.identity(net.conv(x))), 0, 1),
    ("a parameter", lambda net, x: net.relu(net.weight) + x.mean(), 0, 0),
    ("a buffer", lambda net, x: net.relu(net.shift) + x.mean(), 0, 0),
    ("ReLU of a ReLU", lambda net, x: net.relu(net.relu(net.conv(x))), 1, 2),
    ("output that is kept", lambda net, x: torch.cat(net.block(net.conv(x)), 1), 0, 1),
    ("by keyword", lambda net, x: net.relu(input=net.conv(x)), 0, 0),
]


@pytest.mark.parametrize(("name", "put_together", "fresh", "in_place"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("inplace", [False, True])
def test_where_the_relu_is_fused(
    name: str, put_together: Callable[[Any, Tensor], Any], fresh: int, in_place: int, inplace: bool
) -> None:
    torch.manual_seed(0)
    model = uneven(Net(put_together, inplace))
    layers = ["block.relu", "block"] if "kept" in name else ["relu", "conv", "norm"] if "norm" in name else ["relu"]
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    benign, adversarial = pair((3, 8, 8))
    given = benign.clone(), adversarial.clone()
    if inplace and name in ("a parameter", "a buffer"):
        with torch.no_grad():  # what the model itself would do to them
            model.weight.relu_(), model.shift.relu_()
        kept = {key: value.clone() for key, value in model.state_dict().items()}
    if name in ("a parameter", "a buffer"):
        fused = FusedTaps(Taps(model, layers), benign)
        assert fused.fused == ()
        fused.forward(benign, adversarial)
    else:
        fused, plain = measured(model, layers, benign, adversarial)
        assert fused.reason == ""
        assert len(fused.fused) == (in_place if inplace else fresh)
        same_metrics(fused.rows, plain.rows, 1e-10)
    assert torch.equal(benign, given[0])
    assert torch.equal(adversarial, given[1])
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_an_input_that_the_model_overwrites_and_reads_again() -> None:
    model = uneven(Net(lambda net, x: net.relu(add_in_place(x, 0.5) - 1) + x, False))
    fused, plain = measured(model, ["relu"], *pair((3, 8, 8)))
    assert fused.reason.startswith("the traced copy gives other values")
    same_metrics(fused.rows, plain.rows, 0)


def test_what_a_hook_of_the_user_keeps_is_not_overwritten() -> None:
    model = uneven(Net(lambda net, x: net.relu(net.norm(net.conv(x))), False))
    kept: list[Tensor] = []
    model.norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    fused, plain = measured(model, ["relu"], *pair((3, 8, 8)))
    assert fused.reason == ""
    assert (fused.fused, fused.folded) == ((), 1)
    same_metrics(fused.rows, plain.rows, 1e-10)
    assert all(bool((output < 0).any()) for output in kept)
    assert len(kept) == 4, "once for each forward, few or all samples, of the model and of the copy"


def test_a_relu_with_a_hook_runs_as_it_is() -> None:
    model = uneven(Net(lambda net, x: net.relu(net.norm(net.conv(x))), False))
    model.relu.register_forward_hook(lambda module, inputs, output: output * 2)
    fused, plain = measured(model, ["relu"], *pair((3, 8, 8)))
    assert (fused.reason, fused.fused, fused.folded) == ("", (), 2)
    same_metrics(fused.rows, plain.rows, 1e-10)


def test_a_subclass_of_relu_is_not_taken_for_one() -> None:
    class Doubled(nn.ReLU):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = uneven(Net(lambda net, x: net.relu(net.norm(net.conv(x))), False))
    model.relu = Doubled()
    fused, plain = measured(model, ["relu"], *pair((3, 8, 8)))
    assert (fused.fused, fused.folded) == ((), 2)
    same_metrics(fused.rows, plain.rows, 1e-10)
