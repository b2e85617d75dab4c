"""Models that have no private copy, or not all of it: they run as they are, and explain() says why."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import PGD

from .networks import convolutional, images
from .test_engine import STEPS, close, used


def why_not(model: nn.Module, x: Tensor, y: Tensor, switch: str = "fold") -> str:
    attack = PGD(model, **STEPS)
    close(attack, x, y)
    (line,) = (line for line in attack.explain().splitlines() if line.startswith(f"{switch}: no, "))
    return line.removeprefix(f"{switch}: no, ")


class Restless(nn.Module):
    """``what`` is what a forward does beside its work."""

    def __init__(self, what: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.what, self.calls = convolutional(torch.float64), what, 0
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        factor = self.what(self, x)
        x = self.net(x)
        return x if factor is None else x * factor


def count(self: Any, x: Tensor) -> None:
    self.calls += 1


def keep(self: Any, x: Tensor) -> None:
    self.last = x


def collect(self: Any, x: Tensor) -> None:
    self.seen.append(x)


def draw(self: Any, x: Tensor) -> Any:
    return 1.0 + 0 * random.random()


def choose(self: Any, x: Tensor) -> float:
    return 1.0 if x.sum() > 0 else 2.0


SIDE_EFFECT = "the forward changes attributes of its modules"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (count, SIDE_EFFECT),
        (keep, SIDE_EFFECT),
        (collect, SIDE_EFFECT),
        (draw, "the forward draws random numbers"),
        (choose, "torch.fx cannot trace the model (symbolically traced variables cannot be used as inputs to"),
    ],
)
def test_models_that_run_as_they_are(what: Callable[[Any, Tensor], Any], reason: str) -> None:
    model, (x, y) = Restless(what), images(dtype=torch.float64)
    before = set(vars(model))
    assert why_not(model, x, y).startswith(reason)
    assert why_not(model, x, y, "channels_last").startswith(reason)
    assert set(vars(model)) - before <= {"last"}
    assert all(type(part) is Tensor for part in [*model.seen, getattr(model, "last", x)])


def test_nothing_is_written_to_the_model_by_tracing() -> None:
    """torch.fx puts constants that a forward makes on the module that it traces."""
    model, (x, y) = Restless(lambda self, x: torch.ones(5, dtype=torch.float64)), images(dtype=torch.float64)
    before = {name: id(value) for name, value in vars(model).items()}
    attack = PGD(model, **STEPS)
    close(attack, x, y)
    assert "fold" in used(attack)
    assert {name: id(value) for name, value in vars(model).items()} == before


def test_a_forward_that_wants_contiguous_memory_is_copied_without_channels_last() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = convolutional(torch.float64)[:6], nn.Linear(72, 5).double()

        def forward(self, x: Tensor) -> Tensor:
            x = self.net(x)
            return self.head(x.view(x.shape[0], -1))

    x, y = images(dtype=torch.float64)
    attack = PGD(Viewing(), **STEPS)
    close(attack, x, y)
    assert "fold" in used(attack)
    assert "channels_last" not in used(attack)
    assert "channels_last: no, the model fails on activations in channels_last memory" in attack.explain()


def test_random_models_are_not_copied() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutional()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(F.dropout(x, 0.5, training=True))

    x, y = images()
    attack = PGD(Dropping(), **STEPS)
    attack(x, y)
    assert "fold: no, the traced copy gives other logits: the forward depends on its input, or is random" in (
        attack.explain()
    )


def test_a_batch_norm_over_tokens_is_not_taken_for_one_over_features() -> None:
    linear, norm = nn.Linear(6, 6), nn.BatchNorm1d(6)  # fresh: the trial on two samples could not tell
    tokens = nn.Sequential(linear, norm, nn.Flatten(), nn.Linear(36, 3)).double()
    x, y = torch.rand(4, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    assert why_not(tokens, x, y) == "a batch norm normalises another axis than the layer before it puts out"
    attack = PGD(nn.Sequential(linear, norm, nn.Linear(6, 3)).double(), **STEPS)
    attack(x[:, 0], y)
    assert "fold" in used(attack)


def test_compiled_parallel_and_scripted_models_run_as_they_are() -> None:
    x, y = images(dtype=torch.float64)
    reason = "the model is compiled or parallel, and runs as it is"
    net = convolutional(torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, scripted models are about
        scripted = torch.jit.trace(net, x)  # type: ignore[no-untyped-call]
    assert why_not(scripted, x, y) == reason
    assert why_not(nn.DataParallel(net), x, y) == reason
    assert why_not(torch.compile(net, backend="eager"), x, y) == reason  # type: ignore[arg-type]


def test_models_without_anything_to_gain() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    x, y = images(dtype=torch.float64)
    assert why_not(model, x, y) == "the model has no batch norm behind a layer and no 2-D convolution"


def test_optional_arguments_of_a_forward_keep_their_defaults() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutional(torch.float64)

        def forward(self, x: Tensor, mask: Tensor | None = None, times: int = 2) -> Tensor:
            if mask is not None:
                x = x * mask
            for _ in range(times):
                x = x.sin()
            return self.net(x)

    x, y = images(dtype=torch.float64)
    attack = PGD(Masked(), **STEPS)
    close(attack, x, y)
    assert "fold" in used(attack)


def test_a_copy_that_fails_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Evasive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = convolutional(torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.view(1, 2, 3) if hasattr(x, "tracer") else x)

    x, y = images(dtype=torch.float64)
    assert why_not(Evasive(), x, y).startswith("the traced copy fails (shape '[1, 2, 3]' is invalid")
    assert capfd.readouterr() == ("", "")
