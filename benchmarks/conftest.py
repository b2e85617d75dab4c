"""The devices, and the table that every run ends with."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from neurosens_fast import _C
from neurosens_fast.env import environment, format_environment

DEVICES = ["cpu"] + (["cuda"] if _C.build_info()["cuda"] and torch.cuda.is_available() else [])
_rows: dict[str, list[dict[str, str]]] = {}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    torch.set_num_threads(2)  # what the committed figures are for
    return str(request.param)


@pytest.fixture
def table() -> Any:
    """``table(title, row)`` adds a row, a dict of texts, to a table of the final report."""

    def add(title: str, row: dict[str, str]) -> None:
        _rows.setdefault(title, []).append(row)

    return add


def markdown() -> str:
    """All tables of the run."""
    parts = [f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"]
    for title, rows in _rows.items():
        columns = list(rows[0])
        lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the tables; ``BENCH_RESULTS=DIR`` also writes them there, with the environment."""
    if not _rows:
        return
    terminalreporter.write_line("")
    terminalreporter.write_line(markdown())
    if folder := os.environ.get("BENCH_RESULTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "README.md").write_text(
            f"# Benchmarks\n\n{markdown()}\n## Environment\n\n```\n{format_environment(environment())}\n```\n",
            encoding="utf-8",
        )
