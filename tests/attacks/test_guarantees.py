"""What holds for every attack, norm, dtype, shape and range; and what every attack leaves behind: nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, APGDT, BIM, CW, FFGSM, FGSM, MIFGSM, PGD, Attack, Square, Worst

from .networks import convolutional, distances, images, uneven

Make = Callable[..., Any]

EPS = {"linf": 8 / 255, "l2": 0.3, "l1": 2.0}

ATTACKS: dict[str, Make] = {
    "FGSM": lambda model, **options: FGSM(model, EPS["linf"], **options),
    "FFGSM": lambda model, **options: FFGSM(model, EPS["linf"], EPS["linf"], **options),
    "BIM": lambda model, **options: BIM(model, EPS["linf"], 0.02, 4, **options),
    "MIFGSM": lambda model, **options: MIFGSM(model, EPS["linf"], 0.02, 4, **options),
    "PGD": lambda model, **options: PGD(model, EPS["linf"], 0.02, 4, **options),
    "PGD-L2": lambda model, **options: PGD(model, EPS["l2"], 0.2, 4, norm="l2", **options),
    "PGD-L1": lambda model, **options: PGD(model, EPS["l1"], 1.5, 4, norm="l1", sparsity=0.9, **options),
    "APGD": lambda model, **options: APGD(model, EPS["linf"], 6, restarts=2, **options),
    "APGD-L2": lambda model, **options: APGD(model, EPS["l2"], 6, "l2", restarts=2, loss="dlr", **options),
    "APGDT": lambda model, **options: APGDT(model, EPS["linf"], 5, target_classes=2, **options),
    "Square": lambda model, **options: Square(model, EPS["linf"], 40, **options),
}
CW_TOO: dict[str, Make] = {
    **ATTACKS,
    "CW": lambda model, **options: CW(model, 10.0, steps=12, lr=0.05, binary_search_steps=2, **options),
}


def all_of(attacks: dict[str, Make]) -> Any:
    return pytest.mark.parametrize("make", attacks.values(), ids=attacks.keys())


def borderline(count: int, shape: tuple[int, ...], dtype: torch.dtype, low: float, high: float) -> Tensor:
    """Images with many values at and near the ends of the range."""
    generator = torch.Generator().manual_seed(4)
    share = (torch.rand(count, *shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    return (low + (high - low) * share).to(dtype).clamp(low, high)


@all_of(ATTACKS)
@pytest.mark.parametrize(
    ("dtype", "switches"),
    [
        (torch.float64, {}),
        (torch.float32, {"exact": True}),
        (torch.float32, {"compaction": True, "dtype": torch.bfloat16}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"exact": True}),
    ],
)
def test_inside_the_ball_and_the_range(make: Make, dtype: torch.dtype, switches: Any, device: str) -> None:
    model, low, high = convolutional(dtype).to(device), -0.5, 1.25
    x = borderline(20, (3, 8, 8), dtype, low, high).to(device)
    y = model(x).argmax(1)
    attack = make(model, low=low, high=high, seed=0, **switches)
    kept = x.clone()
    result = attack(x, y)
    assert (result.dtype, result.shape, result.device) == (dtype, x.shape, x.device)
    assert not result.requires_grad
    assert (distances(result, x, attack.norm) <= attack.eps).all()
    assert (distances(result, x, attack.norm) > 0.2 * attack.eps).float().mean() > 0.7
    assert result.min() >= low
    assert result.max() <= high
    assert torch.equal(x, kept)


@all_of(CW_TOO)
@pytest.mark.parametrize("shape", [(5,), (4, 6), (1, 5, 5), (2, 3, 3, 3)])
def test_inputs_that_are_no_images(make: Make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    size = int(torch.tensor(shape).prod())
    model = uneven(
        nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5)), torch.float32
    )
    x = torch.rand(7, *shape)
    y = model(x).argmax(1)
    attack = make(model, seed=0)
    if isinstance(attack, Square) and len(shape) > 3:
        with pytest.raises(ValueError, match="Square works on"):
            attack(x, y)
        return
    result = attack(x, y)
    assert result.shape == x.shape
    if not isinstance(attack, CW):
        assert (distances(result, x, attack.norm) <= attack.eps).all()
        assert (distances(result, x, attack.norm) > 0).all()
    for few in (0, 1):
        assert attack(x[:few], y[:few]).shape == (few, *shape)


@all_of(CW_TOO)
def test_nothing_to_do_returns_a_copy_of_the_input(make: Make) -> None:
    model, (x, y) = convolutional(), images()
    model.append(Untouchable())
    attack = make(model)
    for name in ("eps", "steps", "n_queries"):
        if not hasattr(attack, name) or (name, attack.attack) in (("eps", "CW"), ("steps", "FGSM"), ("steps", "FFGSM")):
            continue
        other = make(model)
        setattr(other, name, 0)
        result = other(x, y)
        assert torch.equal(result, x)
        assert result.data_ptr() != x.data_ptr()


class Untouchable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model ran")


def uneasy() -> Any:
    """A model in mixed modes, with gradients, a frozen weight, hooks, and dropout that would draw in training."""
    model = convolutional()
    model.insert(3, nn.Dropout(0.5))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.full_like(model[4].weight, 7.0)
    model[5].register_forward_hook(lambda *_: None)
    return model


def traces(model: nn.Module) -> list[Any]:
    """Everything of a model and of the process that an attack could have touched."""
    tensors = [
        (name, id(tensor), tensor._version, tensor.data_ptr(), tensor.requires_grad, tensor.tolist(), id(tensor.grad))
        for name, tensor in model.state_dict(keep_vars=True).items()
    ]
    modules = [
        (id(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
        for module in model.modules()
    ]
    state: Any = numpy.random.get_state()  # noqa: NPY002
    states = [torch.get_rng_state().tolist(), random.getstate(), state[1].tolist(), state[2]]
    return [tensors, modules, states, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]


@all_of(CW_TOO)
@pytest.mark.parametrize("switches", [{}, {"exact": True}, {"compaction": True, "dtype": torch.bfloat16}])
def test_no_trace(make: Make, switches: Any) -> None:
    model, (x, y) = uneasy(), images()
    before, grad = traces(model), copy.deepcopy(model[4].weight.grad)
    attack = make(model, seed=0, **switches)
    for grad_mode in (True, False):
        with torch.set_grad_enabled(grad_mode):
            attack(x.requires_grad_(grad_mode), y)
    assert traces(model) == before
    assert torch.equal(model[4].weight.grad, grad)
    assert x.grad is None
    worst = Worst([attack, lambda x, y: x], model)
    worst(x.detach(), y)
    assert traces(model) == before


@all_of(CW_TOO)
def test_an_interruption_at_any_forward_leaves_no_trace(make: Make) -> None:
    class Fuse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return x

    left, (x, _) = [0], images()
    y = uneasy().eval()(x).argmax(1)
    for exact in (False, True):
        for fuse in (0, 1, 3):
            model = uneasy().append(Fuse())
            before, left[0] = traces(model), fuse
            attack = make(model, seed=0, exact=exact)
            if (isinstance(attack, FGSM | FFGSM) and fuse) or (not exact and fuse == 3):
                continue
            with pytest.raises(KeyboardInterrupt):
                attack(x, y)
            assert traces(model) == before


def test_the_examples_do_not_share_memory_with_the_images() -> None:
    model, (x, y) = convolutional(), images()
    for make in CW_TOO.values():
        result = make(model, seed=0)(x, y)
        assert result.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@all_of(CW_TOO)
def test_labels_of_every_integer_type(make: Make) -> None:
    model, (x, y) = convolutional(), images()
    attack = make(model, seed=0)
    expected = attack(x, y)
    for dtype in (torch.int16, torch.uint8):
        assert torch.equal(attack(x, y.to(dtype)), expected)


@all_of(CW_TOO)
def test_refused_labels_and_images(make: Make) -> None:
    model, (x, y) = convolutional(), images()
    attack = make(model)
    for images_, labels, message in (
        (x, y + 4, r"labels must lie in 0\.\.4 for a model with 5 classes, got 4\.\.7"),
        (x - 0.5, y, r"images must lie in \[0, 1\] without NaN"),
        (x, y[:2], r"labels \[N\], got"),
        (x.to("meta"), y, "images are on meta, the model on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(images_, labels)
    with pytest.raises(TypeError, match="images must be a floating-point tensor"):
        attack((x * 255).to(torch.uint8), y)


@all_of({name: make for name, make in CW_TOO.items() if name != "Square"})
def test_a_model_that_yields_nan_is_named(make: Make) -> None:
    model, (x, y) = convolutional(), images()
    nn.init.constant_(model[7].weight, torch.nan)
    with pytest.raises(ValueError, match="the gradient of the loss for the input is not finite; look for NaN weights"):
        make(model)(x, y)


def test_settings_and_names() -> None:
    model = convolutional()
    for make in CW_TOO.values():
        attack: Attack = make(model)
        assert attack.attack == type(attack).__name__
        assert attack.model is model
        text = repr(attack)
        assert text.startswith(f"{attack.attack}(")
        for name, value in attack.settings().items():
            assert getattr(attack, name) == value
            assert f"{name}=" in text or name in ("low", "high")
