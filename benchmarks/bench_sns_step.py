"""A training step with the SNS term against the same step without it, in time and in memory.

Every step attacks a batch (PGD-3), runs the model on benign and adversarial images together, takes the cross-entropy
of the adversarial half, and steps SGD. ``pair`` stops there; ``ours`` and ``taps`` add an SNSLoss over all ReLUs, by
hooks on the model as it is and with its ReLUs swapped for TappedReLU; ``stored`` does the same in pure PyTorch with
hooks that keep the activations. ``pgd_at`` leaves the benign half out: what the pair itself costs.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import PGD
from neurosens_fast.models import load_model
from neurosens_fast.nn import SNSLoss, tap

from .interleaved import ratio, run_interleaved
from .memory import peak_bytes

IMAGES = 64
SHARE = 0.1

Term = Callable[[Callable[[], Tensor]], tuple[Tensor, Tensor]]
"""Runs the paired forward that it is given; returns its logits and what is to be added to the loss."""


def stored_term(model: nn.Module) -> Term:
    """The SNS term in pure PyTorch: hooks keep what every ReLU puts out."""
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]

    def term(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        handles = [relu.register_forward_hook(lambda _m, _i, output: kept.append(output)) for relu in relus]
        try:
            logits = forward()
        finally:
            for handle in handles:
                handle.remove()
        losses = []
        for pair in kept:
            benign, adversarial = pair.chunk(2)
            k = -(-pair.shape[1] // 10)
            sensitivity = (adversarial - benign).abs().flatten(1).unflatten(1, (pair.shape[1], -1)).mean(2).mean(0)
            losses.append(sensitivity.topk(k).values.mean())
        return logits, torch.stack(losses).sum()

    return term


def sns_term(model: nn.Module) -> Term:
    """The same by this package."""
    sns = SNSLoss(model, layers="activations", k=SHARE)

    def term(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        with sns.pairs():
            logits = forward()
        return logits, sns.loss()

    return term


class Step:
    """One training step of its own copy of a model."""

    def __init__(self, model: nn.Module, term: Callable[[nn.Module], Term] | None, pair: bool = True) -> None:
        self.model = model
        self.term = term(model) if term else None
        self.pair = pair
        self.attack = PGD(model, eps=8 / 255, alpha=2 / 255, steps=3, seed=0)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def learn(self, images: Tensor, adversarial: Tensor, labels: Tensor) -> Tensor:
        """The step without its attack; returns the loss."""
        extra: Tensor | float = 0.0
        if not self.pair:
            logits = self.model(adversarial)
        elif self.term is None:
            logits = self.model(torch.cat((images, adversarial)))
        else:
            logits, extra = self.term(partial(self.model, torch.cat((images, adversarial))))
        loss = F.cross_entropy(logits[-len(labels) :], labels) + extra
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Attack and learn."""
        return self.learn(images, self.attack(images, labels), labels)


def check_terms(model: nn.Module, images: Tensor, adversarial: Tensor) -> None:
    """Stored, hooked and tapped, the term is one number."""
    terms = []
    for make in (stored_term, sns_term):
        own = copy.deepcopy(model)
        terms.append(make(own)(partial(own, torch.cat((images, adversarial))))[1])
    own = tap(copy.deepcopy(model))
    terms.append(sns_term(own)(partial(own, torch.cat((images, adversarial))))[1])
    for other in terms[1:]:
        torch.testing.assert_close(other, terms[0], rtol=1e-4, atol=1e-6)


def bench_sns_step(device: str, benchmark: Any, table: Any, tmp_path: Path) -> None:
    model = load_model("cifar-resnet18").to(device).train()
    images = torch.rand(IMAGES, 3, 32, 32, device=device)
    labels = torch.randint(10, (IMAGES,), device=device)
    adversarial = PGD(model, eps=8 / 255, alpha=2 / 255, steps=1, seed=0)(images, labels)
    check_terms(model, images, adversarial)

    steps = {
        "ours": Step(copy.deepcopy(model), sns_term),
        "taps": Step(tap(copy.deepcopy(model)), sns_term),
        "pair": Step(copy.deepcopy(model), None),
        "stored": Step(copy.deepcopy(model), stored_term),
        "pgd_at": Step(copy.deepcopy(model), None, pair=False),
    }
    runs = {name: partial(step, images, labels) for name, step in steps.items()}
    ours = runs.pop("ours")
    times = run_interleaved(benchmark, ours, runs, device, seconds=150.0)
    peaks = {
        name: peak_bytes(partial(step.learn, images, adversarial, labels), device, tmp_path)
        for name, step in steps.items()
    }
    over = {name: ratio(times[name], times["pair"]) for name in times}
    benchmark.extra_info.update(
        {f"{name}_over_pair": value.median for name, value in over.items()}
        | {f"{name}_peak_bytes": value for name, value in peaks.items()}
    )
    names = {
        "pair": "pair, no SNS term",
        "ours": "SNSLoss, hooks",
        "taps": "SNSLoss, TappedReLU",
        "stored": "pure PyTorch, stored activations",
        "pgd_at": "adversarial half only",
    }
    for name, text in names.items():
        table(
            f"Training step, CIFAR ResNet-18, {IMAGES} images, PGD-3, all ReLUs, k = 10 %, {device}",
            {
                "step": text,
                "ms": f"{statistics.median(times[name]) * 1e3:.0f}",
                "time / pair": str(over[name]),
                "peak MB (without the attack)": f"{peaks[name] / 1e6:.0f}",
                "memory / pair": f"{peaks[name] / peaks['pair']:.3f}",
            },
        )
