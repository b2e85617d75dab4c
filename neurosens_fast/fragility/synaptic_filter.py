"""Synaptic filtering: accuracy with the small, the large, or one band of the weights set to zero."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_callable
from neurosens_fast.audit.loop import go_over
from neurosens_fast.audit.masking.hooks import needed_logits, right_answers
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import AttackCallable, Setting, check_counts
from neurosens_fast.capture import Inputs, Layers, plain_forward

from .filter_report import KINDS, FilterReport
from .levels import EPS, MakeAttack, attacks_of, checked_eps, described_run
from .weights import Band, WeightGroup, find_weights

FILTER_SCOPES: dict[str, str] = {
    "layer": "one layer at a time, sizes relative to the largest of the layer; one curve per layer",
    "global": "all layers together, sizes relative to the largest of them all; one curve",
}
"""What is filtered together."""

THRESHOLDS = 21
"""Thresholds by default: 0, 0.05, ..., 1 (a choice of this package)."""

WHOLE = "all layers"
"""The name of the one curve of scope ``global``."""


def synaptic_filter(
    model: nn.Module,
    data: Data,
    attack: MakeAttack = FGSM,
    eps: float | Iterable[float] = EPS,
    kind: str = "high",
    scope: str = "layer",
    *,
    layers: Layers | None = None,
    thresholds: int | Iterable[float] = THRESHOLDS,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
) -> FilterReport:
    """Accuracy over the threshold of a filter on the weights, clean and at every ``eps``, as a :class:`FilterReport`.

    The size of a weight is its absolute value as a share of the largest in the filter's scope: of the layer with
    ``scope="layer"``, which filters one layer at a time and gives a curve for each, or of all chosen layers with
    ``"global"``, which filters them together and gives one curve. What is removed is set to 0. With threshold t:

    - ``kind="high"`` passes large weights: it removes sizes up to and including t.
    - ``"low"`` passes small ones: it removes sizes above t. It keeps what ``"high"`` removes, and the other way round.
    - ``"pulse"`` removes one band between neighbouring thresholds, above the lower, up to and including the upper one.

    So equal sizes are always removed together; at 0, ``"high"`` removes nothing and ``"low"`` everything, and at 1 the
    other way round; the bands of thresholds from 0 to 1 hold each weight once. Weights that are 0 are not counted.
    ``thresholds`` are a number of them, evenly spaced from 0 to 1, or the thresholds in ascending order.

    ``layers`` chooses as in :func:`~neurosens_fast.audit.audit`, by default convolutions and linear layers. Of each,
    the parameter ``weight`` is filtered if it has two dimensions or more and is not that of a norm; biases, norms and
    parameters of other names (``in_proj_weight``) never are. A weight that layers share is filtered once, in all of
    them. Attacks are made as in :func:`nodal_dropout`, with the unfiltered model, once per batch and eps: every filter
    meets the same adversarial inputs.

    ``data`` and the rest are as in :func:`~neurosens_fast.audit.audit`, and so is the model afterwards: filters act on
    copies of the weights, in evaluation mode. Source: synaptic filters of Pravin et al., AIJ 327:104060, 2024; ties,
    ends, thresholds relative to the largest size, and not counting zeros are choices of this package.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: an unknown kind or scope, thresholds
    out of range or order, no weights to filter, a strength that is negative or given twice, a model without logits
    ``[N, classes]``, no labels, data without a sample.
    """
    for name, value, known in (("kind", kind, KINDS), ("scope", scope, FILTER_SCOPES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    levels = checked_eps(eps)
    bands = bands_of(kind, checked_thresholds(thresholds))
    check_counts(batch_size=batch_size, max_samples=max_samples)
    setting = Setting(model, None, device, dtype)
    setting.check_weights()  # before their sizes are read
    weights, notes = find_weights(setting.model, layers)
    if scope == "global":
        groups = [WeightGroup.of(WHOLE, weights.values())]
    else:
        groups = [WeightGroup.of(name, [weight]) for name, weight in weights.items()]
    run = _Run(setting, attacks_of(setting.model, attack, levels, seed), groups, bands)
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="synaptic filter",
        seed=seed,
    )
    named = attack_description or describe_callable(attack)
    return FilterReport(
        kind=kind,
        scope=scope,
        curves=tuple(group.name for group in groups),
        weights=tuple(group.count for group in groups),
        largest=tuple(group.largest for group in groups),
        layers=tuple(weights),
        bands=bands,
        eps=levels,
        removed=run.plan.removed,
        correct=run.correct[run.plan.place.to(run.correct.device)].cpu(),
        unfiltered=run.correct[0].cpu(),
        samples=run.samples,
        notes=notes,
        **described_run(setting, data, named, seed, model_description, data_description),
    )


def checked_thresholds(thresholds: int | Iterable[float]) -> tuple[float, ...]:
    """At least two thresholds in ascending order; ``ValueError`` or ``TypeError`` for others."""
    mend = "give a number of them of at least 2, or shares of the largest size in ascending order, as in [0, 0.1, 0.5]"
    if isinstance(thresholds, int):
        if isinstance(thresholds, bool) or thresholds < 2:
            raise ValueError(f"thresholds={thresholds} are too few; {mend}")
        return tuple(place / (thresholds - 1) for place in range(thresholds))
    try:
        values = tuple(float(value) for value in thresholds)
    except (TypeError, ValueError) as error:
        raise TypeError(f"thresholds must be numbers, got {thresholds!r:.80}; {mend}") from error
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"thresholds must lie between 0 and 1, got {value:g}; {mend}")
    if len(values) < 2 or any(low >= high for low, high in itertools.pairwise(values)):
        raise ValueError(f"thresholds are too few, repeated or out of order; {mend}")
    return values


def bands_of(kind: str, thresholds: Sequence[float]) -> tuple[Band, ...]:
    """The sizes that each point of a curve removes."""
    if kind == "pulse":
        return tuple(itertools.pairwise(thresholds))
    return tuple((0.0, value) if kind == "high" else (value, 1.0) for value in thresholds)


class _Plan:
    """Which forward belongs to which point: those that remove the same weights share one; number 0 removes nothing."""

    def __init__(self, groups: Sequence[WeightGroup], bands: Sequence[Band]) -> None:
        self.filters: list[tuple[WeightGroup, Band]] = []
        shape = len(groups), len(bands)
        self.removed = torch.zeros(shape, dtype=torch.int64)
        self.place = torch.zeros(shape, dtype=torch.int64)
        for row, group in enumerate(groups):
            up_to = {share: group.up_to(share) for share in {share for band in bands for share in band}}
            known: dict[tuple[int, int], int] = {}
            for column, band in enumerate(bands):
                ends = up_to[band[0]], up_to[band[1]]  # in the order of sizes, these name the weights
                self.removed[row, column] = ends[1] - ends[0]
                if ends[0] == ends[1]:
                    continue
                if ends not in known:
                    self.filters.append((group, band))
                    known[ends] = len(self.filters)
                self.place[row, column] = known[ends]


class _Run:
    """One experiment under way. Counts of right predictions stay on the device until the end."""

    correct: Tensor

    def __init__(
        self,
        setting: Setting,
        attacks: Sequence[AttackCallable],
        groups: Sequence[WeightGroup],
        bands: Sequence[Band],
    ) -> None:
        self.setting, self.attacks = setting, attacks
        self.plan = _Plan(groups, bands)
        self.samples = 0

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Try every filter on one batch."""
        if not self.samples:
            shape = 1 + len(self.plan.filters), 1 + len(self.attacks)
            self.correct = torch.zeros(shape, dtype=torch.int64, device=labels.device)
        shown = [inputs, *(self.setting.attacked(attack, inputs, labels, first) for attack in self.attacks)]
        self.correct[0] += self._right({}, shown, labels)
        for place, (group, band) in enumerate(self.plan.filters, start=1):
            self.correct[place] += self._right(group.filtered(band), shown, labels)
        self.samples += len(labels)

    def _right(self, weights: dict[str, Tensor], shown: Sequence[Inputs], labels: Tensor) -> Tensor:
        """How many samples are right under each condition, ``[1 + E]``, with ``weights`` in place of the model's."""
        model, autocast = self.setting.model, self.setting.autocast

        def filtered(*arguments: Any, **keywords: Any) -> Any:
            # The weights hold every name; torch's own search would swap a module that has two names twice, and leave
            # the filtered weight in it.
            return functional_call(model, weights, arguments, keywords, tie_weights=False)

        outputs = (plain_forward(model, inputs, autocast, filtered) for inputs in shown)
        return torch.stack([right_answers(needed_logits(output, len(labels)), labels).sum() for output in outputs])
