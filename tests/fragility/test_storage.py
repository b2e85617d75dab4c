"""Fragility reports on disk: the round trip, damage of every kind, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from neurosens_fast.audit import AuditReport, ReportError
from neurosens_fast.fragility import FragilityReport, storage
from neurosens_fast.support.checked_file import checksum

from .reports import random_report

COUNTED = ("correct", "lost", "gained", "joint")


def same(first: FragilityReport, second: FragilityReport) -> bool:
    """Whether two reports hold the same numbers and descriptions."""
    plain = [entry.name for entry in fields(FragilityReport) if entry.name != "counts"]
    return all(getattr(first, name) == getattr(second, name) for name in plain) and (
        first.counts.samples == second.counts.samples
        and all(torch.equal(getattr(first.counts, name), getattr(second.counts, name)) for name in COUNTED)
    )


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("report") / "fragility.safetensors"
    random_report().save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "report", [random_report(), random_report(1, (0.0,), notes=(), seed=-1), random_report(5, layer="a\n'ü.#2")]
)
def test_round_trip(report: FragilityReport, tmp_path: Path) -> None:
    report.save(tmp_path / "r")
    loaded = FragilityReport.load(tmp_path / "r")
    assert same(loaded, report)
    assert loaded.to_pandas().equals(report.to_pandas())
    assert (type(loaded.neurons), type(loaded.eps), type(loaded.notes)) == (tuple, tuple, tuple)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "r").read_bytes()
    loaded.counts.joint[0, 1] += 1
    assert not same(loaded, report)


def test_slices_and_whole_strengths_can_be_saved(tmp_path: Path) -> None:
    report = random_report(eps=(1, 2))  # type: ignore[arg-type]
    for name in COUNTED[1:]:
        setattr(report.counts, name, getattr(report.counts, name).t().contiguous().t())
    report.save(tmp_path / "r")
    assert same(FragilityReport.load(tmp_path / "r"), report)


def test_truncated_anywhere(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fragility.safetensors"
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(
            ReportError, match=r"fragility.safetensors: truncated, damaged, or no safetensors file; mea"
        ):
            FragilityReport.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ReportError, match=r"fragility.safetensors: truncated, damaged"):
        FragilityReport.load(path)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_tampered_anywhere(content: bytes, tmp_path: Path, flip: int) -> None:
    path = tmp_path / "fragility.safetensors"
    for place in [*range(0, 200), *range(200, len(content), 3)]:
        damaged = bytearray(content)
        damaged[place] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(ReportError, match=r"fragility.safetensors: ") as caught:
            FragilityReport.load(path)
        assert "\n" not in str(caught.value)


def rewritten(content: bytes, tensors: dict[str, Tensor] | None = None, **changes: Any) -> bytes:
    """A forged report: header fields and tensors replaced and the checksum made to match."""
    every = {**load(content), **(tensors or {})}
    header = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["neurosens_fast"]
    )
    header.update(changes)
    header = {key: value for key, value in header.items() if key != "sha256" and value is not ...}
    header["sha256"] = checksum(header, every)
    return save(every, {"neurosens_fast": json.dumps(header)})


def test_a_faithful_rewrite_loads(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(rewritten(content))
    assert same(FragilityReport.load(tmp_path / "r"), random_report())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "neurosens-fast audit"}, "not a fragility report"),
        ({"format_version": 2}, "report format 2, this package reads format 1; use a matching version"),
        ({"format_version": ...}, "report format None"),
        ({"samples": -1}, "not a valid report: ValueError: expected a count, got -1"),
        ({"samples": "20"}, "not a valid report: TypeError: expected int, got '20'"),
        ({"samples": True}, "not a valid report: TypeError"),
        ({"samples": 2**70}, "not a valid report: "),
        ({"samples": 4}, "correct holds counts that 4 samples cannot have"),
        ({"neurons": [5, 0]}, r"it holds counts of \[3, 3\] for 2 neurons and 3 conditions"),
        ({"neurons": [5, 0, 8]}, "it names neuron 8 of 8"),
        ({"neurons": [5, 0, -1]}, "expected a count, got -1"),
        ({"neurons": [5, 0, 5]}, "it names a neuron twice"),
        ({"neurons": [5, 0, 1.0]}, "expected int, got 1.0"),
        ({"neurons": None}, "expected list, got None"),
        ({"channels": 7}, "it names neuron 7 of 7"),
        ({"eps": [0.1]}, "for 3 neurons and 2 conditions"),
        ({"eps": []}, "eps is empty"),
        ({"eps": [0.1, 0.1]}, "eps holds a strength twice"),
        ({"eps": [0.1, -0.1]}, "eps must be numbers of at least 0"),
        ({"eps": [0.1, float("nan")]}, "eps must be numbers of at least 0"),
        ({"eps": [0.1, float("inf")]}, "eps must be numbers of at least 0"),
        ({"eps": [0.1, "0.2"]}, "expected float, got '0.2'"),
        ({"seed": None}, "expected int, got None"),
        ({"versions": []}, "not a valid report: TypeError: expected dict"),
        ({"notes": "a note"}, "expected list, got 'a note'"),
        ({"model": ...}, "not a valid report: KeyError: 'model'"),
        ({"layer": 3}, "expected str, got 3"),
        ({"progress": ...}, "not a valid report: KeyError: 'progress'"),
        ({"progress": {"next": 3}}, "is of a nodal dropout that is not complete; start the same one with resume=True"),
    ],
)
def test_forged_headers(content: bytes, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "forged"
    path.write_bytes(rewritten(content, **changes))
    with pytest.raises(ReportError, match=f"forged:? .*{message}"):
        FragilityReport.load(path)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("correct", 0, -1), ("correct", 1, 21), ("lost", (0, 0), -1), ("lost", (2, 1), 21), ("gained", (0, 2), -1),
        ("gained", (1, 1), 21), ("joint", (0, 1), 21), ("joint", (0, 1), -(2**63)), ("joint", (1, 0), 0),
    ],
)  # fmt: skip
def test_counts_that_no_samples_have(content: bytes, name: str, place: Any, value: int, tmp_path: Path) -> None:
    tensor = load(content)[name]
    tensor[place] = value
    (tmp_path / "forged").write_bytes(rewritten(content, {name: tensor}))
    with pytest.raises(ReportError, match=f"{name} holds counts that 20 samples cannot have"):
        FragilityReport.load(tmp_path / "forged")


@pytest.mark.parametrize("name", ["lost", "gained"])
def test_counts_at_their_limits(content: bytes, name: str, tmp_path: Path) -> None:
    """As many may be lost as were right, and as many gained as were wrong, and not one more."""
    tensors = load(content)
    limit = int(tensors["correct"][1] if name == "lost" else 20 - tensors["correct"][1])
    for extra in (0, 1):
        tensors[name][0, 1] = limit + extra
        (tmp_path / "forged").write_bytes(rewritten(content, {name: tensors[name]}))
        if extra:
            with pytest.raises(ReportError, match=f"{name} holds counts that 20 samples cannot have"):
                FragilityReport.load(tmp_path / "forged")
        else:
            assert FragilityReport.load(tmp_path / "forged").samples == 20


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"lost": torch.zeros(3, 2, dtype=torch.int64)},
            r"counts do not fit each other: .*lost \[3, 2\], gained \[3, 3",
        ),
        ({"correct": torch.zeros(2, dtype=torch.int64)}, r"counts do not fit each other: correct \[2\]"),
        ({"correct": torch.tensor(3)}, r"counts do not fit each other: correct \[\]"),
        ({"lost": torch.tensor(3)}, r"counts do not fit each other"),
        ({"joint": torch.zeros(4, 3, dtype=torch.int64)}, r"counts do not fit each other"),
        ({"other": torch.zeros(1, dtype=torch.int64)}, "it holds tensors that are no counts: other"),
        ({"lost": torch.zeros(3, 3)}, "not a valid report: it holds tensors that are not int64"),
        ({"lost": torch.zeros(3, 3, dtype=torch.int32)}, "not a valid report: it holds tensors that are not int64"),
    ],
)
def test_forged_tensors(content: bytes, tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    (tmp_path / "forged").write_bytes(rewritten(content, tensors))
    with pytest.raises(ReportError, match=f"forged: .*{message}"):
        FragilityReport.load(tmp_path / "forged")


def test_a_tensor_is_missing(content: bytes, tmp_path: Path) -> None:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["neurosens_fast"]
    tensors = {name: value for name, value in load(content).items() if name != "joint"}
    facts = {key: value for key, value in json.loads(header).items() if key != "sha256"}
    facts["sha256"] = checksum(facts, tensors)
    (tmp_path / "forged").write_bytes(save(tensors, {"neurosens_fast": json.dumps(facts)}))
    with pytest.raises(ReportError, match="not a valid report: KeyError: 'joint'"):
        FragilityReport.load(tmp_path / "forged")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [(None, "no report header"), ({"a": "b"}, "no report header"), ({"neurosens_fast": "{"}, "no JSON"),
     ({"neurosens_fast": "[" * 100_000}, "no JSON"), ({"neurosens_fast": "[]"}, "not a fragility report")],
)  # fmt: skip
def test_other_safetensors_files(metadata: dict[str, str] | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(save({"weight": torch.ones(2)}, metadata))
    with pytest.raises(ReportError, match=message):
        FragilityReport.load(tmp_path / "other")


def test_reports_of_two_kinds_are_told_apart(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ReportError, match="a safetensors file, but not an audit report"):
        AuditReport.load(tmp_path / "r")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"cannot read .*gone: No such file"):
        FragilityReport.load(tmp_path / "gone")
    with pytest.raises(ReportError, match=r"cannot read .*: Is a directory"):
        FragilityReport.load(tmp_path)
    with pytest.raises(ReportError, match=r"cannot write .*gone.report: No such file or directory"):
        random_report().save(tmp_path / "gone" / "report")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_old_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report"
    random_report().save(path)
    old = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ReportError if isinstance(error, OSError) else KeyboardInterrupt):
        random_report(2).save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_counts_of_an_unfinished_run(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state"
    counts = random_report().counts
    storage.save_counts(counts, {"next": 3, "run": {"neurons": [1, 2]}}, path)
    found = storage.load_counts(path)
    assert found is not None
    assert found[1] == {"next": 3, "run": {"neurons": [1, 2]}}
    assert found[0].samples == 20
    assert all(torch.equal(getattr(found[0], name), getattr(counts, name)) for name in COUNTED)
    with pytest.raises(ReportError, match="state is of a nodal dropout that is not complete"):
        FragilityReport.load(path)
    state = path.read_bytes()
    counts.lost[0, 0] = 21
    path.write_bytes(rewritten(state, {"lost": counts.lost}))
    with pytest.raises(ReportError, match="lost holds counts that 20 samples cannot have"):
        storage.load_counts(path)
    path.write_bytes(rewritten(state, progress=3))
    with pytest.raises(ReportError, match="expected dict, got 3"):
        storage.load_counts(path)
    path.write_bytes(content)
    assert storage.load_counts(path) is None
