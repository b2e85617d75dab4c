"""The emulation notices faulty kernels: a test that cannot fail is worse than none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from . import harness

FAULTS = {
    "missing barrier": "the order in which threads run",
    "shared memory overflow": "heap-buffer-overflow",
    "output overflow": "heap-buffer-overflow",
    "uninitialised shared memory": "NaN from memory that nobody wrote",
    "divergent barrier": "not reached by all threads",
    "divergent shuffle": "not reached by all threads",
}


@pytest.fixture(scope="module", params=[[], ["-DNS_EMULATION_UCONTEXT"]], ids=["assembly", "ucontext"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("emulation") / "broken_kernels"
    source = harness.HERE / "broken_kernels.cpp"
    command = [harness.COMPILER, *harness.FLAGS, *request.param, f"-I{harness.HERE}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


def run(program: Path, name: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": harness.ASAN_OPTIONS}
    return subprocess.run([str(program), name], capture_output=True, text=True, env=environment, timeout=60)


def test_correct_kernel_passes(program: Path) -> None:
    done = run(program, "correct")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_noticed(program: Path, name: str) -> None:
    done = run(program, name)
    assert done.returncode != 0
    assert FAULTS[name] in done.stderr
