"""Neurons in a tree by their role in the prediction: alike are those that push the same classes by the same amount."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurosens_fast.support.packages import import_package

from .exploration import Clusters

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def cluster(contributions: ArrayLike, seed: int = 0, most: int = 5000, centroids: int = 500) -> Clusters:
    """Ward's linkage of C neurons by their contributions ``[C, D]``, and its dendrogram; a choice of this package.

    A neuron's contributions are its class means of activation × weight, for benign and for adversarial samples (without
    weights, of its activations). Every column is divided by its standard deviation over neurons, so that every class
    counts as much as any other; distances are Euclidean. A neuron with a contribution that is not finite counts as one
    that contributes nothing, and ``how`` says how many there are. Above ``most`` neurons the leaves are the means of
    the groups of neurons that k-means makes of them, at most ``centroids``, begun by k-means++ from ``seed``; each
    counts once, however many neurons it has. The leaves are ordered as ``scipy.cluster.hierarchy.leaves_list`` does.

    Raises ``ValueError`` for contributions that are not ``[C, D]`` with C and D at least 1, and for ``most`` or
    ``centroids`` below 1.
    """
    rows = np.asarray(contributions, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"contributions must be [neurons, columns] with at least one of each, got {list(rows.shape)}")
    for name, value in (("most", most), ("centroids", centroids)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    hierarchy = import_package("scipy.cluster.hierarchy", "clustering neurons needs", extra="explore")
    distances = import_package("scipy.spatial.distance", "clustering neurons needs", extra="explore").pdist
    neurons = len(rows)
    broken = ~np.isfinite(rows).all(1, keepdims=True)
    rows = _scaled(np.where(broken, 0.0, rows))
    leaf = np.arange(neurons)
    if neurons > most:
        leaf = _nearest(rows, centroids, seed)
        rows = _means(rows, leaf)
    # Of distances: scipy warns of rows that are as many as columns and symmetric by chance.
    links = hierarchy.linkage(distances(rows), "ward") if len(rows) > 1 else np.empty((0, 4))
    order = hierarchy.leaves_list(links).astype(np.int64) if len(rows) > 1 else np.zeros(1, np.int64)
    how = _how(neurons, len(rows), most, int(broken.sum()))
    return Clusters(links, leaf, order, _segments(links, order), how)


def _how(neurons: int, leaves: int, most: int, broken: int) -> str:
    by = "by their mean contributions to each class, benign and adversarial, each in units of its standard deviation"
    how = f"Ward's linkage of {neurons:,} neuron{'s' if neurons > 1 else ''} {by}."
    if neurons > most:
        how = (
            f"Ward's linkage of {leaves:,} k-means centroids of the {neurons:,} neurons {by}: more than {most:,} are "
            "not linked one by one, so a leaf stands for all neurons of its centroid."
        )
    if broken:
        how += f" {broken:,} with values that are not finite count as contributing nothing."
    return how


def _scaled(rows: Floats) -> Floats:
    # Squares of very large numbers would overflow, so the largest of each column becomes 1 first.
    largest = np.abs(rows).max(0)
    rows = rows / np.where(largest > 0, largest, 1.0)
    spread = rows.std(0)
    # What rounding leaves of a column that is the same for all neurons is no difference between them.
    return np.where(spread > 1e-12, rows / np.where(spread > 1e-12, spread, 1.0), 0.0)


def _nearest(rows: Floats, centroids: int, seed: int) -> Integers:
    """The group of each neuron, ``0, 1, ...`` without a gap, as k-means makes at most ``centroids`` of them."""
    vq = import_package("scipy.cluster.vq", "clustering neurons needs", extra="explore")
    coarse = rows.astype(np.float32)  # groups are coarse, and this takes half the time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of groups without neurons, which are left out below
        labels = vq.kmeans2(coarse, _beginnings(coarse, centroids, seed), iter=10, minit="matrix", missing="warn")[1]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _beginnings(rows: NDArray[np.float32], centroids: int, seed: int) -> NDArray[np.float32]:
    """Rows drawn one after another with probability proportional to the squared distance from those drawn so far.

    scipy's own k-means++ measures all distances again for every centroid; here each one is measured once.
    """
    rng = np.random.default_rng(seed)
    squares = np.einsum("cd,cd->c", rows, rows)
    drawn = [int(rng.integers(len(rows)))]
    away = np.full(len(rows), np.inf, np.float32)
    while True:
        last = drawn[-1]
        np.minimum(away, squares - 2 * (rows @ rows[last]) + squares[last], out=away)
        # Below this is what rounding makes of no distance at all.
        total = np.cumsum(np.where(away > 1e-5 * squares, away, 0), dtype=np.float64)
        if len(drawn) == centroids or total[-1] == 0:
            return rows[drawn]
        drawn.append(int(np.searchsorted(total, rng.random() * total[-1], side="right")))


def _means(rows: Floats, groups: Integers) -> Floats:
    sums = np.zeros((groups.max() + 1, rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums / np.bincount(groups)[:, None]


def _segments(links: NDArray[Any], order: Integers) -> Floats:
    """Corners ``[L - 1, 2, 4]`` of every link; scipy's own dendrogram recurses, for which a chain may be too deep."""
    leaves, count = len(order), len(links)
    x, y = np.empty(leaves + count), np.zeros(leaves + count)
    x[order] = np.arange(leaves)
    segments = np.empty((count, 2, 4))
    for place, (one, other, height, _) in enumerate(links):
        left, right = sorted((int(one), int(other)), key=x.__getitem__)
        segments[place] = [[x[left], x[left], x[right], x[right]], [y[left], height, height, y[right]]]
        x[leaves + place] = (x[left] + x[right]) / 2
        y[leaves + place] = height
    return segments
