"""The audit: attack every batch, run benign and adversarial inputs together, reduce every tapped layer."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from operator import itemgetter
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from neurosens_fast.capture import Inputs, Taps, batch_length, paired_forward, parameters_device

from .isolation import random_state, untouched
from .report import AuditReport, LayerAudit

Batch = tuple[Inputs, Tensor]
AttackCallable = Callable[[Any, Tensor], Any]


def audit(
    model: nn.Module,
    data: Iterable[Batch] | tuple[Tensor, Tensor],
    attack: AttackCallable,
    layers: Sequence[str] | None = None,
    *,
    channel_dims: Mapping[str, int] | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    seed: int = 0,
    data_description: str | None = None,
) -> AuditReport:
    """Sensitivity and every other metric of each neuron of the tapped layers, as an :class:`AuditReport`.

    ``data`` gives batches ``(x, y)``: inputs ``[N, ...]`` (a tensor, or a tuple or dict of tensors) and
    labels ``[N]``; or it is one tuple of two tensors, cut into batches of ``batch_size``. At most
    ``max_samples`` samples are used. Batches are moved to the model's device. ``attack`` is any callable
    ``(x, y) -> x_adv``. ``layers`` are dotted names of modules (default: all convolutions,
    normalisations, linear layers and activation modules); ``channel_dims`` maps names to the channel
    axis where the rule of :class:`~neurosens_fast.capture.Taps` does not fit.

    Benign and adversarial inputs share one forward in evaluation mode, and each layer is read once;
    memory beyond that forward is that of the statistics. The model's modes, hooks, ``.grad``,
    ``requires_grad`` and buffers, and the global random states are afterwards as they were before, also
    when an exception passes through. Inside, the random states start from ``seed``.

    Raises ``ValueError`` or ``TypeError``, naming the layer or argument and the mend: unknown layer,
    layer that never runs, output that is no floating-point tensor, data without samples or labels,
    adversarial inputs of another shape.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not callable(attack):
        raise TypeError(f"attack must be a callable (x, y) -> x_adv, got {type(attack).__name__}")
    for name, value in (("batch_size", batch_size), ("max_samples", max_samples)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    taps = Taps(model, layers, channel_dims)
    device = parameters_device(model)
    counts = _Counts()
    with random_state(seed), untouched(model):
        for inputs, labels in _limited(_batches(data, batch_size), max_samples):
            if device is not None:
                inputs, labels = _moved(inputs, device), labels.to(device)
            _audit_batch(model, attack, taps, counts, inputs, labels)
            if layers is not None and taps.silent():
                raise ValueError(
                    f"layer {taps.silent()[0]!r} did not run in the model's forward; leave it out of layers "
                    "(hooks are not called in a compiled model: audit the model before torch.compile)"
                )
    if not counts.samples:
        raise ValueError("data gave no sample; an iterator that was read before is empty, pass a list or a DataLoader")
    if not taps.rows:
        raise ValueError("no layer of the model ran as a module; audit the model before torch.compile or scripting")
    return AuditReport(
        layers={name: _on_cpu(row) for name, row in taps.rows.items()},
        samples=counts.samples,
        labelled=counts.labelled,
        correct_benign=int(counts.correct_benign),
        correct_adversarial=int(counts.correct_adversarial),
        model=describe_model(model),
        attack=describe_callable(attack),
        data=(data_description or _describe_data(data),),
        seeds=(seed,),
        versions=package_versions(),
        not_run=tuple(taps.silent()),
    )


class _Counts:
    """Samples seen and predictions right so far; the latter stay on the device until the end."""

    def __init__(self) -> None:
        self.samples = self.labelled = 0
        self.correct_benign: Tensor | int = 0
        self.correct_adversarial: Tensor | int = 0


def _audit_batch(
    model: nn.Module, attack: AttackCallable, taps: Taps, counts: _Counts, inputs: Inputs, labels: Tensor
) -> None:
    pairs = batch_length(inputs)
    if labels.dim() != 1 or labels.shape[0] != pairs:
        raise ValueError(f"a batch has {pairs} inputs and labels of shape {list(labels.shape)}; labels must be [N]")
    if not pairs:
        return
    adversarial = attack(inputs, labels)
    taps.pairs = pairs
    with taps:
        output = paired_forward(model, inputs, adversarial)
    counts.samples += pairs
    logits = getattr(output, "logits", output)
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] == 2 * pairs:
        right = logits.argmax(1) == torch.cat((labels, labels))
        counts.labelled += pairs
        counts.correct_benign = counts.correct_benign + right[:pairs].sum()
        counts.correct_adversarial = counts.correct_adversarial + right[pairs:].sum()


def _batches(data: Any, batch_size: int) -> Iterator[Batch]:
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(item, Tensor) for item in data):
        inputs, labels = data
        if not inputs.dim() or not labels.dim() or len(inputs) != len(labels):
            raise ValueError(f"inputs {list(inputs.shape)} and labels {list(labels.shape)} of data differ in length")
        yield from zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
        return
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        got = type(data).__name__
        raise TypeError(f"data must give batches (inputs, labels), or be a tuple of two tensors, got a {got}")
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list) else type(batch).__name__
            raise TypeError(f"data must give batches (inputs, labels) with labels a tensor [N], got a {got}")
        inputs, labels = batch
        yield (tuple(inputs) if isinstance(inputs, list) else inputs), labels


def _limited(batches: Iterator[Batch], max_samples: int | None) -> Iterator[Batch]:
    """The batches up to ``max_samples``; the next one is not fetched when that is reached."""
    left = max_samples
    for inputs, labels in batches:
        length = batch_length(inputs)
        if left is not None and length > left:
            inputs, labels, length = _mapped(inputs, itemgetter(slice(left))), labels[:left], left
        yield inputs, labels
        if left is not None:
            left -= length
            if left <= 0:
                return


def _mapped(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {key: change(leaf) for key, leaf in inputs.items()}
    return tuple(change(leaf) for leaf in inputs)


def _moved(inputs: Inputs, device: torch.device) -> Inputs:
    return _mapped(inputs, lambda leaf: leaf.to(device))


def _on_cpu(row: Any) -> LayerAudit:
    row.statistics.sums, row.statistics.maxima = row.statistics.sums.cpu(), row.statistics.maxima.cpu()
    return LayerAudit(row.module_type, row.channel_dim, row.shape, row.statistics)


def describe_model(model: nn.Module) -> str:
    """``DigitsCNN, 57,594 parameters``."""
    return f"{type(model).__name__}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters"


def describe_callable(attack: Callable[..., Any]) -> str:
    """The ``repr`` of an attack object, or the name of a function: one line without memory addresses."""
    text = " ".join(repr(attack).split())
    if " at 0x" in text or len(text) > 500:
        named = attack if hasattr(attack, "__qualname__") else type(attack)
        text = f"{named.__module__}.{named.__qualname__}"
    return text


def _describe_data(data: Any) -> str:
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        return f"tensors {list(data[0].shape)}"
    return type(getattr(data, "dataset", data)).__name__


def package_versions() -> dict[str, str]:
    """Versions of this package, torch, numpy and Python."""
    return {
        "neurosens_fast": package_version(),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "python": platform.python_version(),
    }


def package_version() -> str:
    """The installed version of this package; ``unknown`` when it runs from a tree that is not installed."""
    try:
        return metadata.version("neurosens-fast")
    except metadata.PackageNotFoundError:
        return "unknown"
