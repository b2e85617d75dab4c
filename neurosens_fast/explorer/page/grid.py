"""Pages of pairs: each benign image above its adversarial one, with what the model predicts for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurosens_fast.explorer.exploration import Exploration

if TYPE_CHECKING:
    from bokeh.models import UIElement

_TOOLTIPS = [
    ("image", "@number, @kind"),
    ("true label", "@true"),
    ("predicted", "@predicted (p @p{0.000})"),
    ("perturbation", "@size"),
]


def grid_view(exploration: Exploration, index: int) -> UIElement | None:
    """A figure without axes, in pixels of the screen, which ``grid.js`` fills and resizes; None without images."""
    from bokeh.models import ColumnDataSource, HoverTool, Range1d
    from bokeh.plotting import figure

    if exploration.images.benign is None:
        return None

    def source(name: str, columns: str) -> ColumnDataSource:
        return ColumnDataSource({column: [] for column in columns.split()}, name=f"grid-{name}-{index}")

    plot = figure(
        name=f"grid-{index}",
        x_range=Range1d(0, 1300),
        y_range=Range1d(400, 0),
        height=400,
        min_width=300,
        min_border=0,
        sizing_mode="stretch_width",
        tools="save",
        toolbar_location="right",
        outline_line_color=None,
    )
    # Left out, not hidden: a browser builds hidden ones too.
    plot.left, plot.below, plot.center = [], [], []
    plot.toolbar.logo = None
    frames = plot.rect(
        x="x",
        y="y",
        width="width",
        height="height",
        source=source("frames", "x y width height colour number kind true predicted p size"),
        fill_color=None,
        line_color="colour",
        line_width=4,
        line_join="miter",
    )
    # Rows of pixels are kept from the top down, as the y axis runs.
    plot.image_rgba(
        image="image", x="x", y="y", dw="width", dh="height", source=source("pictures", "image x y width height")
    )
    plot.quad(
        left="left",
        right="right",
        top="top",
        bottom="bottom",
        source=source("bars", "left right top bottom colour alpha"),
        fill_color="colour",
        fill_alpha="alpha",
        line_color=None,
    )
    plot.text(
        x="x",
        y="y",
        text="text",
        text_color="colour",
        text_align="align",
        angle="angle",
        text_font_style="style",
        text_font_size="11px",
        text_baseline="middle",
        source=source("texts", "x y text colour align angle style"),
    )
    # A frame without fill is hit inside of it too.
    plot.add_tools(HoverTool(renderers=[frames], tooltips=_TOOLTIPS, attachment="right"))
    return plot
