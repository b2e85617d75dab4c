"""What Python puts on the page for the receptive field: sizes, names, and what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bokeh.models import Column
from bokeh.plotting import figure

from neurosens_fast.explorer.page.features import feature_row
from neurosens_fast.explorer.page.fields import SIDE, field_view
from tests.explorer.synthetic import exploration


def test_figures_have_the_proportions_of_images() -> None:
    made = exploration(samples=8)
    images = made.images
    wide = replace(made, images=replace(images, benign=np.zeros((8, 10, 40, 3), np.uint8)))
    view = field_view(wide, 1)
    assert isinstance(view, Column)
    assert view.tags == [10, 40]
    for name in ("field-benign-1", "field-adversarial-1", "field-swapped-1", "field-drop-map-1", "field-rise-map-1"):
        found = view.select_one({"name": name})
        assert (found.frame_width, found.frame_height) == (SIDE, SIDE // 4)
        assert (found.x_range.end, found.y_range.end) == (40, 10)


@pytest.mark.parametrize("index", [0, 1])
def test_every_figure_has_a_name_and_no_logo(index: int) -> None:
    view = field_view(exploration(), index)
    assert view is not None
    found = list(view.select({"type": figure}))
    assert len(found) == 10
    names = [one.name for one in found]
    assert len(set(names)) == 10
    assert all(name.endswith(f"-{index}") for name in names)
    assert all(one.toolbar.logo is None and one.output_backend == "canvas" for one in found)


def test_nothing_without_pictures() -> None:
    made = exploration()
    assert field_view(replace(made, images=replace(made.images, benign=None, adversarial=None)), 0) is None
    assert field_view(replace(made, fields=None, features=None), 0) is None


def test_features_without_fields_and_fields_without_features() -> None:
    made = exploration()
    only = field_view(replace(made, fields=None), 0)
    assert only is not None
    assert only.select_one({"name": "features-0"}) is not None
    other = field_view(replace(made, features=None, missing={"features": "There are none."}), 0)
    assert other is not None
    assert other.select_one({"name": "features-0"}) is None
    assert other.select_one({"name": "field-features-missing-0"}).text == "There are none."


@pytest.mark.parametrize("count", [1, 6, 40])
def test_feature_row_fits_its_pictures(count: int) -> None:
    features = exploration().features
    assert features is not None
    many = replace(features, values=np.zeros((24, count), np.float32))
    row = feature_row(many, 0, 12, 24)
    space = row.tags[0]
    assert space > 24  # pictures do not touch
    assert row.x_range.end == pytest.approx(count * space)
    assert 64 * count <= row.width <= 130 * count + 8
    # a pixel of an image is a square: both axes have as many pixels of the page for it
    across, up = (row.width - 8) / row.x_range.end, (row.height - 8) / (row.y_range.end - row.y_range.start)
    assert across == pytest.approx(up, rel=0.02)
