"""The data overview in a browser: points, matrix, and the choices of the page's head, which belong to all views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neurosens_fast.explorer.exploration import Exploration, Level
from tests.explorer.synthetic import exploration

from .pointing import click, frame_range, hover, lasso, lasso_all, point, selected, settle, source

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
SECTIONS = ("overview", "grid")
OpenPage = Callable[..., "Page"]


def images(page: Page) -> list[int]:
    """The images that are selected."""
    rows: list[int] = page.evaluate("explorer.imageRows()")
    return rows


def cell_of(shown: Exploration, row: int, column: int, level: int = 1) -> list[int]:
    """The images with label ``row`` that are predicted as ``column``."""
    guesses = shown.images.probabilities[level].argmax(-1)
    return np.flatnonzero((shown.images.labels == row) & (guesses == column)).tolist()


def largest_cells(shown: Exploration) -> list[tuple[int, int]]:
    """The two largest cells of the matrix, as (true label, predicted label)."""
    guesses = shown.images.probabilities[1].argmax(-1)
    pairs, counts = np.unique(np.stack([shown.images.labels, guesses], 1), axis=0, return_counts=True)
    return [(int(pairs[i, 0]), int(pairs[i, 1])) for i in np.argsort(-counts)[:2]]


def test_points_are_where_the_projection_put_them(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    columns = source(page, "points-0")
    np.testing.assert_allclose(columns["x"], shown.images.coordinates[0, :, 0].astype(float), rtol=1e-6)
    np.testing.assert_allclose(columns["y_adversarial"], shown.images.coordinates[1, :, 1].astype(float), rtol=1e-6)
    assert columns["true"] == [f"class {label}" for label in shown.images.labels]
    assert columns["predicted_adversarial"] == [f"class {one}" for one in shown.images.probabilities[1].argmax(-1)]


def test_lasso_selects_in_both_scatter_plots(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    x, y = shown.images.coordinates[1].T.astype(float)
    # a box around the right half of the adversarial points
    middle = float(np.sort(x)[29:31].mean())
    wanted = np.flatnonzero(x > middle).tolist()
    lasso(
        page,
        "adversarial-scatter-0",
        [
            (middle, y.min() - 0.1),
            (x.max() + 0.1, y.min() - 0.1),
            (x.max() + 0.1, y.max() + 0.1),
            (middle, y.max() + 0.1),
        ],
    )
    assert images(page) == wanted
    assert selected(page) == "30 of 60 images · 24 of 24 neurons selected"
    assert sum(source(page, "cells-0")["chosen"]) == 30
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('points-0').selected.indices") == wanted
    lasso_all(page, "benign-scatter-0")
    assert len(images(page)) == 60


def test_lasso_around_nothing_selects_everything(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    page.evaluate("explorer.selectImages([1, 2])")
    x0, x1, y0, y1 = frame_range(page, "benign-scatter-0")
    width, height = x1 - x0, y1 - y0
    x, y = shown.images.coordinates[0].T
    left, top = x0 + 0.01 * width, y1 - 0.01 * height
    right, bottom = left + 0.05 * width, top - 0.05 * height
    assert not ((x < right) & (y > bottom)).any()
    lasso(page, "benign-scatter-0", [(left, top), (right, top), (right, bottom), (left, bottom)])
    assert len(images(page)) == 60


def test_click_on_a_cell_selects_its_images(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    (row, column), (other_row, other_column) = largest_cells(shown)
    first, second = cell_of(shown, row, column), cell_of(shown, other_row, other_column)
    click(page, "matrix-0", column, row)
    assert images(page) == first
    cells = source(page, "cells-0")
    assert cells["chosen"][4 * row + column] == cells["all"][4 * row + column] == len(first)
    assert cells["chosen"][4 * other_row + other_column] == 0
    assert cells["text"][4 * other_row + other_column] == f"0/{len(second)}"
    click(page, "matrix-0", other_column, other_row, ["Shift"])
    assert images(page) == sorted(first + second)
    click(page, "matrix-0", other_column, other_row, ["Shift"])
    assert images(page) == first
    click(page, "matrix-0", column, row)
    assert len(images(page)) == 60


def test_matrix_of_benign_inputs(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    page.get_by_label("matrix of").select_option("benign")
    cells = source(page, "cells-0")
    assert cells["all"] == [len(cell_of(shown, row, column, 0)) for row in range(4) for column in range(4)]


def test_lists_select_as_the_matrix_does(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    (row, column), _ = largest_cells(shown)
    page.get_by_label("select true label").select_option(str(row))
    assert images(page) == np.flatnonzero(shown.images.labels == row).tolist()
    page.get_by_label("predicted as").select_option(str(column))
    assert images(page) == cell_of(shown, row, column)
    page.keyboard.press("Escape")
    assert len(images(page)) == 60
    assert page.get_by_label("predicted as").input_value() == ""


def test_an_empty_combination_says_so(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    row, column = next((row, column) for row in range(4) for column in range(4) if not cell_of(shown, row, column))
    page.get_by_label("select true label").select_option(str(row))
    page.get_by_label("predicted as").select_option(str(column))
    assert len(images(page)) == 60
    assert page.get_by_text("There is no such image").is_visible()


def test_colour_by_predicted_label(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    colours = page.evaluate("explorer.page.colours")
    assert source(page, "points-0")["colour_adversarial"] == [colours[label] for label in shown.images.labels]
    page.get_by_label("colour points by").select_option("predicted")
    columns = source(page, "points-0")
    for which, name in ((0, "colour"), (1, "colour_adversarial")):
        assert columns[name] == [colours[one] for one in shown.images.probabilities[which].argmax(-1)]


def test_slider_moves_the_adversarial_points(open_page: OpenPage) -> None:
    shown = exploration(levels=3)
    page = open_page(shown)
    slider = page.locator("#eps")
    assert page.locator("#eps-value").text_content() == "0.15"  # the page begins with the strongest
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert page.locator("#eps-value").text_content() == "0.05"
    np.testing.assert_allclose(
        source(page, "points-0")["x_adversarial"], shown.images.coordinates[3, :, 0].astype(float), rtol=1e-6
    )
    np.testing.assert_allclose(
        source(page, "points-0")["x"], shown.images.coordinates[0, :, 0].astype(float), rtol=1e-6
    )
    assert not page.locator("#attack").is_visible()


def test_attack_switch_keeps_the_strength(open_page: OpenPage) -> None:
    levels = tuple(Level(attack, eps) for attack in ("FGSM", "PGD") for eps in (8 / 255, 4 / 255))
    page = open_page(replace(exploration(levels=4), levels=levels))
    slider = page.locator("#eps")
    assert page.locator("#eps-value").text_content() == "8/255"
    page.locator("#attack").select_option("PGD")
    assert page.evaluate("explorer.page.level") == 2
    slider.fill("0")  # strengths are in rising order, however they were given
    assert page.evaluate("explorer.page.level") == 3
    page.locator("#attack").select_option("FGSM")
    assert page.evaluate("explorer.page.level") == 1
    assert page.locator("#eps-value").text_content() == "4/255"


def test_one_level_needs_no_form_elements(open_page: OpenPage) -> None:
    page = open_page(replace(exploration(levels=1), levels=(Level("PGD", 8 / 255),)))
    assert page.locator("#level").text_content() == "PGD, eps 8/255"
    assert not page.locator("#attack").is_visible()
    assert not page.locator("#eps").is_visible()


def test_reset_button(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.evaluate("explorer.selectImages([3]); explorer.selectNeurons(explorer.page.models[0], [1, 2])")
    assert selected(page) == "1 of 60 images · 2 of 24 neurons selected"
    page.get_by_role("button", name="Select all").click()
    assert selected(page) == "60 of 60 images · 24 of 24 neurons selected"


def test_two_models_share_the_images(open_page: OpenPage) -> None:
    one, other = exploration(), exploration(seed=1, name="Other")
    assert one.images.benign is not None
    page = open_page([one, replace(other, images=replace(other.images, benign=one.images.benign))])
    page.evaluate("explorer.selectImages([0, 5, 6])")
    assert selected(page) == "3 of 60 images · 24 of 24 neurons of SmallCNN · 24 of 24 neurons of Other selected"
    for index in (0, 1):
        assert sum(source(page, f"cells-{index}")["chosen"]) == 3
    assert page.evaluate("explorer.page.models[1].data.benign === explorer.page.models[0].data.benign")


def test_reset_tool_keeps_the_selection(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.evaluate("explorer.selectImages([0, 5, 6])")
    before = page.evaluate(
        """() => {
          const plot = explorer.bokeh("benign-scatter", explorer.page.models[0]);
          const before = plot.x_range.end;
          plot.x_range.end = before + 7;
          Bokeh.index.find_one(plot).reset();
          return [before, plot.x_range.end];
        }"""
    )
    assert before[0] == before[1]
    assert images(page) == [0, 5, 6]


def test_many_classes(open_page: OpenPage) -> None:
    shown = exploration(samples=50, classes=200, levels=1)
    page = open_page(shown)
    occurring = page.evaluate("explorer.bokeh('cells', explorer.page.models[0]).tags[0].length")
    assert page.get_by_text(f"The matrix has the {occurring} of 200 classes that occur").is_visible()
    cells = source(page, "cells-0")
    assert sum(cells["all"]) == 50
    assert 0 not in cells["all"]


NASTY = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "<!--<script>", "$$x$$", "a & b", '"q"')


def test_names_are_text_only(open_page: OpenPage) -> None:
    shown = exploration(classes=6)
    shown = replace(shown, classes=NASTY, name="<b>net</b></script>", facts=(("<i>", "</script><!--"),))
    page = open_page(shown)
    assert page.locator("h1").text_content() == "<b>net</b></script>"
    assert page.title().startswith("<b>net</b>")
    # only what begins formulas is not as it was
    assert page.evaluate("explorer.page.classes.map((name) => name.replaceAll('\\u200b', ''))") == list(NASTY)
    x, y = shown.images.coordinates[0, 0].tolist()
    hover(page, "benign-scatter-0", x, y)
    assert page.get_by_text(NASTY[0]).count() > 0
    assert page.locator("img").count() == 0


def state(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """() => ({images: explorer.imageRows(), level: explorer.page.level, focus: explorer.page.models[0].focus,
          measure: explorer.page.models[0].measure, neurons: explorer.neuronPlaces(explorer.page.models[0])})"""
    )
    return found


def test_the_address_keeps_the_choice(open_page: OpenPage) -> None:
    page = open_page(exploration())
    page.evaluate(
        """() => {
          const [model] = explorer.page.models;
          explorer.selectImages([0, 7, 59]);
          explorer.selectNeurons(model, [3, 23]);
          explorer.focusNeuron(model, 5);
          explorer.setMeasure(model, "score");
          explorer.setLevel(1);
        }"""
    )
    page.wait_for_function("location.hash.includes('neurons0')")
    chosen = state(page)
    assert chosen == {"images": [0, 7, 59], "level": 1, "focus": 5, "measure": "score", "neurons": [3, 23]}
    address = page.evaluate("location.hash")
    again = open_page(exploration(), hash=address)
    assert state(again) == chosen
    assert selected(again) == "3 of 60 images · 2 of 24 neurons selected"
    # another address in the same window
    again.evaluate("location.hash = 'level=0'")
    again.wait_for_function("explorer.page.images === null")
    assert state(again)["level"] == 0


@pytest.mark.parametrize(
    "address",
    [
        "images=%%%&level=99&neuron0=-1&measure0=nothing",
        "images=AAAA&neurons0=!!",
        "level=1.5&neuron0=1e9",
        "images0&&&=",
    ],
)
def test_a_broken_address_does_no_harm(open_page: OpenPage, address: str) -> None:
    page = open_page(exploration(), hash=address)
    assert selected(page) == "60 of 60 images · 24 of 24 neurons selected"
    assert state(page)["level"] == 0
    assert point(page, "matrix-0", 0, 0).x > 0
