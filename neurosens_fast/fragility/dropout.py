"""Nodal dropout: accuracy with each neuron of a layer set to zero, clean and under attack."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit.batches import Data, sample_count
from neurosens_fast.audit.checkpoint import Checkpoint, check_checkpoint
from neurosens_fast.audit.descriptions import describe_callable
from neurosens_fast.audit.identity import structure_fingerprint, weights_fingerprint
from neurosens_fast.audit.loop import go_over, nothing
from neurosens_fast.audit.masking import PROTOCOLS
from neurosens_fast.audit.masking.hooks import ADAPTIVE_MEND, Masks, eager, right_answers
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import AttackCallable, Setting, check_counts
from neurosens_fast.audit.source import EVERYTHING
from neurosens_fast.capture import Inputs, leaves, mapped
from neurosens_fast.folding import TRIAL_SAMPLES, NotTraced

from .checkpoint import CountsState
from .counts import Counts
from .dropped import Dropped, PlainDropped, SplitDropped, right_without
from .levels import EPS, MakeAttack, attacks_of, checked_eps, described_run
from .place import Place, find_place
from .report import FragilityReport


def nodal_dropout(
    model: nn.Module,
    data: Data,
    layer: str | None = None,
    attack: MakeAttack = FGSM,
    eps: float | Iterable[float] = EPS,
    protocol: str = "fixed",
    where: str = "after_norm",
    *,
    neurons: Iterable[int] | None = None,
    plain: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 10.0,
    resume: bool = False,
) -> FragilityReport:
    """Accuracy with each neuron of ``layer`` set to zero, clean and at every ``eps``, as a :class:`FragilityReport`.

    ``layer`` is a dotted name (``relu#2``: its second call in a forward), by default the first convolution that runs.
    ``where`` says whether zeros stand at its output (``"before_norm"``) or behind the norm that reads it
    (``"after_norm"``, the layer's own output where there is none). ``neurons`` are the channels to drop, by default
    all. ``attack`` makes an attack on a model for a strength, called as ``attack(model, eps=eps)``: an attack class
    such as ``FGSM`` or a ``functools.partial`` of one. ``protocol="fixed"`` attacks the whole model once and shows
    every dropped one the same inputs; ``"adaptive"`` attacks each dropped model anew, one attack per neuron and eps.

    ``data`` and the rest are as in :func:`~neurosens_fast.audit.audit`, and so is the model afterwards. With
    ``checkpoint``, a folder, the report is written there as ``fragility.safetensors``, and a run that was ended goes on
    with ``resume``. Source: nodal dropout of Pravin et al., ICANN 2021; protocols, places, scores and classes are our
    reconstruction.

    The model is cut behind the neurons, where torch.fx can: what comes before is computed once for a batch, what comes
    after in passes that hold many neurons, on a private copy with folded batch norm; a sample of which a neuron is zero
    already is not run again. Predictions differ from those of the model itself by rounding only. ``plain`` runs the
    model as it is, whole, for each sample and neuron. The report's notes say which it was.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: an unknown layer, place or protocol,
    neurons out of range, a strength that is negative or given twice, a model without logits ``[N, classes]``, no
    labels, data without a sample. ``ReportError`` for a ``checkpoint`` folder that is not there or holds another run.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    levels = checked_eps(eps)
    setting = Setting(model, None, device, dtype)
    attacks = attacks_of(setting.model, attack, levels, seed)
    check_counts(batch_size=batch_size, max_samples=max_samples)
    check_checkpoint(checkpoint, checkpoint_seconds, resume)
    chosen = None if neurons is None else _whole_numbers(neurons)
    run = _Run(setting, layer, where, chosen, attacks, protocol == "adaptive", plain)
    named = attack_description or describe_callable(attack)
    described = described_run(setting, data, named, seed, model_description, data_description)
    store = None
    share = EVERYTHING
    if checkpoint is not None:
        identity = {name: described[name] for name in ("model", "attack", "data", "dtype")} | {
            "weights": weights_fingerprint(setting.model),
            "structure": structure_fingerprint(setting.model),
            **{"layer": layer, "where": where, "neurons": chosen, "eps": levels, "protocol": protocol, "plain": plain},
            **{"batch_size": batch_size, "max_samples": max_samples, "samples": sample_count(data, max_samples)},
            **{"seed": seed, "torch": torch.__version__},
        }
        store = Checkpoint(checkpoint, identity, share, CountsState(run), checkpoint_seconds)
        share = store.open(resume)
    with nullcontext() if store is None else store.kept_after_errors():
        go_over(
            data,
            run,
            setting,
            batch_size=batch_size,
            max_samples=max_samples,
            progress=progress,
            title="nodal dropout",
            seed=seed,
            share=share,
            before=nothing if store is None else store.check_data,
            after=nothing if store is None else store.passed,
        )
        place = run.place
        assert place is not None
        report = FragilityReport(
            layer=place.layer,
            zeroed=place.zeroed,
            module_type=place.module_type,
            channels=place.channels,
            neurons=tuple(run.facts["neurons"]),
            eps=levels,
            counts=run.counts,
            where=where,
            protocol=protocol,
            notes=run.notes(),
            **described,
        )
        if store is not None:
            store.complete(report)
    return report


class _Run:
    """One experiment under way. ``facts`` is what it found out on its first batch, and how it came along."""

    def __init__(
        self,
        setting: Setting,
        layer: str | None,
        where: str,
        neurons: list[int] | None,
        attacks: list[AttackCallable],
        adaptive: bool,
        plain: bool,
    ) -> None:
        self.setting, self.attacks, self.adaptive = setting, attacks, adaptive
        self._asked = layer, where, neurons
        self._plain = plain
        self._dropped: Dropped | None = None
        self.counts = Counts.zeros(0, 1 + len(attacks))
        self.facts: dict[str, Any] = {"place": None, "neurons": [], "how": "", "passes": 0, "skipped": 0}

    @property
    def samples(self) -> int:
        """Samples done."""
        return self.counts.samples

    @property
    def place(self) -> Place | None:
        """Where the neurons are, once a batch was seen."""
        return None if self.facts["place"] is None else Place(**self.facts["place"])

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Drop every neuron on one batch."""
        self._first = first
        dropped = self._dropped or self._begin(inputs, labels.device)
        before, after = [], []
        right, without = self._without(dropped, inputs, labels)
        before.append(right)
        after.append(without)
        for attack in self.attacks:
            adversarial = self._attacked(attack, inputs, labels)
            if self.adaptive:
                right = right_answers(dropped.load(adversarial), labels)
                without = self._adapted(dropped, attack, inputs, labels)
            else:
                right, without = self._without(dropped, adversarial, labels)
            before.append(right)
            after.append(without)
        self.counts.add(torch.stack(before), torch.stack(after, 1))

    def notes(self) -> tuple[str, ...]:
        """How it was computed."""
        how, passes, skipped = (self.facts[name] for name in ("how", "passes", "skipped"))
        if not skipped:
            return (how,)
        return how, f"{skipped / (passes + skipped):.0%} of the runs were spared: the neuron was zero already"

    def _begin(self, inputs: Inputs, device: torch.device) -> Dropped:
        model, autocast = self.setting.model, self.setting.autocast
        layer, where, neurons = self._asked
        few = mapped(inputs, lambda leaf: leaf[: TRIAL_SAMPLES + 1])
        place = find_place(model, layer, where, few, autocast)
        chosen = _checked_neurons(neurons, place)
        if not self.samples:
            self.facts |= {"place": asdict(place), "neurons": chosen}
            self.counts = Counts.zeros(len(chosen), 1 + len(self.attacks))
        self._neurons = torch.tensor(chosen, device=device)
        self._zeroed = place
        self._masks = Masks(model, {place.zeroed: place.axis})
        self._dropped, self.facts["how"] = self._made(place, few)
        return self._dropped

    def _made(self, place: Place, few: Inputs) -> tuple[Dropped, str]:
        model, autocast = self.setting.model, self.setting.autocast
        reason = "as was asked for"
        if not self._plain:
            try:
                split = SplitDropped(model, place, few, autocast)
            except NotTraced as error:
                reason = str(error)
            else:
                return split, f"what comes before {place.zeroed} was computed once; {split.split.folded} norms folded"
        return PlainDropped(model, place, autocast), f"the whole model ran for each neuron: {reason}"

    def _without(self, dropped: Dropped, inputs: Inputs, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Whether the samples are right with nothing dropped ``[N]``, and without each neuron ``[K, N]``."""
        right = right_answers(dropped.load(inputs), labels)
        without, passes = right_without(dropped, labels, right, self._neurons)
        self.facts["passes"] += passes
        self.facts["skipped"] += without.numel() - passes
        return right, without

    def _adapted(self, dropped: Dropped, attack: AttackCallable, inputs: Inputs, labels: Tensor) -> Tensor:
        """Whether the samples are right without each neuron, ``[K, N]``, under an attack on the model without it."""
        found = []
        for neuron in self._neurons:
            mask = torch.zeros(self._zeroed.channels, dtype=torch.bool, device=neuron.device)
            mask[neuron] = True
            self._masks.active = {self._zeroed.zeroed: mask}
            applied = self._masks.applied
            with self._masks, eager():
                adversarial = self._attacked(attack, inputs, labels)
            if self._masks.applied == applied and not _same(adversarial, inputs):
                raise ValueError(f"the attack did not run layer {self._zeroed.zeroed!r}; {ADAPTIVE_MEND}")
            right = right_answers(dropped.load(adversarial), labels)
            found.append(right_without(dropped, labels, right, neuron[None])[0][0])
        return torch.stack(found)

    def _attacked(self, attack: AttackCallable, inputs: Inputs, labels: Tensor) -> Inputs:
        return self.setting.attacked(attack, inputs, labels, self._first)


def _same(first: Inputs, second: Inputs) -> bool:
    return all(torch.equal(*pair) for pair in zip(leaves(first), leaves(second), strict=True))


def _whole_numbers(neurons: Iterable[int]) -> list[int]:
    """``neurons``, also those of numpy and torch; ``TypeError`` for other things."""
    try:
        found = list(neurons)
        if any(isinstance(neuron, bool) for neuron in found):
            raise TypeError("a bool")
        return [operator.index(neuron) for neuron in found]
    except TypeError as error:
        raise TypeError(f"neurons must be whole numbers, as in neurons=[0, 5], got {neurons!r:.80}") from error


def _checked_neurons(neurons: list[int] | None, place: Place) -> list[int]:
    if neurons is None:
        return list(range(place.channels))
    if not neurons or len(set(neurons)) < len(neurons):
        raise ValueError("neurons must name at least one channel, each once")
    for neuron in neurons:
        if not 0 <= neuron < place.channels:
            raise ValueError(f"neuron {neuron} is not among the {place.channels} channels of layer {place.layer!r}")
    return neurons
