"""The tree of neurons: its links, its corners, and what becomes of neurons that are too many, alike or not finite."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import dendrogram, fcluster, leaves_list, linkage

from neurosens_fast.explorer.clusters import _segments, cluster
from neurosens_fast.explorer.exploration import Clusters


def groups(count: int, each: int, columns: int = 6, seed: int = 0) -> np.ndarray:
    """``count`` well separated groups of ``each`` neurons."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.normal(size=(count, columns)) * 10, each, 0) + rng.normal(size=(count * each, columns)) * 0.01


def links(found: Clusters) -> np.ndarray:
    return np.asarray(found.linkage, float)


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


def test_links_are_those_of_scipy_on_columns_in_units_of_their_standard_deviation() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 5)) * [1, 10, 100, 0.1, 1]
    found = cluster(rows)
    np.testing.assert_allclose(links(found), linkage(rows / rows.std(0), "ward"))
    np.testing.assert_array_equal(found.leaf, np.arange(40))


def test_a_column_in_other_units_changes_nothing() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 4))
    np.testing.assert_allclose(links(cluster(rows)), links(cluster(rows * [1, 1e-6, 1e200, 3])))


def test_a_constant_column_changes_nothing() -> None:
    rows = np.random.default_rng(1).normal(size=(30, 4))
    constant = np.concatenate([rows, np.full((30, 1), 0.1)], 1)
    np.testing.assert_allclose(links(cluster(rows)), links(cluster(constant)))


def test_segments_are_those_of_scipy_in_the_order_of_the_links() -> None:
    found = cluster(np.random.default_rng(2).normal(size=(50, 5)))
    drawn = dendrogram(found.linkage, no_plot=True)
    np.testing.assert_array_equal(found.order, drawn["leaves"])
    # scipy puts leaves at 5, 15, ..., and links in the order of its own walk
    wanted = {(tuple((np.array(x) - 5) / 10), tuple(y)) for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True)}
    assert {(tuple(x), tuple(y)) for x, y in found.segments} == wanted
    np.testing.assert_array_equal(found.segments[:, 1, 1], found.linkage[:, 2])


def test_a_chain_of_4999_links_is_drawn() -> None:
    chain = np.array([[0, 1, 1, 2]] + [[4999 + n, n + 1, n + 1, n + 2] for n in range(1, 4999)], float)
    segments = _segments(chain, leaves_list(chain).astype(np.int64))
    np.testing.assert_array_equal(segments[-1, 1], [4998, 4999, 4999, 0])
    assert segments[-1, 0, 3] == 4999


def test_above_the_most_neurons_leaves_are_centroids_of_the_groups() -> None:
    rows = groups(12, 50)
    found = cluster(rows, most=100, centroids=12)
    assert partition(found.leaf) == partition(np.repeat(np.arange(12), 50))
    means = (rows / rows.std(0)).reshape(12, 50, -1).mean(1)
    heights = linkage(means, "ward")[:, 2]
    np.testing.assert_allclose(links(found)[:, 2], heights, rtol=1e-6)
    assert "12 k-means centroids of the 600 neurons" in found.how
    assert "more than 100" in found.how


def test_up_to_the_most_neurons_nothing_is_said_of_centroids() -> None:
    found = cluster(groups(4, 25), most=100)
    assert "centroids" not in found.how
    assert partition(fcluster(found.linkage, 4, "maxclust")) == partition(np.repeat(np.arange(4), 25))


def test_the_same_seed_makes_the_same_centroids() -> None:
    rows = np.random.default_rng(3).normal(size=(300, 4))
    first, second = (cluster(rows, seed=5, most=100, centroids=20) for _ in range(2))
    np.testing.assert_array_equal(first.leaf, second.leaf)
    assert not np.array_equal(first.leaf, cluster(rows, seed=6, most=100, centroids=20).leaf)


def test_fewer_different_neurons_than_centroids_make_as_many_leaves() -> None:
    rows = np.repeat(np.random.default_rng(4).normal(size=(7, 3)), 30, 0)
    found = cluster(rows, most=100, centroids=50)
    assert len(found.order) == 7
    assert partition(found.leaf) == partition(np.repeat(np.arange(7), 30))


def test_a_far_neuron_does_not_hide_the_others_from_the_centroids() -> None:
    rows = np.concatenate([groups(5, 60), np.full((1, 6), 1e5)])
    assert partition(cluster(rows, most=100, centroids=6).leaf) == partition(np.append(np.repeat(np.arange(5), 60), 5))


@pytest.mark.parametrize("most", [5000, 2])
def test_identical_neurons(most: int) -> None:
    found = cluster(np.full((40, 3), 2.5), most=most)
    assert (found.linkage[:, 2] == 0).all()
    assert found.segments.shape == (len(found.order) - 1, 2, 4)
    assert set(found.leaf) == set(range(len(found.order)))


def test_one_neuron() -> None:
    found = cluster([[1.0, 2.0]])
    assert found.linkage.shape == (0, 4)
    assert found.segments.shape == (0, 2, 4)
    assert found.leaf.tolist() == found.order.tolist() == [0]


def test_two_neurons() -> None:
    found = cluster([[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(links(found), [[0, 1, 2, 2]])
    np.testing.assert_allclose(np.asarray(found.segments, float), [[[0, 0, 1, 1], [0, 2, 2, 0]]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_neuron_that_is_not_finite_contributes_nothing(value: float) -> None:
    rows = np.random.default_rng(5).normal(size=(20, 4))
    broken, nothing = rows.copy(), rows.copy()
    broken[3, 1] = value
    nothing[3] = 0
    found = cluster(broken)
    np.testing.assert_allclose(links(found), links(cluster(nothing)))
    assert "1 with values that are not finite count as contributing nothing" in found.how
    assert "finite" not in cluster(rows).how


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_what_is_no_table_of_contributions_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"contributions must be \[neurons, columns\]"):
        cluster(np.zeros(shape))


@pytest.mark.parametrize("name", ["most", "centroids"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        cluster(np.zeros((3, 2)), most=0 if name == "most" else 1, centroids=0 if name == "centroids" else 1)
