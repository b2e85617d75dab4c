"""The work of an audit on each batch, and what it adds up."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from neurosens_fast.capture import Inputs, TapRow, Taps, leaves, logits_of, mapped, paired_forward, verify_pairing
from neurosens_fast.statistics import PairStatistics, new_totals

from .descriptions import package_versions
from .report import AuditReport, LayerAudit
from .setting import AttackCallable, Setting


class PairedRun:
    """One audit under way. Counts of right predictions stay on the device until the end.

    ``largest`` is the number of pairs that went through the model at once after memory ran out; None where it did not.
    """

    def __init__(
        self, setting: Setting, attack: AttackCallable, taps: Taps, channel_dims: Mapping[str, int] | None, verify: bool
    ) -> None:
        self.setting, self.attack, self.taps = setting, attack, taps
        self.verify, self.channel_dims = verify, channel_dims
        self.functional: tuple[str, ...] = ()
        self.samples = self.labelled = 0
        self.largest: int | None = None
        self.notes: list[str] = []
        self.correct_benign: Tensor | int = 0
        self.correct_adversarial: Tensor | int = 0
        self._before: AuditReport | None = None

    def go_on_from(self, report: AuditReport) -> None:
        """Begin with what ``report`` has added up."""
        self._before = report
        self.samples, self.labelled = report.samples, report.labelled
        self.correct_benign, self.correct_adversarial = report.correct_benign, report.correct_adversarial
        self.functional = report.functional
        self.notes += report.notes
        self.taps.skipped.update(report.skipped)
        for name, row in report.layers.items():
            self.taps.rows[name] = TapRow(row.module_type, row.channel_dim, row.shape, row.statistics)

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Attack one batch and add it to the totals; in parts where the device has too little memory for all of it."""
        if self._before is not None:
            self._move_totals(leaves(inputs)[0].device)
        elif not self.samples and self.verify:
            self._verify(inputs)
        left: list[tuple[int, int, frozenset[str]]] = [(0, len(labels), frozenset())]
        while left:
            begin, end, done = left.pop()
            if self.largest is not None and end - begin > self.largest:
                middle = begin + self.largest
                left += [(middle, end, done), (begin, middle, done)]
                continue
            part = slice(begin, end)
            before = {name: row.statistics.samples for name, row in self.taps.rows.items()}
            self.taps.done = done
            try:
                self._add(mapped(inputs, itemgetter(part)), labels[part], first + begin)
            except torch.OutOfMemoryError:
                if end - begin == 1:
                    raise
                # Layers that were reached have these samples already.
                reached = [name for name, row in self.taps.rows.items() if row.statistics.samples > before.get(name, 0)]
                self._halve(end - begin)
                left.append((begin, end, done.union(reached)))

    def report(self, facts: Mapping[str, str], seed: int) -> AuditReport:
        """What was added up so far, copied to the CPU; ``facts`` hold the descriptions."""
        return AuditReport(
            layers={name: _on_cpu(row) for name, row in self.taps.rows.items()},
            samples=self.samples,
            labelled=self.labelled,
            correct_benign=int(self.correct_benign),
            correct_adversarial=int(self.correct_adversarial),
            model=facts["model"],
            attack=facts["attack"],
            data=(facts["data"],),
            layer_choice=facts["layer_choice"],
            device=str(self.setting.device or "as given"),
            dtype=facts["dtype"],
            seeds=(seed,),
            versions=package_versions(),
            not_run=tuple(self.taps.silent()),
            functional=self.functional,
            skipped=dict(self.taps.skipped),
            notes=tuple(self.notes),
        )

    def _halve(self, pairs: int) -> None:
        self.largest = (pairs + 1) // 2
        self.notes.append(
            f"memory ran out with {pairs} pairs at once; from there on batches went through in parts of {self.largest}"
        )
        if self.setting.on_cuda:
            torch.cuda.empty_cache()

    def _add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        pairs, begins = len(labels), not self.samples
        adversarial = self.setting.attacked(self.attack, inputs, labels, first)
        self.taps.pairs = pairs
        with self.taps:
            output = paired_forward(self.setting.model, inputs, adversarial, self.setting.autocast)
        if begins:
            self._check_reached()
        self.samples += pairs
        self._count(output, labels, pairs)

    def _verify(self, inputs: Inputs) -> None:
        found = verify_pairing(
            self.setting.model, self.taps.selection, inputs, self.channel_dims, self.setting.autocast
        )
        self.functional = tuple(str(activation) for activation in found.functional)
        for row, (layer, error) in found.problems.items():
            self.taps.skip(row, layer, error)

    def _check_reached(self) -> None:
        named = self.taps.selection.named
        missing = [name for name in self.taps.silent() if name in named or name.rpartition("#")[0] in named]
        if missing:
            raise ValueError(f"layer {missing[0]!r} did not run in the model's forward; leave it out of layers")
        if self.taps.rows:
            return
        if self.taps.skipped:
            raise ValueError(next(iter(self.taps.skipped.values())))
        raise ValueError("no layer that was chosen ran as a module in the model's forward; choose others in layers")

    def _count(self, output: Any, labels: Tensor, pairs: int) -> None:
        logits = logits_of(output, 2 * pairs)
        if logits is not None:
            right = logits.argmax(1) == torch.cat((labels, labels))
            self.labelled += pairs
            self.correct_benign = self.correct_benign + right[:pairs].sum()
            self.correct_adversarial = self.correct_adversarial + right[pairs:].sum()

    def _move_totals(self, device: torch.device) -> None:
        self._before = None
        for row in self.taps.rows.values():
            sums, maxima = new_totals(row.statistics.neurons, device)
            row.statistics.sums, row.statistics.maxima = (
                sums.copy_(row.statistics.sums),
                maxima.copy_(row.statistics.maxima),
            )


def _on_cpu(row: TapRow) -> LayerAudit:
    totals = PairStatistics(row.statistics.neurons)
    totals.merge(row.statistics)
    return LayerAudit(row.module_type, row.channel_dim, row.shape, totals)
