"""Results made by hand."""

from __future__ import annotations

from typing import Any

from neurosens_fast.benchmarking.results import Results, Row, SuiteResult, machine
from neurosens_fast.benchmarking.roof import Roof

ROOF = Roof("cpu", 2, (1e6, 1e8), (20e9, 10e9), (16e9, 8e9), 100e9)


def row(title: str = "Reading", shape: str = "4x4", ours: float = 1.0, eager: float = 3.0, **others: Any) -> Row:
    """Ours and eager in four rounds, each a little slower than the one before."""
    seconds = {
        name: [round(value * factor, 6) for factor in (1.0, 1.01, 1.02, 1.03)]
        for name, value in {"ours": ours, "eager": eager}.items()
    }
    return Row(title, {"shape": shape}, "cpu", seconds, "same", ("eager",), **others)


def suite(*rows: Row, name: str = "kernels", quick: bool = False) -> SuiteResult:
    """A suite measured on one device."""
    return SuiteResult(name, "2026-01-02", quick, {"cpu": ROOF}, rows, {"version": "5"})


def results(*suites: SuiteResult) -> Results:
    """Measured on this machine."""
    return Results(machine(), {each.suite: each for each in suites})
