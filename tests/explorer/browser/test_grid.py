"""The image grid in a browser: which pairs it shows, in which order, and that their pixels are those of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.explorer.synthetic import exploration

from .pointing import canvas_is_blank, click, hover, settle, source

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
SECTIONS = ("overview", "grid")
OpenPage = Callable[..., "Page"]


def said(page: Page) -> str:
    return page.locator("#grid-controls-0 .pages").text_content() or ""


def shown_images(page: Page) -> list[int]:
    """The numbers of the images of this page of the grid."""
    return source(page, "grid-frames-0")["number"][::2]


def pixels(page: Page, place: int) -> Any:
    """RGBA ``[H, W, 4]`` of a picture of the grid; the adversarial one follows the benign one."""
    shape = page.evaluate(f"explorer.bokeh('grid-pictures', explorer.page.models[0]).data.image[{place}].shape")
    flat = np.array(source(page, "grid-pictures-0")["image"][place], "<u4")
    return flat.view(np.uint8).reshape(*shape, 4)


@pytest.mark.parametrize("bands", [1, 3])
def test_pixels_are_those_of_the_data(open_page: OpenPage, bands: int) -> None:
    data = exploration(bands=bands)
    page = open_page(data)
    page.evaluate("explorer.setLevel(1)")
    benign, adversarial = data.images.benign, data.images.adversarial
    assert benign is not None
    assert adversarial is not None
    np.testing.assert_array_equal(pixels(page, 6)[..., :3], np.broadcast_to(benign[3], (12, 12, 3)))
    np.testing.assert_array_equal(pixels(page, 7)[..., :3], np.broadcast_to(adversarial[1, 3], (12, 12, 3)))
    assert (pixels(page, 6)[..., 3] == 255).all()
    assert not canvas_is_blank(page, "grid-0")


def test_pixels_on_the_screen_are_the_right_way_up(open_page: OpenPage) -> None:
    data = exploration(samples=1)
    assert data.images.benign is not None
    corner = np.full((1, 12, 12, 3), 255, np.uint8)
    corner[:, :6, :6] = [255, 0, 0]  # top left
    images = replace(data.images, benign=corner, adversarial=np.stack([corner] * 2))
    page = open_page(replace(data, images=images))
    settle(page)
    found = page.evaluate(
        """() => {
          const {canvas_view, frame} = Bokeh.index.find_one(explorer.bokeh("grid", explorer.page.models[0]));
          const {x, y, width, height} = explorer.bokeh("grid-pictures", explorer.page.models[0]).data;
          const ratio = canvas_view.primary.pixel_ratio;
          const at = (right, down) => {
            const sx = frame.x_scale.compute(x[0] + right * width[0]);
            const sy = frame.y_scale.compute(y[0] + down * height[0]);
            const copy = new OffscreenCanvas(1, 1).getContext("2d");
            copy.drawImage(canvas_view.primary.canvas, sx * ratio, sy * ratio, 1, 1, 0, 0, 1, 1);
            return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
          };
          return [at(0.25, 0.25), at(0.75, 0.25), at(0.25, 0.75)];
        }"""
    )
    assert found == [[255, 0, 0], [255, 255, 255], [255, 255, 255]]


def test_pages(open_page: OpenPage) -> None:
    page = open_page(exploration(samples=30))
    before = page.locator("#grid").get_by_role("button", name="Previous")
    after = page.locator("#grid").get_by_role("button", name="Next")
    assert said(page) == "images 1–12 of 30"
    assert before.is_disabled()
    after.click()
    after.click()
    assert said(page) == "images 25–30 of 30"
    assert after.is_disabled()
    assert shown_images(page) == [*range(24, 30)]
    before.click()
    assert said(page) == "images 13–24 of 30"
    page.evaluate("explorer.selectImages([29, 2])")
    assert said(page) == "images 1–2 of 2"
    assert shown_images(page) == [2, 29]


def test_sorts(open_page: OpenPage) -> None:
    data = exploration(samples=20)
    page = open_page(data)
    order = page.locator("#grid").get_by_label("sort by")
    order.select_option("size")
    assert shown_images(page) == np.argsort(-data.images.l2[0])[:12].tolist()
    order.select_option("drop")
    p = data.images.probabilities[:, np.arange(20), data.images.labels].astype(float)
    falls = p[0] - p[1]
    np.testing.assert_allclose(falls[shown_images(page)], np.sort(falls)[::-1][:12], atol=1e-4)
    page.evaluate("explorer.setLevel(1)")
    falls = p[0] - p[2]
    np.testing.assert_allclose(falls[shown_images(page)], np.sort(falls)[::-1][:12], atol=1e-4)


def test_frames_and_bars_say_what_is_predicted(open_page: OpenPage) -> None:
    data = exploration()
    page = open_page(data)
    frames, bars, texts = (source(page, f"grid-{name}-0") for name in ("frames", "bars", "texts"))
    colours = page.evaluate("explorer.page.colours")
    guesses = data.images.probabilities.argmax(-1)
    for row in range(12):
        for which in (0, 1):
            assert frames["colour"][2 * row + which] == colours[guesses[which, row]]
            assert frames["predicted"][2 * row + which] == f"class {guesses[which, row]}"
    # the first pair: a grey track, then the probability of the true class
    share = (bars["right"][1] - bars["left"][1]) / (bars["right"][0] - bars["left"][0])
    assert share == pytest.approx(float(data.images.probabilities[0, 0, data.images.labels[0]]), abs=1e-3)
    assert {"true: class 0", "L∞ 8/255", "benign", "adversarial"} <= set(texts["text"])


def test_pictures_keep_their_aspect(open_page: OpenPage) -> None:
    data = exploration()
    assert data.images.benign is not None
    assert data.images.adversarial is not None
    wide = replace(data.images, benign=data.images.benign[:, :5], adversarial=data.images.adversarial[:, :, :5])
    page = open_page(replace(data, images=wide, fields=None, features=None))
    pictures = source(page, "grid-pictures-0")
    assert pictures["width"][0] / pictures["height"][0] == pytest.approx(12 / 5)
    scale = page.evaluate(
        """() => {
          const {x_scale, y_scale} = Bokeh.index.find_one(explorer.bokeh("grid", explorer.page.models[0])).frame;
          return [x_scale, y_scale].map((scale) => scale.compute(1) - scale.compute(0));
        }"""
    )
    assert scale == pytest.approx([1, 1], rel=0.01)


def test_a_narrow_window_has_more_rows(open_page: OpenPage) -> None:
    data = exploration()
    page = open_page(data)
    assert len(set(source(page, "grid-pictures-0")["y"])) == 2
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_function("new Set(explorer.bokeh('grid-pictures', explorer.page.models[0]).data.y).size === 4")
    pictures = source(page, "grid-pictures-0")
    assert max(pictures["x"]) + pictures["width"][0] < page.evaluate(
        "explorer.bokeh('grid', explorer.page.models[0]).inner_width"
    )


def test_click_selects_one_image(open_page: OpenPage) -> None:
    page = open_page(exploration())
    pictures = source(page, "grid-pictures-0")
    click(page, "grid-0", pictures["x"][6] + 20, pictures["y"][6] + 20)
    assert page.evaluate("explorer.imageRows()") == [3]
    assert said(page) == "image 1 of 1"
    click(page, "grid-0", pictures["x"][0] + 20, pictures["y"][0] + 20)
    assert len(page.evaluate("explorer.imageRows()")) == 60


def test_tooltip(open_page: OpenPage) -> None:
    page = open_page(exploration())
    pictures = source(page, "grid-pictures-0")
    hover(page, "grid-0", pictures["x"][1] + 20, pictures["y"][1] + 20)
    assert page.get_by_text("0, adversarial").count() > 0


def test_without_images_the_page_says_why(open_page: OpenPage) -> None:
    data = exploration()
    images = replace(data.images, benign=None, adversarial=None)
    missing = {"images": "Inputs are no images: vectors of 5 numbers.", "fields": "No fields."}
    page = open_page(replace(data, images=images, fields=None, features=None, missing=missing))
    assert page.locator("#grid .missing").text_content() == "Inputs are no images: vectors of 5 numbers."
