"""Neuron clusters: the tree of neurons that are alike in what they add to classes."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

from neurosens_fast.explorer.exploration import Clusters, Exploration

if TYPE_CHECKING:
    from bokeh.models import UIElement
    from bokeh.plotting import figure

_INK = "#1c2430"


def cluster_view(exploration: Exploration, index: int) -> UIElement | None:
    """The dendrogram, called ``clusters-tree``, which ``clusters.js`` fills and colours; None without clusters."""
    from bokeh.models import Column

    if exploration.clusters is None:
        return None
    return Column(_tree(exploration.clusters, index), sizing_mode="stretch_width")


def _tree(clusters: Clusters, index: int) -> figure:
    from bokeh.models import (
        ColumnDataSource,
        CustomJSTickFormatter,
        FixedTicker,
        HoverTool,
        Label,
        Range1d,
        Span,
    )
    from bokeh.plotting import figure

    leaves = len(clusters.order)
    top = float(clusters.linkage[:, 2].max()) if leaves > 1 else 0.0
    top = top or 1.0  # neurons that are all alike
    links, strip, chosen, names = (
        ColumnDataSource({column: [] for column in columns}, name=f"clusters-{name}-{index}")
        for name, columns in (
            ("links", ("xs", "ys", "colour", "width", "distance", "neurons")),
            ("leaves", ("left", "right", "label", "chosen")),
            ("chosen", ("left", "right", "colour")),
            ("names", ("x", "y", "text", "colour")),
        )
    )
    # A strip below the leaves says which neurons are selected.
    low, high = -0.075 * top, -0.015 * top
    plot = figure(
        name=f"clusters-tree-{index}",
        height=400,
        sizing_mode="stretch_width",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        x_range=Range1d(-0.5, leaves - 0.5),
        y_range=Range1d(1.2 * low, 1.06 * top),
        min_border_left=76,
        y_axis_label="distance (Ward)",
        x_axis_label="neuron (its number)"
        if leaves == len(clusters.leaf)
        else "first neuron of a leaf + how many more",
    )
    plot.toolbar.logo = None
    plot.toolbar.active_scroll = None
    plot.toolbar.active_drag = None
    plot.center = []
    plot.yaxis.minor_tick_line_color = None
    plot.xaxis.ticker = FixedTicker(ticks=[], name=f"clusters-ticks-{index}")
    plot.xaxis.formatter = CustomJSTickFormatter(args={"source": strip}, code="return source.data.label[tick] ?? ''")
    plot.xaxis.major_label_orientation = pi / 2
    drawn = plot.multi_line(xs="xs", ys="ys", line_color="colour", line_width="width", source=links)
    marks = plot.quad(
        left="left", right="right", bottom=low, top=high, fill_color="#e4e6ea", line_color=None, source=strip
    )
    # Drawn over the others, at least a pixel wide.
    plot.quad(left="left", right="right", bottom=low, top=high, color="colour", line_width=1, source=chosen)
    text = plot.text(x="x", y="y", text="text", text_color="colour", x_offset=4, y_offset=-2, source=names)
    text.glyph.update(text_font_size="12px", text_font_style="bold")
    cut = Span(dimension="width", location=0, line_color=_INK, line_dash="6 4", name=f"clusters-cut-{index}")
    focus = Span(dimension="height", line_color=_INK, line_dash="4 3", visible=False, name=f"clusters-span-{index}")
    label = Label(x=0, y=1.06 * top, text="", y_offset=-16, visible=False, name=f"clusters-label-{index}")
    label.update(text_font_size="12px", text_color=_INK, background_fill_color="white", background_fill_alpha=0.85)
    for annotation in (cut, focus, label):
        plot.add_layout(annotation)
    formatters = {"@distance": "printf"}
    below = [("distance", "@distance{%.4g}"), ("neurons below", "@neurons{0,0}")]
    for tool in (
        HoverTool(renderers=[drawn], tooltips=below, formatters=formatters),
        HoverTool(renderers=[marks], tooltips=[("neuron", "@label"), ("selected", "@chosen")]),
    ):
        tool.visible = False  # always on, so it needs no button
        plot.add_tools(tool)
    return plot
