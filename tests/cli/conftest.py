"""What the tests of the command line share: a report, a file of a person's own, and a command that keeps its output."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from neurosens_fast.cli import main

OWN_FILE = """\
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return F.gelu(self.relu(self.conv(self.relu(x))))


def build(num_classes=5):
    return nn.Sequential(nn.Conv2d(3, 4, 3), Block(), nn.Flatten(), nn.Linear(4 * 36, num_classes))


class Fails(nn.Module):
    def forward(self, x):
        return {}["missing"]


def fails():
    return nn.Sequential(nn.ReLU(), Fails())


def quits():
    raise SystemExit(3)


def load(train=False):
    return [(torch.rand(3, 8, 8), index % 5) for index in range(9)]


def noise(model):
    return lambda x, y: (x + 0.1 * torch.rand_like(x)).clamp(0, 1)


def failing(model):
    def attack(x, y):
        raise ValueError("no such luck")
    return attack


def impatient(model):
    def attack(x, y):
        raise KeyboardInterrupt
    return attack


def no_attack(model):
    return 3
"""


class Outcome(NamedTuple):
    """Exit status and streams of a command, without styles."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, and no traceback because somebody's shell asks for one."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("NEUROSENS_FAST_TRACEBACK", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("audit", "--model", ...)`` in this process."""

    def call(*words: str | Path) -> Outcome:
        status = main([str(word) for word in words])
        streams = capsys.readouterr()
        out, err = (re.sub(r"\x1b\[[\d;]*m", "", text) for text in streams)
        return Outcome(status, out, err)

    return call


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with models, data and attacks of a person's own."""
    path = tmp_path / "own.py"
    path.write_text(OWN_FILE)
    return path


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit of the untrained digits network; tests do not change it."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    return audit_into(folder, *("--attack", "fgsm", "--eps", "0.2", "--max-samples", "40", "--batch-size", "16"))


def audit_into(folder: Path, *words: str) -> Path:
    """``folder``, once an audit of the untrained digits network is in it."""
    assert main(["audit", "--model", "digits-cnn", "--data", "digits", *words, "--quiet", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the file of a person in it."""
    shutil.copy(Path(__file__).with_name("tiny.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with empty files as pictures: drawing takes most of the time of these small runs."""
    undrawn(monkeypatch)
    return tiny


def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("plot", "targeting_plot", "repair_plot", "filter_plot"):
        monkeypatch.setattr(f"neurosens_fast.fragility.{module}.plot", lambda report, path, *_: Path(path).touch())
