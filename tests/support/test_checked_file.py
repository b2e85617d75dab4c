"""Checked files: the bytes and checksums of every format that was ever written, and what is told of damaged ones."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from neurosens_fast.audit import storage as audits
from neurosens_fast.fragility import storage as fragility
from neurosens_fast.support.checked_file import FileKind, FileProblem, read, write
from neurosens_fast.training import checkpoints as training

OTHER = FileKind("test", 2, "a test file", "test", "no test file")
HEADER = {"text": "ü\n", "numbers": [1, 0.1, None], "nested": {"b": True, "a": -1e-300}}


def both(header: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return header, tensors


def slow_checksum(header: dict[str, Any], tensors: dict[str, Tensor], dtypes: bool) -> str:
    """From the description of the formats, with one growing text of bytes."""
    hashed = json.dumps({key: header[key] for key in sorted(header)}, sort_keys=True).encode()
    for name in sorted(tensors):
        values = tensors[name].numpy()
        described = [name, f"torch.{values.dtype}", list(values.shape)] if dtypes else [name, list(values.shape)]
        hashed += json.dumps(described).encode() + values.tobytes("C")
    return hashlib.sha256(hashed).hexdigest()


@pytest.mark.parametrize(
    ("kind", "said", "hashed", "dtypes", "dtype"),
    [
        (audits.KIND, {"format": "neurosens-fast audit", "format_version": 3}, True, False, torch.float64),
        (training._KIND, {"format": "neurosens-fast training 1"}, False, True, None),
        (fragility._KIND, {"format": "neurosens-fast fragility", "format_version": 1}, True, True, torch.int64),
    ],
)
def test_formats_on_disk_stay_what_they_are(
    kind: FileKind, said: dict[str, Any], hashed: bool, dtypes: bool, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    tensors = {
        "b": torch.arange(6).view(2, 3).to(dtype or torch.float16),
        "a": torch.tensor(3).to(dtype or torch.int64),
        "empty": torch.empty(0, 2, dtype=dtype or torch.bool),
    }
    covered = {**said, **HEADER} if hashed else HEADER
    header = {**said, **HEADER, "sha256": slow_checksum(covered, tensors, dtypes)}
    write(tmp_path / "file", kind, HEADER, tensors)
    content = (tmp_path / "file").read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert json.loads(metadata["neurosens_fast"]) == header
    (tmp_path / "by hand").write_bytes(save(tensors, {"neurosens_fast": json.dumps(header)}))
    for path in (tmp_path / "file", tmp_path / "by hand"):
        found, values = read(path, kind, both)
        assert found == {**said, **HEADER}
        assert all(torch.equal(values[name], tensors[name]) for name in (*tensors, *values))


def test_a_tensor_of_another_type_is_noticed(tmp_path: Path) -> None:
    """Its bytes, and so a checksum without dtypes, stay the same."""
    write(tmp_path / "file", OTHER, {}, {"x": torch.zeros(2, dtype=torch.int32)})
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content.replace(b'"dtype":"I32"', b'"dtype":"F32"'))
    with pytest.raises(FileProblem, match="damaged or altered after it was written: its checksum does not match"):
        read(tmp_path / "file", OTHER, both)


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyError("x"), "KeyError: 'x'"), (ValueError("no"), "ValueError: no"), (OverflowError("big"), "OverflowError: ")],
)
def test_what_is_wrong_with_the_content_is_told(error: Exception, message: str, tmp_path: Path) -> None:
    def fail(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        raise error

    write(tmp_path / "file", OTHER, {}, {})
    with pytest.raises(FileProblem, match=rf"file: not a valid test: {message}") as caught:
        read(tmp_path / "file", OTHER, fail)
    assert caught.value.__cause__ is error


def test_other_kinds_and_versions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, OTHER, {}, {})
    with pytest.raises(FileProblem, match=re.escape(f"{path}: a safetensors file, but not an audit report")):
        read(path, audits.KIND, both)
    newer = FileKind("test", 3, "a test file", "test", "no test file")
    with pytest.raises(FileProblem, match="test format 2, this package reads format 3; use a matching version"):
        read(path, newer, both)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileProblem, match="file: truncated, damaged, or no test file"):
        read(path, OTHER, both)


def test_what_training_says_of_damage(tmp_path: Path) -> None:
    path = tmp_path / training.CHECKPOINT
    with pytest.raises(training.CheckpointError, match=r"there is no .* to go on from; train without resume first"):
        training.read_checkpoint(path)
    tensors = {"w": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    training.save_checkpoint(path, tensors, {"epoch": 1})
    values, facts = training.read_checkpoint(path)
    assert facts == {"epoch": 1}
    assert all(torch.equal(values[name], tensors[name]) for name in (*tensors, *values))
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0x81
        path.write_bytes(damaged)
        with pytest.raises(training.CheckpointError, match=r"hold weights to start from, without resume$") as caught:
            training.read_checkpoint(path)
        assert "\n" not in str(caught.value)
    training.save_weights(path, load(content), {})
    with pytest.raises(training.CheckpointError, match="its checksum does not match"):
        training.read_checkpoint(path)
