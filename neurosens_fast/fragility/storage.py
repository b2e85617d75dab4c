"""Fragility reports on disk, as checked files, and the counts of a nodal dropout that is not complete."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neurosens_fast.audit.storage import ReportError, read_checked, write_checked
from neurosens_fast.support.checked_file import FileKind, natural, texts, texts_by_name, typed

from .counts import Counts
from .levels import checked_eps

if TYPE_CHECKING:
    from .report import FragilityReport

_KIND = FileKind(
    format="neurosens-fast fragility",
    version=1,
    what="a fragility report",
    part="report",
    unlike="no safetensors file; measure again or fetch the file again",
    dtype=torch.int64,
)
_TEXTS = ("layer", "zeroed", "module_type", "where", "protocol", "model", "attack", "data", "dtype", "device")
_COUNTED = ("correct", "lost", "gained", "joint")
_PROGRESS = "progress"


def save(report: FragilityReport, path: str | PathLike[str]) -> None:
    """See :meth:`FragilityReport.save`."""
    header = {
        **{name: getattr(report, name) for name in _TEXTS},
        "channels": report.channels,
        "neurons": list(report.neurons),
        "eps": list(map(float, report.eps)),
        "seed": report.seed,
        "versions": report.versions,
        "notes": list(report.notes),
        _PROGRESS: None,
    }
    _write(path, header, report.counts)


def load(path: str | PathLike[str]) -> FragilityReport:
    """See :meth:`FragilityReport.load`."""
    found = read_checked(
        path, _KIND, lambda header, tensors: _report(header, tensors) if header[_PROGRESS] is None else None
    )
    if found is None:
        raise ReportError(
            f"{Path(path)} is of a nodal dropout that is not complete; start the same one with resume=True"
        )
    return found


def save_counts(counts: Counts, progress: dict[str, Any], path: str | PathLike[str]) -> None:
    """Write what was counted so far, and ``progress`` for JSON. ``ReportError`` if that fails."""
    _write(path, {_PROGRESS: progress}, counts)


def load_counts(path: str | PathLike[str]) -> tuple[Counts, dict[str, Any]] | None:
    """What :func:`save_counts` wrote, None where the file is a complete report. Errors as :func:`load`."""

    def build(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Counts, dict[str, Any]] | None:
        progress = header[_PROGRESS]
        return None if progress is None else (_counts(header, tensors), typed(progress, dict))

    return read_checked(path, _KIND, build)


def _write(path: str | PathLike[str], header: dict[str, Any], counts: Counts) -> None:
    tensors = {name: getattr(counts, name).cpu().contiguous() for name in _COUNTED}
    write_checked(path, _KIND, {**header, "samples": counts.samples}, tensors)


def _report(header: dict[str, Any], tensors: dict[str, Tensor]) -> FragilityReport:
    from .report import FragilityReport

    counts = _counts(header, tensors)
    eps = checked_eps([typed(level, float) for level in typed(header["eps"], list)])
    channels = natural(header["channels"])
    neurons = tuple(natural(neuron) for neuron in typed(header["neurons"], list))
    if counts.lost.shape != (len(neurons), 1 + len(eps)):
        raise ValueError(
            f"it holds counts of {list(counts.lost.shape)} for {len(neurons)} neurons and {1 + len(eps)} conditions"
        )
    if len(set(neurons)) < len(neurons):
        raise ValueError("it names a neuron twice")
    if any(neuron >= channels for neuron in neurons):
        raise ValueError(f"it names neuron {max(neurons)} of {channels}")
    descriptions: Any = {name: typed(header[name], str) for name in _TEXTS}
    return FragilityReport(
        **descriptions,
        channels=channels,
        neurons=neurons,
        eps=eps,
        counts=counts,
        seed=typed(header["seed"], int),
        versions=texts_by_name(header["versions"]),
        notes=texts(header["notes"]),
    )


def _counts(header: dict[str, Any], tensors: dict[str, Tensor]) -> Counts:
    totals: Any = {name: tensors.pop(name) for name in _COUNTED}
    counts = Counts(**totals, samples=natural(header["samples"]))
    if tensors:
        raise ValueError(f"it holds tensors that are no counts: {', '.join(sorted(tensors))}")
    shape = (*counts.lost.shape[:1], *counts.correct.shape)
    if len(shape) != 2 or any(getattr(counts, name).shape != shape for name in _COUNTED[1:]):
        shapes = ", ".join(f"{name} {list(getattr(counts, name).shape)}" for name in _COUNTED)
        raise ValueError(f"its counts do not fit each other: {shapes}")
    wrong = counts.samples - counts.correct
    changed = counts.lost + counts.gained
    most = torch.minimum(changed, changed[:, :1])
    impossible = {
        "correct": (counts.correct < 0) | (wrong < 0),
        "lost": (counts.lost < 0) | (counts.lost > counts.correct),
        "gained": (counts.gained < 0) | (counts.gained > wrong),
        "joint": (counts.joint > most) | (counts.joint < -most),
        "clean joint": counts.joint[:, :1] != changed[:, :1],  # the square of a change is 0 or 1
    }
    for name, places in impossible.items():
        if places.any():
            raise ValueError(f"{name} holds counts that {counts.samples} samples cannot have")
    return counts
