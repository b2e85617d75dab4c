"""The whole page in a browser: it loads, asks for nothing, shows something, and keeps one selection for all views."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.explorer.synthetic import exploration

from .pointing import canvas_is_blank, figures, selected, settle

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .conftest import OpenPage, Watched

pytestmark = pytest.mark.browser

ALL = "60 of 60 images · 24 of 24 neurons selected"
STATE = """() => explorer.page.models.map((model) => [
  explorer.page.level, explorer.imageRows(), model.measure, model.focus, explorer.neuronPlaces(model),
  model.pins && Array.from(model.pins.keys()).filter((neuron) => model.pins[neuron]),
])"""
TABLE_SAYS = "Bokeh.documents[0].get_model_by_name('table-said-0').text"
FIRST = "explorer.page.models[0].firstFocus"


def address_of(page: Page) -> str:
    """The address, once what was chosen is in it."""
    address: str = page.evaluate("new Promise((resolve) => setTimeout(() => resolve(location.href), 400))")
    return address


def test_shows_every_canvas(open_page: OpenPage) -> None:
    page = open_page(exploration())
    assert selected(page) == ALL
    names = figures(page)
    assert len(names) >= 6
    assert [name for name in names if canvas_is_blank(page, name)] == []
    assert page.locator("section h2:visible").count() == page.locator("section").count() >= 7
    assert "undefined" not in page.locator("body").inner_text()
    assert "NaN" not in page.locator("main").inner_text()


def test_two_models_stand_side_by_side(open_page: OpenPage) -> None:
    page = open_page([exploration(), exploration(seed=1, name="Other")])
    assert selected(page) == ("60 of 60 images · 24 of 24 neurons of SmallCNN · 24 of 24 neurons of Other selected")
    names = figures(page)
    assert {name[:-2] for name in names if name.endswith("-0")} == {name[:-2] for name in names if name.endswith("-1")}
    assert [name for name in names if canvas_is_blank(page, name)] == []
    for section in page.locator("section .models").all():
        left, right = (one.bounding_box() for one in section.locator("> .model").all())
        assert left is not None
        assert right is not None
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
    page.evaluate("explorer.selectNeurons(explorer.page.models[1], [2, 3, 5])")
    assert selected(page).endswith("24 of 24 neurons of SmallCNN · 3 of 24 neurons of Other selected")


def test_nothing_is_wider_than_the_window(open_page: OpenPage) -> None:
    page = open_page(exploration())
    for width in (1500, 1000):
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


CHOOSE_EARLY = """
new MutationObserver((changes, observer) => {
  if (!document.body?.dataset.ready) return;
  observer.disconnect();
  window.first = [...document.querySelectorAll(".view")].filter((view) => view.children.length).map((view) => view.id);
  window.early = document.body.dataset.complete === undefined;
  explorer.selectImages([1, 4, 6]);
  explorer.selectNeurons(explorer.page.models[0], [0, 7, 23]);
  explorer.setLevel(1);
}).observe(document, {attributes: true, subtree: true, attributeFilter: ["data-ready"]});
"""
DRAWN = """() => {
  const data = (name) => Bokeh.documents[0].get_model_by_name(name).data;
  return [Array.from(data("neurons-order-0").neuron).sort((a, b) => a - b), data("clusters-chosen-0").left.length];
}"""


def test_what_is_on_the_screen_comes_first_and_the_rest_shows_what_was_chosen_meanwhile(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.add_init_script(CHOOSE_EARLY)
    page.reload()
    page.wait_for_selector("body[data-complete=true]", state="attached")
    assert page.evaluate("[window.first, window.early]") == [["overview-view-0", "grid-view-0"], True]
    assert selected(page) == "3 of 60 images · 3 of 24 neurons selected"
    assert page.evaluate(DRAWN) == [[0, 7, 23], 3]
    said = page.locator("#neurons").inner_text()
    assert "3 of 24 neurons, selected." in said
    assert "Means over 3 of 3 selected images" in said
    assert "3 of 24 neurons" in page.evaluate(TABLE_SAYS)
    assert "measures at PGD, eps 0.05" in page.evaluate(TABLE_SAYS)
    assert [name for name in figures(page) if canvas_is_blank(page, name)] == []


@pytest.mark.parametrize("by", ["button", "Escape"])
def test_reset(open_page: OpenPage, by: str) -> None:
    page = open_page(exploration())
    page.evaluate("explorer.selectImages([1, 4, 6])")
    assert selected(page) == "3 of 60 images · 24 of 24 neurons selected"
    page.evaluate("explorer.selectNeurons(explorer.page.models[0], [0, 23])")
    assert selected(page) == "3 of 60 images · 2 of 24 neurons selected"
    if by == "button":
        page.get_by_role("button", name="Select all").click()
    else:
        page.keyboard.press("Escape")
    assert selected(page) == ALL
    assert "#" not in address_of(page)


def test_an_empty_choice_is_everything(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.evaluate("explorer.selectImages([])")
    page.evaluate("explorer.selectNeurons(explorer.page.models[0], [])")
    assert selected(page) == ALL


def test_levels_are_switched_by_slider_and_keys(open_page: OpenPage) -> None:
    page = open_page(exploration(levels=3))
    slider = page.locator("#eps")
    assert [page.evaluate("explorer.page.level"), page.locator("#eps-value").inner_text()] == [0, "0.15"]
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert [page.evaluate("explorer.page.level"), page.locator("#eps-value").inner_text()] == [1, "0.1"]
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
    assert [page.evaluate("explorer.page.level"), page.locator("#eps-value").inner_text()] == [2, "0.05"]
    settle(page)
    assert [name for name in figures(page) if canvas_is_blank(page, name)] == []
    assert selected(page) == ALL


def test_the_address_brings_the_choice_back(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.evaluate("explorer.selectImages([0, 8, 59])")
    page.evaluate("explorer.selectNeurons(explorer.page.models[0], [7, 8, 23])")
    page.evaluate("explorer.setLevel(1)")
    page.evaluate("explorer.focusNeuron(explorer.page.models[0], 3)")
    page.evaluate("explorer.setMeasure(explorer.page.models[0], 'score')")
    page.evaluate("explorer.pinNeurons(explorer.page.models[0], [4, 21])")
    chosen = page.evaluate(STATE)
    assert chosen == [[1, [0, 8, 59], "score", 3, [7, 8, 23], [4, 21]]]
    _, _, hash = address_of(page).partition("#")
    again = open_page(exploration(), hash)
    assert again.evaluate(STATE) == chosen
    assert "2 pinned on top" in again.evaluate(TABLE_SAYS)
    assert selected(again) == "3 of 60 images · 3 of 24 neurons selected"
    assert again.locator("#eps-value").inner_text() == "0.05"


def test_another_address_in_the_same_page(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.evaluate("explorer.selectImages([2])")
    one = address_of(page)
    page.keyboard.press("Escape")
    assert address_of(page) != one
    page.evaluate("(hash) => { location.hash = hash; }", one.partition("#")[2])
    page.wait_for_function("explorer.imageRows().length === 1")
    assert selected(page) == "1 of 60 images · 24 of 24 neurons selected"


@pytest.mark.parametrize(
    "hash",
    ["level=7&images=__&neurons0=!!&neuron0=99&measure0=none", "level=-1&neuron0=1.5", "images=AAAAAAAAAAA", "&&&"],
)
def test_an_address_of_something_else(open_page: OpenPage, hash: str) -> None:
    page = open_page(exploration(), hash)
    assert page.evaluate(STATE) == [
        [0, list(range(60)), "activation_change", page.evaluate(FIRST), list(range(24)), None]
    ]
    assert selected(page) == ALL


@pytest.mark.parametrize(
    "shape",
    [
        {"samples": 1, "classes": 1, "levels": 1},
        {"samples": 40, "classes": 20, "levels": 1, "bands": 1},
        {"samples": 6, "neurons": 2, "classes": 2, "kept": 3},
    ],
    ids=["one image", "many classes, greyscale", "few of everything"],
)
def test_sizes_at_the_ends(open_page: OpenPage, shape: dict[str, Any]) -> None:
    page = open_page(exploration(**shape))
    count, neurons = shape["samples"], shape.get("neurons", 24)
    assert selected(page) == f"{count} of {count} images · {neurons} of {neurons} neurons selected"
    page.evaluate("explorer.selectImages([0])")
    settle(page)
    assert selected(page).startswith(f"1 of {count} image")
    assert not re.search(r"undefined|NaN|null", page.locator("main").inner_text())


def test_the_harness_sees_what_goes_wrong(watched: Watched, open_page: OpenPage) -> None:
    """Requests, warnings and errors do not pass: else no other test here could fail for them."""
    page = open_page(exploration())
    assert watched.complaints == []
    page.evaluate("fetch('http://192.0.2.1/x').catch(() => 0)")
    page.evaluate("console.warn('careful')")
    page.evaluate("setTimeout(() => { throw new Error('lost'); })")
    page.wait_for_timeout(300)
    text = "\n".join(watched.complaints)
    for part in ("request: http://192.0.2.1/x", "console warning: careful", "error: lost"):
        assert part in text
    watched.complaints.clear()
