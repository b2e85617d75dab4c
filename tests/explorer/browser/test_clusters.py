"""The dendrogram in a browser: clicks on links and leaves, the cut, and selections from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster

from neurosens_fast.explorer.clusters import cluster
from neurosens_fast.explorer.exploration import Clusters, Exploration
from tests.explorer.synthetic import exploration

from .pointing import canvas_is_blank, click, selected, settle, source

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
OpenPage = Callable[..., "Page"]


def clusters_of(shown: Exploration) -> Clusters:
    assert shown.clusters is not None
    return shown.clusters


def below(clusters: Clusters, link: int) -> set[int]:
    """The neurons below a link, by walking down the linkage."""
    leaves, found, open_nodes = len(clusters.order), set(), [len(clusters.order) + link]
    while open_nodes:
        node = open_nodes.pop()
        if node < leaves:
            found |= set(np.flatnonzero(clusters.leaf == node).tolist())
        else:
            open_nodes += clusters.linkage[node - leaves, :2].astype(int).tolist()
    return found


def bar(clusters: Clusters, link: int) -> tuple[float, float]:
    """A point on the horizontal bar of a link, off its middle."""
    (left, _, _, right), (_, height, _, _) = clusters.segments[link]
    return float(left + 0.4 * (right - left)), float(height)


def chosen(page: Page) -> set[int]:
    return set(page.evaluate("explorer.neuronPlaces(explorer.page.models[0])"))


def controls(page: Page, text: str) -> None:
    page.locator("#clusters-controls-0").get_by_label(text).check()


def cut(page: Page, step: int) -> float:
    """The distance at which the tree is cut with the slider at ``step``."""
    page.locator("#clusters-controls-0 input[type=range]").fill(str(step))
    settle(page)
    return float(page.evaluate("Bokeh.documents[0].get_model_by_name('clusters-cut-0').location"))


def says(page: Page) -> str:
    return page.locator("#clusters-controls-0 [role=status]").text_content() or ""


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def test_a_click_on_a_link_selects_the_neurons_below_it(open_page: OpenPage) -> None:
    shown = exploration()
    clusters = clusters_of(shown)
    page = open_page(shown)
    assert not canvas_is_blank(page, "clusters-tree-0")
    for link in (20, 17, 8):
        click(page, "clusters-tree-0", *bar(clusters, link))
        assert chosen(page) == below(clusters, link)
        assert f"{len(below(clusters, link))} of 24 neurons selected" in selected(page)
        ids = ", ".join(str(neuron) for neuron in sorted(below(clusters, link)))
        assert says(page) == f"{len(below(clusters, link))} of 24 neurons selected: {ids}"
    # everything is no selection
    click(page, "clusters-tree-0", *bar(clusters, 22))
    assert page.evaluate("explorer.page.models[0].neurons") is None


def test_clicks_add_or_keep_what_is_in_both(open_page: OpenPage) -> None:
    shown = exploration()
    clusters = clusters_of(shown)
    left, right = (int(node) - 24 for node in clusters.linkage[22, :2])
    assert left >= 0
    assert right >= 0
    page = open_page(shown)
    click(page, "clusters-tree-0", *bar(clusters, left))
    inner = max(int(node) - 24 for node in clusters.linkage[right, :2])
    controls(page, "adds to it")
    click(page, "clusters-tree-0", *bar(clusters, inner))
    assert chosen(page) == below(clusters, left) | below(clusters, inner)
    controls(page, "keeps what is in both")
    click(page, "clusters-tree-0", *bar(clusters, right))
    assert chosen(page) == below(clusters, inner)
    click(page, "clusters-tree-0", *bar(clusters, left))
    assert chosen(page) == below(clusters, inner)
    assert says(page).startswith("No selected neuron is in there, so the selection stays.")
    page.locator("#clusters-controls-0").get_by_role("button", name="Show all neurons").click()
    assert chosen(page) == set(range(24))


def test_a_click_on_the_mark_of_a_leaf_selects_and_focuses_its_neuron(open_page: OpenPage) -> None:
    shown = exploration()
    clusters = clusters_of(shown)
    page = open_page(shown)
    click(page, "clusters-tree-0", 5, -0.04 * float(clusters.linkage[-1, 2]))
    assert chosen(page) == {int(clusters.order[5])}
    assert page.evaluate("explorer.page.models[0].focus") == clusters.order[5]
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('clusters-span-0').location") == 5


def test_a_click_beside_the_tree_changes_nothing(open_page: OpenPage) -> None:
    shown = exploration()
    clusters = clusters_of(shown)
    page = open_page(shown)
    left = float(clusters.segments[-1, 0, 0])
    click(page, "clusters-tree-0", left / 3, 0.98 * float(clusters.linkage[-1, 2]))
    assert page.evaluate("explorer.page.models[0].neurons") is None


def test_the_cut_makes_the_clusters_of_scipy(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(shown)
    for step in (0, 150, 400, 800, 1000):
        check_cut(page, clusters_of(shown), cut(page, step))


def check_cut(page: Page, clusters: Clusters, distance: float) -> None:
    wanted = partition(fcluster(clusters.linkage, distance, "distance"))
    text = page.locator("#clusters-controls-0").inner_text()
    assert re.search(rf"\b{len(wanted)} clusters? of", text)
    names = source(page, "clusters-names-0")
    assert names["text"] == [str(number + 1) for number in range(len(wanted))]
    assert names["x"] == sorted(names["x"])
    # links below the cut have a colour, and those of one cluster the same
    colours = source(page, "clusters-links-0")["colour"]
    above = np.asarray(clusters.linkage[:, 2], float) > distance + 1e-6
    assert {colour for colour, is_above in zip(colours, above, strict=True) if is_above} <= {"#8a94a3"}
    assert "#8a94a3" not in {colour for colour, is_above in zip(colours, above, strict=True) if not is_above}
    for link in np.flatnonzero(~above):
        for node in clusters.linkage[link, :2].astype(int):
            assert node < 24 or colours[node - 24] == colours[link]


def test_a_cluster_is_selected_from_the_list(open_page: OpenPage) -> None:
    shown = exploration()
    clusters = clusters_of(shown)
    page = open_page(shown)
    distance = cut(page, 500)
    wanted = partition(fcluster(clusters.linkage, distance, "distance"))
    found = set()
    for number in range(len(wanted)):
        page.locator("#clusters-controls-0").get_by_label("select cluster").select_option(str(number))
        found.add(frozenset(chosen(page)))
    assert found == wanted


def test_a_selection_from_elsewhere_marks_its_leaves_and_links(open_page: OpenPage) -> None:
    shown = exploration()
    clusters = clusters_of(shown)
    page = open_page(shown)
    some = below(clusters, 10)
    outside = next(neuron for neuron in range(24) if neuron not in some)
    page.evaluate("(neurons) => explorer.selectNeurons(explorer.page.models[0], neurons)", sorted(some | {outside}))
    settle(page)
    marks = source(page, "clusters-chosen-0")
    places = {round((left + right) / 2) for left, right in zip(marks["left"], marks["right"], strict=True)}
    assert {int(clusters.order[place]) for place in places} == some | {outside}
    widths = np.array(source(page, "clusters-links-0")["width"])
    whole = [below(clusters, link) <= some | {outside} for link in range(23)]
    assert ((widths > 2) == whole).all()
    page.locator("#reset").click()
    assert source(page, "clusters-chosen-0")["left"] == []


def test_leaves_are_named_where_there_is_room(open_page: OpenPage) -> None:
    shown = exploration(neurons=300)
    page = open_page(shown)
    ticks = "Bokeh.documents[0].get_model_by_name('clusters-ticks-0').ticks"
    assert 20 < len(page.evaluate(ticks)) < 150
    page.evaluate("Bokeh.documents[0].get_model_by_name('clusters-tree-0').x_range.setv({start: 99.5, end: 119.5})")
    settle(page)
    assert page.evaluate(ticks) == list(range(100, 120))
    assert source(page, "clusters-leaves-0")["label"] == [str(leaf) for leaf in clusters_of(shown).order]


def test_a_leaf_of_several_neurons(open_page: OpenPage) -> None:
    shown = exploration(neurons=90)
    rows = np.asarray(shown.images.values[0].T, float)
    clusters = cluster(rows, most=50, centroids=12)
    page = open_page(replace(shown, clusters=clusters))
    leaves = len(clusters.order)
    assert leaves <= 12
    link = leaves - 3
    click(page, "clusters-tree-0", *bar(clusters, link))
    assert chosen(page) == below(clusters, link)
    page.locator("#reset").click()
    place = next(place for place, leaf in enumerate(clusters.order) if (clusters.leaf == leaf).sum() > 1)
    members = np.flatnonzero(clusters.leaf == clusters.order[place])
    assert source(page, "clusters-leaves-0")["label"][place] == f"{members[0]} +{len(members) - 1}"
    page.evaluate("(neuron) => explorer.selectNeurons(explorer.page.models[0], [neuron])", int(members[0]))
    assert source(page, "clusters-chosen-0")["colour"] == ["#7b8494"]
    assert "k-means centroids" in page.locator("#clusters-controls-0").inner_text()


def test_long_selections_are_cut_off(open_page: OpenPage) -> None:
    page = open_page(exploration(neurons=100))
    page.evaluate("explorer.selectNeurons(explorer.page.models[0], Array.from({length: 95}, (_, i) => i))")
    assert says(page).endswith("58, 59 and 35 more")


def test_one_neuron_and_neurons_that_are_all_alike(open_page: OpenPage) -> None:
    shown = exploration()
    page = open_page(replace(shown, clusters=cluster(np.ones((24, 3)))))
    assert "1 cluster of 24 neurons" in page.locator("#clusters-controls-0").inner_text()
    assert page.locator("#clusters-controls-0 input[type=range]").is_disabled()
    assert not canvas_is_blank(page, "clusters-tree-0")
