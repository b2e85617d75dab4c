"""The whole job: the robust accuracy of a model over a data set, against a loop in plain PyTorch.

Ours is ``robust_accuracy`` with PGD, its checks of the model and its report included. The plain loop leaves out what
the model gets wrong as it is; ``dropping`` also what has fallen already, as ``compaction`` does. The attack is made
anew in every run, with the private copy of the model that it needs. From the same start without a random draw, exact
mode in float64 must leave exactly as many images standing as the plain loop; the switches that are timed as many to a
hundredth of the images, since rounding decides the sign of gradients near zero.

The digits network is trained here. CIFAR ResNet-18 has random weights, and an ``eps`` under which about half of its
predictions stand, so that dropping is worth about half of the steps.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
from torch import Tensor, nn

from neurosens_fast import robustness
from neurosens_fast.attacks import PGD
from neurosens_fast.benchmarking.contest import NOT_INSTALLED, Contest, Side
from neurosens_fast.data import digits
from neurosens_fast.demo import train_digits
from neurosens_fast.models import DigitsCNN

from ..networks import channels_last, subject
from .checks import same_share
from .plain import (
    AttackFunction,
    dropping_pgd,
    of_torchattacks,
    plain_pgd,
    robust_accuracy,
)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("digits-cnn", {"exact": True}),
    "default": ("digits-cnn", {}),
    "compaction": ("digits-cnn", {"compaction": True}),
    "compaction, ResNet": ("cifar-resnet18", {"compaction": True}),
}
EPS = {"digits-cnn": 0.15, "cifar-resnet18": 0.1 / 255}
IMAGES = {"cpu": 16, "cuda": 1024}
"""Of CIFAR ResNet-18."""


@functools.cache
def _trained(epochs: int) -> DigitsCNN:
    return train_digits(digits(), epochs=epochs, seed=0)


def _case(name: str, device: str, quick: bool) -> tuple[nn.Module, Tensor, Tensor, int]:
    """The model, its data, and the size of batches."""
    if name == "digits-cnn":
        split, count = digits(), 60 if quick else 539
        trained: nn.Module = copy.deepcopy(_trained(2 if quick else 6)).to(device)
        return trained, split.test_images[:count].to(device), split.test_labels[:count].to(device), 128
    _, model, images, labels = subject(device, IMAGES[device], quick)
    return model, images, labels, len(images) // 2


def _ours(model: nn.Module, images: Tensor, labels: Tensor, size: int, **options: Any) -> float:
    """What the report says."""
    attack = PGD(model, **options)
    report = robustness.robust_accuracy(model, (images, labels), attack, batch_size=size, progress=False)
    return report.worst_case_accuracy


@pytest.mark.filterwarnings("ignore::neurosens_fast.robustness.RobustnessWarning")
@pytest.mark.parametrize("case", [*list(CASES)[:3], pytest.param(list(CASES)[3], marks=pytest.mark.full)])
def bench_robust_accuracy(case: str, device: str, contest: Contest) -> None:
    name, switches = CASES[case]
    model, images, labels, size = _case(name, device, contest.quick)
    options: dict[str, Any] = {"eps": EPS[name], "alpha": EPS[name] / 4, "steps": 10}
    agreed, found = _agreed(model, images, labels, size, options, switches)

    def share(model: nn.Module, attack: AttackFunction | None, images: Tensor = images) -> Side | str:
        return (lambda: robust_accuracy(model, attack, images, labels, size)) if attack else NOT_INSTALLED

    rivals = {"plain PyTorch": share(model, plain_pgd(model, **options))}
    if name == "cifar-resnet18":
        other, other_images = channels_last(model, images)
        rivals["plain PyTorch, channels_last"] = share(other, plain_pgd(other, **options), other_images)
    if "compaction" in switches:
        rivals["plain PyTorch, dropping"] = share(model, dropping_pgd(model, **options))
    rivals["torchattacks"] = share(model, of_torchattacks("PGD", model, random_start=True, **options))
    contest(
        "Robust accuracy of a whole data set under PGD",
        {
            "model": name,
            "switches": case.partition(",")[0],
            "steps": 10,
            "images": f"{len(images)} in batches of {size}",
        },
        lambda: _ours(model, images, labels, size, seed=0, **options, **switches),
        rivals=rivals,
        agreed=agreed,
        memory=("ours", "plain PyTorch"),
        facts={"robust accuracy": f"{found:.2%}"},
        seconds=8.0,
    )


def _agreed(
    model: nn.Module, images: Tensor, labels: Tensor, size: int, options: dict[str, Any], switches: dict[str, Any]
) -> tuple[str, float]:
    """The comparison of both sides, and the robust accuracy that ours found."""
    options = {**options, "random_start": False}
    few = slice(len(images) if isinstance(model, DigitsCNN) else 4)  # float64 convolutions are slow
    wide, x, y = copy.deepcopy(model).double(), images[few].double(), labels[few]
    wanted = robust_accuracy(wide, plain_pgd(wide, **options), x, y, size)
    text = same_share(_ours(wide, x, y, size, exact=True, **options), wanted, len(x))
    reference = dropping_pgd if "compaction" in switches else plain_pgd
    wanted = robust_accuracy(model, reference(model, **options), images, labels, size)
    found = _ours(model, images, labels, size, **options, **switches)
    return f"exact: {text}; as timed: {same_share(found, wanted, len(images), rounding=True)}", found
