"""Accuracy under attacks, sample by sample, as the untouched model judges."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import Attack, Worst, judged, run_attack
from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_callable, describe_data, describe_model
from neurosens_fast.audit.loop import go_over
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import Setting, check_counts
from neurosens_fast.capture import Inputs, hookable

from .checks import model_warnings, outcome_warnings
from .report import AttackOutcome, RobustnessReport

AttackCallable = Callable[..., Any]


class RobustnessWarning(UserWarning):
    """An evaluation that probably deceives."""


def robust_accuracy(
    model: nn.Module,
    data: Data,
    attacks: AttackCallable | Sequence[AttackCallable] | Mapping[str, AttackCallable],
    *,
    cascade: bool = False,
    device: torch.device | str | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
) -> RobustnessReport:
    """Accuracy of ``model`` on ``data`` as it is and under ``attacks``, as a :class:`RobustnessReport`.

    ``data`` is whatever :func:`~neurosens_fast.audit.audit` takes, with images ``[N, *S]`` and true labels ``[N]``.
    ``attacks`` are attacks of this package or any callables ``(x, y) -> x_adv``, with names or without. Each runs on
    every sample that the model gets right; with ``cascade`` only on those that all attacks before it left standing,
    which is faster. Whether a sample fell is judged by the untouched model in evaluation mode, whatever an attack's
    switches say. An attack's ``seed`` streams are keyed by the sample's place in ``data``.

    Warns with :class:`RobustnessWarning`, and in the report, of a random model, probabilities given as logits, zero
    gradients, and samples that only a black-box attack could fool. The model is left as it was.

    Raises ``ValueError`` or ``TypeError`` with one sentence: no attacks, targeted ones, attacks on another model, data
    without a sample, and what the attacks themselves refuse.
    """
    named = _named(attacks)
    setting = Setting(model, next(iter(named.values())), device, None)
    _check(named, model)
    check_counts(batch_size=batch_size, max_samples=max_samples)
    run = _Run(setting, named, cascade)
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="attack",
        seed=seed,
    )
    report = run.report(
        seed, model_description or describe_model(setting.model), data_description or describe_data(data)
    )
    for text in report.warnings:
        warnings.warn(text, RobustnessWarning, stacklevel=2)
    return report


class _Run:
    """One evaluation under way."""

    def __init__(self, setting: Setting, attacks: Mapping[str, AttackCallable], cascade: bool) -> None:
        self.setting, self.attacks, self.cascade = setting, attacks, cascade
        self.samples = 0
        self.warnings: list[str] = []
        self.right: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.fooled: dict[str, list[Tensor]] = {name: [] for name in attacks}
        self.norms: dict[str, list[Tensor]] = {name: [] for name in attacks}
        self.attacked = dict.fromkeys(attacks, 0)
        self.seconds = dict.fromkeys(attacks, 0.0)

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Attack one batch."""
        if not isinstance(inputs, Tensor):
            raise TypeError(f"robust_accuracy attacks images [N, ...] in one tensor, got a {type(inputs).__name__}")
        model, labels = self.setting.model, labels.long()
        right, _ = judged(model, inputs, labels)
        if not self.samples:
            self.warnings += model_warnings(model, inputs, labels)
        index = torch.arange(first, first + len(inputs))
        standing = right
        for name, attack in self.attacks.items():
            rows = (standing if self.cascade else right).nonzero()[:, 0]
            fooled = torch.zeros_like(right)
            if len(rows):
                begin = time.perf_counter()
                adversarial = run_attack(attack, inputs[rows].clone(), labels[rows].clone(), index[rows.cpu()])
                self.seconds[name] += time.perf_counter() - begin
                still, _ = judged(model, adversarial, labels[rows])
                fooled[rows] = ~still
                change = (adversarial.double() - inputs[rows].double())[~still].flatten(1)
                self.norms[name].append(torch.stack([change.norm(order, dim=1) for order in (math.inf, 2, 1)], 1).cpu())
            self.attacked[name] += len(rows)
            self.fooled[name].append(fooled.cpu())
            standing = standing & ~fooled
        self.right.append(right.cpu())
        self.labels.append(labels.cpu())
        self.samples += len(inputs)

    def report(self, seed: int, model: str, data: str) -> RobustnessReport:
        """Everything found."""
        right = torch.cat(self.right)
        fooled = {name: torch.cat(flags) for name, flags in self.fooled.items()}
        standing, outcomes = right, []
        for name, attack in self.attacks.items():
            left = (standing if self.cascade else right) & ~fooled[name]
            standing = standing & ~fooled[name]
            norms = torch.cat(self.norms[name]) if self.norms[name] else torch.empty(0, 3, dtype=torch.float64)
            linf, l2, l1 = norms.mean(0).tolist()
            outcomes.append(
                AttackOutcome(
                    *(name, describe_callable(attack), float(left.double().mean())),
                    *(self.attacked[name], int(fooled[name].sum()), linf, l2, l1),
                    *(not getattr(attack, "needs_gradient", True), not getattr(attack, "bounded", True)),
                    self.seconds[name],
                    attack.explain() if isinstance(attack, Attack) and self.attacked[name] else "",
                )
            )
        return RobustnessReport(
            samples=self.samples,
            clean_accuracy=float(right.double().mean()),
            worst_case_accuracy=float(standing.double().mean()),
            outcomes=outcomes,
            warnings=[*self.warnings, *outcome_warnings(outcomes, fooled, right, self.samples)],
            cascade=self.cascade,
            seed=seed,
            model=model,
            data=data,
            right=right,
            fooled=fooled,
            labels=torch.cat(self.labels),
        )


def _named(attacks: Any) -> dict[str, AttackCallable]:
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    else:
        listed = list(attacks) if isinstance(attacks, list | tuple) else [attacks]
        named = {}
        for attack in listed:
            name = base = str(getattr(attack, "attack", None) or getattr(attack, "__name__", type(attack).__name__))
            while name in named:
                name = f"{base}#{int(name.partition('#')[2] or 1) + 1}"
            named[name] = attack
    if not named:
        raise ValueError("robust_accuracy needs at least one attack")
    for name, attack in named.items():
        if not callable(attack):
            raise TypeError(f"attack {name!r} must be a callable (x, y) -> x_adv, got {type(attack).__name__}")
    return named


def _check(named: Mapping[str, AttackCallable], model: nn.Module) -> None:
    for name, attack in named.items():
        if not isinstance(attack, Attack | Worst):
            continue
        if hookable(attack.model) is not hookable(model):
            raise ValueError(f"attack {name!r} attacks another model than the one to evaluate; make it for that model")
        if isinstance(attack, Attack) and attack.targeted:
            raise ValueError(f"attack {name!r} is targeted; data has true labels, so give an untargeted one")
