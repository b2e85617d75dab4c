"""Neurons' values of many samples as points of the plane, by PCA or UMAP."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurosens_fast.support.packages import import_package

METHODS = ("auto", "pca", "umap")
"""Ways of projection."""

_FEWEST = 10  # samples: UMAP's graph of neighbours needs some
_NEIGHBOURS = 15  # UMAP's own default
_NUMBERS = 2**23  # of a block of columns, in float64
_NEGLIGIBLE = 1e-12  # share of the variance below which a component is rounding

Values = NDArray[np.floating[Any]]


def project(values: Values, method: str = "pca") -> tuple[NDArray[np.float32], str]:
    """Coordinates ``[1 + E, V, 2]`` float32 of ``values`` ``[1 + E, V, C]``, and a sentence on how they were made.

    The axes are those of the benign values ``values[0]``; all levels are put on the same ones. ``"pca"`` are the two
    principal components, whose largest loading is positive (of equal ones the first), with their shares of the benign
    variance in the sentence. ``"umap"`` needs umap-learn and has a fixed seed; below 10 samples PCA is used in its
    place. ``"auto"`` is UMAP where that is installed, else PCA. A sample with a value that is not finite has NaN
    coordinates at that level and, if it is a benign one, does not enter the axes; the sentence says how many. All of
    this are choices of this package. Raises ``ValueError`` for another method or shape, ``ModuleNotFoundError`` for
    ``"umap"`` without umap-learn.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if values.ndim != 3 or not values.shape[0]:
        raise ValueError(f"values must be [1 + E, V, C], the benign ones first, got shape {list(values.shape)}")
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(2))
    coordinates = np.full((*finite.shape, 2), np.nan, np.float32)
    if not finite[0].any():
        return coordinates, "no projection: no sample has finite benign values only"
    fitted, more = _fitting(int(finite[0].sum()), method)
    points: Values
    if fitted is None:
        points, how = _principal(values, finite)
    else:
        points, how = _neighbourhood(fitted, values, finite)
    coordinates[finite] = points
    left_out = int((~finite).any(0).sum())
    if left_out:
        more += f"; {left_out} samples with values that are not finite are left out"
    return coordinates, how + more


def check_umap() -> None:
    """``ModuleNotFoundError`` with the command to type where umap-learn is not installed."""
    if importlib.util.find_spec("umap") is None:
        raise ModuleNotFoundError("the projection method='umap' needs umap-learn; type: pip install umap-learn")


def _fitting(samples: int, method: str) -> tuple[Any, str]:
    """UMAP's module where it is to be used, and what else is to be said."""
    if method == "pca":
        return None, ""
    try:
        check_umap()
        if samples < _FEWEST:
            return None, f"; UMAP needs at least {_FEWEST} samples"
        return import_package("umap", "the projection method='umap' needs"), ""
    except ModuleNotFoundError:
        if method == "umap":
            raise
        return None, ""


def _neighbourhood(module: Any, values: Values, finite: NDArray[np.bool_]) -> tuple[Values, str]:
    benign = values[0][finite[0]]
    neighbours = min(_NEIGHBOURS, len(benign) - 1)
    reducer = module.UMAP(n_neighbors=neighbours, n_components=2, random_state=0, n_jobs=1)
    parts = [reducer.fit_transform(benign)]
    parts += [reducer.transform(level[rows]) for level, rows in zip(values[1:], finite[1:], strict=True) if rows.any()]
    return np.concatenate(parts), f"UMAP of benign values, {neighbours} neighbours"


def _principal(values: Values, finite: NDArray[np.bool_]) -> tuple[NDArray[np.float64], str]:
    """PCA by columns in blocks: neither centred values nor a matrix ``[C, C]`` are ever held for many neurons."""
    benign, rows = values[0], finite[0]
    samples, neurons = int(rows.sum()), benign.shape[1]
    width = max(1, _NUMBERS // finite.size)
    blocks = [slice(start, start + width) for start in range(0, neurons, width)]

    def centred(block: slice) -> NDArray[np.float64]:
        part = benign[:, block][rows].astype(np.float64)
        return part - part.mean(0)

    count = min(2, samples, neurons)
    if samples < neurons:
        # the Gram matrix [V, V] has the same eigenvalues, and its eigenvectors u give the loadings X'u
        gram = np.zeros((samples, samples))
        for block in blocks:
            part = centred(block)
            gram += part @ part.T
        squares, left = np.linalg.eigh(gram)
        squares, left = squares[::-1], left[:, ::-1][:, :count]
        loadings = np.concatenate([centred(block).T @ left for block in blocks])
    else:
        _, singular, right = np.linalg.svd(centred(slice(None)), full_matrices=False)
        squares, loadings = singular**2, right[:count].T
    squares = np.maximum(squares, 0)
    total = squares.sum()
    shares = squares[:count] / total if total > 0 else np.zeros(count)
    loadings = loadings * (shares > _NEGLIGIBLE)
    sizes = np.linalg.norm(loadings, axis=0)
    loadings = loadings / np.where(sizes > 0, sizes, 1)
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(0)[None], 0)
    loadings = loadings * np.where(largest < 0, -1, 1)
    points = np.zeros((int(finite.sum()), 2))
    for block in blocks:
        mean = benign[:, block][rows].mean(0, dtype=np.float64)
        points[:, :count] += (values[:, :, block][finite] - mean) @ loadings[block]
    first, second = (*shares, 0.0, 0.0)[:2]
    return points, f"PCA: {first:.0%} and {second:.0%} of the variance of benign values"
