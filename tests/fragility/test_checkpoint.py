"""Counts of an experiment that was ended anywhere go on to the same report, bit for bit."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.audit import ReportError, audit
from neurosens_fast.audit.checkpoint import Checkpoint, CheckpointWarning, unfinished
from neurosens_fast.audit.identity import weights_fingerprint
from neurosens_fast.audit.kept import kept_by
from neurosens_fast.audit.loop import go_over
from neurosens_fast.audit.setting import Setting
from neurosens_fast.audit.source import Share
from neurosens_fast.capture import Inputs
from neurosens_fast.fragility import Counts, FragilityReport
from neurosens_fast.fragility.checkpoint import CountsState
from neurosens_fast.support.names import FRAGILITY_REPORT

from .reports import random_report

NEURONS, EPS = 4, (0.2, 0.6)
GENERATOR = torch.Generator().manual_seed(4)
IMAGES = torch.rand(26, 6, generator=GENERATOR)
LABELS = torch.randint(0, 3, (26,), generator=GENERATOR)


class Faulty(Exception):
    """What ends an experiment here."""


def build() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, NEURONS), nn.ReLU(), nn.Linear(NEURONS, 3))


class Run:
    """A small nodal dropout under noise; ends with ``error`` in the work on sample ``broken``.

    ``midway``: when some of the counts of a batch are added and others not yet.
    """

    def __init__(self, model: Any, broken: int | None, error: BaseException | None, midway: bool) -> None:
        self.setting, self._model = Setting(model, None, None, None), model
        self.counts = Counts.zeros(NEURONS, 1 + len(EPS))
        self.facts: dict[str, Any] = {"noise": 0.0, "firsts": []}
        self._broken, self._error, self._midway = broken, error, midway

    @property
    def samples(self) -> int:
        return self.counts.samples

    def add(self, inputs: Inputs, labels: Tensor, first: int) -> None:
        assert isinstance(inputs, Tensor)
        broken = self._broken is not None and first <= self._broken < first + len(labels)
        if broken and self._error is not None and not self._midway:
            raise self._error
        before, after = [], []
        for eps in (0.0, *EPS):
            noise = eps * torch.randn_like(inputs)  # of the global generator, as attacks of users draw it
            self.facts["noise"] += float(noise.sum())
            hidden = self._model[:2](inputs + noise)
            before.append(self._right(hidden, labels))
            drops = 1 - torch.eye(NEURONS)
            after.append(torch.stack([self._right(hidden * drop, labels) for drop in drops]))
        self.facts["firsts"].append(first)
        self.counts.correct += 1 if broken else 0
        if broken and self._error is not None:
            raise self._error
        self.counts.add(torch.stack(before), torch.stack(after, 1))

    def _right(self, hidden: Tensor, labels: Tensor) -> Tensor:
        right: Tensor = self._model[2](hidden).argmax(1) == labels
        return right


def measure(
    folder: Path,
    broken: int | None = None,
    error: BaseException | None = None,
    midway: bool = False,
    resume: bool = False,
    seconds: float = 1000.0,
    model: Any = None,
    images: Tensor = IMAGES,
    seed: int = 0,
    share: Share | None = None,
) -> FragilityReport:
    """As an experiment uses :class:`Checkpoint`."""
    model = build() if model is None else model
    run = Run(model, broken, error, midway)
    identity = {"weights": weights_fingerprint(model), "eps": EPS, "batch_size": 4, "seed": seed}
    store = Checkpoint(folder, identity, share or Share(), CountsState(run), seconds)
    left = store.open(resume)
    with ExitStack() as stack:
        stack.enter_context(store.kept_after_errors())
        go_over(
            (images, LABELS[: len(images)]),
            run,
            run.setting,
            batch_size=4,
            max_samples=None,
            progress=False,
            title="nodal dropout",
            seed=seed,
            share=left,
            before=store.check_data,
            after=store.passed,
        )
        notes = (f"noise {run.facts['noise']!r}", f"batches at {run.facts['firsts']}")
        report = replace(random_report(NEURONS, EPS), counts=run.counts, seed=seed, notes=notes)
        store.complete(report)
    return report


def content(folder: Path) -> bytes:
    return (folder / FRAGILITY_REPORT).read_bytes()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    (tmp_path / "whole").mkdir()
    report = measure(tmp_path / "whole")
    assert report.samples == 26
    assert report.notes[1] == "batches at [0, 4, 8, 12, 16, 20, 24]"
    assert report.counts.lost.sum() > 0
    return content(tmp_path / "whole")


@pytest.mark.parametrize("error", [Faulty("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("midway", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_ended_and_resumed(tmp_path: Path, whole: bytes, error: BaseException, midway: bool, seconds: float) -> None:
    """Twice: in the fourth batch, and in the last one."""
    path = tmp_path / "fragility.unfinished-0-of-1.safetensors"
    for broken, done in ((13, 12), (25, 24)):
        with pytest.raises(type(error)) as caught:
            measure(tmp_path, broken, error, midway, resume=True, seconds=seconds)
        assert unfinished(tmp_path, "fragility") == [path]
        assert not unfinished(tmp_path)
        assert kept_by(caught.value) == tmp_path
        assert any("the same nodal dropout with resume=True goes on" in note for note in caught.value.__notes__)
        run = Run(build(), None, None, False)
        facts = CountsState(run).load(path)
        assert facts is not None
        assert (run.samples, facts["next"], run.facts["firsts"]) == (done, done // 4, list(range(0, done, 4)))
    report = measure(tmp_path, resume=True)
    assert report.samples == 26
    assert content(tmp_path) == whole
    assert {entry.name for entry in tmp_path.iterdir()} == {"whole", FRAGILITY_REPORT}


def test_each_state_on_the_way_is_a_start(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bytes] = []
    replaced = Path.replace

    def kept(self: Path, target: Any) -> Path:
        result = replaced(self, target)
        if "unfinished" in Path(target).name:
            states.append(Path(target).read_bytes())
        return result

    monkeypatch.setattr(Path, "replace", kept)
    measure(tmp_path, seconds=0)
    monkeypatch.undo()
    assert len(states) == 7
    for state in states:
        (tmp_path / FRAGILITY_REPORT).unlink()
        (tmp_path / "fragility.unfinished-0-of-1.safetensors").write_bytes(state)
        measure(tmp_path, resume=True)
        assert content(tmp_path) == whole


def begun(folder: Path) -> Path:
    with pytest.raises(Faulty):
        measure(folder, 21, Faulty("gone"))
    return unfinished(folder, "fragility")[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "is of another nodal dropout, seed: 0, now 1; give the same, or remove it to begin anew"),
        ({"model": "other"}, "is of another nodal dropout, weights: [0-9a-f]{12}, now [0-9a-f]{12};"),
        ({"images": IMAGES + 0.5}, "is of another data set: batch 0 holds other samples now"),
        ({"images": IMAGES[:8]}, "the data end after 2 batches, but 5 of this nodal dropout are done"),
        ({"resume": False}, "is an unfinished nodal dropout; resume it, or remove it to begin anew"),
        ({"share": Share(world=2)}, "is of a nodal dropout by another number of processes than 2; start as many as"),
    ],
)
def test_another_experiment_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = begun(tmp_path)
    before = path.read_bytes()
    if "model" in changes:
        changes = {"model": build()}
        with torch.no_grad():
            changes["model"][0].bias[0] += 1e-3
    with pytest.raises(ValueError, match=message) as caught:
        measure(tmp_path, **{"resume": True, **changes})
    assert isinstance(caught.value, ReportError) or "data end" in message
    assert path.read_bytes() == before


def test_a_folder_that_holds_a_report(tmp_path: Path, whole: bytes) -> None:
    with pytest.raises(ReportError, match=r"there is no folder .*missing; make it first"):
        measure(tmp_path / "missing")
    with pytest.raises(ReportError, match=r"fragility.safetensors is a complete report; choose another folder or"):
        measure(tmp_path / "whole", resume=True)
    path = begun(tmp_path)
    path.write_bytes(whole)
    with pytest.raises(ReportError, match="is a report and no unfinished nodal dropout; choose another folder"):
        measure(tmp_path, resume=True)
    path.write_bytes(whole[:-9])
    with pytest.raises(ReportError, match="truncated"):
        measure(tmp_path, resume=True)


def test_an_audit_in_the_same_folder(tmp_path: Path, whole: bytes) -> None:
    """Neither takes the files of the other for its own."""
    begun(tmp_path)
    data = (IMAGES, LABELS)
    audit(build(), data, lambda x, y: x + 0.1, checkpoint=tmp_path, resume=True, progress=False, verify=False)
    measure(tmp_path, resume=True)
    assert content(tmp_path) == whole
    assert {entry.name for entry in tmp_path.iterdir()} == {"whole", FRAGILITY_REPORT, "audit.safetensors"}


def test_a_full_disk_ends_nothing(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0
    replaced = Path.replace

    def full(self: Path, target: Any) -> Path:
        nonlocal writes
        writes += 1
        if writes in (3, 5):
            raise OSError(28, "No space left on device")
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(CheckpointWarning, match="No space left on device; the nodal dropout goes on") as caught:
        measure(tmp_path, seconds=0)
    assert len(caught) == 1
    assert content(tmp_path) == whole
