"""Data overview: benign and adversarial inputs as the model sees them, and what it predicts for them."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosens_fast.explorer.exploration import Exploration

from .text import short

if TYPE_CHECKING:
    from bokeh.models import UIElement
    from bokeh.plotting import figure

MOST_CLASSES = 20
"""Up to so many classes all are in the matrix and the legend; of more, those that occur are in the matrix."""

_TOOLTIPS = [
    ("image", "@number"),
    ("true label", "@true"),
    ("benign", "@predicted (p @p{0.000})"),
    ("adversarial", "@predicted_adversarial (p @p_adversarial{0.000})"),
]
_CELL_TOOLTIPS = [("true label", "@true"), ("predicted", "@predicted"), ("selected", "@chosen of @all images")]


def overview_view(exploration: Exploration, index: int) -> UIElement:
    """Two scatter plots over the same ranges, and the matrix of true and predicted labels.

    ``overview.js`` fills ``points`` (a row for each image) and ``cells`` (a row for each cell of the matrix).
    """
    from bokeh.models import ColumnDataSource, Range1d, Row

    columns = ("x", "y", "colour", "marker", "number", "true", "predicted", "p")
    names = (*columns, *(f"{name}_adversarial" for name in columns if name not in ("number", "true")))
    points = ColumnDataSource({name: [] for name in names}, name=f"points-{index}")
    x_range, y_range = (Range1d(*_span(exploration.images.coordinates[..., axis])) for axis in (0, 1))
    method = exploration.images.projection.partition(":")[0]
    size = 8 if len(exploration.images.labels) <= 500 else 6
    scatters = []
    for kind, suffix in (("benign", ""), ("adversarial", "_adversarial")):
        plot = _figure(
            f"{kind}-scatter-{index}",
            f"{kind.capitalize()} inputs",
            _TOOLTIPS,
            "lasso_select,box_select,tap,pan,wheel_zoom,box_zoom,reset,save",
            x_range=x_range,
            y_range=y_range,
            x_axis_label=f"{method} 1",
            y_axis_label=f"{method} 2",
        )
        plot.toolbar.active_drag = plot.tools[0]
        plot.tools[0].continuous = False
        plot.scatter(
            x=f"x{suffix}",
            y=f"y{suffix}",
            marker=f"marker{suffix}",
            color=f"colour{suffix}",
            source=points,
            size=size,
            alpha=0.85,
            line_color="#1c2430",
            line_width=0.4,
            selection_alpha=0.95,
            nonselection_alpha=0.07,
        )
        scatters.append(plot)
    # Side by side where there is room, else the matrix goes below.
    return Row(*scatters, _matrix(exploration, index), sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})


def shown_classes(exploration: Exploration) -> list[int]:
    """The classes of the matrix: all of up to 20, of more those that are a label or a prediction at any level."""
    images = exploration.images
    if len(exploration.classes) <= MOST_CLASSES:
        return list(range(len(exploration.classes)))
    found = {int(label) for label in images.labels} | {int(one) for one in images.probabilities.argmax(-1).flat}
    return sorted(found)


def _matrix(exploration: Exploration, index: int) -> figure:
    from bokeh.models import BasicTicker, ColorBar, ColumnDataSource, FixedTicker, LinearColorMapper, Range1d
    from bokeh.palettes import Blues256

    classes = shown_classes(exploration)
    few = len(classes) <= MOST_CLASSES
    names = {place: short(exploration.classes[number], 16 if few else 10) for place, number in enumerate(classes)}
    columns = ("x", "y", "all", "chosen", "true", "predicted", "text", "ink", "line")
    cells = ColumnDataSource({name: [] for name in columns}, name=f"cells-{index}", tags=[classes])
    mapper = LinearColorMapper(["#ffffff", *Blues256[240::-1]], low=0, high=1, name=f"counts-{index}")
    plot = _figure(
        f"matrix-{index}",
        "Selected / all images of each true and predicted label",
        _CELL_TOOLTIPS,
        "pan,wheel_zoom,box_zoom,reset,save",
        x_range=Range1d(-0.5, len(classes) - 0.5),
        y_range=Range1d(len(classes) - 0.5, -0.5),
        y_axis_label="true label",
        x_axis_label="label predicted for the adversarial input",
    )
    plot.toolbar.active_drag = None
    plot.center = []  # no grid lines
    plot.axis.minor_tick_line_color = None
    plot.rect(
        x="x",
        y="y",
        width=0.94 if few else 1,
        height=0.94 if few else 1,
        source=cells,
        fill_color={"field": "chosen", "transform": mapper},
        line_color="line",
        line_width=2 if few else 0,
        name=f"cell-squares-{index}",
    )
    plot.text(
        x="x",
        y="y",
        text="text",
        text_color="ink",
        source=cells,
        text_align="center",
        text_baseline="middle",
        text_font_size="11px",
        name=f"cell-text-{index}",
    )
    for axis in plot.axis:
        axis.ticker = FixedTicker(ticks=list(names)) if few else BasicTicker(min_interval=1, desired_num_ticks=15)
        axis.major_label_overrides = names
    if max(map(len, names.values())) > 3:
        plot.xaxis.major_label_orientation = pi / 4
    if len(classes) > MOST_CLASSES // 2:
        plot.add_layout(ColorBar(color_mapper=mapper, title="images", width=10, padding=4), "right")
    return plot


def _figure(name: str, title: str, tooltips: list[tuple[str, str]], tools: str, **options: Any) -> figure:
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    plot = figure(
        name=name, title=title, tools=tools, height=430, min_width=320, sizing_mode="stretch_width", **options
    )
    plot.add_tools(HoverTool(tooltips=tooltips))
    plot.toolbar.logo = None
    plot.reset_policy = "event_only"
    return plot


def _span(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The range of the finite ``values`` with a margin."""
    finite = values[np.isfinite(values)].astype(float)
    if finite.size == 0:
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
