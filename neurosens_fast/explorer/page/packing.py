"""Arrays as text inside a page: gzip and base64, which the browser undoes by itself."""

from __future__ import annotations

import base64
import gzip
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurosens_fast.explorer.exploration import Array

_TYPES = {"uint8": "Uint8Array", "int32": "Int32Array", "float32": "Float32Array", "uint16": "Uint16Array"}


def packed(array: Array, *, spread: bool = False) -> dict[str, Any]:
    """``array`` (bool, integers, floating point) as ``{type, shape, text}`` for ``explorer.unpack`` of the page.

    Integers are kept as int32, bool as one bit each, floating point as float32. With ``spread``, float32 is kept as one
    of 65,535 steps between the smallest and the largest finite number of each last axis' entry (``low`` and ``step``),
    which takes half the room: the error is half a step. NaN stays NaN.
    """
    entry: dict[str, Any] = {"shape": list(array.shape)}
    if array.dtype == np.bool_:
        content: Array = np.packbits(array.view(np.uint8), bitorder="little")
        entry["type"] = "bits"
    elif spread:
        content, low, step = _spread(np.asarray(array, np.float32))
        entry |= {"type": "spread", "low": packed(low), "step": packed(step)}
    else:
        content = array if array.dtype == np.uint8 else array.astype(_kept(array.dtype))
        entry["type"] = _TYPES[content.dtype.name]
    if sys.byteorder == "big":
        content = content.byteswap()
    entry["text"] = base64.b64encode(gzip.compress(np.ascontiguousarray(content).tobytes(), 6, mtime=0)).decode()
    return entry


def all_packed(arrays: Mapping[str, Array | dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every array :func:`packed`; what is packed already stays."""
    return {name: entry if isinstance(entry, dict) else packed(entry) for name, entry in arrays.items()}


def text_size(entry: Mapping[str, Any]) -> int:
    """About how many bytes of the page a packed array takes."""
    inner = sum(text_size(value) for value in entry.values() if isinstance(value, dict))
    return len(entry.get("text", "")) + inner + 80


def _kept(dtype: np.dtype[Any]) -> type[np.generic]:
    return np.float32 if dtype.kind == "f" else np.int32


def _spread(values: Array) -> tuple[Array, Array, Array]:
    """Steps uint16 (65,535 for NaN), the number of step 0 and the width of a step for each entry of the last axis."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    finite = np.isfinite(flat)
    low = np.where(finite, flat, np.inf).min(0, initial=np.inf)
    high = np.where(finite, flat, -np.inf).max(0, initial=-np.inf)
    low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0)
    step = np.where(high > low, (high - low) / 65534, 1.0)
    steps = np.where(finite, np.rint((np.where(finite, flat, low) - low) / step), 65535)
    return steps.astype(np.uint16).reshape(values.shape), low.astype(np.float32), step.astype(np.float32)
