"""Nodal dropout that was ended goes on, and gives the report of an unbroken run."""

from __future__ import annotations

import signal
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import PGD
from neurosens_fast.audit.storage import ReportError
from neurosens_fast.fragility import FragilityReport, nodal_dropout
from neurosens_fast.support.names import FRAGILITY_REPORT
from tests.processes import Process
from tests.trained import images, trained

SETTING: dict[str, Any] = {"eps": [0.05, 0.2], "neurons": [3, 0, 7], "batch_size": 8, "progress": False}
ATTACK = partial(PGD, steps=2, random_start=True, seed=1)


class Ending:
    """Makes attacks that raise ``error`` at call number ``last``; prints like any other of its kind."""

    def __init__(self, last: int, error: BaseException) -> None:
        self.left, self.error = last, error

    def __call__(self, model: nn.Module, eps: float) -> Any:
        attack = ATTACK(model, eps=eps)

        def ending(x: Tensor, y: Tensor) -> Tensor:
            self.left -= 1
            if not self.left:
                raise self.error
            return attack(x, y)

        return ending


def run(folder: Path, attack: Any, **others: Any) -> FragilityReport:
    arguments = {**SETTING, "checkpoint": folder, "checkpoint_seconds": 0.0, **others}
    return nodal_dropout(trained(), images(40), attack=attack, attack_description="pgd", **arguments)


def content(folder: Path) -> bytes:
    return (folder / FRAGILITY_REPORT).read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder, Ending(0, OSError()))
    return content(folder)


@pytest.mark.parametrize("protocol", ["fixed", "adaptive"])
@pytest.mark.parametrize("last", [4, 5, 9])
def test_ended_run_goes_on(last: int, protocol: str, tmp_path: Path, unbroken: bytes) -> None:
    for call, error in ((last, KeyboardInterrupt()), (2, OSError("the disk is gone"))):
        with pytest.raises(type(error)):
            run(tmp_path, Ending(call, error), resume=True, protocol=protocol)
        assert not (tmp_path / FRAGILITY_REPORT).exists()
    run(tmp_path, Ending(0, OSError()), resume=True, protocol=protocol)
    assert [path.name for path in tmp_path.iterdir()] == [FRAGILITY_REPORT]
    if protocol == "adaptive":
        (folder := tmp_path / "whole").mkdir()
        run(folder, Ending(0, OSError()), protocol=protocol)
        unbroken = content(folder)
    assert content(tmp_path) == unbroken


def test_ended_while_the_state_is_kept(tmp_path: Path, unbroken: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the end of a batch and its being kept: the batch is not lost."""
    copies = 0

    def interrupted(value: Any) -> Any:
        nonlocal copies
        copies += 1
        if copies == 3:
            raise KeyboardInterrupt
        return deepcopy(value)

    with monkeypatch.context() as patch:
        patch.setattr("neurosens_fast.fragility.checkpoint.deepcopy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Ending(0, OSError()))
    run(tmp_path, Ending(0, OSError()), resume=True)
    assert content(tmp_path) == unbroken


def test_run_that_lacked_only_its_report(tmp_path: Path, unbroken: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(report: FragilityReport, path: Path) -> None:
        raise ReportError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(FragilityReport, "save", failing)
        with pytest.raises(ReportError, match="the disk is full"):
            run(tmp_path, Ending(0, OSError()))
    run(tmp_path, Ending(0, OSError()), resume=True)
    assert content(tmp_path) == unbroken


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"eps": [0.05]}, "eps"),
        ({"neurons": [3, 0]}, "neurons"),
        ({"where": "before_norm"}, "where"),
        ({"protocol": "adaptive"}, "protocol"),
        ({"batch_size": 4}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"plain": True}, "plain"),
    ],
)
def test_other_run_is_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        run(tmp_path, Ending(5, OSError("gone")))
    with pytest.raises(ReportError, match=f"is of another nodal dropout, {named}: "):
        run(tmp_path, Ending(0, OSError()), resume=True, **change)
    with pytest.raises(ReportError, match="is an unfinished nodal dropout; resume it"):
        run(tmp_path, Ending(0, OSError()))


_SCRIPT = """
import sys, time
from pathlib import Path
from tests.fragility.test_resume import ATTACK, run
def slowly(model, eps):
    attack = ATTACK(model, eps=eps)
    return lambda x, y: (time.sleep(0.1), attack(x, y))[1]
run(Path(sys.argv[1]), slowly, resume=True)
"""


def test_killed_process_goes_on(tmp_path: Path, unbroken: bytes) -> None:
    process = Process(tmp_path, code=_SCRIPT)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and not list(tmp_path.glob("fragility.unfinished*")):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was to be killed before its end"
    run(tmp_path, Ending(0, OSError()), resume=True)
    assert content(tmp_path) == unbroken


def test_resume_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="resume=True goes on in the folder of checkpoint="):
        nodal_dropout(trained(), images(4), resume=True)
    with pytest.raises(ValueError, match="checkpoint_seconds must be a number of at least 0"):
        nodal_dropout(trained(), images(4), checkpoint_seconds=-1)
    assert torch.is_grad_enabled()
