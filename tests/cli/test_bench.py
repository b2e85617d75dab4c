"""``neurosens-fast bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neurosens_fast.benchmarking import running
from neurosens_fast.cli import main
from tests.benchmarking.made import results, row, suite

ONE = ["bench", "--quick", "--suite", "kernels", "--device", "cpu"]


def test_a_kernel_is_measured_at_a_shape_that_was_typed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*ONE, "--shapes", "2x3x5x7", "--only", "accumulate and fp32", "--out", str(tmp_path / "out")]) == 0
    printed = capfd.readouterr().out
    assert "All statistics of a pair in one read" in printed
    assert "2x3x5x7" in printed
    assert f"written to {tmp_path / 'out'}" in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "results.json"]


@pytest.mark.parametrize("words", [["--quick"], ["--only", "words"], ["--shapes", "2x3"]])
def test_quick_runs_and_parts_keep_nothing_unless_asked(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def found(choice: running.Choice, folder: Path | None) -> Any:
        folders.append(folder)
        return iter([("kernels", suite(row()), 0)])

    monkeypatch.setattr(running, "run_suites", found)
    assert main(["bench", "--suite", "kernels", *words]) == 0
    assert main(["bench", "--suite", "kernels"]) == 0
    assert folders == [None, running.results_folder(())]


def test_a_case_that_computes_something_else_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "run_suites", lambda *_: iter([("kernels", None, 1), ("audit", suite(row()), 0)]))
    assert main(["bench", "--quick"]) == 1
    assert "benchmarks of kernels failed" in capsys.readouterr().err


def test_a_suite_without_a_case_that_was_asked_for_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_suites", lambda *_: iter([("kernels", None, 5), ("audit", suite(row()), 0)]))
    assert main(["bench", "--quick", "--only", "words"]) == 0
    assert main(["bench", "--quick"]) == 1


def test_words_that_no_case_has_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(running, "run_suites", lambda *_: iter([("kernels", None, 5)]))
    assert main(["bench", "--only", "wrods"]) == 2
    captured = capsys.readouterr()
    assert "no case is called 'wrods'" in captured.err
    assert "written" not in captured.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--suite", "kernel"], "unknown suite 'kernel'; did you mean"),
        (["--shapes", "64"], "64 is no shape of activations"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--device", "cuda"], "no GPU here"),
        (["--compare", "nowhere", "nowhere"], "there is no benchmark result nowhere"),
    ],
)
def test_what_was_typed_wrong_is_one_line(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "--quick", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, ours in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        results(suite(row(shape="8x8", ours=ours))).save(tmp_path / name)
    assert main(["bench", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2.00 slower" in printed
    assert "1 of 1 cases slower in B" in printed
    assert main(["bench", "--compare", str(tmp_path / "b"), str(tmp_path / "b")]) == 0
    assert "nothing slower in B" in capsys.readouterr().out
