"""``neurosens-fast audit --resume``: after Ctrl-C, SIGTERM, errors of data, and in folders of other runs."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from neurosens_fast.audit.checkpoint import unfinished
from neurosens_fast.support.names import REPORT
from tests.processes import Process

DATA = """
import pathlib, time
import torch

FAULT = pathlib.Path(__file__).with_name("fault")
images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(3))

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        time.sleep(0.02)
        if FAULT.exists() and index == 30:
            raise OSError("the disk is gone")
        return images[index], index % 10

def load():
    return Slow()
"""
WORDS = ("audit", "--model", "digits-cnn", "--data", "data.py:load", "--attack", "fgsm", "--batch-size", "4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.py").write_text(DATA)
    return tmp_path


def start(folder: Path, *words: str) -> Process:
    return Process(*WORDS, *words, folder=folder)


def finish(folder: Path, *words: str) -> None:
    process = start(folder, *words)
    _, errors = process.communicate(100)
    assert (process.wait(), errors) == (0, "")


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM; what")],
)
def test_a_signal_then_resume(folder: Path, number: signal.Signals, status: int, said: str) -> None:
    process = start(folder, "--out", "run", "--save-every", "0")
    deadline = time.monotonic() + 100
    while not unfinished(folder / "run"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(60)
    assert process.wait() == status
    assert errors.startswith(f"neurosens-fast: {said}")
    assert errors.endswith("; what was done is kept in run, the same command with --resume goes on\n")
    assert errors.count("\n") == 1
    finish(folder, "--out", "run", "--resume")
    finish(folder, "--out", "whole")
    assert (folder / "run" / REPORT).read_bytes() == (folder / "whole" / REPORT).read_bytes()
    assert not unfinished(folder / "run")


def test_data_that_raise_and_a_folder_of_another_run(folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "fault").touch()
    status, _, errors = run(*WORDS, "--out", "run")
    assert status == 1
    assert "data.py, line" in errors
    assert "OSError: the disk is gone" in errors
    assert errors.endswith("; what was done is kept in run, the same command with --resume goes on\n")
    (folder / "fault").unlink()
    status, _, errors = run(*WORDS, "--out", "run")
    assert (status, errors) == (
        2,
        "neurosens-fast: run holds an unfinished audit; go on with --resume, or begin anew with --overwrite\n",
    )
    status, _, errors = run(*WORDS, "--out", "run", "--resume", "--overwrite")
    assert (status, errors) == (2, "neurosens-fast: --resume goes on with what --overwrite would replace; drop one\n")
    status, _, errors = run(*WORDS, "--out", "run", "--resume", "--eps", "0.2")
    assert status == 2
    assert "is of another audit, attack: FGSM(eps=0.0313725), now FGSM(eps=0.2); give the same" in errors
    status, _, errors = run(*WORDS, "--out", "run", "--resume")
    assert (status, errors) == (0, "")
    (folder / "run" / "neurons.csv").unlink()
    status, _, errors = run(*WORDS, "--out", "run", "--resume")
    assert (status, errors) == (0, "")
    assert (folder / "run" / "neurons.csv").exists()
    status, _, errors = run(*WORDS, "--out", "run", "--resume", "--eps", "0.2")
    assert status == 2
    assert "audit.safetensors is a complete report of another audit; choose another folder" in errors
    status, _, errors = run(*WORDS, "--out", "run", "--overwrite", "--workers", "1")
    assert (status, errors) == (0, "")
