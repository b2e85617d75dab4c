"""Options and fixtures of all benchmarks. ``neurosens-fast bench`` runs them; so does pytest, one file at a time."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from neurosens_fast.benchmarking.contest import Contest, Recorder
from neurosens_fast.benchmarking.report import suite_text
from neurosens_fast.benchmarking.results import SuiteResult
from neurosens_fast.benchmarking.running import PART, default_devices, parsed_shapes

DEVICES = default_devices()
_recorders: dict[str, Recorder] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("neurosens_fast")
    group.addoption("--device", action="append", choices=DEVICES, help="only on this device")
    group.addoption("--quick", action="store_true", help="small sizes, two rounds: for correctness alone")
    group.addoption("--no-compile", action="store_true", help="leave torch.compile out, which takes long to compile")
    group.addoption("--threads", type=int, help="threads of torch on the CPU")
    group.addoption("--shape", action="append", type=lambda text: parsed_shapes(text)[0], help="instead of SHAPES")


def pytest_configure(config: pytest.Config) -> None:
    if threads := config.getoption("--threads"):
        torch.set_num_threads(threads)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``device`` and ``shape`` come from the command line; a module states ``SHAPES`` and ``QUICK_SHAPES``."""
    option = metafunc.config.getoption
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", option("--device") or DEVICES)
    if "shape" in metafunc.fixturenames:
        module: Any = metafunc.module
        shapes = option("--shape") or (module.QUICK_SHAPES if option("--quick") else module.SHAPES)
        metafunc.parametrize("shape", shapes, ids=["x".join(map(str, shape)) for shape in shapes])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked ``full`` is left out of a quick run."""
    if config.getoption("--quick"):
        kept = [item for item in items if item.get_closest_marker("full") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture
def compiling(request: pytest.FixtureRequest) -> bool:
    """Whether ``torch.compile`` takes part."""
    return not request.config.getoption("--no-compile")


@pytest.fixture
def contest(request: pytest.FixtureRequest, benchmark: Any, device: str) -> Contest:
    """Times ours against others and keeps the row."""
    suite = request.path.parent.name
    recorder = _recorders.setdefault(suite, Recorder(bool(request.config.getoption("--quick"))))
    recorder.measure(device)
    torch.manual_seed(0)
    return Contest(recorder, benchmark, device)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the tables as Markdown, or write the rows of the one suite for the process that asked for them."""
    found = [
        SuiteResult(suite, str(date.today()), recorder.quick, recorder.roofs, tuple(recorder.rows))
        for suite, recorder in _recorders.items()
        if recorder.rows
    ]
    if part := os.environ.get(PART):
        for result in found:
            Path(part).write_text(json.dumps(asdict(result)), encoding="utf-8")
        return
    for result in found:
        terminalreporter.write_line(f"\n{suite_text(result)}")
