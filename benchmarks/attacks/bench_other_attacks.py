"""FGSM, MI-FGSM and APGD against plain PyTorch and torchattacks: CIFAR ResNet-18.

As in ``bench_pgd`` the model's passes are nearly all there is to it. FGSM is one pass, for which a private copy of the
model does not pay: ours should cost what the plain loop costs. Exact mode must give the images of the plain loop. APGD,
which takes too many lines to write by hand, must raise the loss at least as much as PGD does in as many steps, and as
that of torchattacks, but for a tenth: its draws differ, and it gives back the images that it cannot fool.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurosens_fast.attacks import APGD, FGSM, MIFGSM, Attack
from neurosens_fast.benchmarking.contest import NOT_INSTALLED, Contest, Side

from ..networks import channels_last, full_float32, subject
from .checks import no_weaker, same_images
from .plain import ALPHA, EPS, AttackFunction, of_torchattacks, plain_mifgsm, plain_pgd

BATCH = {"cpu": 8, "cuda": 256}
STEPS = {"FGSM": 1, "MI-FGSM": 5, "APGD-CE": 20}
"""In few steps APGD, which begins with large ones, is weaker than PGD."""
KINDS: dict[str, Any] = {"FGSM": FGSM, "MI-FGSM": MIFGSM, "APGD-CE": APGD}


def _plain(name: str, model: torch.nn.Module, steps: int) -> AttackFunction:
    """The reference; of APGD one that is weaker."""
    if name == "FGSM":
        return plain_pgd(model, EPS, EPS, 1, random_start=False)
    return plain_mifgsm(model, steps=steps) if name == "MI-FGSM" else plain_pgd(model, steps=steps)


@pytest.mark.parametrize("name", KINDS)
def bench_other_attacks(name: str, device: str, contest: Contest) -> None:
    model_name, model, images, labels = subject(device, BATCH[device], contest.quick)
    steps = STEPS[name]
    shared: dict[str, Any] = {"eps": EPS} if name == "FGSM" else {"eps": EPS, "steps": steps}
    shared |= {"alpha": ALPHA} if name == "MI-FGSM" else {}
    more: dict[str, Any] = {"seed": 0} if name == "APGD-CE" else {}
    library = of_torchattacks(name.replace("-CE", "").replace("-", ""), model, **shared, **more)
    ours: Attack = KINDS[name](model, **shared, **more)
    plain = _plain(name, model, steps)
    if name == "APGD-CE":
        found = ours(images, labels)
        agreed = no_weaker(model, images, labels, found, plain(images, labels), "PGD")
        if library:
            agreed += "; " + no_weaker(model, images, labels, found, library(images, labels), "torchattacks", 0.9)
    else:
        with full_float32():
            agreed = same_images(KINDS[name](model, exact=True, **shared)(images, labels), plain(images, labels))
    rivals: dict[str, Side | str] = {}
    if name != "APGD-CE":
        other, other_images = channels_last(model, images)
        last = _plain(name, other, steps)
        rivals["plain PyTorch"] = lambda: plain(images, labels)
        rivals["plain PyTorch, channels_last"] = lambda: last(other_images, labels)
    rivals["torchattacks"] = (lambda: library(images, labels)) if library else NOT_INSTALLED
    contest(
        "Other attacks",
        {"attack": name, "model": model_name, "steps": steps, "batch": len(images)},
        lambda: ours(images, labels),
        rivals=rivals,
        agreed=agreed,
        seconds=8.0,
    )
