"""Files whose damage is noticed: safetensors, one JSON header in their metadata, and a SHA-256 over both. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import files

_T = TypeVar("_T")
_KEY = "neurosens_fast"
_CHECKSUM = "sha256"


class FileProblem(Exception):
    """What is wrong with a file, in one sentence."""


def checksum(header: dict[str, Any], tensors: dict[str, Tensor], dtypes: bool = True) -> str:
    """SHA-256 over the header (keys sorted) and over names, dtypes, shapes and bytes of all tensors.

    Formats of which every tensor has the same dtype may leave ``dtypes`` out.
    """
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, *([str(tensor.dtype)] if dtypes else []), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


@dataclass(frozen=True)
class FileKind:
    """One kind of file. Its header says ``format``, and ``version`` as ``format_version`` unless that is None.

    ``what`` ("an audit report") and ``part`` ("report") name it in errors, ``unlike`` ends the one on a file that
    is no such file at all. ``dtype`` is that of every tensor, None where they differ. ``checksum`` is given the header
    without the checksum itself, and the tensors.
    """

    format: str
    version: int | None
    what: str
    part: str
    unlike: str
    dtype: torch.dtype | None = None
    checksum: Callable[[dict[str, Any], dict[str, Tensor]], str] = checksum


def serialised(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of contiguous tensors on the CPU with ``header`` as JSON in its metadata, as it stands."""
    from safetensors.torch import save

    return bytes(save(tensors, {_KEY: json.dumps(header)}))


def write(path: str | PathLike[str], kind: FileKind, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write header and tensors as a file of ``kind``, whole or not at all. ``OSError`` that names the file."""
    version = {} if kind.version is None else {"format_version": kind.version}
    header = {"format": kind.format, **version, **header}
    header[_CHECKSUM] = kind.checksum(header, tensors)
    files.write_whole(path, serialised(header, tensors))


def read(path: str | PathLike[str], kind: FileKind, build: Callable[[dict[str, Any], dict[str, Tensor]], _T]) -> _T:
    """What ``build`` makes of the header and the tensors that :func:`write` wrote.

    Raises :class:`FileProblem` that names the file: it cannot be read, is truncated, altered, of another kind or
    version, or ``build`` stumbles over its content.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileProblem(f"cannot read {Path(path)}: {error.strerror or error}") from error
    try:
        return _parsed(content, kind, build)
    except FileProblem as problem:
        raise FileProblem(f"{Path(path)}: {problem}") from problem.__cause__


def _parsed(content: bytes, kind: FileKind, build: Callable[[dict[str, Any], dict[str, Tensor]], _T]) -> _T:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, RecursionError, KeyError, TypeError, RuntimeError) as error:
        raise FileProblem(f"truncated, damaged, or {kind.unlike}") from error
    if not isinstance(metadata, dict) or _KEY not in metadata:
        raise FileProblem(f"a safetensors file, but not {kind.what} (no {kind.part} header in its metadata)")
    try:
        header = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise FileProblem(f"damaged: its {kind.part} header is no JSON") from error
    if not isinstance(header, dict) or header.get("format") != kind.format:
        raise FileProblem(f"a safetensors file, but not {kind.what} (its header says otherwise)")
    version = header.get("format_version")
    if kind.version is not None and version != kind.version:
        raise FileProblem(
            f"{kind.part} format {version!r}, this package reads format {kind.version}; use a matching version"
        )
    if kind.dtype is not None and any(tensor.dtype != kind.dtype for tensor in tensors.values()):
        dtype = str(kind.dtype).removeprefix("torch.")
        raise FileProblem(f"not a valid {kind.part}: it holds tensors that are not {dtype}")
    if header.pop(_CHECKSUM, None) != kind.checksum(header, tensors):
        raise FileProblem("damaged or altered after it was written: its checksum does not match its content")
    try:
        return build(header, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise FileProblem(f"not a valid {kind.part}: {type(error).__name__}: {error}") from error


def typed(value: Any, kind: type[_T]) -> _T:
    """``value``, which must be a ``kind``; a bool is no number. ``TypeError`` else."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, got {value!r:.80}")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts as a tuple. ``TypeError`` for anything else."""
    return tuple(typed(item, str) for item in typed(value, list))


def texts_by_name(value: Any) -> dict[str, str]:
    """A dict of texts. ``TypeError`` for anything else."""
    return {typed(key, str): typed(item, str) for key, item in typed(value, dict).items()}


def natural(value: Any) -> int:
    """A count. ``TypeError`` or ``ValueError`` for anything else."""
    if typed(value, int) < 0:
        raise ValueError(f"expected a count, got {value}")
    return int(value)
