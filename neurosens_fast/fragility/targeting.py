"""Adversarial targeting: which neurons an attack hits most, and whether these are the fragile ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast import ops
from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport
from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_callable
from neurosens_fast.audit.loop import go_over
from neurosens_fast.audit.masking.hooks import split_row
from neurosens_fast.audit.per_sample import ClassTotals
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import AttackCallable, Setting, check_counts
from neurosens_fast.capture import (
    Inputs,
    OutputHooks,
    Selection,
    check_output,
    leaves,
    logits_of,
    mapped,
    pair_inputs,
    plain_forward,
)
from neurosens_fast.columns import ROW_STATISTICS

from .correlations import Partner, audit_row, check_partners, correlations_of, partners_of
from .levels import EPS, MakeAttack, attacks_of, checked_eps, described_run
from .place import Place, find_place
from .report import FragilityReport
from .targeting_report import TargetingReport

_PROBED = 4  # samples of the forward that finds the layer
_SQUARES = [ROW_STATISTICS.index(name) for name in ("change_sq", "benign_sq")]


def target(
    model: nn.Module,
    data: Data,
    attack: MakeAttack = FGSM,
    layer: str | None = None,
    eps: float | Iterable[float] = EPS,
    *,
    report: FragilityReport | None = None,
    audit: AuditReport | None = None,
    top: int = 1,
    where: str = "after_norm",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
) -> TargetingReport:
    """How often each neuron of ``layer`` is among the ``top`` most hit of a sample, as a :class:`TargetingReport`.

    A neuron is hit by its relative change ``t = ||z' - z||_2 / ||z||_2`` over all positions, of benign ``z`` and
    adversarial ``z'``, which go through the model in one forward: 0 where ``z' = z``, infinite where only ``z`` is
    zero. The most hit neurons of a sample are the ``top`` ones with the largest ``t`` above 0; ties, also of infinite
    ones, go to the lowest index. A sample without any change hits none and is counted apart; so is one that the attack
    leaves as it is, whatever rounding does to it at another place of the batch. Behind a ReLU ``t`` is often infinite,
    since neurons that were off are switched on, which ``infinite`` of the report counts.

    ``layer`` is a dotted name (``relu#2``: its second call in a forward), by default the first convolution that runs.
    ``where`` says whether neurons are read at its output (``"before_norm"``) or behind the norm that reads it
    (``"after_norm"``, the layer's own output where there is none). ``attack`` makes an attack on a model for a
    strength, called as ``attack(model, eps=eps)``: an attack class such as ``FGSM`` or a ``functools.partial`` of one.

    With ``report``, a nodal dropout of the same layer, the histogram is correlated with each of its scores at every
    strength that both have, over the neurons that were dropped; with ``audit``, with each of its metrics of that place
    (the layer's own if the audit did not measure the norm) at every strength. Spearman's rank correlation, with a
    percentile bootstrap interval of 95 % over neurons from ``seed``; resamples without a correlation, as where no
    neuron of theirs was hit, are left out. Neurons whose number is NaN or infinite do not enter. Many correlations
    are tested at once: ``p_value`` does not know of the others, ``p_value_holm`` is corrected for them. This needs
    scipy, which ``pip install 'neurosens-fast[fragility]'`` brings.

    ``data`` and the rest are as in :func:`~neurosens_fast.audit.audit`, and so is the model afterwards: as it was
    before, also when an exception passes through. Source: the adversarial targeting of Pravin et al., ICANN 2021; the
    definitions are our reconstruction, those of zeros, ties and intervals choices of this package.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: an unknown layer or place, a strength
    that is negative or given twice, ``top`` out of range, reports of another layer or number of neurons, activations
    that are not finite, no labels, data without a sample; ``ModuleNotFoundError`` without scipy.
    """
    levels = checked_eps(eps)
    check_partners(report, audit)
    setting = Setting(model, None, device, dtype)
    check_counts(batch_size=batch_size, max_samples=max_samples, top=top)
    attacks = attacks_of(setting.model, attack, levels, seed)

    def partners(place: Place) -> list[Partner]:
        return partners_of(place, levels, report, audit)

    run = _Run(setting, layer, where, levels, attacks, top, partners)
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="targeting",
        seed=seed,
    )
    found = run.place
    histogram = torch.stack(run.hits)
    named = attack_description or describe_callable(attack)
    return TargetingReport(
        layer=found.layer,
        zeroed=found.zeroed,
        module_type=found.module_type,
        channels=found.channels,
        eps=levels,
        top=top,
        histogram=histogram,
        by_class=torch.stack([totals.sums for totals in run.by_class]).long(),
        class_samples=run.by_class[0].samples.long(),
        unhit=run.unhit,
        mean_relative_change=run.change / (run.samples - run.infinite),
        infinite=run.infinite,
        correlations=correlations_of(histogram, levels, run.partners, seed),
        samples=run.samples,
        where=where,
        notes=_notes(found, report, audit),
        **described_run(setting, data, named, seed, model_description, data_description),
    )


def _notes(place: Place, report: FragilityReport | None, audit: AuditReport | None) -> tuple[str, ...]:
    notes = []
    if report is not None and report.zeroed != place.zeroed:
        notes.append(f"neurons were dropped at {report.zeroed} and are read at {place.zeroed}")
    if audit is not None and audit_row(place, audit) != place.zeroed:
        notes.append(f"metrics of the audit are those of {audit_row(place, audit)}, neurons are read at {place.zeroed}")
    return tuple(notes)


class _Run:
    """One experiment under way. What is counted is on the CPU, by eps."""

    place: Place
    partners: list[Partner]
    hits: list[Tensor]  # [C] int64 each
    by_class: list[ClassTotals]
    unhit: Tensor  # [E]
    change: Tensor  # [E, C] float64, the sum of the finite ones
    infinite: Tensor  # [E, C]

    def __init__(
        self,
        setting: Setting,
        layer: str | None,
        where: str,
        eps: tuple[float, ...],
        attacks: list[AttackCallable],
        top: int,
        partners: Callable[[Place], list[Partner]],
    ) -> None:
        self.setting, self.eps, self.attacks, self.top = setting, eps, attacks, top
        self.samples = 0
        self._asked = layer, where
        self._partners = partners
        self._pairs = 0
        self._rows: list[Tensor] = []  # [N, C, 2] of the forward that runs
        self._classes = 0

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Attack one batch with every strength."""
        if not self.samples:
            self._begin(inputs)
        known = labels.cpu()
        for number, attack in enumerate(self.attacks):
            adversarial = self.setting.attacked(attack, inputs, labels, first)
            self._count(number, self._relative_change(pair_inputs(inputs, adversarial), number), known)
        self.samples += len(labels)

    def _begin(self, inputs: Inputs) -> None:
        model, (layer, where) = self.setting.model, self._asked
        few = mapped(inputs, lambda leaf: leaf[:_PROBED])
        self.place = place = find_place(model, layer, where, few, self.setting.autocast)
        if self.top > place.channels:
            raise ValueError(f"top is {self.top}, and layer {place.layer!r} has {place.channels} neurons")
        self.partners = self._partners(place)
        modules = dict(model.named_modules())
        name, call = split_row(place.zeroed, modules)
        selection = Selection({name: modules[name]}, calls={name: {call}})
        self._hooks = OutputHooks(model, selection, self._read)
        levels = range(len(self.attacks))
        self.hits = [torch.zeros(place.channels, dtype=torch.int64) for _ in levels]
        self.by_class = [ClassTotals(0, place.channels) for _ in levels]
        self.unhit = torch.zeros(len(levels), dtype=torch.int64)
        self.change = torch.zeros(len(levels), place.channels, dtype=torch.float64)
        self.infinite = torch.zeros(len(levels), place.channels, dtype=torch.int64)

    def _relative_change(self, pair: Inputs, number: int) -> Tensor:
        """``t`` of every sample and neuron of a pair of 2N inputs, ``[N, C]`` float64."""
        halves = [leaf.reshape(2, len(leaf) // 2, -1) for leaf in leaves(pair)]
        same = torch.stack([(half[0] == half[1]).all(1) for half in halves]).all(0).cpu()
        self._pairs = len(same)
        self._rows.clear()
        with self._hooks:
            output = plain_forward(self.setting.model, pair, self.setting.autocast)
        logits = logits_of(output, 2 * self._pairs)
        self._classes = 0 if logits is None else logits.shape[1]
        if not self._rows:
            raise ValueError(f"layer {self.place.zeroed!r} did not run for a batch; choose one that always does")
        change, benign = self._rows.pop().cpu().double().unbind(-1)
        if not (change.isfinite() & benign.isfinite()).all():
            raise ValueError(
                f"layer {self.place.zeroed!r} puts out NaN or infinite values (or their squares overflow) at eps "
                f"{self.eps[number]:g}, so that no neuron can be called the most hit; compute in a wider dtype"
            )
        unchanged = (change == 0) | same[:, None]  # the place within a batch can change the last bits of a sample
        return torch.where(unchanged, 0.0, (change / benign).sqrt())

    def _read(self, row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        axis, channels, half = self.place.axis, self.place.channels, self._pairs
        check_output(row, output, axis, half)
        if output.shape[axis] != channels:
            raise ValueError(
                f"layer {row!r} has {output.shape[axis]} neurons on axis {axis}, in the first batch it had {channels}"
            )
        benign, adversarial = output.detach().split(half)
        self._rows.append(ops.pair_statistics(benign, adversarial, axis)[..., _SQUARES])

    def _count(self, number: int, change: Tensor, labels: Tensor) -> None:
        most = change.sort(dim=1, descending=True, stable=True).indices[:, : self.top]
        hit = torch.zeros_like(change, dtype=torch.bool).scatter_(1, most, True) & (change > 0)
        finite = change.isfinite()
        self.hits[number] += hit.sum(0)
        self.by_class[number].add(labels, hit.double(), max(self._classes, int(labels.max()) + 1))
        self.unhit[number] += (~hit.any(1)).sum()
        self.change[number] += torch.where(finite, change, 0.0).sum(0)
        self.infinite[number] += (~finite).sum(0)
