"""The masking experiment: every mask of a plan on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_callable, describe_data
from neurosens_fast.audit.loop import go_over
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.report import AuditReport
from neurosens_fast.audit.setting import AttackCallable, Setting, check_counts
from neurosens_fast.capture import Inputs, Layers, mapped, pair_inputs, plain_forward

from .curve import MaskingCurve, MaskingPoint
from .hooks import ADAPTIVE_MEND, Masks, choose_rows, eager, find_output_rows, needed_logits, right_answers
from .ranking import ORDERS, SCOPES, Plan, make_plan

PROTOCOLS = ("fixed", "adaptive")
"""Whether every mask meets the adversarial inputs of the unmasked model, or those of its own."""

_PROBED = 4


def masking_curve(
    model: nn.Module,
    report: AuditReport,
    data: Data,
    attack: AttackCallable,
    by: str = "sensitivity",
    *,
    layers: Layers | None = None,
    counts: Iterable[int | float] | None = None,
    orders: str | Sequence[str] = ORDERS,
    repeats: int = 3,
    scope: str = "layer",
    protocol: str = "fixed",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
    data_description: str | None = None,
    attack_description: str | None = None,
) -> MaskingCurve:
    """Clean and adversarial accuracy with the first k neurons of several orders set to zero, a :class:`MaskingCurve`.

    ``report`` is an audit of ``model``; its metric ``by`` ranks the neurons. Orders: ``"most"`` (largest metric
    first), ``"least"`` (smallest first), ``"random"`` (``repeats`` of them, from ``seed``); ties keep the order of
    execution. A masked neuron puts out 0 for every sample and position, at the place where the report measured it;
    a zero before batch norm is shifted by it, so ``layers="activations"`` is the usual choice.

    ``scope="layer"`` ranks within layers and interleaves them, so that the first k neurons of every order hold as many
    neurons of each layer: a metric such as ``sensitivity`` has the scale of its layer. ``scope="model"`` ranks all
    neurons together, as ``AuditReport.top`` does. ``counts`` are numbers of neurons (int) or shares of all of them
    (float, rounded up); default: 0, 1, 2, 5 %, ..., all.

    ``layers`` chooses among the report's layers, as in :func:`audit`; default: all of them. A layer whose neurons
    are the model's classes (the last linear one) is masked only where ``layers`` names it, since to mask it is to
    choose classes. Neurons whose metric is NaN cannot be ranked and are never masked. The result tells of both.

    ``protocol="fixed"`` attacks the unmasked model, once per batch, and shows every mask the same adversarial inputs;
    ``"adaptive"`` attacks each masked model anew, for which ``attack`` must hold ``model`` itself. ``data``,
    ``attack`` and the rest are as in :func:`audit`; so is the model afterwards: as it was before, also when an
    exception passes through.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: a report of another model, an unknown
    metric, order, scope or protocol, counts out of range, a model without logits ``[N, classes]``, no labels.
    """
    orders = [orders] if isinstance(orders, str) else list(dict.fromkeys(orders))
    setting = Setting(model, attack, device, dtype)
    _check(report, orders, scope, protocol)
    check_counts(batch_size=batch_size, max_samples=max_samples, repeats=repeats)
    rows = choose_rows(setting.model, report, layers)
    values = {row: column for row, column in report.metric(by).items() if row in rows}

    def plan(kept: list[str]) -> Plan:
        return make_plan({row: values[row] for row in kept}, orders, repeats, scope, counts, seed)

    run = _Run(setting, report, rows, attack, plan, protocol == "adaptive")
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="masking",
        seed=seed,
    )
    return MaskingCurve(
        run.points(),
        run.plan.layers,
        tuple(run.output_rows),
        run.plan.unranked,
        by=by,
        scope=scope,
        protocol=protocol,
        samples=run.samples,
        seed=seed,
        model=report.model,
        attack=attack_description or describe_callable(attack),
        data=data_description or describe_data(data),
    )


def _check(report: object, orders: list[str], scope: str, protocol: str) -> None:
    if not isinstance(report, AuditReport):
        raise TypeError(f"report must be the AuditReport that audit() returns, got {type(report).__name__}")
    if not orders:
        raise ValueError(f"orders is empty; choose among {', '.join(ORDERS)}")
    choices = [("scope", scope, SCOPES), ("protocol", protocol, PROTOCOLS)]
    for what, value, known in (*(("an order", order, ORDERS) for order in orders), *choices):
        if value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}")


class _Run:
    """One experiment under way. Counts of right predictions stay on the device until the end."""

    plan: Plan

    def __init__(
        self,
        setting: Setting,
        report: AuditReport,
        rows: Mapping[str, bool],
        attack: AttackCallable,
        make_plan: Callable[[list[str]], Plan],
        adaptive: bool,
    ) -> None:
        self.setting, self.report, self.rows, self.attack, self.adaptive = setting, report, rows, attack, adaptive
        self.output_rows: list[str] = []
        self.samples = 0
        self._make_plan = make_plan
        self._hooks = Masks(setting.model, {row: report.layers[row].channel_dim for row in rows})

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Try every mask of the plan on one batch."""
        self._first = first
        if not self.samples:
            self._begin(inputs, labels.device)
        self._measure(inputs, labels)
        self.samples += len(labels)

    def points(self) -> tuple[MaskingPoint, ...]:
        """The points of the curve so far."""
        correct = self._correct.tolist()
        total = sum(self.plan.layers.values())
        found = []
        for order, repeat, count, mask in self.plan.points:
            clean, adversarial = (right / self.samples for right in correct[mask])
            clean_error, adversarial_error = (
                math.sqrt(share * (1 - share) / self.samples) for share in (clean, adversarial)
            )
            numbers = clean, clean_error, adversarial, adversarial_error
            found.append(MaskingPoint(order, repeat, count, count / total, *numbers, self.samples))
        return tuple(found)

    def _begin(self, inputs: Inputs, device: torch.device) -> None:
        few = mapped(inputs, lambda leaf: leaf[:_PROBED])
        found = find_output_rows(self.setting.model, self.report, self.rows, few, self.setting.autocast)
        self.output_rows = [row for row in found if not self.rows[row]]
        kept = [row for row in self.rows if row not in self.output_rows]
        if not kept:
            raise ValueError(
                f"nothing to mask: the neurons of {self.output_rows[0]!r} are the model's classes; name it in layers "
                "to mask it all the same, or audit more layers"
            )
        self.plan = self._make_plan(kept)
        self.plan.masks = [{row: flags.to(device) for row, flags in mask.items()} for mask in self.plan.masks]
        self._correct = torch.zeros(len(self.plan.masks), 2, dtype=torch.int64, device=device)

    def _measure(self, inputs: Inputs, labels: Tensor) -> None:
        fixed = None if self.adaptive else pair_inputs(inputs, self._attacked(inputs, labels))
        twice = torch.cat((labels, labels))
        with self._hooks, eager() if self.adaptive else nullcontext():
            for mask, correct in zip(self.plan.masks, self._correct, strict=True):
                self._hooks.active = mask
                pair = pair_inputs(inputs, self._attacked(inputs, labels)) if fixed is None else fixed
                logits = needed_logits(plain_forward(self.setting.model, pair, self.setting.autocast), len(twice))
                correct += right_answers(logits, twice).view(2, -1).sum(1)

    def _attacked(self, inputs: Inputs, labels: Tensor) -> Inputs:
        applied = self._hooks.applied
        adversarial = self.setting.attacked(self.attack, inputs, labels, self._first)
        if self.adaptive and self._hooks.active and self._hooks.applied == applied:
            raise ValueError(f"the attack ran no masked layer, so it cannot adapt to the masks; {ADAPTIVE_MEND}")
        return adversarial
