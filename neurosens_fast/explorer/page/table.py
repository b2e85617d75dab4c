"""All neurons with all their measures, to search, sort, pin and export."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from neurosens_fast.explorer.exploration import Exploration

if TYPE_CHECKING:
    from bokeh.models import TableColumn, UIElement

WRAP = {"flex-wrap": "wrap"}
FEW = 4
"""Up to so many measures, columns are stretched to the width of the page; more of them are scrolled."""

NUMBER = """<div style="text-align: right"><%=
  value === null || Number.isNaN(value) ? "–"
  : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(3) : value.toFixed(4)
%></div>"""
"""Decimal points stand beneath each other, and small numbers keep their digits."""

HINT = "12   10-20   3, 5, 8   {} > 0.1"


def table_view(exploration: Exploration, index: int) -> UIElement | None:
    """The view for ``scripts/table.js``: form elements above a table whose rows the script gives."""
    from bokeh.models import Button, Column, ColumnDataSource, DataTable, Div, Row, Select, TextInput

    measures = exploration.measures
    columns = _columns(exploration)
    table = DataTable(
        source=ColumnDataSource({column.field: [] for column in columns}, name=f"table-source-{index}"),
        columns=columns,
        index_position=None,
        frozen_columns=2,
        autosize_mode="force_fit" if len(measures) <= FEW else "none",
        scroll_to_selection=False,  # a sorted table begins with its first row
        reorderable=False,
        height=420,
        sizing_mode="stretch_width",
        name=f"table-grid-{index}",
    )
    options = [(measure.name, measure.label) for measure in measures]

    def button(name: str, label: str, width: int) -> Button:
        return Button(label=label, width=width, align="end", name=f"table-{name}-{index}")

    return Column(
        Row(
            TextInput(
                title="Search: neuron numbers, or a measure and a limit; Enter",
                placeholder=HINT.format(measures[0].label if measures else "a measure"),
                width=330,
                name=f"table-search-{index}",
            ),
            Select(
                title="Sort by",
                options=[("neuron", "neuron number"), *options, ("top", "most stimulating image")],
                value="neuron",
                width=210,
                name=f"table-sort-{index}",
            ),
            button("reverse", "Reverse", 80),
            button("pin", "Pin", 150),
            button("select", "Select these neurons", 190),
            Select(title="Export", options=["this level"], width=130, name=f"table-levels-{index}"),
            button("export", "Export CSV", 110),
            styles=WRAP,
            sizing_mode="stretch_width",
        ),
        Div(name=f"table-said-{index}", styles={"font-size": "13.5px"}, disable_math=True, sizing_mode="stretch_width"),
        table,
        sizing_mode="stretch_width",
    )


def _columns(exploration: Exploration) -> list[TableColumn]:
    from bokeh.models import HTMLTemplateFormatter, NumberFormatter, StringFormatter, TableColumn

    def column(field: str, label: str, says: str, formatter: Any, width: int, falling: bool = False) -> TableColumn:
        # Bokeh puts titles into the page as HTML, which makes room for a tooltip.
        return TableColumn(
            field=field,
            title=f'<span title="{escape(says)}">{escape(label)}</span>',
            formatter=formatter,
            width=width,
            default_sort="descending" if falling else "ascending",
        )

    number = NumberFormatter(format="0,0", nan_format="–", text_align="right")
    measures = [
        column(
            measure.name,
            measure.label,
            f"{measure.label}: {measure.definition}",
            HTMLTemplateFormatter(template=NUMBER),
            min(190, max(90, 40 + 7 * len(measure.label))),
            falling=True,
        )
        for measure in exploration.measures
    ]
    return [
        column("neuron", "neuron", "number of the neuron in its layer", number, 70),
        column("mark", "mark", "pinned, selected, or focused: shown in the other views", StringFormatter(), 130),
        *measures,
        column("top", "top image", "number of the input that stimulates the neuron most", number, 90),
    ]
