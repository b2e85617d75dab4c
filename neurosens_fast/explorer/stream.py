"""One pass over the data, under every attack, that collects what there is to know of a layer's neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.loop import go_over, nothing
from neurosens_fast.audit.masking.hooks import right_answers
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.setting import AttackCallable, Setting, check_counts
from neurosens_fast.capture import Inputs, mapped
from neurosens_fast.statistics import PairStatistics

from .collected import Collected, adversarial_class
from .first_samples import FirstSamples
from .neuron_layer import NeuronLayer, Reading, find_neuron_layer, read
from .percentiles import MedianPercentiles
from .swaps import activation_swap
from .top_inputs import TopInputs

_PROBED = 4  # samples of the forward that finds the layer
_WEIGHTED = ("true_contribution", "adversarial_contribution", "swap_drop", "swap_rise")


def collect(
    setting: Setting,
    layer_name: str | None,
    data: Data,
    attacks: Sequence[AttackCallable],
    *,
    shown: int,
    top: int,
    batch_size: int,
    max_samples: int | None,
    progress: bool | Report,
    seed: int,
    eps: tuple[float | None, ...],
    on_layer: Callable[[NeuronLayer], None] = nothing,
) -> Collected:
    """What one pass over ``data`` shows of a layer's neurons, benign and under each of ``attacks``.

    ``layer_name`` is as in :func:`~neurosens_fast.explorer.neuron_layer.find_neuron_layer`; ``eps`` are the strengths
    of the attacks, None where there is none, by which notes name them. The first ``shown`` samples are kept one by
    one, of the others the ``top`` inputs of each neuron; memory does not grow with the number of samples. ``on_layer``
    is called with the layer once it is found, before anything is attacked. Batches are as in
    :func:`~neurosens_fast.audit.audit`, and so is the model afterwards: as it was before, also when an exception
    passes through. Results do not depend on ``batch_size``, beyond rounding and what an attack without a seed of its
    own draws.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: no attack, another number of strengths
    than of attacks, an unknown layer, one whose number of neurons changes, a model without logits ``[N, K]``, labels
    that are not 0 to K - 1, data without a sample.
    """
    check_counts(shown=shown, top=top, batch_size=batch_size, max_samples=max_samples)
    if not attacks:
        raise ValueError("attacks is empty; give at least one attack (x, y) -> x_adv")
    if len(eps) != len(attacks):
        raise ValueError(f"there are {len(attacks)} attacks and {len(eps)} strengths; give one, or None, for each")
    run = _Run(setting, layer_name, attacks, eps, shown, top, on_layer)
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="exploring neurons",
        seed=seed,
    )
    return run.collected()


class _Run:
    """The pass under way. Totals are where the activations are (on the CPU where that has no float64)."""

    layer: NeuronLayer
    first: FirstSamples
    top: TopInputs
    map_shape: tuple[int, ...] | None

    def __init__(
        self,
        setting: Setting,
        layer: str | None,
        attacks: Sequence[AttackCallable],
        eps: tuple[float | None, ...],
        shown: int,
        top: int,
        on_layer: Callable[[NeuronLayer], None],
    ) -> None:
        self._on_layer = on_layer
        self.setting, self.attacks, self.eps = setting, attacks, eps
        self.samples = 0
        self._asked = layer, shown, top

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        """Attack one batch at every level and count it."""
        if not self.samples:
            self._find(inputs)
        self._check_labels(labels, first)
        benign = self._read(inputs)
        if not self.samples:
            self._begin(benign)
        attacked, readings = [], [benign._replace(map=None)]
        wanted = self.first.wants_more
        for number, attack in enumerate(self.attacks):
            adversarial = self.setting.attacked(attack, inputs, labels, first)
            reading = self._read(adversarial)
            self._pair(number, benign, reading, labels)
            if wanted:  # else one level at a time is held
                attacked.append(adversarial)
                readings.append(reading._replace(map=None))
        if wanted:
            self.first.add(inputs, attacked, labels, readings)
        self._one(0, benign, labels)
        whole = benign.map
        if whole is not None and tuple(whole.shape[2:]) != self.map_shape:
            whole = None  # a position in another map would be another place
        self.top.update(benign.values, first, whole, inputs if isinstance(inputs, Tensor) else None)
        self.samples += len(labels)

    def collected(self) -> Collected:
        """All of it."""
        means: dict[str, Any] = dict.fromkeys(_WEIGHTED)
        means |= {name: (sums / self.samples).cpu().numpy() for name, sums in self._sums.items()}
        return Collected(
            layer=self.layer,
            samples=self.samples,
            **self.first.collected(),
            **means,
            class_means=(self._class_sums.cpu() / self._class_samples[:, None]).numpy(),  # 0 / 0 is NaN
            class_samples=self._class_samples.numpy(),
            statistics=tuple(statistics.copied_to("cpu") for statistics in self._statistics),
            medians=torch.stack([torch.from_numpy(found.medians()) for found in self._percentiles]).numpy(),
            right=self._right.numpy(),
            top=self.top,
            map_shape=self.map_shape,
            notes=(*self.first.notes(), *self._notes()),
        )

    def _find(self, inputs: Inputs) -> None:
        few = mapped(inputs, lambda leaf: leaf[:_PROBED])
        self.layer = find_neuron_layer(self.setting.model, self._asked[0], few, self.setting.autocast)
        self._on_layer(self.layer)

    def _begin(self, benign: Reading) -> None:
        (_, shown, top), layer = self._asked, self.layer
        levels, neurons, classes = len(self.attacks), layer.channels, layer.classes
        device = benign.values.device
        self._place = place = torch.device("cpu") if device.type == "mps" else device
        self.map_shape = None if benign.map is None else tuple(benign.map.shape[2:])
        self._weights = None if layer.weights is None else layer.weights.to(device)
        names = ("activation_change", *(() if self._weights is None else _WEIGHTED))
        self._sums = {name: torch.zeros(levels, neurons, dtype=torch.float64, device=place) for name in names}
        self._class_sums = torch.zeros(1 + levels, classes, neurons, dtype=torch.float64, device=place)
        self._class_samples = torch.zeros(classes, dtype=torch.int64)
        self._statistics = [PairStatistics(neurons, device) for _ in self.attacks]
        self._percentiles = [MedianPercentiles(neurons, place) for _ in range(1 + levels)]
        self._right = torch.zeros(1 + levels, dtype=torch.int64)
        self._broken = torch.zeros(1 + levels, neurons, dtype=torch.bool, device=place)  # neurons not finite
        self.first = FirstSamples(shown, levels, neurons)
        self.top = TopInputs(neurons, top, place, first_kept=shown)

    def _read(self, inputs: Inputs) -> Reading:
        reading = read(self.setting.model, self.layer, inputs, self.setting.autocast)
        wanted = {"neurons": self.layer.channels, "classes": self.layer.classes}
        for (what, before), found in zip(wanted.items(), (reading.values, reading.logits), strict=True):
            if found.shape[1] != before:
                raise ValueError(
                    f"layer {self.layer.row!r} gave {found.shape[1]} {what}, in the first batch {before}; it must be "
                    "the same number for all samples, so give inputs of one size"
                )
        return reading

    def _check_labels(self, labels: Tensor, first: int) -> None:
        classes = self.layer.classes
        wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
        if len(wrong):
            number = int(wrong[0])
            raise ValueError(
                f"label {int(labels[number])} of sample {first + number} is none of the model's {classes} classes; "
                f"labels must be 0 to {classes - 1}"
            )

    def _one(self, level: int, reading: Reading, labels: Tensor) -> None:
        """Count a batch at one level, 0 the benign one."""
        values, known = reading.values.to(self._place), labels.to(self._place)
        # not index_add_, whose order of additions differs from run to run on CUDA
        self._class_sums[level].index_put_((known,), values.double(), accumulate=True)
        self._percentiles[level].update(values)
        self._right[level] += int(right_answers(reading.logits, labels).sum())
        self._broken[level] |= ~values.isfinite().all(0)
        if not level:
            self._class_samples += labels.bincount(minlength=self.layer.classes).cpu()

    def _pair(self, number: int, benign: Reading, adversarial: Reading, labels: Tensor) -> None:
        """Count a batch of pairs."""
        self._one(1 + number, adversarial, labels)
        if benign.map is not None and adversarial.map is not None:
            self._statistics[number].update(benign.map, adversarial.map)
        else:
            self._statistics[number].update(benign.values, adversarial.values)
        change = adversarial.values.to(self._place).double() - benign.values.to(self._place).double()
        found = {"activation_change": change.abs()}
        if self._weights is not None:
            other = adversarial_class(adversarial.logits, labels)
            weights = self._weights.to(self._place)
            drop, rise = activation_swap(benign.logits, benign.values, adversarial.values, self._weights, labels, other)
            found["true_contribution"] = weights[labels.to(self._place)] * change
            found["adversarial_contribution"] = weights[other.to(self._place)] * change
            found["swap_drop"], found["swap_rise"] = drop.to(self._place), rise.to(self._place)
        for name, rows in found.items():
            self._sums[name][number] += rows.sum(0, dtype=torch.float64)

    def _notes(self) -> list[str]:
        notes = []
        for name, broken in zip(self._levels(), self._broken.sum(1).tolist(), strict=True):
            if broken:
                notes.append(f"{broken} neurons have values that are not finite on {name} inputs, nor are their means")
        return notes

    def _levels(self) -> list[str]:
        strengths = (f"at eps {eps:g}" if eps is not None else f"of attack {n + 1}" for n, eps in enumerate(self.eps))
        return ["benign", *(f"adversarial ({strength})" for strength in strengths)]
