"""A run that was killed at any point goes on to the same weights, bit for bit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neurosens_fast.attacks import PGD
from neurosens_fast.training import CheckpointError, fit
from neurosens_fast.training import checkpoints as files
from tests.processes import Process

from .networks import QUICK, data, network

EPOCHS = 4


class KilledError(Exception):
    """Stands for a process that ends."""


def killed_at(call: int) -> Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]:
    """An attack that ends the run at its ``call``-th batch."""

    def build(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        attack, calls = PGD(model, 0.05, 0.05, 1), 0

        def counted(x: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KilledError
            return attack(x, y)

        return counted

    return build


def run(folder: Path, method: str, settings: dict[str, Any], call: int, resume: bool = False) -> dict[str, Tensor]:
    model = network(dropout=0.2)
    fit(
        model, *data(), method, EPOCHS, attack=killed_at(call)(model), out=folder, resume=resume, keep="last",
        progress=False, **{**QUICK, **settings},
    )  # fmt: skip
    return model.state_dict()


@pytest.mark.parametrize("call", [1, 3, 5, 9, 12])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("pgd-at", {"flip": True, "crop": 1}),
        ("trades", {"optimizer": "adamw", "lr": 0.01, "ema": 0.8}),
        ("sns", {"refresh": 5, "amp": "fp16", "schedule": "step"}),
    ],
)
def test_killed_and_resumed(tmp_path: Path, method: str, settings: dict[str, Any], call: int) -> None:
    whole = run(tmp_path / "whole", method, settings, 0)
    with pytest.raises(KilledError):
        run(tmp_path / "cut", method, settings, call)
    started = (tmp_path / "cut" / files.CHECKPOINT).exists()
    assert started == (call > 3)
    again = run(tmp_path / "cut", method, settings, 0, resume=started)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for name in (files.BEST, files.LAST):
        first, second = (load_file(tmp_path / side / name) for side in ("whole", "cut"))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    def command(out: str, *more: str) -> Process:
        words = "--method sns --data digits --eps 0.1 --steps 2 --val-steps 2 --epochs 3 --max-samples 400 --threads 1"
        return Process("train", *words.split(), "--out", tmp_path / out, *more)

    assert command("whole", "-q").wait() == 0
    victim = command("cut")
    checkpoint = tmp_path / "cut" / files.CHECKPOINT
    for _ in range(2400):
        if checkpoint.exists() or victim.poll() is not None:
            break
        time.sleep(0.05)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL, "it was to be killed before its end"
    assert checkpoint.exists()
    assert command("cut", "--resume", "-q").wait() == 0
    for name in (files.BEST, files.LAST):
        first, second = (load_file(tmp_path / side / name) for side in ("whole", "cut"))
        assert first
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("settings", [{"ema": 0.8}, {"val_every": 2, "patience": 2}])
def test_back_off_and_patience_go_on_alike(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Noise instead of images from the third epoch on: accuracy falls, weights go back, the rate halves."""

    def trained(folder: Path, call: int, resume: bool = False) -> tuple[dict[str, Tensor], list[float]]:
        model, calls = network(), 3 * 2 if resume else 0

        def attack(x: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KilledError
            return x if calls <= 9 else torch.rand_like(x)

        chosen = {**QUICK, "eps": 0.01, "optimizer": "adam", "lr": 0.02, "schedule": "constant"}
        chosen |= {"collapse": "back-off", "collapse_points": 2.0, "keep": "last", **settings}
        result = fit(model, *data(), "pgd-at", 7, attack=attack, out=folder, resume=resume, progress=False, **chosen)
        return model.state_dict(), [row.lr for row in result.history]

    whole, rates = trained(tmp_path / "whole", 0)
    with pytest.raises(KilledError):
        trained(tmp_path / "cut", 8)
    again, others = trained(tmp_path / "cut", 0, resume=True)
    assert rates == others
    assert rates[-1] < rates[0] or "patience" in settings
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_files_that_are_missing_beside_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    run(tmp_path, "sns", {}, 0)
    kept = {name: (tmp_path / name).read_bytes() for name in (files.BEST, files.LAST, files.SUMMARY, files.LOG)}
    for name in kept:
        (tmp_path / name).unlink()
    run(tmp_path, "sns", {}, 0, resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path, "sns", {}, 0)
    second = run(tmp_path, "sns", {}, 1, resume=True)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    run(tmp_path, "sns", {}, 0)
    path = tmp_path / files.CHECKPOINT
    attack = killed_at(0)(network())
    arguments: dict[str, Any] = {"out": tmp_path, "progress": False, **QUICK, "keep": "last", "attack": attack}
    with pytest.raises(ValueError, match=r"already holds a checkpoint\.safetensors; give resume=True"):
        fit(network(), *data(), "sns", EPOCHS, **arguments)
    arguments["resume"] = True
    with pytest.raises(CheckpointError, match="is of another method: 'sns', not 'trades'"):
        fit(network(), *data(), "trades", EPOCHS, **arguments)
    with pytest.raises(CheckpointError, match=r"is of another model: 'Sequential, .* parameters'"):
        fit(nn.Sequential(*network(), nn.Linear(3, 3)), *data(), "sns", EPOCHS, **arguments)
    with pytest.raises(CheckpointError, match=r"made with other settings: eps 0.05 \(now 0.1\)"):
        fit(network(), *data(), "sns", EPOCHS, **{**arguments, "eps": 0.1})
    with pytest.raises(CheckpointError, match=r"k 0\.1 \(now 1\)"):
        fit(network(), *data(), "sns", EPOCHS, **{**arguments, "k": 1})
    with pytest.raises(CheckpointError, match=r"is of another attack: .*, not \"the method's own\""):
        fit(network(), *data(), "sns", EPOCHS, **{**arguments, "attack": None})
    with pytest.raises(CheckpointError, match=r"is of another data: 'tensors \[96, 3, 4, 4\]"):
        fit(network(), *data(80), "sns", EPOCHS, **arguments)
    with pytest.raises(CheckpointError, match=r"epochs 4 \(now 5\)"):
        fit(network(), *data(), "sns", 5, **arguments)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a checkpoint" * 9):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="truncated, damaged, or no file of a training"):
            fit(network(), *data(), "sns", EPOCHS, **arguments)
    path.write_bytes(content[:-3] + bytes(3))
    with pytest.raises(CheckpointError, match="its checksum does not match"):
        fit(network(), *data(), "sns", EPOCHS, **arguments)
    path.write_bytes((tmp_path / files.BEST).read_bytes())
    with pytest.raises(CheckpointError, match="checksum"):
        fit(network(), *data(), "sns", EPOCHS, **arguments)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole", "pgd-at", {}, 0)
    kept: dict[str, bytes] = {}

    def full(descriptor: int) -> None:
        if (tmp_path / "cut" / files.LOG).exists():
            kept.update(
                {entry.name: entry.read_bytes() for entry in (tmp_path / "cut").iterdir() if entry.suffix != ".part"}
            )
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*safetensors: No space left on device"):
        run(tmp_path / "cut", "pgd-at", {}, 0)
    monkeypatch.undo()
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "cut").iterdir()} == kept
    again = run(tmp_path / "cut", "pgd-at", {}, 0, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
