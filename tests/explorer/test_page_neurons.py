"""The neuron vulnerability view as Python makes it, before the script fills it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bokeh.models import HoverTool, Plot

from neurosens_fast.explorer.page.colours import ADVERSARIAL, BENIGN
from neurosens_fast.explorer.page.neurons import neuron_view
from tests.explorer.synthetic import exploration


def named(view: Any, name: str) -> Any:
    found = view.select_one({"name": name})
    assert found is not None, name
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_figures_and_sources_have_the_number_of_their_model(index: int) -> None:
    view = neuron_view(exploration(), index)
    assert {plot.name for plot in view.select({"type": Plot})} == {
        f"neurons-lines-{index}",
        f"neurons-bars-{index}",
        f"agreement-{index}",
    }
    names = [model.name for model in view.references() if model.name]
    assert len(names) == len(set(names))
    assert all(name.endswith(f"-{index}") for name in names)


def test_both_figures_share_their_range_over_all_neurons() -> None:
    view = neuron_view(exploration(neurons=30), 0)
    lines, bars = named(view, "neurons-lines-0"), named(view, "neurons-bars-0")
    assert lines.x_range is bars.x_range
    assert (lines.x_range.start, lines.x_range.end) == (-0.5, 29.5)


def test_lines_have_the_colours_of_benign_and_adversarial_and_different_markers() -> None:
    view = neuron_view(exploration(), 0)
    assert named(view, "neurons-benign-line-0").glyph.line_color == BENIGN
    assert named(view, "neurons-adversarial-line-0").glyph.line_color == ADVERSARIAL
    markers = {named(view, f"neurons-{kind}-dots-0").glyph.marker for kind in ("benign", "adversarial")}
    assert len(markers) == 2


def test_the_page_scrolls_over_every_figure() -> None:
    for plot in neuron_view(exploration(), 0).select({"type": Plot}):
        zooms = any(type(tool).__name__ == "WheelZoomTool" for tool in plot.toolbar.tools)
        assert plot.toolbar.active_scroll is None or not zooms
        assert plot.toolbar.logo is None
        assert any(type(tool).__name__ == "SaveTool" for tool in plot.toolbar.tools)


def test_one_measure_has_no_agreement() -> None:
    one = exploration()
    view = neuron_view(replace(one, measures=one.measures[:1], agreement=one.agreement[:, :1, :1]), 0)
    assert view.select_one({"name": "agreement-0"}) is None
    assert view.select_one({"name": "neurons-bars-0"}) is not None


@pytest.mark.parametrize("count", [3, 25])
def test_cells_have_room_for_their_numbers(count: int) -> None:
    first = exploration()
    measures = tuple(replace(first.measures[0], name=f"m{i}", label=f"measure {i} " * 9) for i in range(count))
    plot = named(neuron_view(replace(first, measures=measures), 0), "agreement-0")
    assert plot.frame_width == plot.frame_height >= 34 * count
    assert plot.min_width == plot.width == plot.frame_width + plot.min_border_left + plot.min_border_right
    labels = list(plot.yaxis[0].major_label_overrides.values())
    assert len(labels) == count
    assert max(map(len, labels)) == 36
    assert plot.min_border_left > 5 * 36
    (hover,) = plot.select({"type": HoverTool})
    assert ("", "@one") in hover.tooltips
