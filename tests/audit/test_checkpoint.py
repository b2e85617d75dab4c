"""An audit that was ended anywhere goes on to the same report, bit for bit."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit import AuditReport, ReportError, audit, audit_pairs, checkpoint
from neurosens_fast.audit.checkpoint import CheckpointWarning, unfinished
from neurosens_fast.audit.kept import kept_by
from neurosens_fast.support.names import REPORT
from tests.processes import Process

from .conftest import build
from .interrupted import (
    IMAGES,
    LABELS,
    Faulty,
    Samples,
    Stream,
    content,
    make_samples,
    random_attack,
    unbroken,
    wrapped,
)


@pytest.mark.parametrize("broken", [0, 5, 13, 25])
@pytest.mark.parametrize("kind", ["map style", "loader", "shuffled", "stream"])
def test_data_that_raise_midway(tmp_path: Path, kind: str, broken: int) -> None:
    samples: Any = Stream() if kind == "stream" else Samples()
    whole = unbroken(tmp_path, wrapped(kind, samples), random_attack)
    samples.broken = broken
    arguments: Any = (build(), wrapped(kind, samples), random_attack, "all")
    with pytest.raises(Faulty) as caught:
        audit(*arguments, batch_size=4, checkpoint=tmp_path, resume=True)
    present = unfinished(tmp_path)
    assert kept_by(caught.value) == (tmp_path if present else None)
    if broken >= 5 and kind != "shuffled":
        assert len(present) == 1
        assert any("resume=True" in note for note in caught.value.__notes__)
    samples.broken = None
    report = audit(*arguments, batch_size=4, checkpoint=tmp_path, resume=True)
    assert content(tmp_path) == whole
    assert not unfinished(tmp_path)
    assert report.samples == 26


class Interrupted(nn.Sequential):
    """Its layers in order; Ctrl-C after the second one in the forward that brings ``left`` to 0."""

    left = 0

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self):
            x = layer(x)
            if place == 1:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return x


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@pytest.mark.parametrize("two", [False, True])
def test_ctrl_c_while_a_batch_is_measured(tmp_path: Path, two: bool, seconds: float) -> None:
    """Some layers have the batch already then, others not: it must not be counted twice."""
    model = Interrupted(*build())
    (tmp_path / "unbroken").mkdir()

    def once(folder: Path, **keywords: Any) -> AuditReport:
        keywords |= {"checkpoint": folder, "batch_size": 4, "verify": False, "progress": False, "by_class": True}
        data = IMAGES, LABELS
        if two:
            return audit_pairs(build(), model, data, "all", **keywords)
        return audit(model, data, random_attack, "all", fuse=False, **keywords)

    whole = once(tmp_path / "unbroken")
    for forward in (3, 1, 2):
        model.left = forward
        with pytest.raises(KeyboardInterrupt):
            once(tmp_path, resume=True, checkpoint_seconds=seconds)
        assert bool(unfinished(tmp_path)) == (seconds == 0)
    report = once(tmp_path, resume=True)
    assert {row.statistics.samples for row in report.layers.values()} == {26}
    assert content(tmp_path) == content(tmp_path / "unbroken")
    assert report.samples == whole.samples


@pytest.mark.parametrize("make", [lambda model: PGD(model, eps=0.1, steps=2), lambda model: FGSM(model, eps=0.1)])
def test_an_attack_that_raises_again_and_again(tmp_path: Path, make: Any) -> None:
    whole = unbroken(tmp_path, (IMAGES, LABELS), make(build()))
    calls = 0

    class Unsteady:
        def __init__(self, attack: Any) -> None:
            self.attack = attack

        def __repr__(self) -> str:
            return repr(self.attack)

        def __call__(self, x: Tensor, y: Tensor, index: Any = None) -> Any:
            nonlocal calls
            calls += 1
            if calls % 3 == 2:
                raise Faulty("attack")
            return self.attack(x, y) if index is None else self.attack(x, y, index)

    model = build()
    attack = Unsteady(make(model))
    failures = 0
    while not (tmp_path / REPORT).exists() and failures < 20:
        try:
            audit(model, (IMAGES, LABELS), attack, "all", batch_size=4, checkpoint=tmp_path, resume=True)
        except Faulty:
            failures += 1
    assert failures >= 3
    loaded = AuditReport.load(tmp_path / REPORT)
    expected = AuditReport.load(tmp_path / "unbroken" / REPORT)
    assert loaded.samples == expected.samples == 26
    if isinstance(attack.attack, FGSM):  # not one of the package's attacks: it gets no numbers of samples
        assert content(tmp_path) == whole


def test_each_state_on_the_way_is_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = unbroken(tmp_path, (IMAGES, LABELS), random_attack)
    states: list[bytes] = []
    replace = Path.replace

    def kept(self: Path, target: Any) -> Path:
        result = replace(self, target)
        if "unfinished" in Path(target).name:
            states.append(Path(target).read_bytes())
        return result

    monkeypatch.setattr(Path, "replace", kept)
    folder = tmp_path / "run"
    folder.mkdir()
    audit(build(), (IMAGES, LABELS), random_attack, "all", batch_size=4, checkpoint=folder, checkpoint_seconds=0)
    monkeypatch.undo()
    assert len(states) == 7
    for state in states:
        (folder / REPORT).unlink()
        (folder / "audit.unfinished-0-of-1.safetensors").write_bytes(state)
        audit(build(), (IMAGES, LABELS), random_attack, "all", batch_size=4, checkpoint=folder, resume=True)
        assert content(folder) == whole


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from neurosens_fast.audit import audit
from tests.audit.conftest import build

torch.set_num_threads(1)
folder, seed, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
images = torch.rand(40 * most, 1, 6, 6, generator=torch.Generator().manual_seed(1))
labels = torch.arange(40 * most) % 4

def slow(x, y):
    time.sleep(0.015)
    return x + 0.1 * torch.rand_like(x)

def run(where, resume):
    audit(build(), (images, labels), slow, "all", batch_size=4, checkpoint=where, resume=resume, checkpoint_seconds=0)

def child(where, resume):
    pid = os.fork()
    if pid == 0:
        run(where, resume)
        os._exit(0)
    return pid

(folder / "whole").mkdir()
(folder / "killed").mkdir()
assert os.waitpid(child(folder / "whole", False), 0)[1] == 0
draw = random.Random(seed)
kills = 0
while True:
    pid = child(folder / "killed", True)
    if kills < most:
        time.sleep(draw.uniform(0, 0.16))
        os.kill(pid, signal.SIGKILL)
    ended = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(ended):
        assert ended == 0
        break
    kills += 1
print(kills)
"""


@pytest.mark.parametrize("most", [6, pytest.param(24, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, most: int) -> None:
    seed = random.SystemRandom().randrange(10**6)
    process = Process(tmp_path, str(seed), str(most), code=KILLED)
    out, errors = process.communicate(300)
    assert process.wait() == 0, f"seed {seed}: {errors}"
    assert int(out) >= most * 5 // 6, f"seed {seed}"
    assert content(tmp_path / "killed") == content(tmp_path / "whole"), f"seed {seed}"
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [REPORT]


def test_a_full_disk_ends_no_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, f"cannot write {path}: No space left on device")

    whole = unbroken(tmp_path, make_samples(), random_attack)
    with monkeypatch.context() as patch:
        patch.setattr("neurosens_fast.support.files.write_whole", full)
        with (
            pytest.warns(CheckpointWarning, match="No space left on device; the audit goes on") as caught,
            pytest.raises(ReportError, match="No space left"),  # the report itself has no room either
        ):
            audit(build(), make_samples(), random_attack, batch_size=4, checkpoint=tmp_path, checkpoint_seconds=0)
        assert len(caught) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["unbroken"]
    saved = checkpoint.save_report
    writes = 0

    def full_at_the_end(report: AuditReport, path: Path, progress: Any = None) -> None:
        nonlocal writes
        writes += 1
        if writes > 3:
            raise ReportError("cannot write: No space left on device")
        saved(report, path, progress)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_report", full_at_the_end)
        patch.setattr(AuditReport, "save", full_at_the_end)
        with pytest.warns(CheckpointWarning), pytest.raises(ReportError, match="No space left") as failed:
            audit(
                *(build(), make_samples(), random_attack, "all"),
                batch_size=4,
                checkpoint=tmp_path,
                checkpoint_seconds=0,
            )
    assert kept_by(failed.value) == tmp_path
    audit(build(), make_samples(), random_attack, "all", batch_size=4, checkpoint=tmp_path, resume=True)
    assert content(tmp_path) == whole


def test_states_are_written_every_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    written: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    saved = checkpoint.save_report

    def noted(report: AuditReport, path: Path, progress: Any = None) -> None:
        written.append(now)
        saved(report, path, progress)

    def attack(x: Tensor, y: Tensor) -> Tensor:
        nonlocal now
        now += 1
        return x

    monkeypatch.setattr(checkpoint, "save_report", noted)
    audit(build(), make_samples(), attack, batch_size=2, checkpoint=tmp_path, checkpoint_seconds=4, progress=False)
    assert written == [4, 8, 12]


def test_a_model_on_which_memory_runs_out(tmp_path: Path) -> None:
    class Limited(nn.Module):
        """Takes 6 samples at once; runs out of memory behind the first layer, whose statistics are then taken."""

        def __init__(self) -> None:
            super().__init__()
            self.net = build()
            self.sizes: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net[:3](x)
            if len(x) > 6:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.sizes.append(len(x))
            return self.net[3:](out)  # type: ignore[no-any-return]

    model = Limited()
    report = audit(model, (IMAGES, LABELS), lambda x, y: x * 0.9, "all", batch_size=8, verify=False)
    wanted = audit(build(), (IMAGES, LABELS), lambda x, y: x * 0.9, "all", batch_size=8)
    assert max(model.sizes) <= 6
    assert (report.samples, report.labelled) == (26, 26)
    for name, row in wanted.layers.items():
        found = report.layers[f"net.{name}"].statistics
        assert found.samples == row.statistics.samples == 26
        torch.testing.assert_close(found.sums, row.statistics.sums, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.maxima, row.statistics.maxima, rtol=1e-5, atol=1e-6)
    assert any("in parts of 2" in note for note in report.notes)


class Breaking(nn.Module):
    """Fails behind its first layer, whose statistics are then taken, or draws random numbers in its forward."""

    def __init__(self, dropout: bool = False) -> None:
        super().__init__()
        self.net = build()
        self.dropout = dropout
        self.calls: float = -torch.inf

    def forward(self, x: Tensor) -> Tensor:
        x = self.net[:3](x)
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        if self.dropout:
            x = nn.functional.dropout(x, 0.3, training=True)
        return self.net[3:](x)  # type: ignore[no-any-return]


def test_a_batch_that_is_broken_off_midway_counts_once(tmp_path: Path) -> None:
    model = Breaking()
    options: Any = {"batch_size": 4, "verify": False, "fuse": False}
    whole = unbroken_of(tmp_path, model, options)
    model.calls = 0
    with pytest.raises(KeyboardInterrupt):
        audit(model, (IMAGES, LABELS), random_attack, "all", checkpoint=tmp_path, checkpoint_seconds=0, **options)
    assert len(unfinished(tmp_path)) == 1
    audit(model, (IMAGES, LABELS), random_attack, "all", checkpoint=tmp_path, resume=True, **options)
    assert content(tmp_path) == whole


def unbroken_of(tmp_path: Path, model: nn.Module, options: Any) -> bytes:
    folder = tmp_path / "unbroken"
    folder.mkdir()
    audit(model, (IMAGES, LABELS), random_attack, "all", checkpoint=folder, **options)
    return content(folder)


@pytest.mark.parametrize("fuse", [True, False])
def test_a_forward_that_draws_random_numbers(tmp_path: Path, fuse: bool) -> None:
    model = Breaking(dropout=True)
    options: Any = {"batch_size": 4, "verify": False, "fuse": fuse}
    whole = unbroken_of(tmp_path, model, options)
    data = (IMAGES, LABELS)
    calls = 0

    def attack(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Faulty("once")
        return random_attack(x, y)

    named: Any = {"attack_description": f"{random_attack.__module__}.{random_attack.__qualname__}"}
    with pytest.raises(Faulty):
        audit(model, data, attack, "all", checkpoint=tmp_path, **named, **options)
    audit(model, data, attack, "all", checkpoint=tmp_path, resume=True, **named, **options)
    assert content(tmp_path) == whole
