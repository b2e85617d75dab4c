"""Two results side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neurosens_fast.benchmarking.compare import BETTER, SAME, WORSE, compare, comparison_table
from neurosens_fast.benchmarking.results import Row

from .made import results, row, suite


def verdict(before: Row, after: Row, absolute: bool = False) -> str:
    (change,) = compare(results(suite(before)), results(suite(after)), absolute).changes
    return change.verdict()


def test_a_slower_kernel_is_called_slower_and_a_faster_one_faster() -> None:
    assert verdict(row(ours=1.0), row(ours=1.5)) == WORSE
    assert verdict(row(ours=1.5), row(ours=1.0)) == BETTER
    assert verdict(row(ours=1.0), row(ours=1.05)) == SAME


def test_a_slower_machine_changes_nothing_unless_seconds_are_asked_for() -> None:
    before, after = row(ours=1.0, eager=3.0), row(ours=2.0, eager=6.0)
    assert verdict(before, after) == SAME
    assert verdict(before, after, absolute=True) == WORSE


def test_a_change_within_the_spread_is_none() -> None:
    noisy = row(ours=1.0)
    noisy = replace(noisy, seconds={"ours": [0.5, 1.0, 1.5, 2.0], "eager": [3.0] * 4})
    assert verdict(noisy, row(ours=1.6)) == SAME
    assert verdict(row(ours=1.0), row(ours=1.6)) == WORSE


def test_a_floor_that_is_code_of_this_package_hides_nothing() -> None:
    def with_floor(ours: float, floor: float) -> Row:
        made = row(ours=ours)
        return replace(made, seconds={**made.seconds, "no term": [floor] * 4}, floors=("no term",))

    (change,) = compare(results(suite(with_floor(1.0, 0.5))), results(suite(with_floor(2.0, 1.0)))).changes
    assert (change.against, change.verdict()) == ("eager", WORSE)


def test_quick_results_are_refused() -> None:
    with pytest.raises(ValueError, match="--quick"):
        compare(results(suite(row())), results(suite(row(), quick=True)))


def test_cases_of_one_side_alone_are_counted_and_none_in_common_is_an_error() -> None:
    before = results(suite(row(shape="1"), row(shape="2")))
    comparison = compare(before, results(suite(row(shape="2"), row(shape="3"), row(shape="4"))))
    assert (len(comparison.changes), len(comparison.only_before), len(comparison.only_after)) == (1, 1, 2)
    with pytest.raises(ValueError, match="no case in common"):
        compare(before, results(suite(row("Other"))))


def test_the_table_shows_what_changed_the_worst_first() -> None:
    before = results(suite(*(row(shape=str(place), ours=1.0) for place in range(4))))
    after = results(suite(*(row(shape=str(place), ours=ours) for place, ours in enumerate((1.0, 1.3, 2.0, 0.5)))))
    table = comparison_table(compare(before, after))
    assert [cells[1] for cells in table.rows] == ["Reading, 2", "Reading, 1", "Reading, 3"]
    assert [cells[-1] for cells in table.rows] == ["2.00 slower", "1.30 slower", "0.50 faster"]
    assert table.note.startswith("1 of 4 cases")


def test_another_machine_is_said() -> None:
    before, after = results(suite(row())), results(suite(row()))
    after.environment["cpu"] = {**after.environment["cpu"], "model": "another"}
    assert "The machines, or their threads, differ" in comparison_table(compare(before, after)).note
    assert "differ" not in comparison_table(compare(before, before)).note
