"""The losses against their formulas, element by element, and through the attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import APGD, APGDT, BIM, CW, FFGSM, FGSM, MIFGSM, PGD, Attack, Square
from neurosens_fast.attacks.losses import (
    Objective,
    cross_entropy,
    difference_of_logits_ratio,
    difference_of_logits_ratio_to,
    divergence,
    margin,
    targeted_difference_of_logits_ratio,
)

from .networks import blobs, convolutional, distances, images, trained


def numbers(classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = 4 * torch.randn(12, classes, generator=generator, dtype=torch.float64)
    labels = logits.argmax(1)
    labels[::2] = (labels[::2] + 1) % classes  # half are wrong
    return logits, labels


def per_row(function: Callable[..., float], *columns: Tensor) -> Tensor:
    return torch.tensor([function(*(part.tolist() for part in row)) for row in zip(*columns, strict=True)]).double()


def test_losses_equal_their_formulas() -> None:
    logits, labels = numbers()
    targets = (labels + 2) % 5

    def others(row: list[float], label: int) -> list[float]:
        return [value for place, value in enumerate(row) if place != label]

    def ce(row: list[float], label: int) -> float:
        return math.log(sum(math.exp(value) for value in row)) - row[label]

    def ratio(row: list[float], label: int) -> float:
        ranked = sorted(row)[::-1]
        return -(row[label] - max(others(row, label))) / (ranked[0] - ranked[2] + 1e-12)

    def targeted_ratio(row: list[float], label: int, target: int) -> float:
        ranked = sorted(row)[::-1]
        return -(row[label] - row[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2 + 1e-12)

    torch.set_default_dtype(torch.float64)
    try:
        expected = [
            (cross_entropy(logits, labels), per_row(ce, logits, labels)),
            (margin(logits, labels), per_row(lambda row, y: max(others(row, y)) - row[y], logits, labels)),
            (difference_of_logits_ratio(logits, labels), per_row(ratio, logits, labels)),
            (
                targeted_difference_of_logits_ratio(logits, labels, targets),
                per_row(targeted_ratio, logits, labels, targets),
            ),
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    for value, formula in expected:
        torch.testing.assert_close(value, formula, rtol=1e-12, atol=1e-12)


def test_the_divergence_is_that_of_the_clean_prediction() -> None:
    logits, _ = numbers()
    clean = logits.flip(0)
    p, q = clean.softmax(1), logits.softmax(1)
    result = divergence(logits, clean.log_softmax(1))
    torch.testing.assert_close(result, (p * (p / q).log()).sum(1), rtol=1e-10, atol=1e-10)
    assert (result > 0.01).all()
    same = clean.clone().requires_grad_(True)
    zero = divergence(same, clean.log_softmax(1))
    assert zero.abs().max() < 1e-14
    assert torch.autograd.grad(zero.sum(), same)[0].abs().max() < 1e-14


def test_the_margin_and_the_ratio_with_ties() -> None:
    tied = torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 0.0, 0.0]])
    labels = torch.tensor([1, 0])
    assert margin(tied, labels).tolist() == [0, 0]
    assert difference_of_logits_ratio(tied, labels).tolist() == [0, 0]
    assert torch.isfinite(targeted_difference_of_logits_ratio(tied, labels, labels.flip(0))).all()


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "kl"])
def test_pgd_raises_each_loss(loss: Any) -> None:
    model, (x, y) = convolutional(torch.float64), images(20, torch.float64)
    attack = PGD(model, 0.1, 0.02, 8, random_start=True, loss=loss, seed=1)
    functions = {"ce": cross_entropy, "dlr": difference_of_logits_ratio, "margin": margin}
    with torch.no_grad():
        clean = model(x)

        def value(images: Tensor) -> Tensor:
            logits = model(images)
            return divergence(logits, clean.log_softmax(1)) if loss == "kl" else functions[loss](logits, y)

        gain = (value(attack(x, y)) - value(x)).mean()
        assert gain > 0.001
        if loss == "kl":
            other = (y + 1) % 5
            assert torch.equal(attack(x, y), attack(x, other)), "the labels play no part"


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_the_gradient_that_an_attack_climbs_is_that_of_its_loss(loss: Any) -> None:
    """One step in the L2 ball lies along the gradient, towards the target for a targeted attack."""
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    x = x.clamp(0.2, 0.8)
    functions = {"ce": cross_entropy, "dlr": difference_of_logits_ratio, "margin": margin}
    for targeted, sign in ((False, 1), (True, -1)):
        placed = x.clone().requires_grad_(True)
        function, sign = (difference_of_logits_ratio_to, 1) if loss == "dlr" and targeted else (functions[loss], sign)
        slope = torch.autograd.grad(function(model(placed), y).sum(), placed)[0]
        unit = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        attack = PGD(model, 0.1, 0.1, 1, False, "l2", loss=loss, targeted=targeted)
        torch.testing.assert_close(attack(x, y), x + sign * 0.1 * unit, rtol=0, atol=1e-9)


TARGETED: list[Callable[[nn.Module], Attack]] = [
    lambda model: PGD(model, 0.3, 0.05, 20, targeted=True, seed=0),
    lambda model: PGD(model, 0.3, 0.05, 20, targeted=True, seed=0, loss="margin", compaction=True),
    lambda model: BIM(model, 0.3, 0.05, 20, targeted=True),
    lambda model: MIFGSM(model, 0.3, 0.05, 20, targeted=True),
    lambda model: FGSM(model, 0.1, targeted=True),
    lambda model: FFGSM(model, 0.1, 0.1, targeted=True, seed=0),
    lambda model: APGD(model, 0.3, 20, targeted=True, seed=0),
    lambda model: CW(model, 1.0, steps=60, lr=0.05, binary_search_steps=3, targeted=True),
    lambda model: Square(model, 0.3, 200, targeted=True, seed=0),
]


@pytest.mark.parametrize("make", TARGETED)
def test_targets_are_reached(make: Callable[[nn.Module], Attack]) -> None:
    model, (x, _) = trained(), blobs(30)
    targets = model(x).argsort(1)[:, -2]
    attack = make(model)
    reached = model(attack(x, targets)).argmax(1) == targets
    assert reached.float().mean() >= (0.5 if "FGSM" in attack.attack else 1.0)


def test_dlr_has_a_gradient_towards_every_target() -> None:
    """Untargeted, with its sign changed, it would be flat for a target that ranks third."""
    model, (x, _) = convolutional(torch.float64), images(20, torch.float64)
    ranked = model(x).argsort(1, descending=True)
    for place in (1, 2, 3, 4):
        attack = APGD(model, 0.4, 30, targeted=True, seed=0, loss="dlr")
        reached = model(attack(x, ranked[:, place])).argmax(1) == ranked[:, place]
        assert reached.float().mean() >= 0.8
    logits, targets = numbers()
    first, third, fourth = (logits.sort(1, descending=True).values[:, place] for place in (0, 2, 3))
    expected = -margin(logits, targets) / (first - (third + fourth) / 2 + 1e-12)
    torch.testing.assert_close(difference_of_logits_ratio_to(logits, targets), expected, rtol=1e-12, atol=0)


def test_a_function_of_ones_own() -> None:
    """It gets the logits in float32 or wider, and the labels; its size and sign are its own affair."""
    model, (x, y) = convolutional(torch.float64), images(dtype=torch.float64)
    seen: list[Any] = []

    def double_margin(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append((logits.dtype, labels.dtype, logits.shape, labels.tolist()))
        return 2 * margin(logits, labels)

    settings: dict[str, Any] = {"eps": 0.2, "alpha": 0.05, "steps": 3, "random_start": False}
    result = PGD(model, loss=double_margin, **settings)(x, y.to(torch.uint8))
    assert seen == [(torch.float64, torch.int64, (6, 5), y.tolist())] * 3
    assert torch.equal(result, PGD(model, loss="margin", **settings)(x, y))
    low = PGD(convolutional(), loss=double_margin, dtype=torch.bfloat16, **settings)
    low(x.float(), y)
    assert seen[-1][0] == torch.float32
    targeted = PGD(model, loss=double_margin, targeted=True, **settings)(x, y)
    assert torch.equal(targeted, result), "a function says itself which way is up"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda logits, labels: logits.sum(), r"one value per sample, \[6\], got \[\]"),
        (lambda logits, labels: logits, r"got \[6, 5\]"),
        (lambda logits, labels: 1.0, "got float"),
        (lambda logits, labels: labels.double(), "no gradient for its input"),
    ],
)
def test_refused_functions(loss: Any, message: str) -> None:
    x, y = images()
    with pytest.raises(ValueError, match=message):
        PGD(convolutional(), loss=loss)(x, y)


def test_refused_losses() -> None:
    with pytest.raises(ValueError, match="loss must be one of 'ce', 'dlr', 'margin', 'kl', got 'hinge'"):
        PGD(convolutional(), loss="hinge")
    with pytest.raises(ValueError, match="loss 'kl' leads away from the clean prediction and knows no target"):
        PGD(convolutional(), loss="kl", targeted=True)
    for make in (CW, Square):
        with pytest.raises(TypeError, match="leave out loss"):
            make(convolutional(), loss="ce")
    for option in ({"loss": "ce"}, {"targeted": True}):
        with pytest.raises(TypeError, match=f"leave out {next(iter(option))}"):
            APGDT(convolutional(), **option)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes(classes: int) -> None:
    x, y = images(classes=classes)
    model = convolutional(classes=classes)
    with pytest.raises(ValueError, match=rf"needs 4 classes, the model has {classes}; use 'ce'"):
        APGDT(model, steps=3)(x, y)
    if classes == 2:
        with pytest.raises(ValueError, match="DLR loss needs 3 classes, the model has 2; use 'ce'"):
            PGD(model, loss="dlr")(x, y)
    assert (distances(PGD(model, loss="margin")(x, y), x, "linf") > 0).all()


def test_rows_of_an_objective() -> None:
    logits, labels = numbers()
    objective = Objective(margin, (labels,), -1.0, (0, 4))
    rows = torch.tensor([5, 1])
    assert torch.equal(objective.rows(rows)(logits[rows]), objective(logits)[rows])
    assert torch.equal(objective(logits), -margin(logits, labels))


@pytest.mark.parametrize("kind", [FGSM, BIM, MIFGSM, lambda model, **more: PGD(model, random_start=False, **more)])
def test_kl_needs_a_random_start(kind: Any) -> None:
    model = nn.Linear(4, 3)
    x, y = torch.rand(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="loss 'kl' has no gradient at the input itself"):
        kind(model, loss="kl")(x, y)
    assert not torch.equal(PGD(model, loss="kl", seed=0)(x, y), x)
    assert not torch.equal(FFGSM(model, loss="kl", seed=0)(x, y), x)
