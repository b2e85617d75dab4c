"""What an attack leaves behind: nothing. And what it refuses, in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD, Attack


def pgd_l2(model: nn.Module, **options: Any) -> Attack:
    return PGD(model, norm="l2", **options)


ATTACKS: list[Callable[..., Attack]] = [FGSM, PGD, pgd_l2]


FUSE = {"left": 0}  # not an attribute: a forward that changes attributes is not traced


class Fails(nn.Module):
    """Passes its input on until ``FUSE`` forwards have run."""

    def forward(self, x: Tensor) -> Tensor:
        FUSE["left"] -= 1
        if FUSE["left"] < 0:
            raise KeyboardInterrupt
        return x


def build(fuse: int = 10**6) -> Any:
    torch.manual_seed(0)
    FUSE["left"] = fuse
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), Fails(), nn.Linear(8, 3))
    model.train()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    model[0].weight.grad = torch.full((8, 4), 7.0)
    return model


def traces(model: nn.Module) -> list[Any]:
    """Everything of a model that an attack could have touched, as comparable values."""
    parameters = [
        (name, p.requires_grad, p._version, None if p.grad is None else (id(p.grad), p.grad.tolist()))
        for name, p in model.named_parameters()
    ]
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return [parameters, modules, [buffer.tolist() for buffer in model.buffers()], torch.is_grad_enabled()]


@pytest.mark.parametrize("make", ATTACKS)
@pytest.mark.parametrize("grad_mode", [True, False])
def test_no_trace_after_success(make: Callable[..., Attack], grad_mode: bool) -> None:
    model = build()
    x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
    kept = x.clone()
    with torch.set_grad_enabled(grad_mode):
        before = traces(model)
        assert not torch.equal(make(model)(x, y), x)
        assert traces(model) == before
    assert torch.equal(x, kept)
    assert x.grad is None
    assert not x.requires_grad


@pytest.mark.parametrize("make", ATTACKS)
@pytest.mark.parametrize("fuse", [0, 1, 2])
def test_no_trace_after_an_interruption(make: Callable[..., Attack], fuse: int) -> None:
    """While the private copy is made (it runs the model's code first), and in a later step of a plain loop."""
    for exact in (False, True):
        model = build(fuse)
        before = traces(model)
        attack = make(model, exact=exact)
        x, y = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)
        forwards = 1 if isinstance(attack, FGSM) else 10 if exact else 2
        if fuse < forwards:
            with pytest.raises(KeyboardInterrupt):
                attack(x, y)
        else:
            assert attack(x, y).shape == x.shape
        assert traces(model) == before


def test_images_that_require_gradients_are_not_touched() -> None:
    model = build()
    x = torch.rand(2, 4, requires_grad=True)
    result = FGSM(model)(x, torch.zeros(2, dtype=torch.int64))
    assert x.grad is None
    assert not result.requires_grad


def test_parameters_are_never_differentiated() -> None:
    model = build()
    model[0].weight.register_hook(lambda grad: pytest.fail("a parameter's gradient was computed"))
    PGD(model, steps=2)(torch.rand(2, 4), torch.zeros(2, dtype=torch.int64))


def test_images_made_in_inference_mode_are_welcome() -> None:
    with torch.inference_mode():
        x, y = torch.rand(2, 4), torch.zeros(2, dtype=torch.int64)
    assert FGSM(build())(x, y).shape == (2, 4)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode\(\) forbids"):
        FGSM(build())(x, y)


X, Y = torch.rand(4, 4), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (X.long(), Y, TypeError, r"images must be a floating-point tensor in \[0, 1\], got torch.int64"),
        (X.numpy(), Y, TypeError, "got ndarray"),
        (X, Y.float(), TypeError, "labels must be a tensor of integer class numbers, got torch.float32"),
        (X, [0, 1, 2, 0], TypeError, "got list"),
        (X, Y[:3], ValueError, r"labels \[N\], got \[4, 4\] and \[3\]"),
        (X, Y - 1, ValueError, r"labels must lie in 0..2 for a model with 3 classes, got -1..1"),
        (X, Y + 1, ValueError, "got 1..3"),
        (X + 1, Y, ValueError, r"images must lie in \[0, 1\] without NaN, .*Normalized\(model, mean, std\)"),
        (torch.full((4, 4), torch.nan), Y, ValueError, "without NaN, got values from nan to nan"),
        (X.to("meta"), Y, ValueError, "images are on meta, the model on cpu"),
    ],
)
def test_refused_inputs(images: Any, labels: Any, error: type[Exception], message: str) -> None:
    model = build()
    before = traces(model)
    with pytest.raises(error, match=message):
        PGD(model)(images, labels)
    assert traces(model) == before


class Rounds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().round()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(Rounds(), nn.Linear(4, 3)), "no gradient for its input; look for detach"),
        (Rounds(), "no gradient for its input"),
        (nn.Unflatten(1, (2, 2)), r"logits \[N, classes\], got shape \[4, 2, 2\]"),
    ],
)
def test_refused_models(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FGSM(model)(X, Y)


@pytest.mark.parametrize("make", ATTACKS)
def test_nan_weights(make: Callable[..., Attack]) -> None:
    model = build()
    nn.init.constant_(model[0].weight, torch.nan)
    with pytest.raises(ValueError, match="gradient of the loss for the input is not finite; look for NaN weights"):
        make(model)(X, Y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"eps": -0.1}, ValueError, "eps must be finite and at least 0, got -0.1"),
        ({"eps": float("nan")}, ValueError, "eps must be finite"),
        ({"eps": "8/255"}, TypeError, "eps must be a number, got str '8/255'"),
        ({"alpha": -1}, ValueError, "alpha must be finite and at least 0"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number"),
        ({"norm": "l7"}, ValueError, "norm must be one of 'linf', 'l2', 'l1', got 'l7'"),
        ({"low": 1.0, "high": 0.0}, ValueError, "low must be below high"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "not both"),
        ({"model": len}, TypeError, "model must be a torch.nn.Module, got builtin_function_or_method"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PGD(**{"model": build(), **arguments})
