"""Reports on disk: the round trip, damage of every kind, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from neurosens_fast.audit import AuditReport, ReportError, storage


def same(first: AuditReport, second: AuditReport) -> bool:
    """Whether two reports hold the same numbers and descriptions."""
    plain = ("samples", "labelled", "correct_benign", "correct_adversarial", "model", "attack", "data", "seeds")
    return (
        all(getattr(first, name) == getattr(second, name) for name in (*plain, "versions", "not_run"))
        and list(first.layers) == list(second.layers)
        and all(
            (ours.module_type, ours.channel_dim, ours.shape, ours.statistics.samples)
            == (theirs.module_type, theirs.channel_dim, theirs.shape, theirs.statistics.samples)
            and torch.equal(ours.statistics.sums, theirs.statistics.sums)
            and torch.equal(ours.statistics.maxima, theirs.statistics.maxima)
            for ours, theirs in zip(first.layers.values(), second.layers.values(), strict=True)
        )
    )


@pytest.fixture(scope="module")
def content(report: AuditReport, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("report") / "audit.safetensors"
    report.save(path)
    return path.read_bytes()


def test_round_trip(report: AuditReport, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "audit.safetensors"
    path.write_bytes(content)
    loaded = AuditReport.load(path)
    assert same(loaded, report)
    assert loaded.top(5) == report.top(5)
    assert loaded.merge(report).samples == 34
    loaded.layers["0"].statistics.sums += 1
    assert not same(loaded, report)


def test_nan_and_strange_names_survive(report: AuditReport, tmp_path: Path) -> None:
    odd = report.merge(report)
    odd.layers = {f"a\n'ü.{name}#2": entry for name, entry in odd.layers.items()}
    odd.layers["a\n'ü.1#2"].statistics.sums[0, 0] = torch.nan
    odd.save(tmp_path / "odd")
    assert AuditReport.load(tmp_path / "odd").nonfinite() == {"a\n'ü.1#2": [0]}


def test_truncated_anywhere(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "audit.safetensors"
    lengths = {*range(0, 64), *range(64, len(content), 37), *range(len(content) - 40, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(ReportError, match=r"audit.safetensors: truncated, damaged, or no safetensors file"):
            AuditReport.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ReportError, match=r"audit.safetensors: truncated, damaged"):
        AuditReport.load(path)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_tampered_anywhere(content: bytes, tmp_path: Path, flip: int) -> None:
    path = tmp_path / "audit.safetensors"
    for place in [*range(0, 200), *range(200, len(content), 11)]:
        damaged = bytearray(content)
        damaged[place] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(ReportError, match=r"audit.safetensors: ") as caught:
            AuditReport.load(path)
        assert "\n" not in str(caught.value)


def rewritten(content: bytes, **changes: Any) -> bytes:
    """A forged report: header fields replaced and the checksum made to match."""
    tensors = load(content)
    header = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["neurosens_fast"]
    )
    header.update(changes)
    header = {key: value for key, value in header.items() if key != "sha256" and value is not ...}
    header["sha256"] = storage._checksum(header, tensors)
    return save(tensors, {"neurosens_fast": json.dumps(header)})


def test_a_faithful_rewrite_loads(content: bytes, report: AuditReport, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(rewritten(content))
    assert same(AuditReport.load(tmp_path / "r"), report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not an audit report"),
        ({"format_version": 4}, "report format 4, this package reads format 3"),
        ({"sums": ["sensitivity"]}, "keeps other statistics"),
        ({"samples": -1}, "not a valid report: ValueError: expected a count, got -1"),
        ({"samples": "17"}, "not a valid report: TypeError: expected int, got '17'"),
        ({"samples": True}, "not a valid report: TypeError"),
        ({"correct_benign": 18}, "more samples are classified correctly than are labelled"),
        ({"layers": []}, "its layers do not match its tensors"),
        ({"layers": None}, "not a valid report"),
        ({"layers": [{"name": "x"}]}, "not a valid report: KeyError: 'neurons'"),
        ({"versions": []}, "not a valid report: TypeError: expected dict"),
        ({"model": ...}, "not a valid report: KeyError: 'model'"),
    ],
)
def test_forged_headers(content: bytes, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "forged"
    path.write_bytes(rewritten(content, **changes))
    with pytest.raises(ReportError, match=f"forged: .*{message}"):
        AuditReport.load(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [(None, "no report header"), ({"a": "b"}, "no report header"), ({"neurosens_fast": "{"}, "no JSON"),
     ({"neurosens_fast": "[" * 100_000}, "no JSON"), ({"neurosens_fast": "[]"}, "not an audit report")],
)  # fmt: skip
def test_other_safetensors_files(metadata: dict[str, str] | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(save({"weight": torch.ones(2)}, metadata))
    with pytest.raises(ReportError, match=message):
        AuditReport.load(tmp_path / "other")


def test_missing_files_and_folders(report: AuditReport, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"cannot read .*gone: No such file"):
        AuditReport.load(tmp_path / "gone")
    with pytest.raises(ReportError, match=r"cannot read .*: Is a directory"):
        AuditReport.load(tmp_path)
    with pytest.raises(ReportError, match=r"cannot write .*gone.audit: No such file or directory"):
        report.save(tmp_path / "gone" / "audit")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_old_file(
    error: BaseException, report: AuditReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit"
    report.save(path)
    old = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ReportError if isinstance(error, OSError) else KeyboardInterrupt):
        report.merge(report).save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["audit"]


def test_written_with_the_usual_permissions(report: AuditReport, tmp_path: Path) -> None:
    report.save(tmp_path / "audit")
    (tmp_path / "plain").touch()
    assert (tmp_path / "audit").stat().st_mode == (tmp_path / "plain").stat().st_mode
