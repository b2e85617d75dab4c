"""PGD against the same loop in plain PyTorch and in other libraries, and by switch: CIFAR ResNet-18.

Nearly all time is the model's forward and backward pass, so that the bound is what the private copy saves there: the
passes of batch norm (folded), the reordering of activations (channels_last) and, on the CPU, most multiplications of
3x3 convolutions (winograd). Operations are those of the model's direct convolutions and products, so that the share of
the roof may pass 100 %. The plain loop takes the gradient for the images alone, keeps no graph and waits for
nothing; it runs in both layouts. Ours is made once, and keeps its private copy of the model from call to call. Without
a random start exact mode must give its images, and the switches its gain of loss. Libraries are measured where they
are installed (``make test-peer`` does that).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurosens_fast.attacks import PGD
from neurosens_fast.benchmarking.contest import NOT_INSTALLED, NOT_RUN, Contest, Side
from neurosens_fast.benchmarking.roof import Work

from ..networks import channels_last, compiled_for_images, flops, full_float32, has_bfloat16, subject
from .checks import as_strong, same_images, same_share
from .plain import (
    ALPHA,
    EPS,
    AttackFunction,
    dropping_pgd,
    of_foolbox,
    of_torchattacks,
    plain_pgd,
    robust_accuracy,
)

BATCH = {"cpu": 64, "cuda": 256}
SWITCH_BATCH = {"cpu": 8, "cuda": 128}
OFF: dict[str, Any] = {"fold": False, "channels_last": False, "winograd": False, "graph": False}
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "exact": {"exact": True},
    "fold alone": {**OFF, "fold": True},
    "channels_last alone": {**OFF, "channels_last": True},
    "winograd and channels_last": {**OFF, "channels_last": True, "winograd": True},
    "graph and channels_last": {"fold": False},
    "bfloat16": {"dtype": torch.bfloat16},
    "compaction": {"compaction": True},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def bench_pgd(precision: str, device: str, contest: Contest, compiling: bool) -> None:
    """All others in float32; in bfloat16 ours alone, against the two that users come from."""
    lowered = precision == "bfloat16"
    if lowered and not has_bfloat16(device):
        pytest.skip("no instructions for bfloat16 here")
    name, model, images, labels = subject(device, BATCH[device], contest.quick)
    steps = 2 if contest.quick else 10
    other, other_images = channels_last(model, images)
    few: dict[str, Any] = {"steps": min(steps, 3), "random_start": False}
    with full_float32():
        wanted = plain_pgd(model, **few)(images, labels)
        agreed = same_images(PGD(model, EPS, ALPHA, exact=True, **few)(images, labels), wanted)
    dtype = torch.bfloat16 if lowered else None
    fast = PGD(model, EPS, ALPHA, dtype=dtype, **few)(images, labels)
    agreed += ", " + as_strong(model, images, labels, fast, wanted, 0.1 if lowered else 0.02)
    options: dict[str, Any] = {"steps": steps, "random_start": True}

    def side(attack: AttackFunction | None) -> Side | str:
        return (lambda: attack(images, labels)) if attack else NOT_INSTALLED

    last = plain_pgd(other, steps=steps)
    fused = compiled_for_images(model, run=compiling and not lowered)
    ours = PGD(model, EPS, ALPHA, steps, seed=0, dtype=dtype)
    beside: dict[str, Side | str] = {
        "plain PyTorch, channels_last": lambda: last(other_images, labels),
        "torch.compile": side(plain_pgd(fused, steps=steps)) if fused is not None else NOT_RUN,
        "foolbox": side(of_foolbox("LinfPGD", model, EPS, abs_stepsize=ALPHA, **options)),
    }
    contest(
        "PGD",
        {"model": name, "precision": precision, "steps": steps, "batch": len(images)},
        lambda: ours(images, labels),
        rivals={
            "plain PyTorch": side(plain_pgd(model, steps=steps)),
            "torchattacks": side(of_torchattacks("PGD", model, eps=EPS, alpha=ALPHA, **options)),
            **({} if lowered else beside),
        },
        agreed=agreed,
        work=Work(flops=2 * steps * flops(lambda: model(images))),
        memory=("ours", "plain PyTorch", "plain PyTorch, channels_last"),
        seconds=20.0,
    )


@pytest.mark.parametrize("switch", SWITCHES)
def bench_switches(switch: str, device: str, contest: Contest) -> None:
    """One switch at a time; compaction, which may return weaker images that fool, by how many stand."""
    if switch == "bfloat16" and not has_bfloat16(device):
        pytest.skip("no instructions for bfloat16 here")
    if switch.startswith("graph") and device == "cpu":
        pytest.skip("there are no graphs on the CPU")
    if switch.startswith("winograd") and device != "cpu":
        pytest.skip("only on the CPU")
    name, model, images, labels = subject(device, SWITCH_BATCH[device], contest.quick)
    steps, count = 3, len(images)
    switches = SWITCHES[switch]
    drops = switch == "compaction"
    reference = dropping_pgd if drops else plain_pgd
    check = PGD(model, EPS, ALPHA, steps, random_start=False, **switches)
    plain = reference(model, steps=steps, random_start=False)
    with full_float32():
        found, wanted = check(images, labels), plain(images, labels)
    if drops:
        shares = [robust_accuracy(model, attack, images, labels, count) for attack in (check, plain)]
        agreed = "standing: " + same_share(shares[0], shares[1], count, rounding=True)
    elif switch == "exact":
        agreed = same_images(found, wanted)
    else:
        within = 0.1 if switch == "bfloat16" else 0.02
        agreed = as_strong(model, images, labels, found, wanted, within)
    ours, theirs = PGD(model, EPS, ALPHA, steps, seed=0, **switches), plain_pgd(model, steps=steps)
    dropping = dropping_pgd(model, steps=steps)
    contest(
        "PGD by switch",
        {"model": name, "switch": switch, "steps": steps, "batch": count},
        lambda: ours(images, labels),
        rivals={
            "plain PyTorch": lambda: theirs(images, labels),
            **({"plain PyTorch, dropping": lambda: dropping(images, labels)} if drops else {}),
        },
        agreed=agreed,
        seconds=8.0,
    )
