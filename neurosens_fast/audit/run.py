"""The audit: attack every batch, run benign and adversarial inputs together, reduce every tapped layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.capture import Inputs, Layers, Taps, logits_of, paired_forward, verify_pairing

from .batches import Data
from .descriptions import describe_callable, describe_data, describe_layers, describe_model, package_versions
from .loop import go_over
from .progress import Report
from .report import AuditReport, LayerAudit
from .setting import AttackCallable, Setting, check_count


def audit(
    model: nn.Module,
    data: Data,
    attack: AttackCallable,
    layers: Layers = "activations",
    *,
    channel_dims: Mapping[str, int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    verify: bool = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
) -> AuditReport:
    """Sensitivity and every other metric of each neuron of the tapped layers, as an :class:`AuditReport`.

    ``data`` gives batches ``(x, y)``: inputs ``[N, ...]`` (a tensor, or a tuple or dict of tensors) and
    labels ``[N]``; or samples, from a map-style data set or an iterable, which are joined to batches of
    ``batch_size``; or it is one tuple of two tensors. At most ``max_samples`` samples are used. ``attack``
    is any callable ``(x, y) -> x_adv``. ``layers`` is anything that ``capture.select_layers`` takes: a group
    of ``capture.LAYER_GROUPS``, names, globs, or a function; ``channel_dims`` maps names or globs to the
    channel axis where the rule of ``capture.channels`` does not fit.

    Batches are moved to ``device`` (default: the model's, and it must be the model's). ``dtype`` bfloat16 or
    float16 runs the paired forward under autocast, float32 or float64 casts the inputs. ``progress`` shows a
    bar on a terminal, or is called with samples done and total. ``verify`` compares, for a few samples, every
    layer within the pair and alone, which catches layouts ``[L, N, C]`` and layers that mix samples.

    Benign and adversarial inputs share one forward in evaluation mode, and each layer is read once;
    memory beyond that forward is that of the statistics. The model's modes, hooks, ``.grad``,
    ``requires_grad`` and buffers, and the global random states are afterwards as they were before, also
    when an exception passes through. Inside, the random states start from ``seed``.

    Raises ``ValueError`` or ``TypeError``, naming the layer or argument and the mend: unknown layer,
    layer that never runs, output that is no floating-point tensor, weights that are not finite, data without
    samples or labels, adversarial inputs of another shape.
    """
    setting = Setting(model, attack, device, dtype)
    check_count("batch_size", batch_size)
    check_count("max_samples", max_samples)
    run = _Run(setting, attack, Taps(setting.model, layers, channel_dims), channel_dims, verify)
    go_over(
        data,
        run,
        setting,
        batch_size=batch_size,
        max_samples=max_samples,
        progress=progress,
        title="audit",
        seed=seed,
    )
    return AuditReport(
        layers={name: _on_cpu(row) for name, row in run.taps.rows.items()},
        samples=run.samples,
        labelled=run.labelled,
        correct_benign=int(run.correct_benign),
        correct_adversarial=int(run.correct_adversarial),
        model=model_description or describe_model(setting.model),
        attack=attack_description or describe_callable(attack),
        data=(data_description or describe_data(data),),
        layer_choice=describe_layers(layers),
        device=str(setting.device or "as given"),
        dtype=str(dtype or "as given").removeprefix("torch."),
        seeds=(seed,),
        versions=package_versions(),
        not_run=tuple(run.taps.silent()),
        functional=tuple(run.functional),
        skipped=dict(run.taps.skipped),
    )


class _Run:
    """One audit under way: what it adds up. Counts of right predictions stay on the device until the end."""

    def __init__(
        self, setting: Setting, attack: AttackCallable, taps: Taps, channel_dims: Mapping[str, int] | None, verify: bool
    ) -> None:
        self.setting, self.attack, self.taps = setting, attack, taps
        self.verify, self.channel_dims = verify, channel_dims
        self.functional: list[str] = []
        self.samples = self.labelled = 0
        self.correct_benign: Tensor | int = 0
        self.correct_adversarial: Tensor | int = 0

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        """Attack one batch and add it to the totals."""
        pairs, first = len(labels), not self.samples
        adversarial = self.setting.attacked(self.attack, inputs, labels, self.samples)
        if first and self.verify:
            self._verify(inputs)
        self.taps.pairs = pairs
        with self.taps:
            output = paired_forward(self.setting.model, inputs, adversarial, self.setting.autocast)
        if first:
            self._check_reached()
        self.samples += pairs
        self._count(output, labels, pairs)

    def _verify(self, inputs: Inputs) -> None:
        found = verify_pairing(
            self.setting.model, self.taps.selection, inputs, self.channel_dims, self.setting.autocast
        )
        self.functional = [str(activation) for activation in found.functional]
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


def _on_cpu(row: Any) -> LayerAudit:
    row.statistics.sums, row.statistics.maxima = row.statistics.sums.cpu(), row.statistics.maxima.cpu()
    return LayerAudit(row.module_type, row.channel_dim, row.shape, row.statistics)
