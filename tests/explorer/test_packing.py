"""Arrays as text: what is packed comes back, as the page unpacks it."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
import pytest

from neurosens_fast.explorer.page.packing import all_packed, packed, text_size

TYPES = {"Uint8Array": "<u1", "Int32Array": "<i4", "Float32Array": "<f4", "Uint16Array": "<u2"}


def unpacked(entry: dict[str, Any]) -> Any:
    """What ``core.js`` does."""
    raw = gzip.decompress(base64.b64decode(entry["text"]))
    if entry["type"] == "bits":
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        return bits[: int(np.prod(entry["shape"]))].reshape(entry["shape"]).astype(bool)
    if entry["type"] == "spread":
        steps = np.frombuffer(raw, "<u2").reshape(entry["shape"])
        values = unpacked(entry["low"]) + steps * unpacked(entry["step"])
        return np.where(steps == 65535, np.nan, values)
    return np.frombuffer(raw, TYPES[entry["type"]]).reshape(entry["shape"])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(-3, 3),
        np.array([1.5, np.nan, -np.inf], np.float64),
        np.array([[True, False, True]] * 3),
        np.zeros((0, 4), np.float32),
        np.zeros((5, 3, 3), np.float32)[:, ::2],
    ],
)
def test_comes_back(array: Any) -> None:
    back = unpacked(packed(array))
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


def test_spread_is_within_half_a_step_of_each_column() -> None:
    values = np.random.default_rng(0).normal(size=(7, 50, 3)) * [1, 1000, 0]
    values[0, 0, 1] = np.nan
    values[:, :, 2] = 4.25
    back = unpacked(packed(values, spread=True))
    half = (np.nanmax(values, (0, 1)) - np.nanmin(values, (0, 1))) / 65534 / 2
    assert (np.nanmax(np.abs(back - values), (0, 1)) <= half * 1.01 + 1e-6).all()
    assert np.isnan(back[0, 0, 1])
    assert np.isnan(back).sum() == 1
    assert (back[..., 2] == 4.25).all()


def test_spread_of_nothing_finite() -> None:
    assert np.isnan(unpacked(packed(np.full((4, 2), np.nan, np.float32), spread=True))).all()


def test_spread_takes_half_the_room() -> None:
    values = np.random.default_rng(0).random((200, 64)).astype(np.float32)
    assert text_size(packed(values, spread=True)) < 0.62 * text_size(packed(values))


def test_packed_entries_stay() -> None:
    entry = packed(np.arange(3), spread=False)
    entries = all_packed({"one": entry, "other": np.arange(4)})
    assert entries["one"] is entry
    np.testing.assert_array_equal(unpacked(entries["other"]), np.arange(4))


def test_same_arrays_make_the_same_text() -> None:
    assert packed(np.arange(1000)) == packed(np.arange(1000))
