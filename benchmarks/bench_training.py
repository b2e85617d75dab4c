"""An epoch of SNS training against the same algorithm in plain PyTorch, and against the same pairs without the term.

The plain loop keeps activations by hooks and attacks as torchattacks does: through the model as it is, in evaluation
mode, with gradients for its parameters too. Ours is a step of ``fit``: one-read statistics, the attack on a folded
copy, channels_last. An epoch is a few batches, without validation.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.data import digits
from neurosens_fast.models import load_model
from neurosens_fast.training import METHODS, DeviceLoader, Settings, fit
from neurosens_fast.training.step import Step

from .bench_attacks import has_bfloat16, plain_pgd
from .bench_sns_step import stored_term
from .interleaved import ratio, run_interleaved

EPS, STEPS = 8 / 255, 10
CASES = {"cifar-resnet18": ((3, 32, 32), 64, 1), "mnist-cnn": ((1, 28, 28), 128, 8)}
"""Model -> shape of an image, batch size, batches of an epoch."""


def plain_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any, eps: float = EPS, steps: int = STEPS
) -> float:
    """The mean loss of one epoch in plain PyTorch."""
    losses = []
    attack, term_of = plain_pgd(model, eps, 2.5 * eps / steps, steps), stored_term(model)
    for x, y in batches:
        x_adv = attack(x, y)
        model.train()
        logits, term = term_of(partial(model, torch.cat([x, x_adv])))
        loss = F.cross_entropy(logits[len(x) :], y) + term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def our_epoch(name: str, device: str, batches: list[tuple[Tensor, Tensor]], **changes: Any) -> Callable[[], None]:
    """One epoch of ``fit``'s steps."""
    method = changes.pop("method", "sns")
    model = load_model(name).to(device).train()
    settings = Settings(eps=EPS, steps=STEPS, channels_last=True, schedule="constant", lr=0.01, **changes)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = Step(model, METHODS[method], settings, torch.device(device))

    def epoch() -> None:
        for number, (x, y) in enumerate(batches):
            step(x, y, torch.arange(len(x)), 0.5, f"batch {number}")

    return epoch


@pytest.mark.parametrize("name", CASES)
def bench_epoch(name: str, device: str, benchmark: Any, table: Any) -> None:
    shape, size, count = CASES[name]
    batches = [
        (torch.rand(size, *shape, device=device), torch.randint(10, (size,), device=device)) for _ in range(count)
    ]
    model = load_model(name).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
    ours = our_epoch(name, device, batches)
    others: dict[str, Callable[[], Any]] = {
        "plain PyTorch": lambda: plain_epoch(model, optimizer, batches),
        "pairs, no term": our_epoch(name, device, batches, method="alp", weight=0.0),
    }
    if has_bfloat16(device):
        others["bf16"] = our_epoch(name, device, batches, amp="bf16")
    times = run_interleaved(benchmark, ours, others, device, seconds=100.0)
    title = f"SNS epochs, PGD-{STEPS}: {name}, {count} batches of {size}, {len(times['ours'])} rounds"
    for variant in ("ours", "bf16"):
        if variant in times:
            table(
                title,
                {
                    "ours": "float32" if variant == "ours" else variant,
                    "device": device,
                    "s": f"{statistics.median(times[variant]):.2f}",
                    "times faster than plain PyTorch": str(ratio(times["plain PyTorch"], times[variant])),
                    "time / the same pairs without the term": (
                        str(ratio(times["ours"], times["pairs, no term"])) if variant == "ours" else ""
                    ),
                },
            )


def bench_same_curve(device: str, benchmark: Any, table: Any) -> None:
    """Loss by epoch on the digits, ours beside the plain loop on the same batches; no timing."""
    split, epochs = digits(), 4
    images, labels = split.train_images.to(device), split.train_labels.to(device)
    model = load_model("digits-cnn").to(device)
    settings: dict[str, Any] = {"batch_size": 64, "lr": 0.02, "schedule": "constant", "collapse": "ignore"}
    val = split.test_images[:50].to(device), split.test_labels[:50].to(device)
    result = benchmark.pedantic(
        lambda: fit(model, (images, labels), val, "sns", epochs, eps=0.1, steps=5, progress=False, **settings), rounds=1
    )
    plain = load_model("digits-cnn").to(device).train()
    optimizer = torch.optim.SGD(plain.parameters(), 0.02, 0.9, weight_decay=5e-4, nesterov=True)
    loader = DeviceLoader(images, labels, 64)
    for row in result.history:
        loss = plain_epoch(plain, optimizer, [batch[:2] for batch in loader.batches(row.epoch)], 0.1, 5)
        table(
            "Loss of SNS training on the digits",
            {"epoch": str(row.epoch), "device": device, "ours": f"{row.loss:.4f}", "plain PyTorch": f"{loss:.4f}"},
        )
        assert abs(row.loss - loss) < 0.1 * loss, "another curve"
