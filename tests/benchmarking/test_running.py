"""Suites as processes of pytest, and what is kept of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from neurosens_fast.benchmarking import running
from neurosens_fast.benchmarking.results import FILE, Results
from neurosens_fast.benchmarking.running import SUITES, Choice, machine_name, parsed_shapes, run_suites

from . import made

ROOT = Path(__file__).parents[2]
CASE = """
def bench_{name}(device, contest):
    assert {right}, "both sides differ"
    contest("Title of {name}", {{"n": 1}}, lambda: 1, rivals={{"eager": lambda: sum(range(1000))}}, agreed="same")
"""


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cases with two small suites, the second of which computes something else."""
    folder = tmp_path / "made" / "benchmarks"
    for suite, right in (("kernels", True), ("audit", False)):
        (folder / suite).mkdir(parents=True)
        (folder / suite / "__init__.py").touch()
        (folder / suite / "bench_made.py").write_text(CASE.format(name=suite, right=right))
    (folder / "__init__.py").touch()
    for name in ("conftest.py", "pytest.ini"):
        shutil.copy(ROOT / "benchmarks" / name, folder)
    monkeypatch.setattr(running, "cases_folder", lambda: folder)
    return folder


def test_the_suites_are_the_folders() -> None:
    folders = {path.parent.name for path in (ROOT / "benchmarks").glob("*/bench_*.py")}
    assert folders == set(SUITES)


def test_every_benchmark_has_a_name_of_its_own_in_its_suite() -> None:
    for suite in SUITES:
        names = [
            line.split("(")[0]
            for file in (ROOT / "benchmarks" / suite).glob("bench_*.py")
            for line in file.read_text().splitlines()
            if line.startswith("def bench_")
        ]
        assert len(names) == len(set(names)), suite


@pytest.mark.parametrize(
    ("text", "shapes"),
    [("64x64x32x32", ((64, 64, 32, 32),)), (" 2X3 , 4x5x6", ((2, 3), (4, 5, 6)))],
)
def test_shapes_that_were_typed(text: str, shapes: object) -> None:
    assert parsed_shapes(text) == shapes


@pytest.mark.parametrize("text", ["", "64", "0x3", "3x-1", "3x4,", "axb", "1x2x3x4x5x6"])
def test_what_is_no_shape_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no shape of activations; write"):
        parsed_shapes(text)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("AMD EPYC", "epyc-2-cores"),
        ("AMD EPYC 9R14 96-Core Processor", "epyc-9r14-2-cores"),
        ("Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz", "xeon-platinum-8488c-2-cores"),
        ("unknown", "unknown-2-cores"),
    ],
)
def test_a_machine_is_named_by_its_processor(model: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "machine", lambda: {"cpu": {"model": model, "usable_cores": 2}})
    assert machine_name(()) == name


def test_results_are_kept_suite_by_suite(cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    choice = Choice(("kernels", "audit"), ("cpu",), quick=True)
    steps = run_suites(choice, out)
    name, result, status = next(steps)
    assert (name, status) == ("kernels", 0)
    assert result is not None
    assert result.titles() == ["Title of kernels"]
    assert list(Results.load(out).suites) == ["kernels"]
    name, result, status = next(steps)
    assert (name, result, status) == ("audit", None, 1)
    assert next(steps, None) is None
    assert list(Results.load(out).suites) == ["kernels"]
    assert "both sides differ" in capfd.readouterr().out
    kept = Results.load(out).suites["kernels"]
    assert kept.quick
    assert kept.roofs["cpu"].threads >= 1
    (case,) = kept.pytest_benchmark["benchmarks"]
    assert case["extra_info"]["title"] == "Title of kernels"
    assert set(kept.pytest_benchmark) <= {"datetime", "version", "benchmarks"}
    assert str(tmp_path) not in (out / FILE).read_text()


def test_results_of_another_machine_are_left_alone(tmp_path: Path) -> None:
    made.results(made.suite(made.row(), quick=True)).save(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    values["environment"]["cpu"]["model"] = "another"
    (tmp_path / FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"another machine or version \(cpu differ\); choose another --out"):
        next(run_suites(Choice(("kernels",), quick=True), tmp_path))
    assert Results.load(tmp_path).environment["cpu"]["model"] == "another"


def test_a_folder_that_holds_something_else_is_left_alone(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"has a README\.md that is no benchmark result's; choose another --out"):
        next(run_suites(Choice(("kernels",), quick=True), tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_part_does_not_replace_a_whole_suite_and_quick_does_not_join_full(tmp_path: Path) -> None:
    quick = Choice(("kernels",), ("cpu",), quick=True)
    made.results(made.suite(made.row(), quick=True)).save(tmp_path)
    with pytest.raises(ValueError, match="results of kernels, which a part would replace"):
        next(run_suites(replace(quick, only="made"), tmp_path))
    with pytest.raises(ValueError, match="measured quickly; choose another --out"):
        next(run_suites(replace(quick, quick=False), tmp_path))


def test_cases_that_a_choice_leaves_out_do_not_run(cases: Path) -> None:
    ((name, result, status),) = run_suites(Choice(("kernels",), quick=True, only="no_such_case"), None)
    assert (name, result, status) == ("kernels", None, 5)


def test_the_real_cases_are_found_beside_the_package() -> None:
    assert running.cases_folder() == ROOT / "benchmarks"
    assert running.results_folder(()).parent == ROOT / "benchmarks" / "results"


def test_a_package_without_cases_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.neurosens_fast, "__file__", str(tmp_path / "neurosens_fast" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="run from a checkout"):
        running.cases_folder()
