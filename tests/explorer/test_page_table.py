"""What Python puts on the page for the table of neurons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bokeh.models import Column, DataTable

from neurosens_fast.explorer.exploration import Exploration, Measure
from neurosens_fast.explorer.page.table import table_view
from tests.explorer.synthetic import exploration


def table(made: Exploration, index: int = 0) -> DataTable:
    view = table_view(made, index)
    assert isinstance(view, Column)
    found = view.select_one({"name": f"table-grid-{index}"})
    assert isinstance(found, DataTable)
    return found


def test_a_column_for_every_measure() -> None:
    made = exploration()
    found = table(made, 1)
    fields = ["neuron", "mark", "activation_change", "swap_drop", "score", "top"]
    assert [column.field for column in found.columns] == fields
    assert sorted(found.source.data) == sorted(fields)
    assert [column.default_sort for column in found.columns[2:5]] == ["descending"] * 3
    assert found.frozen_columns == 2


def test_headings_are_escaped_and_hold_the_definition() -> None:
    odd = Measure("odd", 'p < 1 & "q"', "mean <b>|a|</b> of 'x'", "swap", np.zeros((2, 24)))
    title = table(replace(exploration(), measures=(odd,))).columns[2].title
    assert title == (
        '<span title="p &lt; 1 &amp; &quot;q&quot;: mean &lt;b&gt;|a|&lt;/b&gt; of &#x27;x&#x27;">'
        "p &lt; 1 &amp; &quot;q&quot;</span>"
    )


def test_many_measures_scroll_and_few_are_stretched() -> None:
    made = exploration()
    assert table(made).autosize_mode == "force_fit"
    many = tuple(replace(made.measures[0], name=f"measure_{n}", label="m" * n) for n in range(1, 20))
    found = table(replace(made, measures=many))
    assert found.autosize_mode == "none"
    widths = [column.width for column in found.columns[2:-1]]
    assert min(widths) >= 90
    assert max(widths) <= 190


def test_the_hint_names_a_measure() -> None:
    view = table_view(exploration(), 0)
    assert view is not None
    assert view.select_one({"name": "table-search-0"}).placeholder.endswith("activation change > 0.1")
