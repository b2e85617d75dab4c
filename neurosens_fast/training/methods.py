"""The methods of training by name: which attack each runs, which samples it looks at, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FFGSM, PGD, Attack
from neurosens_fast.support.messages import did_you_mean

from .losses import alp_loss, mart_loss, pgd_at_loss, sns_objective, trades_loss, vulnerability_suppression_loss
from .settings import Settings


@dataclass(frozen=True)
class Outputs:
    """What the model said of one batch: logits ``[N, classes]`` of both halves, labels, and the term of SNS."""

    benign: Tensor | None
    adversarial: Tensor | None
    labels: Tensor
    term: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """One method of training.

    ``attack`` is the loss that its inner attack maximises, ``"fast"`` for a single step from a random start, None
    without an attack. ``pairs``: the benign samples go through the model too. ``share`` is the k of the term over
    neurons, None for that of the settings; ``term`` says whether there is one.
    """

    title: str
    source: str
    attack: str | None
    pairs: bool
    loss: Callable[[Outputs, Settings], Tensor]
    term: bool = False
    share: float | None = None

    def inner_attack(self, model: nn.Module, settings: Settings) -> Attack | None:
        """The attack of the loop, on ``model``."""
        if self.attack is None:
            return None
        options: dict[str, Any] = {"seed": settings.seed}
        if settings.amp == "bf16":
            options["dtype"] = torch.bfloat16
        if self.attack == "fast":
            alpha = 1.25 * settings.eps if settings.alpha is None else settings.alpha
            return FFGSM(model, settings.eps, alpha, **options)
        alpha = 2.5 * settings.eps / max(1, settings.steps) if settings.alpha is None else settings.alpha
        options |= {"norm": settings.norm, "loss": self.attack}
        return PGD(model, settings.eps, alpha, settings.steps, **options)

    def check(self, name: str, settings: Settings, attack: object) -> None:
        """``ValueError`` for settings that mean something else than the method can do."""
        if self.attack is None and attack is not None:
            raise ValueError(f"method {name!r} attacks nothing; leave attack out, or choose 'pgd-at'")
        if self.attack == "fast" and settings.norm != "linf":
            raise ValueError(f"method {name!r} takes steps in the Linf ball only, got norm={settings.norm!r}")

    @property
    def passes(self) -> int:
        """Forward and backward passes of one sample in an update, without the attack."""
        return 2 if self.pairs else 1

    def gradient_evaluations(self, attack: Any) -> int:
        """Forward and backward passes of one sample in one step, the attack's and the update's."""
        steps = 0 if attack is None else int(getattr(attack, "steps", 0))
        return steps + self.passes


def _needed(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _standard(outputs: Outputs, settings: Settings) -> Tensor:
    return pgd_at_loss(_needed(outputs.benign), outputs.labels, settings.label_smoothing)


def _pgd_at(outputs: Outputs, settings: Settings) -> Tensor:
    return pgd_at_loss(_needed(outputs.adversarial), outputs.labels, settings.label_smoothing)


def _trades(outputs: Outputs, settings: Settings) -> Tensor:
    return trades_loss(*_both(outputs), _or(settings.beta, 6.0), settings.label_smoothing)


def _mart(outputs: Outputs, settings: Settings) -> Tensor:
    return mart_loss(*_both(outputs), _or(settings.beta, 5.0), settings.label_smoothing)


def _alp(outputs: Outputs, settings: Settings) -> Tensor:
    return alp_loss(*_both(outputs), _or(settings.weight, 0.5), settings.label_smoothing)


def _vulnerability(outputs: Outputs, settings: Settings) -> Tensor:
    return vulnerability_suppression_loss(*_with_term(outputs, settings))


def _sns(outputs: Outputs, settings: Settings) -> Tensor:
    return sns_objective(*_with_term(outputs, settings))


def _both(outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    return _needed(outputs.benign), _needed(outputs.adversarial), outputs.labels


def _with_term(outputs: Outputs, settings: Settings) -> tuple[Any, ...]:
    adversarial, term = _needed(outputs.adversarial), _needed(outputs.term)
    weight = _or(settings.weight, 1.0)
    return adversarial, outputs.labels, term, weight, outputs.benign, settings.classify, settings.label_smoothing


METHODS = {
    "standard": Method("standard training", "no attack", None, False, _standard),
    "fast": Method("FGSM-RS", "Wong et al., ICLR 2020", "fast", False, _pgd_at),
    "pgd-at": Method("PGD adversarial training", "Madry et al., ICLR 2018", "ce", False, _pgd_at),
    "trades": Method("TRADES", "Zhang et al., ICML 2019", "kl", True, _trades),
    "mart": Method("MART", "Wang et al., ICLR 2020", "ce", True, _mart),
    "alp": Method("adversarial logit pairing", "Kannan et al., 2018", "ce", True, _alp),
    "vulnerability": Method(
        "vulnerability suppression", "Madaan et al., ICML 2020", "ce", True, _vulnerability, True, 1.0
    ),
    "sns": Method("sensitive neuron stabilising", "Zhang et al., IEEE TIP 2021", "ce", True, _sns, True),
}
"""Name -> method."""


def method_named(name: str) -> Method:
    """One of :data:`METHODS`; ``ValueError`` with close names for any other name."""
    if name not in METHODS:
        raise ValueError(
            f"unknown method {name!r}; choose one of {', '.join(METHODS)}{did_you_mean(str(name), METHODS)}"
        )
    return METHODS[name]
