"""Build, test, sanitize and benchmark on the NVIDIA GPU of this machine.

Uses the torch of the Python it is started with and installs nothing. Every stage writes its log and its row of
``summary.json`` to the results folder and ends with the table of the stages run so far.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = "peer or browser"
"""Marks of the tests that need more than this machine."""


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


def test(results: Path) -> tuple[bool, str]:
    """Run the whole suite, which adds ``device="cuda"`` where there is a GPU, and list what was left out."""
    log = results / "gpu-test.txt"
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    status, output = run([*pytest, "-q", "-rs", "-m", f"not ({LEFT_OUT})", "--durations=10"], log)
    print(f"\nleft out (marked {LEFT_OUT}):")
    _, left = run([*pytest, "--collect-only", "-q", "-m", LEFT_OUT], log, append=True)
    count = sum("::" in line for line in left.splitlines())
    return status == 0, f"{pytest_summary(output)}; {count} left out"


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
        command += [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "sanitize"]
        # Without torch's cache every tensor is an allocation of its own, and an access beside it is seen.
        status, output = run(command, log, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, append=True)
        if "Device not supported" in output:
            return False, f"compute-sanitizer refuses this machine's GPU ({check}: Device not supported)"
        good = good and status == 0
        found = last_match(r"(ERROR|RACECHECK) SUMMARY", output, "no summary").replace("========= ", "")
        details.append(f"{check}: {found.lower()}, {pytest_summary(output)}")
    return good, "; ".join(details)


def bench(results: Path) -> tuple[bool, str]:
    """Run the benchmarks; ``results.json``, ``README.md`` and ``scaling.png`` hold what they found."""
    flags = shlex.split(os.environ.get("BENCH_FLAGS", ""))
    command = [sys.executable, "-m", "neurosens_fast", "bench", "--device", "cuda", "--out", str(results), *flags]
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
