"""The tables of README.md are those of the result that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.readme_tables import RESULT, ROOT, TABLE, chosen, written
from tests.benchmarking.made import results, row, suite

TEXT = """before
<!-- bench result=found -->
<!-- bench suite=kernels title="Reading" where="shape=2x2" columns="shape;eager / ours" -->
old
<!-- /bench -->
after
"""


def test_the_readme_is_up_to_date() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert TABLE.search(text), "README.md has no table of a result"
    assert RESULT.search(text)
    assert written(text) == text, "type: python scripts/readme_tables.py"


def test_a_table_is_made_from_the_result(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    results(suite(row(shape="1x1"), row(shape="2x2", ours=1.0, eager=3.0))).save(tmp_path / "found")
    made = written(TEXT, tmp_path)
    assert "| shape | eager / ours |\n| --- | ---: |\n| 2x2 | 3.00 \\[3.00, 3.00\\] |" in made
    assert "old" not in made
    assert made.startswith("before\n")
    assert made.endswith("<!-- /bench -->\nafter\n")
    assert written(made, tmp_path) == made


def test_what_the_result_lacks_is_said(tmp_path: Path) -> None:
    from neurosens_fast.benchmarking.tables import title_table

    table = title_table(suite(row()), "Reading")
    with pytest.raises(ValueError, match="no column 'speed'"):
        chosen(table, {}, ["speed"])
    with pytest.raises(ValueError, match="no row of 'Reading'"):
        chosen(table, {"shape": "9x9"}, [])
    with pytest.raises(ValueError, match="nothing says"):
        written("nothing", tmp_path)
