"""The work of an audit on each batch, and what it adds up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from operator import itemgetter

import torch
from torch import Tensor, nn

from neurosens_fast.capture import (
    Inputs,
    PairRows,
    Selection,
    TapRow,
    Taps,
    leaves,
    logits_of,
    mapped,
    paired_forward,
    shared_mask,
    verify_pairing,
)
from neurosens_fast.folding import FusedTaps
from neurosens_fast.support.random_state import random_state

from .descriptions import package_versions
from .pair_data import split_pair
from .per_sample import ClassTotals, SampleMeans
from .report import AuditReport, LayerAudit, union
from .scores import ScoreWriter
from .setting import AttackCallable, Setting

Problems = dict[str, tuple[str, ValueError | TypeError]]
"""Row -> its layer and what is wrong with it."""


class AuditRun(ABC):
    """One audit under way. Counts of right predictions stay on the device until the end.

    ``rows`` holds the totals of the layers. ``by_class`` adds them up for each class too, ``scores`` takes those of
    single samples. ``whole`` is false while the totals hold a part of a batch. ``largest`` is the number of pairs that
    went through the model at once after memory ran out.
    """

    def __init__(self, setting: Setting, rows: PairRows, by_class: bool, scores: ScoreWriter | None) -> None:
        self.setting, self.rows, self.scores = setting, rows, scores
        self.classes: dict[str, ClassTotals] | None = {} if by_class else None
        rows.keeps_samples = by_class or scores is not None
        self.functional: tuple[str, ...] = ()
        self.samples = 0
        self.largest: int | None = None
        self.whole = True
        self.notes: list[str] = []
        self.counts: dict[str, Tensor | int] = {"labelled": 0, "correct_benign": 0, "correct_adversarial": 0}
        self.fused: tuple[str, ...] = ()
        self.not_fused = ""
        self._ready = False

    @abstractmethod
    def measure(self, inputs: Inputs, labels: Tensor, first: int) -> tuple[Tensor | None, Tensor | None]:
        """Add some pairs to the rows, and clear ``whole`` before that.

        Returns the logits ``[N, classes]`` of both sides, None where there are none.
        """

    @abstractmethod
    def begin(self, inputs: Inputs) -> None:
        """Look at the first batch of an audit before it is measured."""

    def prepare(self, inputs: Inputs) -> None:  # noqa: B027 - not every run has something to prepare
        """Get ready for batches like ``inputs``, the first ones in this process."""

    def close(self) -> None:  # noqa: B027
        """Let go of what :meth:`prepare` made."""

    def go_on_from(self, report: AuditReport) -> None:
        """Begin with what ``report`` has added up."""
        self.samples = report.samples
        self.counts = {name: getattr(report, name) for name in self.counts}
        self.functional = report.functional
        self.notes += report.notes
        self.fused, self.not_fused = report.fused, report.not_fused
        self.rows.skipped.update(report.skipped)
        for name, row in report.layers.items():
            self.rows.rows[name] = TapRow(row.module_type, row.channel_dim, row.shape, row.statistics)
            if self.classes is not None and row.by_class is not None:
                self.classes[name] = row.by_class

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Measure one batch; in parts where the device has too little memory for all of it."""
        begins = not self.samples
        if not self._ready:
            self._get_ready(inputs)
        means = SampleMeans(len(labels))
        predicted = torch.full((len(labels), 2), -1, dtype=torch.int64, device=labels.device)
        classes = 0
        left: list[tuple[int, int, frozenset[str]]] = [(0, len(labels), frozenset())]
        while left:
            begin, end, done = left.pop()
            if self.largest is not None and end - begin > self.largest:
                middle = begin + self.largest
                left += [(middle, end, done), (begin, middle, done)]
                continue
            part = slice(begin, end)
            before = {name: row.statistics.samples for name, row in self.rows.rows.items()}
            self.rows.done = done
            try:
                sides = self.measure(mapped(inputs, itemgetter(part)), labels[part], first + begin)
            except torch.OutOfMemoryError:
                if end - begin == 1 or self.rows.mask is not None:  # under a mask a layer may have some of its samples
                    raise
                # Layers that were reached have these samples already.
                reached = [name for name, row in self.rows.rows.items() if row.statistics.samples > before.get(name, 0)]
                means.take(part, self.rows.samples)
                self._halve(end - begin)
                left.append((begin, end, done.union(reached)))
                continue
            means.take(part, self.rows.samples)
            for side, logits in enumerate(sides):
                if logits is not None:
                    predicted[part, side] = logits.argmax(1)
                    classes = max(classes, logits.shape[1])
        if begins:
            self._check_reached()
        self.samples += len(labels)
        self._count(predicted, labels)
        self._count_samples(means, predicted, labels, classes, first)

    def report(self, facts: Mapping[str, str], seed: int) -> AuditReport:
        """What was added up so far, copied to the CPU; ``facts`` hold the descriptions."""
        return AuditReport(
            layers={name: self._on_cpu(name, row) for name, row in self.rows.rows.items()},
            samples=self.samples,
            labelled=int(self.counts["labelled"]),
            correct_benign=int(self.counts["correct_benign"]),
            correct_adversarial=int(self.counts["correct_adversarial"]),
            model=facts["model"],
            attack=facts["attack"],
            data=(facts["data"],),
            layer_choice=facts["layer_choice"],
            tokens=facts["tokens"],
            device=str(self.setting.device or "as given"),
            dtype=facts["dtype"],
            seeds=(seed,),
            versions=package_versions(),
            not_run=tuple(self.rows.silent()),
            functional=self.functional,
            skipped=dict(self.rows.skipped),
            fused=self.fused,
            not_fused=self.not_fused,
            notes=tuple(self.notes),
        )

    def _get_ready(self, inputs: Inputs) -> None:
        device = leaves(inputs)[0].device
        for row in self.rows.rows.values():  # of an audit that goes on
            row.statistics = row.statistics.copied_to(device)
        if self.classes is not None:
            self.classes = {name: totals.copied_to(device) for name, totals in self.classes.items()}
        with random_state(0):  # what is tried first must not take random numbers from the work on the batch
            if not self.samples:
                self.begin(inputs)
            self.prepare(inputs)
        self._ready = True

    def _check(
        self, model: nn.Module, selection: Selection, inputs: Inputs, axes: Mapping[str, int] | None
    ) -> Problems:
        """What is wrong with layers of ``model``; notes the functions that no tap can reach."""
        found = verify_pairing(model, selection, inputs, axes, self.setting.autocast)
        self.functional = union(self.functional, map(str, found.functional))
        return found.problems

    def _halve(self, pairs: int) -> None:
        self.largest = (pairs + 1) // 2
        self.notes.append(
            f"memory ran out with {pairs} pairs at once; from there on batches went through in parts of {self.largest}"
        )
        if self.setting.on_cuda:
            torch.cuda.empty_cache()

    def _check_reached(self) -> None:
        named = self.rows.selection.named
        missing = [name for name in self.rows.silent() if name in named or name.rpartition("#")[0] in named]
        if missing:
            raise ValueError(f"layer {missing[0]!r} did not run in the model's forward; leave it out of layers")
        if self.rows.rows:
            return
        if self.rows.skipped:
            raise ValueError(next(iter(self.rows.skipped.values())))
        raise ValueError("no layer that was chosen ran as a module in the model's forward; choose others in layers")

    def _count(self, predicted: Tensor, labels: Tensor) -> None:
        """Samples that have a label and a prediction on both sides, and those that are right."""
        known = (labels >= 0) & (predicted >= 0).all(1)
        right = (predicted == labels[:, None]) & known[:, None]
        for name, flags in (("labelled", known), ("correct_benign", right[:, 0]), ("correct_adversarial", right[:, 1])):
            self.counts[name] = self.counts[name] + flags.sum()

    def _count_samples(self, means: SampleMeans, predicted: Tensor, labels: Tensor, classes: int, first: int) -> None:
        if self.classes is not None:
            classes = classes or int(labels.max()) + 1
            for name, found in means.rows.items():
                if name not in self.classes:
                    self.classes[name] = ClassTotals(classes, found.shape[1], found.device)
                self.classes[name].add(labels.to(found.device), found[..., 0], classes)
        if self.scores is not None:
            numbers = torch.arange(first, first + len(labels), device=labels.device)
            facts = torch.stack((numbers, labels, *predicted.unbind(1)), 1)
            self.scores.add(facts, means.scores(self.rows.rows).to(facts.device), list(self.rows.rows))

    def _on_cpu(self, name: str, row: TapRow) -> LayerAudit:
        by_class = None if self.classes is None else self.classes.get(name)
        return LayerAudit(
            row.module_type,
            row.channel_dim,
            row.shape,
            row.statistics.copied_to("cpu"),
            None if by_class is None else by_class.copied_to("cpu"),
        )


class PairedRun(AuditRun):
    """Benign and adversarial inputs through one model; without an attack the inputs are pairs (``join_pair``)."""

    rows: Taps

    def __init__(
        self,
        setting: Setting,
        attack: AttackCallable | None,
        taps: Taps,
        channel_dims: Mapping[str, int] | None,
        verify: bool,
        fuse: bool = True,
        by_class: bool = False,
        scores: ScoreWriter | None = None,
    ) -> None:
        super().__init__(setting, taps, by_class, scores)
        self.fuse = fuse
        self._copy: FusedTaps | None = None
        self.attack, self.channel_dims, self.verify = attack, channel_dims, verify
        if attack is None:
            setting.model_inputs = lambda inputs: split_pair(inputs)[0]

    def begin(self, inputs: Inputs) -> None:
        """Compare the pair with two forwards apart, layer by layer, where that is wanted."""
        if not self.verify:
            return
        inputs = self.setting.model_inputs(inputs)
        problems = self._check(self.setting.model, self.rows.selection, inputs, self.channel_dims)
        for row, (layer, error) in problems.items():
            self.rows.skip(row, layer, error)

    def prepare(self, inputs: Inputs) -> None:
        """Make the private copy of the model on which pairs run, where that is wanted."""
        if self.not_fused:
            return  # as the audit that goes on did
        if self.fuse:
            self._copy = FusedTaps(self.rows, self.setting.model_inputs(inputs), self.setting.autocast)
            self.fused, self.not_fused = self._copy.fused, self._copy.reason
        else:
            self.not_fused = "not asked for"

    def close(self) -> None:
        """Free the copy."""
        if self._copy is not None:
            self._copy.close()

    def measure(self, inputs: Inputs, labels: Tensor, first: int) -> tuple[Tensor | None, Tensor | None]:
        """Attack the inputs and run both halves as one batch."""
        pairs = len(labels)
        if self.attack is None:
            inputs, adversarial = split_pair(inputs)
        else:
            adversarial = self.setting.attacked(self.attack, inputs, labels, first)
        self.rows.pairs, self.rows.mask = pairs, shared_mask(inputs, adversarial)
        self.whole = False
        if self._copy is None:
            with self.rows:
                output = paired_forward(self.setting.model, inputs, adversarial, self.setting.autocast)
        else:
            output = self._copy.forward(inputs, adversarial)
            self.fused, self.not_fused = self._copy.fused, self._copy.reason
        logits = logits_of(output, 2 * pairs)
        return (None, None) if logits is None else (logits[:pairs], logits[pairs:])
