"""The view of clusters as Python makes it, before the script fills it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neurosens_fast.explorer.clusters import cluster
from neurosens_fast.explorer.exploration import Clusters
from neurosens_fast.explorer.page.clusters import cluster_view
from tests.explorer.synthetic import exploration


def tree(clusters: Clusters, index: int = 0) -> Any:
    view = cluster_view(replace(exploration(), clusters=clusters), index)
    assert view is not None
    found = view.select_one({"name": f"clusters-tree-{index}"})
    assert found is not None
    return found


def test_without_clusters_there_is_no_view() -> None:
    assert cluster_view(replace(exploration(), clusters=None), 0) is None


@pytest.mark.parametrize("index", [0, 1])
def test_everything_named_has_the_number_of_its_model(index: int) -> None:
    view = cluster_view(exploration(), index)
    assert view is not None
    names = [model.name for model in view.references() if model.name]
    assert len(names) == len(set(names)) >= 8
    assert all(name.endswith(f"-{index}") for name in names)


def test_the_whole_tree_is_in_view() -> None:
    found = cluster(np.random.default_rng(0).normal(size=(30, 4)))
    plot = tree(found)
    assert plot.x_range.start < 0 < 29 < plot.x_range.end
    assert plot.y_range.start < 0 < float(found.linkage[-1, 2]) < plot.y_range.end
    assert plot.toolbar.active_scroll is None
    assert any(type(tool).__name__ == "SaveTool" for tool in plot.toolbar.tools)


@pytest.mark.parametrize("neurons", [1, 40])
def test_a_tree_without_height_has_a_range(neurons: int) -> None:
    plot = tree(cluster(np.ones((neurons, 3))))
    assert plot.y_range.start < 0 < plot.y_range.end


def test_the_axis_says_whether_leaves_are_neurons() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    assert tree(cluster(rows)).xaxis[0].axis_label == "neuron (its number)"
    assert "how many more" in tree(cluster(rows, most=50, centroids=10)).xaxis[0].axis_label
