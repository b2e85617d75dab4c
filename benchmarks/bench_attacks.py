"""Attacks against the same loop in plain PyTorch and in torchattacks: CIFAR ResNet-18, batch 64, PGD-10, by switch.

Nearly all time is the model's forward and backward pass, so that the bound is what the private copy saves there: the
passes of batch norm (folded) and the reordering of activations (channels_last). torchattacks is measured where it is
installed (``make test-peer`` does that). ``NEUROSENS_FAST_BENCH_BF16=1`` measures bfloat16 on a CPU without
instructions for it too, where it is slow.
"""

from __future__ import annotations

import importlib.util
import os
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
    "ours": {},
    "exact": {"exact": True},
    "fold alone": {**OFF, "fold": True},
    "channels_last alone": {**OFF, "channels_last": True},
    "compaction": {"compaction": True},
}


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices by instructions of its own."""
    if device == "cuda" or os.environ.get("NEUROSENS_FAST_BENCH_BF16") == "1":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def plain_pgd(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """PGD as a good PyTorch user writes it."""

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        model.eval()
        adversarial = images + torch.empty_like(images).uniform_(-EPS, EPS)
        adversarial = adversarial.clamp(0, 1)
        for _ in range(STEPS):
            adversarial.requires_grad_(True)
            loss = nn.functional.cross_entropy(model(adversarial), labels)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            adversarial = adversarial.detach() + ALPHA * gradient.sign()
            adversarial = (images + (adversarial - images).clamp(-EPS, EPS)).clamp(0, 1)
        return adversarial

    return attack


def bench_pgd(device: str, benchmark: Any, table: Any) -> None:
    model = CifarResNet18().to(device).eval()
    with torch.no_grad():  # statistics of a net that has seen data, so that folding has something to do
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    images = torch.rand(BATCH, 3, 32, 32, device=device)
    labels = torch.randint(10, (BATCH,), device=device)
    variants = dict(VARIANTS)
    if has_bfloat16(device):
        variants["bfloat16"] = {"dtype": torch.bfloat16}
    if device == "cuda":
        variants["graph alone"] = {**OFF, "graph": True}
    attacks: dict[str, Callable[[Tensor, Tensor], Any]] = {
        name: PGD(model, EPS, ALPHA, STEPS, seed=0, **switches) for name, switches in variants.items()
    }
    attacks["plain PyTorch"] = plain_pgd(model)
    if importlib.util.find_spec("torchattacks"):
        import torchattacks

        attacks["torchattacks"] = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=True)
    exact = PGD(model, EPS, ALPHA, STEPS, random_start=False, exact=True)(images, labels)
    fast = PGD(model, EPS, ALPHA, STEPS, random_start=False)(images, labels)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(result), labels) for result in (exact, fast)]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)

    ours = attacks.pop("ours")
    others = {name: (lambda attack=attack: attack(images, labels)) for name, attack in attacks.items()}
    times = run_interleaved(benchmark, lambda: ours(images, labels), others, device, seconds=150.0)
    for name, taken in times.items():
        row = {"attack": f"{name}, {device}", "s": f"{sorted(taken)[len(taken) // 2]:.3f}"}
        for peer in ("plain PyTorch", "torchattacks"):
            row[f"times faster than {peer}"] = str(ratio(times[peer], taken)) if peer in times else "not installed"
        table(f"PGD-{STEPS}, CIFAR ResNet-18, batch {BATCH}, {len(taken)} rounds", row)


@pytest.mark.parametrize("name", ["exact", "fold and channels_last", "compaction"])
def bench_agreement(name: str, device: str, benchmark: Any, table: Any) -> None:
    """Robust accuracy of a trained network by switch, beside exact mode; no timing."""
    pytest.importorskip("sklearn")
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
