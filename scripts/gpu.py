"""Build, test, sanitize and benchmark on the NVIDIA GPU of this machine.

Uses the torch of the Python it is started with and installs nothing. Every stage writes its log and its row of
``summary.json`` to the results folder and ends with the table of the stages run so far.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = "peer or browser"
"""Marks of the tests that need more than this machine."""

NEEDS = {
    "bokeh": (
        "tests/explorer/test_explorer.py",
        "tests/explorer/test_page_*.py",
        "tests/explorer/test_run.py",
        "tests/explorer/test_server.py",
        "tests/cli/test_explore.py",
        "tests/test_readme.py",
    )
}
"""Tests of packages that an interpreter with torch often lacks; without one they could not even be collected."""

EMULATION = "tests/emulation"
"""What stands in for a GPU where there is none."""

BENCH = ["--suite", "kernels", "--no-compile", "--shapes", "256x64x56x56,128x512x7x7,64x64x32x32"]
"""What is measured where BENCH_FLAGS does not say: a few minutes. A suite that is stopped leaves no result."""


@dataclass
class Row:
    """One line of the summary."""

    stage: str
    result: str
    seconds: float
    detail: str


def run(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None, append: bool = False
) -> tuple[int, str]:
    """Run a command, show and log its output, and return its exit status and the output."""
    print("$", shlex.join(command), flush=True)
    output: list[str] = []
    with (
        open(log, "a" if append else "w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            output.append(line)
    return process.returncode, "".join(output)


def last_match(pattern: str, text: str, default: str) -> str:
    """Return the last line of a text that matches, stripped of its frame of ``=``."""
    found = [line for line in text.splitlines() if re.search(pattern, line)]
    return found[-1].strip("= ") if found else default


def pytest_summary(text: str) -> str:
    """Return pytest's last words, as ``412 passed, 3 skipped in 61.20s``."""
    return last_match(
        r"\d+ (passed|failed|skipped|deselected|errors?)\b.* in [\d.]+", text, "pytest printed no summary"
    )


def build(results: Path) -> tuple[bool, str]:
    """Compile for the GPUs of this machine only, with line numbers for the sanitizer."""
    import torch

    if not torch.cuda.is_available():
        return False, f"torch {torch.__version__} sees no NVIDIA GPU"
    name = torch.cuda.get_device_name()
    flags = f"{os.environ.get('NVCC_APPEND_FLAGS', '')} -lineinfo".strip()
    status, _ = run(
        [sys.executable, "setup.py", "-q", "egg_info", "build_ext", "--inplace"],
        results / "gpu-build.txt",
        {"NEUROSENS_FAST_CUDA": "1", "NVCC_APPEND_FLAGS": flags},
    )
    if status:
        return False, f"exit status {status}"
    status, _ = run([sys.executable, "-m", "neurosens_fast.env"], results / "gpu-build.txt", append=True)
    return status == 0, f"{name}, torch {torch.__version__}"


def ignored_tests(lacking: Collection[str]) -> list[str]:
    """Return the options that leave out the emulation and the tests of packages that are lacking."""
    patterns = [pattern for package in lacking for pattern in NEEDS[package]]
    return [f"--ignore={EMULATION}", *(f"--ignore-glob={pattern}" for pattern in patterns)]


def parallel() -> list[str]:
    """Return the options for several processes, none without pytest-xdist. Each has memory of the GPU for itself."""
    found = importlib.util.find_spec("xdist") is not None
    return ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"] if found else []


def test(results: Path) -> tuple[bool, str]:
    """Run the tests on ``device="cuda"``, then the other fast ones, and list what was left out."""
    log = results / "gpu-test.txt"
    log.unlink(missing_ok=True)
    lacking = [package for package in NEEDS if importlib.util.find_spec(package) is None]
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *ignored_tests(lacking)]
    good, details = True, []
    for name, marks in (("cuda", f"cuda and not ({LEFT_OUT})"), ("others", f"not (cuda or slow or {LEFT_OUT})")):
        status, output = run([*pytest, *parallel(), "-rs", "-m", marks, "--durations=10"], log, append=True)
        good = good and status == 0
        details.append(f"{name}: {pytest_summary(output)}")
    print(f"\nleft out: slow, {LEFT_OUT}, {EMULATION}{''.join(f', what needs {name}' for name in lacking)}")
    _, left = run([*pytest, "--collect-only", "-m", f"not cuda and (slow or {LEFT_OUT})"], log, append=True)
    count = sum("::" in line for line in left.splitlines())
    details.append(f"{count} left out{''.join(f' and what needs {name}' for name in lacking)}")
    return good, "; ".join(details)


def sanitize(results: Path) -> tuple[bool, str]:
    """Run the small kernel tests under compute-sanitizer, once for memory and once for races."""
    log = results / "gpu-sanitize.txt"
    log.unlink(missing_ok=True)
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        return False, "there is no compute-sanitizer on this machine"
    details: list[str] = []
    good = True
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "86", "--target-processes", "all"]
        command += [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops"]
        command += ["-m", "sanitize and cuda"]
        # Without torch's cache every tensor is an allocation of its own, and an access beside it is seen.
        status, output = run(command, log, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, append=True)
        if "Device not supported" in output:
            return False, f"compute-sanitizer refuses this machine's GPU ({check}: Device not supported)"
        good = good and status == 0
        found = last_match(r"(ERROR|RACECHECK) SUMMARY", output, "no summary").replace("========= ", "")
        details.append(f"{check}: {found.lower()}, {pytest_summary(output)}")
    return good, "; ".join(details)


def forget(results: Path) -> None:
    """Remove what an earlier run of the benchmarks wrote; a ``README.md`` of something else stays."""
    if (results / "results.json").exists():
        for name in ("results.json", "README.md", "scaling.png"):
            (results / name).unlink(missing_ok=True)


def bench(results: Path) -> tuple[bool, str]:
    """Run the benchmarks; ``results.json``, ``README.md`` and ``scaling.png`` hold what they found."""
    flags = shlex.split(os.environ.get("BENCH_FLAGS", ""))
    if not flags:
        flags = BENCH
        forget(results)  # a part of a suite does not replace what is there
    out = os.path.relpath(results, ROOT)
    command = [sys.executable, "-m", "neurosens_fast", "bench", "--device", "cuda", "--out", out, *flags]
    status, output = run(command, results / "gpu-bench.txt")
    return status == 0, last_match(r"^(written to|neurosens-fast:) ", output, "neurosens-fast bench said nothing")


STAGES: dict[str, Callable[[Path], tuple[bool, str]]] = {
    "build": build,
    "test": test,
    "sanitize": sanitize,
    "bench": bench,
}


def record(results: Path, row: Row) -> list[Row]:
    """Put a row into ``summary.json`` in the order of the stages and return all rows."""
    path = results / "summary.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = {entry["stage"]: Row(**entry) for entry in earlier} | {row.stage: row}
    ordered = [rows[stage] for stage in STAGES if stage in rows]
    path.write_text(json.dumps([asdict(entry) for entry in ordered], indent=2) + "\n", encoding="utf-8")
    return ordered


def table(rows: list[Row]) -> str:
    """Return the summary table."""
    lines = [f"{'stage':<12} {'result':<7} {'time':>7}  detail"]
    lines += [f"gpu-{row.stage:<8} {row.result:<7} {row.seconds:>5.0f} s  {row.detail}".rstrip() for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Run one stage and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--results", type=Path, default=Path("gpu-results"))
    arguments = parser.parse_args()
    results = arguments.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        good, detail = STAGES[arguments.stage](results)
    except ModuleNotFoundError as error:
        good, detail = False, f"{sys.executable} lacks {error.name}"
    row = Row(arguments.stage, "passed" if good else "FAILED", time.monotonic() - start, detail)
    print("\n" + table(record(results, row)))
    sys.exit(not good)


if __name__ == "__main__":
    main()
