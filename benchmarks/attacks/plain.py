"""The rivals: attacks in plain PyTorch and of other libraries."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS, ALPHA = 8 / 255, 2 / 255
AttackFunction = Callable[[Tensor, Tensor], Tensor]


def _start(images: Tensor, eps: float, random_start: bool) -> Tensor:
    if not random_start:
        return images.clone()
    return (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)


def plain_pgd(
    model: nn.Module, eps: float = EPS, alpha: float = ALPHA, steps: int = 10, random_start: bool = True
) -> AttackFunction:
    """PGD as a good PyTorch user writes it; of one step of ``eps`` from the image itself it is FGSM."""

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        adversarial = _start(images, eps, random_start)
        for _ in range(steps):
            adversarial.requires_grad_(True)
            loss = F.cross_entropy(model(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = adversarial.detach() + alpha * gradient.sign()
            adversarial = (images + (adversarial - images).clamp(-eps, eps)).clamp(0, 1)
        return adversarial

    return attack


def dropping_pgd(
    model: nn.Module, eps: float = EPS, alpha: float = ALPHA, steps: int = 10, random_start: bool = True
) -> AttackFunction:
    """The same for robust accuracy alone: images that fell, as the logits of the next step show, are left at that."""

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        result = _start(images, eps, random_start)
        rows = torch.arange(len(images), device=images.device)
        for _ in range(steps):
            adversarial = result[rows].requires_grad_(True)
            logits = model(adversarial)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels[rows]), adversarial)
            standing = logits.argmax(1) == labels[rows]
            rows = rows[standing]
            if not len(rows):
                break
            moved, origin = adversarial.detach()[standing] + alpha * gradient[standing].sign(), images[rows]
            result[rows] = (origin + (moved - origin).clamp(-eps, eps)).clamp(0, 1)
        return result

    return attack


def plain_mifgsm(
    model: nn.Module, eps: float = EPS, alpha: float = ALPHA, steps: int = 10, decay: float = 1.0
) -> AttackFunction:
    """MI-FGSM likewise."""

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        adversarial, momentum = images.clone(), torch.zeros_like(images)
        for _ in range(steps):
            adversarial.requires_grad_(True)
            loss = F.cross_entropy(model(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            momentum = gradient / gradient.abs().mean((1, 2, 3), keepdim=True) + momentum * decay
            adversarial = adversarial.detach() + alpha * momentum.sign()
            adversarial = (images + (adversarial - images).clamp(-eps, eps)).clamp(0, 1)
        return adversarial

    return attack


def robust_accuracy(model: nn.Module, attack: AttackFunction, images: Tensor, labels: Tensor, size: int) -> float:
    """The share that ``model`` gets right before and after ``attack``, in batches of ``size``.

    Images that it gets wrong as they are need no attack, and get none.
    """
    standing = torch.zeros((), dtype=torch.int64, device=images.device)
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        with torch.no_grad():
            right = model(x).argmax(1) == y
        x, y = x[right], y[right]
        if len(x):
            adversarial = attack(x, y)
            with torch.no_grad():
                standing += (model(adversarial).argmax(1) == y).sum()
    return int(standing) / len(images)


def of_torchattacks(name: str, model: nn.Module, **options: Any) -> AttackFunction | None:
    """``torchattacks.NAME`` of ``model``, None where the library is not installed."""
    if not importlib.util.find_spec("torchattacks"):
        return None
    attack: AttackFunction = getattr(importlib.import_module("torchattacks"), name)(model, **options)
    return attack


def of_foolbox(name: str, model: nn.Module, eps: float, **options: Any) -> AttackFunction | None:
    """``foolbox.attacks.NAME`` on ``model``, likewise."""
    if not importlib.util.find_spec("foolbox"):
        return None
    library: Any = importlib.import_module("foolbox")
    attack = getattr(library.attacks, name)(**options)
    device = next(model.parameters()).device
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device=device)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        _, clipped, _ = attack(wrapped, images, labels, epsilons=eps)
        result: Tensor = clipped
        return result

    return run
