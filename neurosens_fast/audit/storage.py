"""Reports on disk: safetensors with JSON metadata, written whole or not at all, checked when read. No pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from neurosens_fast.columns import MAXIMA, SUMS
from neurosens_fast.statistics import PairStatistics
from neurosens_fast.support import files

from .per_sample import ClassTotals

if TYPE_CHECKING:
    from .report import AuditReport

FORMAT = "neurosens-fast audit"
FORMAT_VERSION = 3

_T = TypeVar("_T")
_KEY = "neurosens_fast"
_CHECKSUM = "sha256"
_PENDING = "pending scores"


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


def save(report: AuditReport, path: str | PathLike[str], progress: Progress | None = None) -> None:
    """See :meth:`AuditReport.save`; ``progress`` is what an audit that is not complete notes beside its report."""
    from safetensors.torch import save as serialise

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
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
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
    header[_CHECKSUM] = _checksum(header, tensors)
    write_whole(path, serialise(tensors, {_KEY: json.dumps(header)}))


def load(path: str | PathLike[str]) -> AuditReport:
    """See :meth:`AuditReport.load`."""
    report, progress = load_with_progress(path)
    if progress is not None:
        raise ReportError(f"{Path(path)} is of an audit that is not complete; run the same command with --resume")
    return report


def load_with_progress(path: str | PathLike[str]) -> tuple[AuditReport, Progress | None]:
    """What :func:`save` wrote. ``ReportError`` as :meth:`AuditReport.load`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {Path(path)}: {error.strerror or error}") from error
    try:
        return _parse(content)
    except _Problem as problem:
        raise ReportError(f"{Path(path)}: {problem}") from problem.__cause__


class _Problem(Exception):
    """What is wrong with a file; becomes a :class:`ReportError` that names the file."""


def _parse(content: bytes) -> tuple[AuditReport, Progress | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    try:
        tensors = deserialise(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, RecursionError, KeyError, TypeError, RuntimeError) as error:
        raise _Problem("truncated, damaged, or no safetensors file; audit again or fetch the file again") from error
    if not isinstance(metadata, dict) or _KEY not in metadata:
        raise _Problem("a safetensors file, but not an audit report (no report header in its metadata)")
    try:
        header = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise _Problem("damaged: its report header is no JSON") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _Problem("a safetensors file, but not an audit report (its header says otherwise)")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise _Problem(f"report format {version!r}, this package reads format {FORMAT_VERSION}; use a matching version")
    if any(tensor.dtype != torch.float64 for tensor in tensors.values()):
        raise _Problem("not a valid report: it holds tensors that are not float64")
    if header.pop(_CHECKSUM, None) != _checksum(header, tensors):
        raise _Problem("damaged or altered after it was written: its checksum does not match its content")
    if header.get("sums") != list(SUMS) or header.get("maxima") != list(MAXIMA):
        raise _Problem("written by a version of this package that keeps other statistics")
    try:
        progress = None
        if header["progress"] is not None:
            progress = Progress(_typed(header["progress"], dict), tensors.pop(_PENDING))
        return _report(header, tensors), progress
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Problem(f"not a valid report: {type(error).__name__}: {error}") from error


def _report(header: dict[str, Any], tensors: dict[str, Tensor]) -> AuditReport:
    from .report import AuditReport, LayerAudit

    layers: dict[str, LayerAudit] = {}
    for row in header["layers"]:
        name, neurons = _typed(row["name"], str), _natural(row["neurons"])
        totals = PairStatistics(neurons)
        totals.sums = _totals(tensors.pop(f"{name}.sums"), neurons, len(SUMS))
        totals.maxima = _totals(tensors.pop(f"{name}.maxima"), neurons, len(MAXIMA))
        totals.samples = _natural(row["samples"])
        shape = tuple(_natural(size) for size in row["shape"])
        axis = _typed(row["channel_dim"], int)
        if not -len(shape) <= axis <= len(shape) or axis == 0 or shape[axis - 1 if axis > 0 else axis] != neurons:
            raise ValueError(f"layer {name!r} has no {neurons} neurons on axis {axis} of {list(shape)}")
        by_class = None
        if row["classes"] is not None:
            by_class = ClassTotals(_natural(row["classes"]), neurons)
            by_class.sums = _totals(tensors.pop(f"{name}.class_sums"), by_class.classes, neurons)
            by_class.samples = tensors.pop(f"{name}.class_samples").reshape(by_class.classes)
        layers[name] = LayerAudit(_typed(row["module_type"], str), axis, shape, totals, by_class)
    if tensors or len(layers) != len(header["layers"]):
        raise ValueError("its layers do not match its tensors")
    counts: Any = {
        key: _natural(header[key]) for key in ("samples", "labelled", "correct_benign", "correct_adversarial")
    }
    texts: Any = {
        key: _typed(header[key], str) for key in ("model", "attack", "layer_choice", "device", "dtype", "tokens")
    }
    if max(counts["correct_benign"], counts["correct_adversarial"]) > counts["labelled"]:
        raise ValueError("more samples are classified correctly than are labelled")
    return AuditReport(
        layers=layers,
        **counts,
        **texts,
        data=_texts(header["data"]),
        seeds=tuple(_typed(item, int) for item in header["seeds"]),
        versions=_texts_by_name(header["versions"]),
        not_run=_texts(header["not_run"]),
        functional=_texts(header["functional"]),
        skipped=_texts_by_name(header["skipped"]),
        fused=_texts(header["fused"]),
        not_fused=_typed(header["not_fused"], str),
        notes=_texts(header["notes"]),
    )


def _totals(tensor: Tensor, rows: int, columns: int) -> Tensor:
    if tensor.shape != (rows, columns):
        raise ValueError(f"totals must be {[rows, columns]}, got {list(tensor.shape)}")
    return tensor


def _typed(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, got {value!r:.80}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_typed(item, str) for item in _typed(value, list))


def _texts_by_name(value: Any) -> dict[str, str]:
    return {_typed(key, str): _typed(item, str) for key, item in _typed(value, dict).items()}


def _natural(value: Any) -> int:
    if _typed(value, int) < 0:
        raise ValueError(f"expected a count, got {value}")
    return int(value)


def _checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the header (keys sorted, without the checksum) and over names, shapes and bytes of all tensors."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
