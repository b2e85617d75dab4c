"""The neuron vulnerability view in a browser: its numbers, its orders, and what a mouse does in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from neurosens_fast.explorer.exploration import Exploration, Measure
from tests.explorer.synthetic import exploration

from .pointing import canvas_is_blank, click, drag, frame_range, hover, selected, settle, source

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser
OpenPage = Callable[..., "Page"]


def control(page: Page, label: str) -> Locator:
    """The list after a label, whose text has the options of the list in it too."""
    return page.locator("#neurons-controls-0 label").filter(has_text=re.compile(f"^{label}")).locator("select")


def choose(page: Page, label: str, option: str) -> None:
    control(page, label).select_option(label=option)
    settle(page)


def note(page: Page) -> str:
    return page.locator("#neurons-controls-0 .note").text_content() or ""


def select_images(page: Page, rows: Sequence[int]) -> None:
    page.evaluate("(rows) => explorer.selectImages(rows)", list(rows))
    settle(page)


def select_neurons(page: Page, neurons: Sequence[int]) -> None:
    page.evaluate("(neurons) => explorer.selectNeurons(explorer.page.models[0], neurons)", list(neurons))
    settle(page)


def contributions(shown: Exploration, rows: Sequence[int], state: int, classes: np.ndarray) -> np.ndarray:
    """Activation × weight ``[rows, C]``: state 0 benign, 1 + level adversarial; ``classes`` of all samples."""
    assert shown.weights is not None
    rows = list(rows)
    return np.asarray(shown.images.values[state][rows] * shown.weights[classes[rows]], float)


def drawn(page: Page, kind: str) -> np.ndarray:
    """The heights of a line by neuron number."""
    columns = source(page, "neurons-source-0")
    found = np.full(max(columns["neuron"]) + 1, np.nan)
    found[columns["neuron"]] = columns[kind]
    return found


def test_lines_are_means_over_the_selected_images(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    labels = shown.images.labels
    everything = range(60)
    for state, kind in ((0, "benign"), (1, "adversarial")):
        wanted = contributions(shown, everything, state, labels).mean(0)
        np.testing.assert_allclose(drawn(page, kind), wanted, atol=1e-3)
    rows = [3, 17, 40]
    select_images(page, rows)
    page.evaluate("explorer.setLevel(1)")
    settle(page)
    np.testing.assert_allclose(drawn(page, "adversarial"), contributions(shown, rows, 2, labels).mean(0), atol=1e-3)
    turned = shown.images.adversarial_classes[1]
    assert (turned != labels).all()
    choose(page, "weight of", "adversarial class of each image")
    np.testing.assert_allclose(drawn(page, "benign"), contributions(shown, rows, 0, turned).mean(0), atol=1e-3)
    choose(page, "weight of", "class class 2")
    wanted = contributions(shown, rows, 2, np.full(60, 2)).mean(0)
    np.testing.assert_allclose(drawn(page, "adversarial"), wanted, atol=1e-3)
    assert "3 of 60 selected images" not in note(page)
    assert "Means over 3 of 3 selected images" in note(page)


def test_bands_are_deviations_or_confidence(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    choose(page, "sort by", "their number")
    values = contributions(shown, range(60), 0, shown.images.labels)
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    for band, half in (
        ("± 1 standard deviation", deviation),
        ("95 % confidence of the mean", 1.96 * deviation / 60**0.5),
    ):
        choose(page, "band", band)
        outline = np.array(source(page, "neurons-band-source-0")["ys"][0])
        np.testing.assert_allclose(outline[:24], mean - half, atol=2e-3)
        np.testing.assert_allclose(outline[24:][::-1], mean + half, atol=2e-3)
    choose(page, "band", "none")
    assert source(page, "neurons-band-source-0")["ys"] == []
    select_images(page, [5])
    choose(page, "band", "± 1 standard deviation")
    assert source(page, "neurons-band-source-0")["ys"] == []
    assert "One image has no band" in note(page)


def test_order_follows_the_measure_the_number_and_the_tree(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    first, second = (np.argsort(-shown.measures[i].values[0], kind="stable") for i in (0, 1))
    assert source(page, "neurons-order-0")["neuron"] == first.tolist()
    choose(page, "measure", "drop of p(y), swap")
    assert source(page, "neurons-order-0")["neuron"] == second.tolist()
    tops = source(page, "neurons-tops-source-0")
    np.testing.assert_allclose(tops["measure"], shown.measures[1].values[0][second], atol=1e-6)
    choose(page, "sort by", "the cluster tree")
    assert shown.clusters is not None
    assert source(page, "neurons-order-0")["neuron"] == shown.clusters.order.tolist()
    choose(page, "sort by", "their number")
    assert source(page, "neurons-source-0")["neuron"] == list(range(24))


def test_a_drag_selects_neurons_and_only_those_are_shown(open_page: OpenPage) -> None:
    page = open_page(exploration())
    order = source(page, "neurons-order-0")["neuron"]
    drag(page, "neurons-lines-0", [(3.6, 0), (9.4, 0)])
    assert selected(page) == "60 of 60 images · 6 of 24 neurons selected"
    assert source(page, "neurons-order-0")["neuron"] == order[4:10]
    assert frame_range(page, "neurons-bars-0")[:2] == (-0.5, 5.5)
    assert "6 of 24 neurons, selected." in note(page)
    # the reset of the toolbar goes back to these, not to all neurons
    page.evaluate("Bokeh.documents[0].get_model_by_name('neurons-lines-0').x_range.setv({start: 1.5, end: 3.5})")
    page.locator("#neurons-model-0 [title=Reset]").first.click()
    assert frame_range(page, "neurons-lines-0")[:2] == (-0.5, 5.5)
    drag(page, "neurons-bars-0", [(1.6, 0.1), (3.4, 0.1)])
    assert source(page, "neurons-order-0")["neuron"] == order[6:8]
    page.locator("#neurons-controls-0").get_by_role("button", name="Show all neurons").click()
    assert source(page, "neurons-order-0")["neuron"] == order
    assert not canvas_is_blank(page, "neurons-lines-0")


def test_a_click_focuses_a_neuron(open_page: OpenPage) -> None:
    page = open_page(exploration())
    order = source(page, "neurons-order-0")["neuron"]
    mark = "Bokeh.documents[0].get_model_by_name('{}').{}"
    for figure, place in (("neurons-lines-0", 7), ("neurons-bars-0", 20)):
        click(page, figure, place + 0.3, 0.01)
        assert page.evaluate("explorer.page.models[0].focus") == order[place]
        assert page.evaluate(mark.format("neurons-bars-span-0", "location")) == place
        assert page.evaluate(mark.format("neurons-label-0", "text")) == f"neuron {order[place]}"
    select_neurons(page, [n for n in range(24) if n != order[20]])
    assert not page.evaluate(mark.format("neurons-lines-span-0", "visible"))
    assert f"Neuron {order[20]}, in focus, is not one of them." in note(page)


def test_a_tooltip_names_the_neuron(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    order = source(page, "neurons-order-0")["neuron"]
    hover(page, "neurons-lines-0", 5, 0)
    tip = page.locator(".bk-tooltip-content")
    tip.wait_for()
    rows = dict(line.split(":\t") for line in tip.inner_text().splitlines())
    assert rows["neuron"] == str(order[5])
    assert float(rows["benign"]) == pytest.approx(drawn(page, "benign")[order[5]], abs=1e-3)
    assert float(rows["activation change"]) == pytest.approx(shown.measures[0].values[0, order[5]], abs=1e-3)


def test_classes_have_lines_of_their_own(open_page: OpenPage) -> None:
    shown = exploration(classes=7, samples=70)
    page = open_page(shown)
    choose(page, "add lines for images of", "class 3")
    rows = np.flatnonzero(shown.images.labels == 3).tolist()
    order = source(page, "neurons-order-0")["neuron"]
    lines = source(page, "neurons-class-source-0")
    assert lines["label"] == ["class 3, benign", "class 3, adversarial"]
    for state in (0, 1):
        wanted = contributions(shown, rows, state, shown.images.labels).mean(0)[order]
        np.testing.assert_allclose(lines["ys"][state], wanted, atol=2e-3)
    assert len(source(page, "neurons-band-source-0")["ys"]) == 4
    for number in (0, 1, 2, 4):
        choose(page, "add lines for images of", f"class {number}")
    assert len(source(page, "neurons-class-source-0")["label"]) == 10
    bar = page.locator("#neurons-controls-0")
    assert control(page, "add lines").is_disabled()
    bar.get_by_role("button", name="class 3").click()
    assert len(source(page, "neurons-class-source-0")["label"]) == 8
    select_images(page, [0, 7])
    assert source(page, "neurons-class-source-0")["label"] == ["class 0, benign", "class 0, adversarial"]
    assert "None of them is of class class 1, class 2, class 4." in note(page)


def test_classes_with_alike_long_names_are_told_apart(open_page: OpenPage) -> None:
    names = tuple(f"one of the very long names of classes, number {i}" for i in range(4))
    page = open_page(replace(exploration(), classes=names))
    for name in names[:2]:
        choose(page, "add lines for images of", name)
    labels = source(page, "neurons-class-source-0")["label"]
    assert len(set(labels)) == 4
    assert "class 1" in labels[2]


def test_agreement_shows_its_numbers_and_sets_the_measure(open_page: OpenPage) -> None:
    shown = exploration()
    agreement = shown.agreement.copy()
    agreement[1, 0, 2] = np.nan
    page = open_page(replace(shown, agreement=agreement))
    page.evaluate("explorer.setLevel(1)")
    cells = source(page, "agreement-cells-0")
    wanted = [f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") for value in agreement[1].ravel()]
    wanted[2] = "–"
    assert cells["text"] == wanted
    click(page, "agreement-0", 0, 2)
    assert control(page, "measure").input_value() == "score"
    assert source(page, "agreement-chosen-0")["y"] == [2]


def test_images_without_values_are_explained(open_page: OpenPage) -> None:
    page = open_page(exploration(kept=5))
    assert "Means over 5 of 60 selected images, those with the values of their neurons in this page" in note(page)
    select_images(page, [20, 21])
    assert "only the first 5 images have" in note(page)
    assert not page.evaluate("Bokeh.documents[0].get_model_by_name('neurons-benign-line-0').visible")
    assert not canvas_is_blank(page, "neurons-bars-0")
    select_images(page, [2, 21])
    assert "Means over 1 of 2 selected images" in note(page)
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('neurons-benign-line-0').visible")


def test_without_weights_activations_are_shown(open_page: OpenPage) -> None:
    shown = replace(exploration(), weights=None, missing={"weights": "No weights say what a neuron adds"})
    page = open_page(shown)
    np.testing.assert_allclose(drawn(page, "benign"), shown.images.values[0].mean(0), atol=1e-3)
    assert note(page).endswith("No weights say what a neuron adds.")
    assert control(page, "weight of").is_disabled()
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('neurons-lines-y-0').axis_label") == "mean activation"


def test_measures_that_were_not_computed_have_no_bar(open_page: OpenPage) -> None:
    shown = exploration()
    values = np.asarray(shown.measures[0].values, float).copy()
    values[0, 3:] = np.nan
    page = open_page(replace(shown, measures=(replace(shown.measures[0], values=values), *shown.measures[1:])))
    assert "21 neurons shown have no value of this measure." in note(page)
    assert source(page, "neurons-order-0")["neuron"][:3] == np.argsort(-values[0, :3]).tolist()
    bars = source(page, "neurons-bars-source-0")
    assert not any(bars["high"][12:])
    assert any(bars["high"][:12])


def many_neurons(neurons: int) -> Exploration:
    shown = exploration(samples=8, neurons=12, classes=3, levels=1)
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(2, 8, neurons))).astype(np.float32)
    measure = Measure("a", "a", "", "swap", rng.normal(size=(1, neurons)))
    return replace(
        shown,
        images=replace(shown.images, values=values),
        weights=rng.normal(size=(3, neurons)).astype(np.float32),
        measures=(measure,),
        agreement=np.ones((1, 1, 1)),
        features=None,
        fields=None,
        clusters=None,
    )


def test_extremes_of_20000_neurons_are_drawn_and_a_zoom_shows_each(open_page: OpenPage) -> None:
    shown = many_neurons(20_000)
    page = open_page(shown)
    choose(page, "sort by", "their number")
    mean = contributions(shown, range(8), 0, shown.images.labels).mean(0)
    columns = source(page, "neurons-source-0")
    assert len(columns["x"]) < 8000
    for extreme in (mean.argmax(), mean.argmin()):
        assert extreme in columns["neuron"]
    shared = page.evaluate("explorer.columns(20000, Bokeh.documents[0].get_model_by_name('neurons-lines-0'))")
    assert [place for first, last in shared for place in range(first, last + 1)] == list(range(20_000))
    places, heights = np.array(columns["x"]), np.array(columns["benign"])
    for first, last in shared:
        inside = heights[(places >= first) & (places <= last)]
        column = mean[first : last + 1]
        np.testing.assert_allclose([inside.min(), inside.max()], [column.min(), column.max()], atol=1e-3)
    bars = source(page, "neurons-bars-source-0")
    np.testing.assert_allclose(max(bars["high"]), shown.measures[0].values.max(), atol=1e-5)
    assert "zoom in to see each" in note(page)
    page.evaluate("Bokeh.documents[0].get_model_by_name('neurons-lines-0').x_range.setv({start: 5000.5, end: 5300.5})")
    settle(page)
    settle(page)
    shown_now = [x for x in source(page, "neurons-source-0")["x"] if 5001 <= x <= 5300]
    assert shown_now == list(range(5001, 5301))
