"""What a neuron looks at in an image, what the attack does there, and which images stimulate the neuron most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurosens_fast.explorer.exploration import Exploration

from .features import feature_row

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, Div, UIElement
    from bokeh.plotting import figure

SIDE = 200
"""Pixels of the page along the longer side of a picture."""

BARS = ("benign", "adversarial", "swapped")
"""The pictures with bars beside them, in the order in which they stand."""

TITLES = {
    "benign": "Benign image through\nthe receptive field",
    "adversarial": "Adversarial image through\nthe receptive field",
    "swapped": "Benign image with the\nadversarial pixels inside",
}
MAPS = {"drop": "benign probability decrease", "rise": "adversarial probability increase"}
TOOLS = "pan,wheel_zoom,reset,save"
WRAP = {"flex-wrap": "wrap"}


def field_view(exploration: Exploration, index: int) -> UIElement | None:
    """The view for ``scripts/fields.js`` and ``scripts/features.js``, None where there are no pictures to show."""
    from bokeh.models import Column

    if exploration.images.benign is None or (exploration.fields is None and exploration.features is None):
        return None
    _, height, width, _ = exploration.images.benign.shape
    parts: list[Any] = [
        _text("note", index),
        _controls(index),
        _problem(index),
        _pictures(index, height, width),
        _maps(index, height, width),
    ]
    if exploration.features is not None:
        parts += [_text("features-note", index), feature_row(exploration.features, index, height, width)]
    elif (why := exploration.missing.get("features")) is not None:
        parts.append(_text("features-missing", index, why))
    return Column(*parts, sizing_mode="stretch_width", tags=[int(height), int(width)])


def _text(name: str, index: int, text: str = "", **settings: Any) -> Div:
    from bokeh.models import Div

    settings = settings or {"sizing_mode": "stretch_width"}
    return Div(text=text, styles={"font-size": "13.5px"}, disable_math=True, name=f"field-{name}-{index}", **settings)


def _controls(index: int) -> UIElement:
    from bokeh.models import Button, Row, Select

    def step(label: str, name: str) -> Button:
        return Button(label=label, width=130, align="end", name=f"field-{name}-{index}")

    return Row(
        step("‹ Previous image", "previous"),
        _text("image", index, width=260, align="end"),
        step("Next image ›", "next"),
        Select(title="Neuron, most vulnerable first", options=[], width=260, name=f"field-neuron-{index}"),
        name=f"field-controls-{index}",
        spacing=10,
        styles=WRAP,
        sizing_mode="stretch_width",
    )


def _problem(index: int) -> UIElement:
    """Why there is no field, and a way to one."""
    from bokeh.models import Button, Column

    return Column(
        _text("problem", index),
        Button(label="", button_type="primary", width=320, name=f"field-mend-{index}"),
        name=f"field-without-{index}",
        sizing_mode="stretch_width",
    )


def _pictures(index: int, height: int, width: int) -> UIElement:
    """The three pictures with their bars, and what the swap does in numbers."""
    from bokeh.models import Column, Row, Slider

    cards = [
        Row(
            _picture(f"field-{name}", index, height, width, TITLES[name]),
            _bars(name, index),
            sizing_mode="stretch_width",
            min_width=430,
            styles={"flex": "1 1 430px"},
        )
        for name in BARS
    ]
    return Column(
        _text("swap", index),
        _slider(Slider, "visibility", "Visibility outside of the receptive field", 0.25, index),
        Row(*cards, styles=WRAP, sizing_mode="stretch_width", spacing=8),
        name=f"field-pictures-{index}",
        sizing_mode="stretch_width",
    )


def _slider(kind: Any, name: str, title: str, value: float, index: int) -> Any:
    return kind(
        title=title, start=0, end=1, step=0.05, value=value, format="0 %", width=320, name=f"field-{name}-{index}"
    )


def _empty_picture(index: int, name: str, kind: type = np.uint32) -> ColumnDataSource:
    from bokeh.models import ColumnDataSource

    # The script makes arrays of the same kind as this one.
    return ColumnDataSource({"image": [np.zeros((1, 1), kind)]}, name=f"{name}-source-{index}")


def _frame(height: int, width: int) -> dict[str, int]:
    """The size of a frame with the proportions of an image."""
    scale = SIDE / max(height, width)
    return {"frame_width": max(20, round(width * scale)), "frame_height": max(20, round(height * scale))}


def _picture(name: str, index: int, height: int, width: int, title: str) -> figure:
    """An empty figure of the size of an image, whose pixels the script gives."""
    from bokeh.plotting import figure

    made = figure(
        name=f"{name}-{index}",
        title=title,
        x_range=(0, width),
        y_range=(0, height),
        tools=TOOLS,
        toolbar_location="above",
        styles={"flex": "none", "width": "fit-content"},  # else a row makes the figure wider than its frame
        min_border=2,
        output_backend="canvas",
        **_frame(height, width),
    )
    made.left, made.below, made.center = [], [], []  # not only hidden: a browser builds hidden ones too
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.outline_line_color = "#8a919c"
    made.title.text_font_size = "12px"
    source = _empty_picture(index, name)
    made.image_rgba("image", x=0, y=0, dw=width, dh=height, origin="top_left", source=source)
    return made


def _bars(name: str, index: int) -> figure:
    """Probabilities of the true and the adversarial class, each for two images; words stand at the end of each bar."""
    from bokeh.models import ColumnDataSource, HoverTool, LabelSet, Span
    from bokeh.plotting import figure

    # There is room to the right of 1 for the words.
    made = figure(
        name=f"field-{name}-bars-{index}",
        x_range=(-1.3, 2.4),
        y_range=(-0.6, 4.6),
        height=SIDE + 20,
        min_width=200,
        sizing_mode="stretch_width",
        tools="save",
        toolbar_location="above",
        min_border=2,
        x_axis_label="probability",
        output_backend="canvas",
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.xaxis.ticker = [0, 0.5, 1]
    made.xaxis.bounds = (0, 1)
    made.xaxis.axis_label_standoff = 2
    made.left = []
    # Names of classes are glyphs: a new label of an axis would make Bokeh lay out the whole view anew.
    names = ColumnDataSource({"y": [], "said": []}, name=f"field-{name}-names-source-{index}")
    made.text(
        x=-0.05, y="y", text="said", source=names, text_align="right", text_baseline="middle", text_font_size="11px"
    )
    made.add_layout(Span(location=0, dimension="height", line_color="#1c2430"))
    made.center = made.xgrid
    made.outline_line_color = None
    columns: dict[str, list[Any]] = {key: [] for key in ("y", "p", "said", "colour", "fill", "of", "what")}
    source = ColumnDataSource(columns, name=f"field-{name}-bars-source-{index}")
    bars = made.hbar(
        y="y", right="p", height=0.8, line_color="colour", fill_color="colour", fill_alpha="fill", source=source
    )
    made.add_layout(
        LabelSet(x="p", y="y", text="said", x_offset=4, source=source, text_baseline="middle", text_font_size="11px")
    )
    made.add_tools(HoverTool(renderers=[bars], tooltips=[("class", "@of"), ("of", "@what"), ("probability", "@p")]))
    return made


def _maps(index: int, height: int, width: int) -> UIElement:
    """Both vulnerability maps over the image, and what greying a field does to its neuron."""
    from bokeh.models import Column, Row, Slider

    maps = [_map(name, index, height, width) for name in MAPS]
    return Column(
        _text("maps-note", index),
        _slider(Slider, "opacity", "Opacity of the vulnerability maps", 0.7, index),
        Row(
            *maps,
            _occlusion(index),
            _text("occlusion-said", index, width=300, margin=(40, 5, 5, 5)),
            styles=WRAP,
            sizing_mode="stretch_width",
            spacing=16,
        ),
        name=f"field-maps-{index}",
        sizing_mode="stretch_width",
    )


def _map(name: str, index: int, height: int, width: int) -> figure:
    from bokeh.models import ColorBar, HoverTool, LinearColorMapper

    made = _picture(f"field-{name}-map", index, height, width, f"Vulnerability map:\n{MAPS[name]}")
    colours = LinearColorMapper(
        "Viridis256", low=0, high=1, nan_color="rgba(0, 0, 0, 0)", name=f"field-{name}-colours-{index}"
    )
    shown = made.image(
        "image",
        x=0,
        y=0,
        dw=width,
        dh=height,
        origin="top_left",
        color_mapper=colours,
        source=_empty_picture(index, f"field-{name}-values", np.float32),
        name=f"field-{name}-renderer-{index}",
    )
    made.add_layout(ColorBar(color_mapper=colours, width=10, padding=4, major_label_text_font_size="11px"), "right")
    made.add_tools(HoverTool(renderers=[shown], tooltips=[(f"mean {MAPS[name]}", "@image{0.0000}")]))
    return made


def _occlusion(index: int) -> figure:
    """Each neuron: how much greying its own field lowers it against greying another one's."""
    from bokeh.models import ColumnDataSource, HoverTool, Slope
    from bokeh.plotting import figure

    made = figure(
        name=f"field-occlusion-{index}",
        title="Does the neuron look there?\nOne point per neuron",
        x_axis_label="fall, another neuron's field grey",
        y_axis_label="fall, own field grey",
        x_range=(0, 1),
        y_range=(0, 1),
        width=300,
        height=SIDE + 90,
        tools=f"{TOOLS},tap",
        toolbar_location="above",
        output_backend="canvas",
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.title.text_font_size = "12px"
    made.axis.axis_label_text_font_style = "normal"
    for axis in made.axis:
        axis.formatter = _percent()
    made.add_layout(Slope(gradient=1, y_intercept=0, line_dash="dashed", line_color="#5a6472"))
    columns: dict[str, list[Any]] = {key: [] for key in ("neuron", "own", "control", "colour", "size", "marker")}
    points = made.scatter(
        "control",
        "own",
        size="size",
        marker="marker",
        fill_color="colour",
        line_color="#1c2430",
        fill_alpha=0.8,
        nonselection_fill_alpha=0.8,
        source=ColumnDataSource(columns, name=f"field-occlusion-source-{index}"),
    )
    made.add_tools(
        HoverTool(
            renderers=[points],
            tooltips=[("neuron", "@neuron"), ("own field", "@own{0.0 %}"), ("another's", "@control{0.0 %}")],
        )
    )
    return made


def _percent() -> Any:
    from bokeh.models import NumeralTickFormatter

    return NumeralTickFormatter(format="0 %")
