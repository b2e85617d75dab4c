"""Attacks against the same loop in plain PyTorch and in torchattacks: CIFAR ResNet-18, batch 64, PGD-10, by switch.

Nearly all time is the model's forward and backward pass, so that the bound is what the private copy saves there: the
passes of batch norm (folded) and the reordering of activations (channels_last). torchattacks is measured where it is
installed (``make test-peer`` does that). ``NEUROSENS_FAST_BENCH_BF16=1`` measures bfloat16 on a CPU without
instructions for it too, where it is slow.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import PGD
from neurosens_fast.models import CifarResNet18

from .interleaved import ratio, run_interleaved

EPS, ALPHA, STEPS, BATCH = 8 / 255, 2 / 255, 10, 64
OFF: dict[str, Any] = {"fold": False, "channels_last": False, "graph": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "exact": {"exact": True},
    "fold alone": {**OFF, "fold": True},
    "channels_last alone": {**OFF, "channels_last": True},
}


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices by instructions of its own."""
    if device == "cuda" or os.environ.get("NEUROSENS_FAST_BENCH_BF16") == "1":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def plain_pgd(
    model: nn.Module, eps: float = EPS, alpha: float = ALPHA, steps: int = STEPS
) -> Callable[[Tensor, Tensor], Tensor]:
    """PGD as a good PyTorch user writes it."""

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        adversarial = images + torch.empty_like(images).uniform_(-eps, eps)
        adversarial = adversarial.clamp(0, 1)
        for _ in range(steps):
            adversarial.requires_grad_(True)
            loss = nn.functional.cross_entropy(model(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = adversarial.detach() + alpha * gradient.sign()
            adversarial = (images + (adversarial - images).clamp(-eps, eps)).clamp(0, 1)
        return adversarial

    return attack


def subject(device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A ResNet-18 with statistics as of a net that has seen data, images, and the labels that it predicts."""
    model = CifarResNet18().to(device).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        images = torch.rand(BATCH, 3, 32, 32, device=device)
        return model, images, model(images).argmax(1)


def check_same_strength(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The switches change the rounding of gradients, not how strong the attack is."""
    losses = []
    for exact in (True, False):
        adversarial = PGD(model, EPS, ALPHA, 3, random_start=False, exact=exact)(images, labels)
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(model(adversarial), labels))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)


def bench_pgd(device: str, benchmark: Any, table: Any) -> None:
    model, images, labels = subject(device)
    check_same_strength(model, images, labels)
    peers: dict[str, Callable[[Tensor, Tensor], Any]] = {"plain PyTorch": plain_pgd(model)}
    if importlib.util.find_spec("torchattacks"):
        library: Any = importlib.import_module("torchattacks")
        peers["torchattacks"] = library.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=True)
    ours: dict[str, Callable[[Tensor, Tensor], Any]] = {"float32": PGD(model, EPS, ALPHA, STEPS, seed=0)}
    if has_bfloat16(device):
        ours["bfloat16"] = PGD(model, EPS, ALPHA, STEPS, seed=0, dtype=torch.bfloat16)
    ours["float32, compaction"] = PGD(model, EPS, ALPHA, STEPS, seed=0, compaction=True)
    first, *more = ours
    others = {name: (lambda attack=attack: attack(images, labels)) for name, attack in (*peers.items(), *ours.items())}
    others = {name: others[name] for name in (*peers, *more)}
    attack = ours[first]
    times = run_interleaved(benchmark, lambda: attack(images, labels), others, device, seconds=60.0)
    times[first] = times.pop("ours")
    for name in ours:
        row = {"ours": name, "device": device, "s": f"{statistics.median(times[name]):.3f}"}
        for peer in ("plain PyTorch", "torchattacks"):
            row[f"times faster than {peer}"] = (
                str(ratio(times[peer], times[name])) if peer in times else "not installed"
            )
        table(f"PGD-{STEPS}, CIFAR ResNet-18, batch {BATCH}, {len(times[name])} rounds", row)


def bench_switches(device: str, benchmark: Any, table: Any) -> None:
    """One switch at a time, PGD-3, against exact mode."""
    model, images, labels = subject(device)
    attacks = {name: PGD(model, EPS, ALPHA, 3, seed=0, **switches) for name, switches in VARIANTS.items()}
    if device == "cuda":
        attacks["graph alone (with the copy)"] = PGD(model, EPS, ALPHA, 3, seed=0, fold=False, channels_last=True)
    exact = attacks.pop("exact")
    others = {name: (lambda attack=attack: attack(images, labels)) for name, attack in attacks.items()}
    times = run_interleaved(benchmark, lambda: exact(images, labels), others, device, seconds=60.0)
    for name in attacks:
        row = {"switches": name, "device": device, "s": f"{statistics.median(times[name]):.3f}"}
        table(
            f"PGD-3 by switch, {len(times[name])} rounds",
            {**row, "times faster than exact": str(ratio(times["ours"], times[name]))},
        )


@pytest.mark.parametrize("name", ["exact", "fold and channels_last", "compaction"])
def bench_agreement(name: str, device: str, benchmark: Any, table: Any) -> None:
    """Robust accuracy of a trained network by switch, beside exact mode; no timing."""
    from neurosens_fast.data import digits
    from neurosens_fast.demo import train_digits

    split = digits()
    model = train_digits(split, epochs=6, seed=0).to(device)
    images, labels = split.test_images.to(device), split.test_labels.to(device)
    switches: dict[str, Any] = {"exact": {"exact": True}, "compaction": {"compaction": True}}.get(name, {})
    attack = PGD(model, 0.15, 0.0375, 10, seed=0, **switches)
    adversarial = benchmark.pedantic(lambda: attack(images, labels), rounds=1)
    with torch.no_grad():
        right = float((model(adversarial).argmax(1) == labels).float().mean())
    table(
        "Robust accuracy of the digits network, PGD-10, eps 0.15",
        {"switches": name, "device": device, "robust accuracy": f"{100 * right:.2f} %", "samples": str(len(labels))},
    )
