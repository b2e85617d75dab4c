"""Attacks against the libraries that people know them from: torchattacks, foolbox and AutoAttack (``make test-peer``).

Without a random start, exact mode must give the libraries' images. With one, draws differ, and robust accuracies are
compared.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast.attacks import APGD, APGDT, BIM, CW, FGSM, MIFGSM, PGD, Attack, Square
from neurosens_fast.models import DigitsCNN
from tests.trained import images, right, trained

pytestmark = pytest.mark.peer

EPS, ALPHA, STEPS = 0.1, 0.01, 40
EPS_L2, ALPHA_L2 = 0.5, 0.05
EPS_OF = {"linf": EPS, "l2": EPS_L2}
NAMES = {"linf": "Linf", "l2": "L2"}  # AutoAttack's
SAMPLES, SEEDS = 1000, range(12)
Make = Callable[[DigitsCNN], Attack]


def torchattacks(name: str, **options: Any) -> Callable[[DigitsCNN, Tensor, Tensor], Tensor]:
    """An attack of torchattacks, as a function of model, images and labels."""
    kind = getattr(importlib.import_module("torchattacks"), name)
    return lambda model, x, y: kind(model, **options)(x, y)


def foolbox(name: str, eps: float | None, **options: Any) -> Callable[[DigitsCNN, Tensor, Tensor], Tensor]:
    """An attack of foolbox without a random start; with ``eps`` what it returns within the ball."""
    library = importlib.import_module("foolbox")

    def attack(model: DigitsCNN, x: Tensor, y: Tensor) -> Tensor:
        wrapped = library.PyTorchModel(model, bounds=(0, 1), device=x.device)
        raw, clipped, success = getattr(library.attacks, name)(**options)(wrapped, x, y, epsilons=eps)
        assert eps is not None or success.all()
        result: Tensor = raw if eps is None else clipped
        return result

    return attack


PGD_OF_FOOLBOX = {"steps": STEPS, "random_start": False}
EXACT: dict[str, tuple[Make, Callable[[], Callable[..., Tensor]]]] = {
    "FGSM, torchattacks": (
        lambda model: FGSM(model, EPS, exact=True),
        lambda: torchattacks("FGSM", eps=EPS),
    ),
    "FGSM, foolbox": (
        lambda model: FGSM(model, EPS, exact=True),
        lambda: foolbox("LinfFastGradientAttack", EPS),
    ),
    "BIM, torchattacks": (
        lambda model: BIM(model, EPS, ALPHA, 10, exact=True),
        lambda: torchattacks("BIM", eps=EPS, alpha=ALPHA, steps=10),
    ),
    "MIFGSM, torchattacks": (
        lambda model: MIFGSM(model, EPS, ALPHA, 10, decay=0.9, exact=True),
        lambda: torchattacks("MIFGSM", eps=EPS, alpha=ALPHA, steps=10, decay=0.9),
    ),
    "PGD, torchattacks": (
        lambda model: PGD(model, EPS, ALPHA, STEPS, False, exact=True),
        lambda: torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False),
    ),
    "PGD, foolbox": (
        lambda model: PGD(model, EPS, ALPHA, STEPS, False, exact=True),
        lambda: foolbox("LinfPGD", EPS, abs_stepsize=ALPHA, **PGD_OF_FOOLBOX),
    ),
    "PGD L2, foolbox": (
        lambda model: PGD(model, EPS_L2, ALPHA_L2, STEPS, False, "l2", exact=True),
        lambda: foolbox("L2PGD", EPS_L2, abs_stepsize=ALPHA_L2, **PGD_OF_FOOLBOX),
    ),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_exact_mode_gives_the_images_of_the_libraries(name: str, dtype: torch.dtype) -> None:
    ours, theirs = EXACT[name]
    model = trained(dtype)
    x, y = images(60 if dtype == torch.float64 else 300, dtype)
    mine, other = ours(model)(x, y), theirs()(model, x, y)
    difference = (mine.double() - other.double()).abs()
    assert (mine - x).abs().amax() > 0.9 * ALPHA
    if dtype == torch.float64:
        assert difference.max() <= 1e-10
    else:
        assert (difference > 1e-5).double().mean() <= 1e-3
    assert right(model, mine, y) == right(model, other, y)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_leaves_as_many_standing_as_autoattack(norm: str, loss: str) -> None:
    base = importlib.import_module("pyautoattack.autopgd_base")
    model, (x, y), eps = trained(), images(SAMPLES), EPS_OF[norm]
    mine, theirs = [], []
    for seed in SEEDS:
        mine.append(right(model, APGD(model, eps, 30, norm, loss=loss, seed=seed, exact=True)(x, y), y))
        other = base.APGDAttack(model, n_iter=30, norm=NAMES[norm], eps=eps, loss=loss, seed=seed)
        theirs.append(right(model, other.perturb(x, y), y))
    assert_within_points(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgdt_leaves_as_many_standing_as_autoattack(norm: str) -> None:
    base = importlib.import_module("pyautoattack.autopgd_base")
    model, (x, y), eps = trained(), images(SAMPLES), EPS_OF[norm]
    options: dict[str, Any] = {"n_iter": 10, "norm": NAMES[norm], "eps": eps, "n_target_classes": 3}
    mine, theirs = [], []
    for seed in SEEDS:
        mine.append(right(model, APGDT(model, eps, 10, norm, target_classes=3, seed=seed, exact=True)(x, y), y))
        theirs.append(right(model, base.APGDAttack_targeted(model, seed=seed, **options).perturb(x, y), y))
    assert_within_points(mine, theirs)


def assert_within_points(mine: list[int], theirs: list[int]) -> None:
    """Robust accuracies within 0.3 points, neither near 0 nor near 1.

    Means over the seeds: from one seed to the next, either library's own moves by more, and the difference of these
    means by 0.15 points (its standard error).
    """
    runs = len(theirs) * SAMPLES
    assert 0.05 < sum(theirs) / runs < 0.95
    assert 1000 * abs(sum(mine) - sum(theirs)) <= 3 * runs, (mine, theirs)  # whole numbers: 0.3 points is within


@pytest.mark.parametrize("abort_early", [False, True])
def test_cw_is_as_close_as_foolbox(abort_early: bool) -> None:
    """With ``abort_early`` too, although foolbox then ends a round for the whole batch at once."""
    model, (x, y) = trained(), images(60)
    search: dict[str, Any] = {"steps": 100, "binary_search_steps": 5, "abort_early": abort_early}
    mine = CW(model, c=1.0, lr=0.05, exact=True, **search)(x, y)
    theirs = foolbox("L2CarliniWagnerAttack", None, initial_const=1.0, stepsize=0.05, **search)(model, x, y)
    assert right(model, mine, y) == right(model, theirs, y) == 0
    norms = [float((found - x).flatten(1).norm(dim=1).mean()) for found in (mine, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_square_fools_as_many_as_autoattack() -> None:
    """Within three standard deviations of the difference of two binomial shares, 6.7 points at most here.

    The images are the same for both, which makes the true deviation smaller.
    """
    library = importlib.import_module("pyautoattack.square")
    model, (x, y) = trained(), images(SAMPLES)
    mine = right(model, Square(model, EPS, 200, seed=0)(x, y), y) / SAMPLES
    theirs = right(model, library.SquareAttack(model, n_queries=200, eps=EPS, seed=0).perturb(x, y), y) / SAMPLES
    share = (mine + theirs) / 2
    assert 0.05 < share < 0.95
    assert abs(mine - theirs) <= 3 * math.sqrt(2 * share * (1 - share) / SAMPLES)
