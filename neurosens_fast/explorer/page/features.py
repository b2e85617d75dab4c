"""The inputs that stimulate a neuron most, with the patch that it sees outlined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurosens_fast.explorer.exploration import Features

if TYPE_CHECKING:
    from bokeh.plotting import figure


def feature_row(features: Features, index: int, height: int, width: int) -> figure:
    """An empty row for pictures of ``height`` x ``width`` pixels, which ``scripts/features.js`` puts there."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    count = features.values.shape[1]
    tile = min(130, max(64, 660 // max(count, 1)))
    scale = (tile - 8) / max(height, width)
    lines = 50 / scale  # room for three lines of text, in pixels of an image
    space = tile / scale
    made = figure(
        name=f"features-{index}",
        x_range=(0, space * count),
        y_range=(-lines, height + 2 / scale),
        width=tile * count + 8,
        height=round((height + lines + 2 / scale) * scale) + 8,
        tools="pan,wheel_zoom,reset,save",
        toolbar_location="right",
        min_border=2,
        output_backend="canvas",
        tags=[float(space), 11 if tile < 90 else 18],
    )
    made.left, made.below, made.center = [], [], []  # not only hidden: a browser builds hidden ones too
    made.outline_line_color = None
    made.toolbar.logo = None
    made.toolbar.autohide = True
    pictures = ColumnDataSource({"image": [np.zeros((1, 1), np.uint32)], "x": [0.0]}, name=f"features-source-{index}")
    made.image_rgba("image", x="x", y=0, dw=width, dh=height, origin="top_left", source=pictures)
    columns: dict[str, list[Any]] = {
        key: []
        for key in (
            *("left", "right", "top", "bottom", "x", "said", "value", "sample", "of", "patch"),
            *("frame_left", "frame_right", "frame_top", "frame_bottom"),
        )
    }
    tiles = ColumnDataSource(columns, name=f"features-tiles-{index}")
    frames = made.quad(
        left="frame_left",
        right="frame_right",
        top="frame_top",
        bottom="frame_bottom",
        fill_color=None,
        line_color="#b6bcc6",
        source=tiles,
    )
    # White beneath black is seen on any picture.
    for colour, thick in (("white", 4), ("black", 2)):
        made.quad(
            left="left",
            right="right",
            top="top",
            bottom="bottom",
            fill_color=None,
            line_color=colour,
            line_width=thick,
            source=tiles,
        )
    made.text(
        x="x",
        y=0,
        y_offset=4,
        text="said",
        text_font_size="11px",
        text_baseline="top",
        text_color="#1c2430",
        source=tiles,
    )
    tooltips = [("value", "@value"), ("image", "@sample"), ("class", "@of"), ("patch", "@patch")]
    made.add_tools(HoverTool(renderers=[frames], tooltips=tooltips))
    return made
