"""The helpers of the Makefile that need neither a GPU nor a network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import build_config
from scripts import gpu, requirements

ROOT = build_config.ROOT


def prerequisites(python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "prerequisites.sh"), python],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake_python(folder: Path, body: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_prerequisites_accept_this_python() -> None:
    done = prerequisites(sys.executable)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('[ "$1" = -V ] && echo Python 3.9.2; exit 1', r"needs Python 3\.11 or later, but '.*' is Python 3\.9\.2"),
        ('case "$2" in *ensurepip*) exit 1 ;; esac', "needs Python's venv module, which '.*' lacks"),
        ('case "$2" in *sysconfig*) echo /nowhere/Python.h ;; esac', "C headers, but there is no /nowhere/Python.h"),
    ],
    ids=["old", "no-venv", "no-headers"],
)
def test_prerequisites_say_what_python_lacks(tmp_path: Path, body: str, sentence: str) -> None:
    done = prerequisites(fake_python(tmp_path, body))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert re.search(sentence, done.stderr)


def test_prerequisites_miss_commands() -> None:
    assert "there is no command 'no-such-python'" in prerequisites("no-such-python").stderr
    missing = prerequisites(sys.executable, CXX="no-such-compiler")
    assert missing.returncode == 1
    assert "needs a C++ compiler, but there is no command 'no-such-compiler'" in missing.stderr


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_constraints_hold_names_and_versions_only() -> None:
    for name in ("constraints.txt", "constraints-oldest.txt", "constraints-peers.txt"):
        for package, version in pinned(name).items():
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", package)
            assert re.fullmatch(r"\d[0-9.]*(\.post\d+)?", version)
    assert pinned("constraints-oldest.txt")["torch"] == "2.11.0"


def test_every_requirement_is_pinned() -> None:
    names = [
        re.split(r"[<>=\[ ]", line)[0]
        for line in requirements.requirements(["adapters", "bench", "demo", "explore", "fragility", "train", "dev"])
    ]
    constraints = {name.lower().replace("_", "-") for name in pinned("constraints.txt")}
    assert "torch" in names
    assert [name for name in names if name.lower().replace("_", "-") not in constraints] == []


def test_gpu_summary_keeps_the_order_of_the_stages(tmp_path: Path) -> None:
    gpu.record(tmp_path, gpu.Row("test", "passed", 61.2, "412 passed"))
    gpu.record(tmp_path, gpu.Row("build", "FAILED", 2.0, "exit status 1"))
    rows = gpu.record(tmp_path, gpu.Row("build", "passed", 40.0, "NVIDIA H200"))
    assert [row.stage for row in rows] == ["build", "test"]
    assert gpu.table(rows).splitlines()[1].split() == ["gpu-build", "passed", "40", "s", "NVIDIA", "H200"]


@pytest.mark.parametrize(
    ("output", "summary"),
    [
        ("...\n412 passed, 3 skipped in 61.20s (0:01:01)\n", "412 passed, 3 skipped in 61.20s (0:01:01)"),
        ("===== 1 failed, 2 passed in 3.00s =====\n", "1 failed, 2 passed in 3.00s"),
        ("Segmentation fault\n", "pytest printed no summary"),
    ],
)
def test_gpu_reads_the_summary_of_pytest(output: str, summary: str) -> None:
    assert gpu.pytest_summary(output) == summary


def test_gpu_forgets_results_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("of something else")
    gpu.forget(tmp_path)
    assert (tmp_path / "README.md").read_text() == "of something else"
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "gpu-test.txt").write_text("a log")
    gpu.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-test.txt"]


def test_gpu_leaves_out_the_tests_of_packages_that_are_lacking() -> None:
    for package, patterns in gpu.NEEDS.items():
        imports = re.compile(rf"^(from|import) {package}\b", re.MULTILINE)
        files = [path for path in (ROOT / "tests").rglob("test_*.py") if imports.search(path.read_text("utf-8"))]
        assert files
        assert [path for path in files if not any(path.match(pattern) for pattern in patterns)] == []
        options = gpu.ignored_tests([package])
        assert [f"--ignore-glob={pattern}" in options for pattern in patterns] == [True] * len(patterns)
        assert all(list(ROOT.glob(pattern)) for pattern in patterns)
    assert gpu.ignored_tests([]) == ["--ignore=tests/emulation"]
