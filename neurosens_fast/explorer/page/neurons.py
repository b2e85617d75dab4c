"""Neuron vulnerability: what every neuron adds to a class before and after an attack, and what measures say of it."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Any

from neurosens_fast.explorer.exploration import Exploration

from .colours import ADVERSARIAL, BENIGN
from .text import short

if TYPE_CHECKING:
    from bokeh.models import UIElement
    from bokeh.plotting import figure

KINDS = {"benign": (BENIGN, "circle"), "adversarial": (ADVERSARIAL, "triangle")}
"""Colours and markers of the two lines."""

_INK = "#1c2430"
_BORDER = 76
"""Pixels left of both figures, so that the same neuron is at the same place in both."""


def neuron_view(exploration: Exploration, index: int) -> UIElement:
    """Lines of benign and adversarial means, the chosen measure below, and the agreement of all measures.

    ``neurons.js`` and ``agreement.js`` fill the sources; the figures are called ``neurons-lines``, ``neurons-bars`` and
    ``agreement``.
    """
    from bokeh.models import Column, ColumnDataSource, Div, Range1d

    # Something finite to begin with: Bokeh warns of ranges without.
    source = ColumnDataSource(
        {name: [0] for name in ("x", "neuron", "measure", *KINDS)}, name=f"neurons-source-{index}"
    )
    order = ColumnDataSource({"neuron": []}, name=f"neurons-order-{index}")
    x_range = Range1d(-0.5, exploration.neurons - 0.5)
    figures = Column(_lines(source, order, x_range, index), _bars(order, x_range, index), sizing_mode="stretch_width")
    if len(exploration.measures) == 1:
        return Column(figures, sizing_mode="stretch_width")
    title = (
        "<b>Rank agreement of measures</b>: Spearman's rank correlation over neurons, 1 for the same order and −1 for "
        "the opposite one; – where fewer than 3 neurons have both or all have the same. "
        "Click a row to show its measure above."
    )
    # In a column of its own, since frames of a column are as far from the left as the widest labels make one of them.
    agreement = Column(_agreement(exploration, index))
    return Column(figures, Div(text=title, sizing_mode="stretch_width"), agreement, sizing_mode="stretch_width")


def _lines(source: Any, order: Any, x_range: Any, index: int) -> figure:
    from bokeh.models import ColumnDataSource, Label, Legend, LegendItem

    plot = _figure("neurons-lines", order, x_range, 320, index)
    plot.min_border_bottom = 28
    classes, bands = (
        ColumnDataSource({name: [] for name in ("xs", "ys", "colour", *more)}, name=f"neurons-{name}-source-{index}")
        for name, more in (("class", ("dash", "alpha", "label")), ("band", ()))
    )
    plot.patches(xs="xs", ys="ys", fill_color="colour", fill_alpha=0.16, line_color=None, source=bands)
    items, lines = [], []
    for kind, (colour, marker) in KINDS.items():
        lines.append(plot.line(x="x", y=kind, line_color=colour, line_width=1.6, source=source))
        lines[-1].name = f"neurons-{kind}-line-{index}"
        # A single neuron makes no line; where there are few, markers tell the lines apart without their colours.
        dots = plot.scatter(x="x", y=kind, size=7, color=colour, marker=marker, source=source)
        dots.name = f"neurons-{kind}-dots-{index}"
        items.append(LegendItem(label=f"{kind}, all selected images", renderers=[lines[-1], dots]))
    own = plot.multi_line(xs="xs", ys="ys", line_color="colour", line_alpha="alpha", line_width=1.6, source=classes)
    own.glyph.line_dash = {"field": "dash"}
    items.append(LegendItem(label={"field": "label"}, renderers=[own]))
    legend = Legend(items=items, orientation="horizontal", location="top_left", name=f"neurons-legend-{index}")
    legend.update(border_line_color=None, padding=0, margin=0, spacing=6, label_text_font_size="12px")
    plot.add_layout(legend, "above")
    label = Label(x=0, y=4, y_units="screen", text="", visible=False, name=f"neurons-label-{index}")
    label.update(text_font_size="12px", text_color=_INK, background_fill_color="white", background_fill_alpha=0.85)
    plot.add_layout(label)
    tips = [("neuron", "@neuron"), ("benign", "@benign{%.4g}"), ("adversarial", "@adversarial{%.4g}")]
    _add_tools(plot, lines[0], [*tips, ("measure", "@measure{%.4g}")], f"neurons-hover-{index}")
    return plot


def _bars(order: Any, x_range: Any, index: int) -> figure:
    from bokeh.models import ColumnDataSource

    plot = _figure("neurons-bars", order, x_range, 256, index)
    bars = ColumnDataSource({"x": [0], "low": [0], "high": [0]}, name=f"neurons-bars-source-{index}")
    # One area for all bars: one shape each would take too long for many thousands of neurons.
    plot.varea(x="x", y1="low", y2="high", fill_color="#5a6472", source=bars)
    tops = ColumnDataSource({"x": [0], "neuron": [0], "measure": [0]}, name=f"neurons-tops-source-{index}")
    line = plot.line(x="x", y="measure", line_alpha=0, source=tops)
    tips = [("neuron", "@neuron"), ("measure", "@measure{%.4g}")]
    _add_tools(plot, line, tips, f"neurons-bars-hover-{index}")
    return plot


def _figure(name: str, order: Any, x_range: Any, height: int, index: int) -> figure:
    """An empty figure over neurons, with their numbers at the ticks and a mark for the one in focus."""
    from bokeh.models import CustomJSTickFormatter, Span
    from bokeh.plotting import figure

    plot = figure(
        name=f"{name}-{index}",
        height=height,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        x_range=x_range,
        min_border_left=_BORDER,
    )
    plot.toolbar.logo = None
    plot.toolbar.active_scroll = None
    plot.center = plot.ygrid
    plot.axis.minor_tick_line_color = None
    plot.xaxis.ticker.update(min_interval=1, desired_num_ticks=15)
    # Ticks are at places in the order that is shown.
    plot.xaxis.formatter = CustomJSTickFormatter(args={"order": order}, code="return order.data.neuron[tick] ?? ''")
    plot.xaxis.name = f"{name}-x-{index}"
    plot.yaxis.name = f"{name}-y-{index}"
    plot.add_layout(Span(dimension="height", line_color=_INK, line_dash="4 3", visible=False))
    plot.center[-1].name = f"{name}-span-{index}"
    return plot


def _add_tools(plot: figure, line: Any, tooltips: list[tuple[str, str]], name: str) -> None:
    from bokeh.models import BoxSelectTool, HoverTool

    formatters = {f"@{column}": "printf" for column in ("benign", "adversarial", "measure")}
    hover = HoverTool(renderers=[line], mode="vline", tooltips=tooltips, formatters=formatters, name=name)
    hover.visible = False  # always on, so it needs no button
    select = BoxSelectTool(dimensions="width", renderers=[], description="Select neurons")
    plot.add_tools(select, hover)
    plot.toolbar.active_drag = select


def _agreement(exploration: Exploration, index: int) -> figure:
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, LinearColorMapper, Range1d
    from bokeh.palettes import BrBG11
    from bokeh.plotting import figure

    count = len(exploration.measures)
    cell, size = (44, "12px") if count <= 8 else (34, "11px")
    names = {place: short(one.label, 36) for place, one in enumerate(exploration.measures)}
    # Room for the longest label at the left, and slanted from the last column at the right.
    left = 24 + round(5.8 * max(map(len, names.values())))
    right = max(60, left - cell)
    width = count * cell + left + right
    plot = figure(
        name=f"agreement-{index}",
        tools="save",
        x_axis_location="above",
        frame_width=count * cell,
        frame_height=count * cell,
        width=width,
        min_width=width,  # beside another model it is scrolled, for numbers that can be read
        min_border_left=left,
        min_border_right=right,
        x_range=Range1d(-0.5, count - 0.5),
        y_range=Range1d(count - 0.5, -0.5),
    )
    plot.toolbar.logo = None
    plot.center = []
    for axis in plot.axis:
        axis.ticker = FixedTicker(ticks=list(names))
        axis.major_label_overrides = names
        axis.major_label_text_font_size = "12px"
        axis.major_tick_line_color = axis.axis_line_color = None
    plot.xaxis.major_label_orientation = pi / 4
    columns = ("x", "y", "value", "text", "ink", "one", "other")
    cells = ColumnDataSource({name: [] for name in columns}, name=f"agreement-cells-{index}")
    colours = LinearColorMapper(BrBG11[::-1], low=-1, high=1, nan_color="#e4e6ea")
    fill = {"field": "value", "transform": colours}
    drawn = plot.rect(x="x", y="y", width=1, height=1, fill_color=fill, line_color="white", source=cells)
    numbers = plot.text(x="x", y="y", text="text", text_color="ink", text_font_size=size, source=cells)
    numbers.glyph.update(text_align="center", text_baseline="middle")
    chosen = ColumnDataSource({"y": [0]}, name=f"agreement-chosen-{index}")
    frame = plot.rect(x=count / 2 - 0.5, y="y", width=count, height=1, fill_color=None, source=chosen)
    frame.glyph.update(line_color=_INK, line_width=2.5)
    hover = HoverTool(renderers=[drawn], tooltips=[("", "@one"), ("and", "@other"), ("Spearman's ρ", "@text")])
    hover.visible = False
    plot.add_tools(hover)
    return plot
