"""Results on disk and as tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurosens_fast.benchmarking import report
from neurosens_fast.benchmarking.curves import crossover, curves
from neurosens_fast.benchmarking.results import FILE, Axis, Results, Row, machine
from neurosens_fast.benchmarking.roof import Work
from neurosens_fast.benchmarking.tables import duration, roof_table, title_table

from .made import results, row, suite


def small(elements: int, ours: float, eager: float = 1.0) -> Row:
    return row("Small", "2x", ours, eager, axis=Axis("elements", elements, "call", 1))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    found = results(suite(row(work=Work(8, 4, 2), peak={"ours": 5}), row("By N", axis=Axis("N", 4, "byte", 64))))
    found.save(tmp_path)
    again = Results.load(tmp_path)
    assert again.environment == found.environment
    assert again.suites["kernels"].rows == found.suites["kernels"].rows
    assert again.suites["kernels"].roofs == found.suites["kernels"].roofs
    assert Results.load(tmp_path / FILE) == again


def test_nothing_of_this_machines_places_is_saved(tmp_path: Path) -> None:
    report.save(results(suite(row())), tmp_path)
    for file in tmp_path.iterdir():
        assert str(Path.home()) not in file.read_text()
        assert str(Path(__file__).parents[2]) not in file.read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"environment": {}, "suites": {"kernels": {}}}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"results\.json is not a result of neurosens-fast bench, or is damaged"):
        Results.load(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no benchmark result .*results\.json"):
        Results.load(tmp_path)


def test_a_later_run_of_a_suite_replaces_the_earlier_and_leaves_others() -> None:
    found = results(suite(row()), suite(row(), name="audit")).added(suite(row("Again")))
    assert [found.suites["kernels"].titles(), list(found.suites)] == [["Again"], ["kernels", "audit"]]


def test_a_table_has_quotients_of_the_same_round_and_the_share_of_the_roof() -> None:
    work = Work(reads=10**8)  # ten milliseconds at 10 GB/s
    table = title_table(suite(row(ours=0.02, eager=0.06, work=work, peak={"ours": 2_000_000})), "Reading")
    cells = dict(zip(table.headers, table.rows[0], strict=True))
    assert cells["eager / ours"] == "3.00 [3.00, 3.00]"
    assert cells["ours"] == "20.3 ms"
    assert cells["GB/s"] == "4.93"
    assert cells["of the roof"] == "49 %"
    assert cells["bound by"] == "memory"
    assert cells["peak MB, ours"] == "2.00"
    assert cells["agreed"] == "same"


def test_columns_that_only_some_rows_have_are_empty_in_others() -> None:
    table = title_table(
        suite(row(shape="1"), row(shape="2", facts={"note": "x"}, missing={"peer": "not run"})), "Reading"
    )
    first, second = (dict(zip(table.headers, cells, strict=True)) for cells in table.rows)
    assert (first["note"], second["note"]) == ("", "x")
    assert (first["peer / ours"], second["peer / ours"]) == ("", "not run")


def test_a_quick_result_says_that_it_says_nothing() -> None:
    assert "say nothing about speed" in title_table(suite(row(), quick=True), "Reading").note


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(123.4, "123 s"), (1.5, "1.50 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.20 µs"), (5e-8, "50.0 ns")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_roof_is_shown() -> None:
    table = roof_table(suite(row()))
    assert table.rows == (("cpu", "1.00", "20.0", "16.0"), ("cpu", "100", "10.0", "8.00"))
    assert "2 threads: 100 GFLOP/s" in table.note


def test_the_crossover_is_the_largest_size_at_which_the_rival_wins() -> None:
    rows = [small(1, 3.0), small(10, 2.0), small(100, 0.5)]
    assert crossover(rows, "eager") == 10
    assert crossover(rows[2:], "eager") is None


def test_the_page_names_crossovers_and_shows_the_curves(tmp_path: Path) -> None:
    result = suite(small(100, 0.5), small(1, 3.0), small(10, 2.0), name="scaling")
    assert [row.axis.value for row in curves(result)["Small"] if row.axis] == [1, 10, 100]
    report.save(results(result), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "- Small: eager is faster up to elements 10." in page
    assert "![scaling curves](scaling.png)" in page
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "torch_built" in page


def test_the_machine_is_described_without_the_interpreter() -> None:
    assert "executable" not in json.dumps(machine())
