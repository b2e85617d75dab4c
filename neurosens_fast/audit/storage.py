"""Audit reports on disk, as checked files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from neurosens_fast.columns import MAXIMA, SUMS
from neurosens_fast.statistics import PairStatistics
from neurosens_fast.support import checked_file, files
from neurosens_fast.support.checked_file import FileKind, FileProblem, natural, texts, texts_by_name, typed

from .per_sample import ClassTotals

if TYPE_CHECKING:
    from .report import AuditReport

_T = TypeVar("_T")
_PENDING = "pending scores"


def _checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return checked_file.checksum(header, tensors, dtypes=False)  # all are float64


KIND = FileKind(
    format="neurosens-fast audit",
    version=3,
    what="an audit report",
    part="report",
    unlike="no safetensors file; audit again or fetch the file again",
    dtype=torch.float64,
    checksum=_checksum,
)


@dataclass
class Progress:
    """What an audit that is not complete notes: ``facts`` for JSON, and scores of samples that no file holds yet."""

    facts: dict[str, Any]
    pending_scores: Tensor


class ReportError(ValueError):
    """A report file that cannot be read or written; the message names the file and the problem."""


def write_whole(path: str | PathLike[str], content: bytes) -> None:
    """:func:`support.files.write_whole`, with a ``ReportError``."""
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise ReportError(str(error)) from error


def write_checked(
    path: str | PathLike[str], kind: FileKind, header: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """:func:`support.checked_file.write`, with a ``ReportError``."""
    try:
        checked_file.write(path, kind, header, tensors)
    except OSError as error:
        raise ReportError(str(error)) from error


def read_checked(
    path: str | PathLike[str], kind: FileKind, build: Callable[[dict[str, Any], dict[str, Tensor]], _T]
) -> _T:
    """:func:`support.checked_file.read`, with a ``ReportError``."""
    try:
        return checked_file.read(path, kind, build)
    except FileProblem as problem:
        raise ReportError(str(problem)) from problem.__cause__


def save(report: AuditReport, path: str | PathLike[str], progress: Progress | None = None) -> None:
    """See :meth:`AuditReport.save`; ``progress`` is what an audit that is not complete notes beside its report."""
    tensors: dict[str, Tensor] = {}
    layers: list[dict[str, Any]] = []
    for name, entry in report.layers.items():
        totals = entry.statistics
        tensors[f"{name}.sums"] = totals.sums.cpu().contiguous()
        tensors[f"{name}.maxima"] = totals.maxima.cpu().contiguous()
        if entry.by_class is not None:
            tensors[f"{name}.class_sums"] = entry.by_class.sums.cpu().contiguous()
            tensors[f"{name}.class_samples"] = entry.by_class.samples.cpu().contiguous()
        layers.append(
            {
                "name": name,
                "module_type": entry.module_type,
                "channel_dim": entry.channel_dim,
                "shape": list(entry.shape),
                "neurons": totals.neurons,
                "samples": totals.samples,
                "classes": None if entry.by_class is None else entry.by_class.classes,
            }
        )
    if progress is not None:
        tensors[_PENDING] = progress.pending_scores
    header = {
        "sums": list(SUMS),
        "maxima": list(MAXIMA),
        "layers": layers,
        "samples": report.samples,
        "labelled": report.labelled,
        "correct_benign": report.correct_benign,
        "correct_adversarial": report.correct_adversarial,
        "model": report.model,
        "attack": report.attack,
        "data": list(report.data),
        "layer_choice": report.layer_choice,
        "device": report.device,
        "dtype": report.dtype,
        "seeds": list(report.seeds),
        "versions": report.versions,
        "not_run": list(report.not_run),
        "functional": list(report.functional),
        "skipped": report.skipped,
        "fused": list(report.fused),
        "not_fused": report.not_fused,
        "notes": list(report.notes),
        "tokens": report.tokens,
        "progress": None if progress is None else progress.facts,
    }
    write_checked(path, KIND, header, tensors)


def load(path: str | PathLike[str]) -> AuditReport:
    """See :meth:`AuditReport.load`."""
    report, progress = load_with_progress(path)
    if progress is not None:
        raise ReportError(f"{Path(path)} is of an audit that is not complete; run the same command with --resume")
    return report


def load_with_progress(path: str | PathLike[str]) -> tuple[AuditReport, Progress | None]:
    """What :func:`save` wrote. ``ReportError`` as :meth:`AuditReport.load`."""
    return read_checked(path, KIND, _parse)


def _parse(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[AuditReport, Progress | None]:
    if header.get("sums") != list(SUMS) or header.get("maxima") != list(MAXIMA):
        raise FileProblem("written by a version of this package that keeps other statistics")
    progress = None
    if header["progress"] is not None:
        progress = Progress(typed(header["progress"], dict), tensors.pop(_PENDING))
    return _report(header, tensors), progress


def _report(header: dict[str, Any], tensors: dict[str, Tensor]) -> AuditReport:
    from .report import AuditReport, LayerAudit

    layers: dict[str, LayerAudit] = {}
    for row in header["layers"]:
        name, neurons = typed(row["name"], str), natural(row["neurons"])
        totals = PairStatistics(neurons)
        totals.sums = _totals(tensors.pop(f"{name}.sums"), neurons, len(SUMS))
        totals.maxima = _totals(tensors.pop(f"{name}.maxima"), neurons, len(MAXIMA))
        totals.samples = natural(row["samples"])
        shape = tuple(natural(size) for size in row["shape"])
        axis = typed(row["channel_dim"], int)
        if not -len(shape) <= axis <= len(shape) or axis == 0 or shape[axis - 1 if axis > 0 else axis] != neurons:
            raise ValueError(f"layer {name!r} has no {neurons} neurons on axis {axis} of {list(shape)}")
        by_class = None
        if row["classes"] is not None:
            by_class = ClassTotals(natural(row["classes"]), neurons)
            by_class.sums = _totals(tensors.pop(f"{name}.class_sums"), by_class.classes, neurons)
            by_class.samples = tensors.pop(f"{name}.class_samples").reshape(by_class.classes)
        layers[name] = LayerAudit(typed(row["module_type"], str), axis, shape, totals, by_class)
    if tensors or len(layers) != len(header["layers"]):
        raise ValueError("its layers do not match its tensors")
    counts: Any = {
        key: natural(header[key]) for key in ("samples", "labelled", "correct_benign", "correct_adversarial")
    }
    descriptions: Any = {
        key: typed(header[key], str) for key in ("model", "attack", "layer_choice", "device", "dtype", "tokens")
    }
    if max(counts["correct_benign"], counts["correct_adversarial"]) > counts["labelled"]:
        raise ValueError("more samples are classified correctly than are labelled")
    return AuditReport(
        layers=layers,
        **counts,
        **descriptions,
        data=texts(header["data"]),
        seeds=tuple(typed(item, int) for item in header["seeds"]),
        versions=texts_by_name(header["versions"]),
        not_run=texts(header["not_run"]),
        functional=texts(header["functional"]),
        skipped=texts_by_name(header["skipped"]),
        fused=texts(header["fused"]),
        not_fused=typed(header["not_fused"], str),
        notes=texts(header["notes"]),
    )


def _totals(tensor: Tensor, rows: int, columns: int) -> Tensor:
    if tensor.shape != (rows, columns):
        raise ValueError(f"totals must be {[rows, columns]}, got {list(tensor.shape)}")
    return tensor
