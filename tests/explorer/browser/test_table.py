"""The table of all neurons in a browser: sort, search, pin, focus, select and export."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from neurosens_fast.explorer.exploration import Exploration
from tests.explorer.synthetic import exploration

from .pointing import selected, settle

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
SECTIONS = ("fields", "table")
OpenPage = Callable[..., "Page"]


def rows(page: Page, index: int = 0) -> list[int]:
    """Neurons in the order of the rows of the table."""
    found: list[int] = page.evaluate(
        """(name) => {
          const {grid} = Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name(name));
          return Array.from({length: grid.getDataLength()}, (_, row) => grid.getDataItem(row).neuron);
        }""",
        f"table-grid-{index}",
    )
    return found


def drawn(page: Page, index: int = 0) -> list[list[str]]:
    """The text of the cells that are in the page, from the first row on, measures and top image without the rest."""
    grid = page.locator(f"#table-model-{index}")
    left = grid.locator(".grid-canvas-left .slick-row").evaluate_all(
        "all => all.sort((a, b) => a.offsetTop - b.offsetTop).map(one => [...one.children].map(cell => cell.innerText))"
    )
    right = grid.locator(".grid-canvas-right .slick-row").evaluate_all(
        "all => all.sort((a, b) => a.offsetTop - b.offsetTop).map(one => [...one.children].map(cell => cell.innerText))"
    )
    return [[*one, *other] for one, other in zip(left, right, strict=True)]


def header(page: Page, label: str) -> None:
    page.locator("#table .slick-header-column", has_text=label).click()
    settle(page)


def search(page: Page, text: str) -> None:
    box = page.locator("#table").get_by_label("Search")
    box.fill(text)
    box.press("Enter")
    settle(page)


def said(page: Page, index: int = 0) -> str:
    text: str = page.evaluate("(name) => Bokeh.documents[0].get_model_by_name(name).text", f"table-said-{index}")
    return text


def press(page: Page, label: str) -> None:
    page.locator("#table").get_by_role("button", name=label).click()
    settle(page)


def row_of(page: Page, neuron: int) -> Any:
    """The row of a neuron, among those that are drawn."""
    return page.locator("#table .grid-canvas-left .slick-row").filter(
        has=page.locator(".slick-cell.l0", has_text=f"{neuron}").get_by_text(str(neuron), exact=True)
    )


def export(page: Page, path: Path) -> list[dict[str, str]]:
    with page.expect_download() as waiting:
        page.locator("#table").get_by_role("button", name="Export CSV").click()
    assert waiting.value.suggested_filename == "neurons.csv"
    waiting.value.save_as(path)
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def values(made: Exploration, measure: int, level: int = 0) -> np.ndarray[Any, Any]:
    return made.measures[measure].values[level].astype(np.float32)


def test_sort_by_header_and_list(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0")
    change, score = values(made, 0), values(made, 2)
    assert rows(page) == np.lexsort((np.arange(24), -change)).tolist()
    first = drawn(page)[0]
    assert first[0] == str(change.argmax())
    assert first[2] == f"{change.max():.4f}"
    header(page, "Bluff score")
    assert rows(page) == np.argsort(-score, kind="stable").tolist()
    header(page, "Bluff score")
    assert rows(page) == np.argsort(score, kind="stable").tolist()
    assert drawn(page)[0][0] == str(score.argmin())
    page.locator("#table").get_by_label("Sort by").select_option(label="neuron number")
    settle(page)
    assert rows(page) == list(range(24))
    press(page, "Reverse")
    assert rows(page) == list(range(24))[::-1]


def test_measures_follow_the_level_and_the_measure(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0")
    page.evaluate("explorer.setLevel(1)")
    settle(page)
    change = values(made, 0, 1)
    assert rows(page) == np.argsort(-change, kind="stable").tolist()
    assert drawn(page)[0][2] == f"{change.max():.4f}"
    page.evaluate("explorer.setMeasure(explorer.page.models[0], 'swap_drop')")
    settle(page)
    assert rows(page) == np.argsort(-values(made, 1, 1), kind="stable").tolist()


def test_what_was_not_computed_is_last(open_page: OpenPage) -> None:
    made = exploration()
    made.measures[0].values[:, [3, 7]] = np.nan
    page = open_page(made, hash="level=0")
    assert rows(page)[-2:] == [3, 7]
    press(page, "Reverse")
    assert rows(page)[-2:] == [3, 7]
    search(page, "activation change > 0")
    assert not {3, 7} & set(rows(page))


def test_search_numbers(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    wanted = {"12": {12}, "10-20": set(range(10, 21)), "3, 5, 8": {3, 5, 8}, "1, 20 - 22": {1, 20, 21, 22}}
    for text, found in wanted.items():
        search(page, text)
        assert set(rows(page)) == found, text
        assert f"{len(found)} of 24 neurons" in said(page)
    search(page, "")
    assert len(rows(page)) == 24


def test_search_measures(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0")
    change, drop = values(made, 0), values(made, 1)
    search(page, "activation change > 0.1")
    assert set(rows(page)) == set(np.flatnonzero(change > 0.1).tolist())
    # the label of this measure has a comma and parentheses
    search(page, "drop of p(y), swap >= 0.5 and Activation change < 3e-1")
    assert set(rows(page)) == set(np.flatnonzero((drop >= 0.5) & (change < 0.3)).tolist())
    page.evaluate("explorer.setLevel(1)")
    settle(page)
    assert set(rows(page)) == set(np.flatnonzero((values(made, 1, 1) >= 0.5) & (values(made, 0, 1) < 0.3)).tolist())


UNREADABLE = [
    ("30", "There is no neuron 30: they go from 0 to 23."),
    ("9-3", "“9-3” is no range: the smaller number comes first."),
    ("1, 2-", "“2-” is neither a number nor a range such as 10-20."),
    ("banana", "“banana” cannot be read. Write numbers such as 12, 10-20 or 3, 5, 8, or a measure"),
    ("banana > 1", "No measure is called “banana”. There are: activation change; drop of p(y), swap; Bluff score."),
    ("a > 1", "“a” may be one of: activation change; drop of p(y), swap. Write more of it."),
    ("score > much", "“score > much” cannot be read."),
    ("score > 1 <b>", "“score > 1 <b>” cannot be read."),
]


def test_search_that_cannot_be_read(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    search(page, "3, 5, 8")
    for text, sentence in UNREADABLE:
        search(page, text)
        assert sentence in said(page).replace("&gt;", ">").replace("&lt;", "<"), text
        assert set(rows(page)) == {3, 5, 8}, text  # what was found before is still there
    page.evaluate("explorer.setLevel(1)")
    settle(page)
    assert set(rows(page)) == {3, 5, 8}
    assert UNREADABLE[-1][1] in said(page).replace("&gt;", ">").replace("&lt;", "<")
    search(page, "3")
    assert "cannot be read" not in said(page)


def test_pinned_neurons_stay_on_top(open_page: OpenPage) -> None:
    made = exploration()
    page = open_page(made, hash="level=0&neuron0=11")
    press(page, "Pin neuron 11")
    assert rows(page)[0] == 11
    assert drawn(page)[0][:2] == ["11", "pinned, focused"]
    header(page, "Bluff score")
    assert rows(page) == [11, *(n for n in np.argsort(-values(made, 2), kind="stable").tolist() if n != 11)]
    search(page, "3, 5")
    assert rows(page)[0] == 11
    assert set(rows(page)) == {3, 5, 11}
    assert "2 of 24 neurons" in said(page)
    assert "1 pinned on top, 1 of them besides" in said(page)
    search(page, "")
    press(page, "Unpin neuron 11")
    assert rows(page) == np.argsort(-values(made, 2), kind="stable").tolist()


def test_click_and_arrow_keys_focus(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    page.locator("#table").get_by_label("Sort by").select_option(label="neuron number")
    settle(page)
    row_of(page, 5).locator(".slick-cell").first.click()
    settle(page)
    assert page.evaluate("explorer.page.models[0].focus") == 5
    for _ in range(2):
        page.keyboard.press("ArrowDown")
        settle(page)
    assert page.evaluate("explorer.page.models[0].focus") == 7
    assert [row[0] for row in drawn(page) if "focused" in row[1]] == ["7"]


def test_focus_from_elsewhere_comes_into_sight(open_page: OpenPage) -> None:
    page = open_page(exploration(neurons=200), hash="level=0")
    page.locator("#table").get_by_label("Sort by").select_option(label="neuron number")
    settle(page)
    assert "150" not in [row[0] for row in drawn(page)]
    page.evaluate("explorer.focusNeuron(explorer.page.models[0], 150)")
    settle(page)
    assert [row[0] for row in drawn(page) if "focused" in row[1]] == ["150"]


def test_select_rows(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    page.locator("#table").get_by_label("Sort by").select_option(label="neuron number")
    settle(page)
    row_of(page, 2).locator(".slick-cell").first.click()
    row_of(page, 4).locator(".slick-cell").first.click(modifiers=["Control"])
    row_of(page, 6).locator(".slick-cell").first.click(modifiers=["Control"])
    settle(page)
    press(page, "Select these 3 neurons")
    assert rows(page) == [2, 4, 6]
    assert "3 of 24 neurons" in selected(page)
    assert "3 of 24 neurons" in said(page)
    assert all("selected" in row[1] for row in drawn(page))
    page.locator("#reset").click()
    settle(page)
    assert rows(page) == list(range(24))


def test_select_what_was_found(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    search(page, "10-20")
    press(page, "Select these 11 neurons")
    search(page, "")
    assert "11 of 24 neurons" in selected(page)
    assert sorted(rows(page)) == list(range(10, 21))


def test_export_reads_back(open_page: OpenPage, tmp_path: Path) -> None:
    made = exploration()
    made.measures[1].values[0, 4] = np.nan
    page = open_page(made, hash="level=0&neuron0=4")
    press(page, "Pin neuron 4")
    search(page, "2-6")
    order = rows(page)
    found = export(page, tmp_path / "one.csv")
    names = [measure.name for measure in made.measures]
    assert list(found[0]) == ["neuron", "pinned", "attack", "eps", *names, "top_image"]
    assert [int(row["neuron"]) for row in found] == order
    assert [row["pinned"] for row in found] == ["yes"] + ["no"] * 4
    assert {(row["attack"], float(row["eps"])) for row in found} == {("PGD", made.levels[0].eps)}
    assert made.features is not None
    for row in found:
        neuron = int(row["neuron"])
        assert int(row["top_image"]) == made.features.samples[neuron, 0]
        for place, name in enumerate(names):
            expected = values(made, place)[neuron]
            assert row[name] == "" if np.isnan(expected) else np.float32(row[name]) == expected
    page.locator("#table").get_by_label("Export").select_option(label="all 2 levels")
    found = export(page, tmp_path / "all.csv")
    assert len(found) == 10
    assert [float(row["eps"]) for row in found] == [level.eps for level in made.levels for _ in range(5)]
    last = found[-1]
    assert np.float32(last["score"]) == values(made, 2, 1)[int(last["neuron"])]


def test_two_models_have_their_own_tables(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page([exploration(), exploration(seed=1, name="Robust, larger")], hash="level=0")
    page.evaluate("explorer.selectNeurons(explorer.page.models[1], [1, 2, 3])")
    settle(page)
    assert len(rows(page, 0)) == 24
    assert set(rows(page, 1)) == {1, 2, 3}
    with page.expect_download() as waiting:
        page.locator("#table-model-1").get_by_role("button", name="Export CSV").click()
    waiting.value.save_as(tmp_path / "other.csv")
    text = (tmp_path / "other.csv").read_text("utf-8")
    assert [row["model"] for row in csv.DictReader(io.StringIO(text))] == ["Robust, larger"] * 3


def test_definitions_are_tooltips(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    title = page.locator("#table .slick-header-column span[title]", has_text="activation change").get_attribute("title")
    assert title == "activation change: mean |a' - a|"


def test_controls_are_reached_by_tab(open_page: OpenPage) -> None:
    page = open_page(exploration(), hash="level=0")
    page.locator("#table").get_by_label("Search").focus()
    names = []
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                """() => {
                  let at = document.activeElement;
                  while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
                  return at.tagName;
                }"""
            )
        )
    assert names == ["SELECT", "BUTTON", "BUTTON", "BUTTON", "SELECT", "BUTTON"]


def test_many_neurons(open_page: OpenPage) -> None:
    """50,000 neurons are all there, of which only those in sight are drawn."""
    made = exploration(samples=8, neurons=50)
    many = 50_000
    rng = np.random.default_rng(0)
    made = large(made, many, rng)
    page = open_page(made, hash="level=0")
    assert len(rows(page)) == many
    assert len(drawn(page)) < 200
    header(page, "Bluff score")
    assert drawn(page)[0][0].replace(",", "") == str(values(made, 2).argmax())
    search(page, "49990-49999")
    assert sorted(rows(page)) == list(range(49_990, 50_000))


def large(made: Exploration, neurons: int, rng: np.random.Generator) -> Exploration:
    """``made`` with more neurons, and nothing of them but measures and values."""
    from dataclasses import replace

    images = replace(made.images, values=rng.random((3, 2, neurons)).astype(np.float32))
    measures = tuple(replace(one, values=rng.random((2, neurons))) for one in made.measures)
    return replace(
        made,
        images=images,
        measures=measures,
        weights=None,
        features=None,
        fields=None,
        clusters=None,
        missing={"fields": "No fields.", "clusters": "No clusters.", "weights": "No weights."},
    )
