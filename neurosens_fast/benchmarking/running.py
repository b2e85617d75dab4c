"""Runs suites: each in a process of pytest of its own, its results kept before the next begins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import neurosens_fast

from . import report
from .results import FILE, Results, SuiteResult, machine

SUITES = ("kernels", "audit", "attacks", "training", "fragility", "explorer", "scaling")
"""Folders of ``benchmarks/``, in the order in which they run."""

PART = "NEUROSENS_FAST_BENCH_PART"
"""Environment variable: the file into which a suite's process writes its rows."""


@dataclass(frozen=True)
class Choice:
    """What is to be run and how. ``shapes`` replace those of the kernels; ``quiet`` shows failures only."""

    suites: tuple[str, ...] = SUITES
    devices: tuple[str, ...] = ()
    quick: bool = False
    compile: bool = True
    threads: int | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    only: str | None = None
    quiet: bool = False

    @property
    def partial(self) -> bool:
        """Whether some cases of a suite are left out."""
        return bool(self.only or self.shapes)

    def arguments(self) -> list[str]:
        """The options of ``benchmarks/conftest.py``."""
        found = [f"--device={device}" for device in self.devices]
        found += ["--quick"] if self.quick else []
        found += [] if self.compile and not self.quick else ["--no-compile"]
        found += [f"--threads={self.threads}"] if self.threads else []
        found += [f"--shape={'x'.join(map(str, shape))}" for shape in self.shapes]
        return found + (["-k", self.only] if self.only else [])


def parsed_shapes(text: str) -> tuple[tuple[int, ...], ...]:
    """Shapes as ``64x64x32x32,256x4096``. Raises ``ValueError`` that says what was not one."""
    found = []
    for part in text.split(","):
        sizes = part.strip().lower().split("x")
        if not 2 <= len(sizes) <= 5 or not all(re.fullmatch(r"[1-9]\d*", size) for size in sizes):
            raise ValueError(f"{part.strip() or 'nothing'} is no shape of activations; write 64x64x32x32 or 256x4096")
        found.append(tuple(map(int, sizes)))
    return tuple(found)


def cases_folder() -> Path:
    """Where the cases stand: beside the package in a checkout, inside it where it was installed from a wheel.

    Raises ``FileNotFoundError`` where they are in neither.
    """
    package = Path(neurosens_fast.__file__).parent
    for folder in (package.parent / "benchmarks", package / "benchmarks"):
        if (folder / "kernels").is_dir():
            return folder
    raise FileNotFoundError(f"the benchmarks are neither beside {package} nor in it; run from a checkout")


def default_devices() -> tuple[str, ...]:
    """The devices that cases run on where none is named."""
    import torch

    from neurosens_fast import _C

    return ("cpu", "cuda") if _C.build_info()["cuda"] and torch.cuda.is_available() else ("cpu",)


def results_folder(devices: Sequence[str]) -> Path:
    """Where results go by default: ``DATE-MACHINE`` in ``benchmarks/results/`` of a checkout, or below here."""
    cases = cases_folder()
    parent = cases / "results" if (cases.parent / "pyproject.toml").is_file() else Path("benchmark-results")
    return parent / f"{date.today()}-{machine_name(devices)}"


def machine_name(devices: Sequence[str]) -> str:
    """The processor in a few letters, as ``epyc-2-cores``; with a GPU that is measured, its name."""
    facts = machine()
    if "cuda" in devices:
        import torch

        return _slug(torch.cuda.get_device_name().replace("NVIDIA", ""))
    model = re.sub(r"\(.*?\)|\b(AMD|Intel|CPU|Processor|\d+-Core)\b|@.*", " ", str(facts["cpu"]["model"]))
    return f"{_slug(model)}-{facts['cpu']['usable_cores']}-cores"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "machine"


def run_suites(choice: Choice, folder: Path | None) -> Iterator[tuple[str, SuiteResult | None, int]]:
    """Run one suite after the other; yields its name, what it found and pytest's exit status.

    After each, ``folder`` holds all that was found so far; other suites that were there stay. Raises ``ValueError``
    where it holds something else, or results that do not go with these.
    """
    results = _earlier(folder, choice)
    for suite in choice.suites:
        result, status = run_suite(choice, suite)
        if result is not None and result.rows:
            results = results.added(result)
            if folder is not None:
                report.save(results, folder)
        yield suite, result, status


def _earlier(folder: Path | None, choice: Choice) -> Results:
    here = Results(machine())
    if folder is None:
        return here
    if not (folder / FILE).exists():
        if (folder / report.PAGE).exists():
            raise ValueError(f"{folder} has a {report.PAGE} that is no benchmark result's; choose another --out")
        return here
    there = Results.load(folder)
    apart = sorted(key for key in here.environment if here.environment[key] != there.environment.get(key))
    if apart:
        raise ValueError(
            f"{folder} holds results of another machine or version ({', '.join(apart)} differ); choose another --out"
        )
    if any(suite.quick != choice.quick for suite in there.suites.values()):
        raise ValueError(
            f"{folder} holds results measured {'in full' if choice.quick else 'quickly'}; choose another --out"
        )
    whole = sorted(set(choice.suites) & set(there.suites))
    if choice.partial and whole:
        raise ValueError(
            f"{folder} holds results of {', '.join(whole)}, which a part would replace; choose another --out"
        )
    return there


def run_suite(choice: Choice, suite: str) -> tuple[SuiteResult | None, int]:
    """Run one suite in a process of pytest; its output goes to this one's."""
    cases = cases_folder()
    with tempfile.TemporaryDirectory() as scratch:
        part, timings = Path(scratch) / "part.json", Path(scratch) / "timings.json"
        command = [sys.executable, "-m", "pytest", str(cases / suite), "-q", "--no-header", "--benchmark-quiet"]
        command += [
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--rootdir",
            str(cases.parent),
            "-c",
            str(cases / "pytest.ini"),
        ]
        command += [f"--benchmark-json={timings}", *choice.arguments()]
        # Options of a pytest around this one are not meant for it.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        output = subprocess.PIPE if choice.quiet else None
        done = subprocess.run(
            command,
            env={**environment, PART: str(part)},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        status = done.returncode
        if status and done.stdout:
            print(done.stdout, end="")
        if not part.exists():
            return None, status
        result = SuiteResult.from_json(json.loads(part.read_text(encoding="utf-8")))
        result.pytest_benchmark.update(_timings(timings))
    return result, status


def _timings(path: Path) -> dict[str, Any]:
    """What pytest-benchmark wrote, without what tells who ran it and where."""
    if not path.exists() or not path.stat().st_size:
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {key: values[key] for key in ("datetime", "version", "benchmarks") if key in values}
