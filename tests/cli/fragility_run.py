"""What the tests of ``neurosens-fast fragility`` share: command lines, and names of files."""

from __future__ import annotations

from pathlib import Path

from .conftest import Outcome

DIGITS = ("fragility", "--model", "tiny.py:of_digits", "--data", "digits", "--max-samples", "40")
GIVEN = ("fragility.safetensors", "neurons.csv", "fragility.png", "report.md")
TARGET = ("hits.csv", "correlations.csv", "targeting.png")
REPAIR = ("repair.csv", "repair.png", "repaired.safetensors")


def words(data: str = "load", attack: str = "tiny.py:attack", *others: str) -> tuple[str, ...]:
    eps = () if "--eps" in others else ("--eps", "0.02,0.05")
    model = ("fragility", "--model", "tiny.py:build", "--data", f"tiny.py:{data}", "--attack", attack)
    return (*model, *eps, "--batch-size", "8", "--out", "out", *others)


def fine(result: Outcome) -> Outcome:
    """``result``, which went well and fits 80 columns up to its last line, which holds a path."""
    assert (result.status, result.err) == (0, "")
    assert max(map(len, result.out.splitlines()[:-1]), default=0) <= 80
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
