"""Projections of neurons' values: PCA by numpy's SVD, UMAP where it is installed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import tracemalloc
import types
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from neurosens_fast.explorer import projection
from neurosens_fast.explorer.projection import project


def values_of(levels: int, samples: int, neurons: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    strength = 1 / (1 + np.arange(neurons))
    return (3 + rng.normal(size=(1 + levels, samples, neurons)) * strength).astype(np.float32)


def plain(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates and shares of the variance by an SVD of everything."""
    wide = values.astype(np.float64)
    mean = wide[0].mean(0)
    _, singular, right = np.linalg.svd(wide[0] - mean, full_matrices=False)
    axes = [row * np.sign(row[np.abs(row).argmax()]) for row in right[:2]]
    return (wide - mean) @ np.array(axes).T, singular**2 / (singular**2).sum()


@pytest.mark.parametrize(("samples", "neurons"), [(40, 7), (7, 40), (12, 12), (2, 5), (5, 2)])
def test_pca_is_that_of_an_svd(samples: int, neurons: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = values_of(2, samples, neurons)
    expected, shares = plain(values)
    if samples == 2:
        expected[..., 1] = 0  # two samples have one component only
    for numbers in (projection._NUMBERS, 3 * 3 * samples):  # all columns at once, and three at a time
        monkeypatch.setattr(projection, "_NUMBERS", numbers)
        found, how = project(values, "pca")
        assert found.dtype == np.float32
        assert found.shape == (3, samples, 2)
        assert np.allclose(found, expected, atol=1e-5)
        second = 0 if samples == 2 else shares[1]
        assert how == f"PCA: {shares[0]:.0%} and {second:.0%} of the variance of benign values"


def test_signs_do_not_depend_on_the_number_of_samples() -> None:
    values = values_of(0, 40, 20)
    by_svd, _ = project(values)
    by_gram, _ = project(np.concatenate([values, np.repeat(values[:, :, :1] * 0, 60, 2)], 2))
    assert np.allclose(by_svd, by_gram, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 30])
@pytest.mark.parametrize("neurons", [1, 8])
@pytest.mark.parametrize("method", ["pca", "auto"])
def test_there_may_be_few_or_constant_values(
    samples: int, neurons: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # UMAP has a test of its own
    found, how = project(np.full((2, samples, neurons), 0.1, np.float32), method)
    assert (found == 0).all()
    assert how.startswith("PCA: 0% and 0% of the variance")
    varied, _ = project(values_of(1, samples, neurons), method)
    assert np.isfinite(varied).all()
    if samples == 1:
        assert (varied == 0).all(), "one sample spans no axis"
    if neurons == 1:
        assert (varied[..., 1] == 0).all()


@pytest.mark.parametrize("neurons", [6, 60])
def test_samples_that_are_not_finite_have_no_place(neurons: int) -> None:
    values = values_of(1, 20, neurons)
    values[0, 3, 2] = np.nan
    values[1, 5, 0] = np.inf
    found, how = project(values)
    assert np.argwhere(np.isnan(found).any(2)).tolist() == [[0, 3], [1, 5]]
    alone, _ = project(values[:1, [*range(3), *range(4, 20)]])
    assert np.allclose(np.delete(found[0], 3, 0), alone[0], atol=1e-5)
    assert how.endswith("; 2 samples with values that are not finite are left out")
    nowhere, how = project(np.full((2, 3, 4), np.nan, np.float32))
    assert np.isnan(nowhere).all()
    assert how == "no projection: no sample has finite benign values only"


def test_many_neurons_take_little_memory() -> None:
    values = np.random.default_rng(0).random((2, 400, 50_000), dtype=np.float32)
    tracemalloc.start()
    found, _ = project(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(found).all()
    assert peak < 3 * values.nbytes, "neither [C, C] nor float64 copies of everything"


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"method must be one of auto, pca, umap, got 'tsne'"):
        project(values_of(0, 3, 3), "tsne")
    with pytest.raises(ValueError, match=r"values must be \[1 \+ E, V, C\]"):
        project(values_of(0, 3, 3)[0])


def test_without_umap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    values = values_of(1, 20, 4)
    with pytest.raises(ModuleNotFoundError, match="pip install umap-learn"):
        project(values, "umap")
    found, how = project(values, "auto")
    expected, same = project(values, "pca")
    assert np.array_equal(found, expected)
    assert how == same


class Reducer:
    """Stands in for ``umap.UMAP``: fitted, it puts a sample where its first two values are, less the first sample's."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **settings: Any) -> None:
        self.made.append(settings)

    def fit_transform(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        assert np.isfinite(values).all()
        self.origin = values[0, :2]
        return self.transform(values)

    def transform(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[:, :2] - self.origin


@pytest.mark.parametrize("method", ["auto", "umap"])
def test_umap_gets_benign_values_to_fit_and_the_others_to_place(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("umap")
    module.__spec__ = importlib.machinery.ModuleSpec("umap", None)
    module.UMAP = Reducer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr(Reducer, "made", [])
    values = values_of(2, 12, 4)
    values[0, 3, 2] = values[1, 7, 1] = np.nan
    found, how = project(values, method)
    expected = values[..., :2] - values[0, 0, :2]
    expected[0, 3] = expected[1, 7] = np.nan
    np.testing.assert_array_equal(found, expected)
    assert Reducer.made == [{"n_neighbors": 10, "n_components": 2, "random_state": 0, "n_jobs": 1}]
    assert how.startswith("UMAP of benign values, 10 neighbours; 2 samples")
    found, how = project(values[:, :9], method)
    assert how.startswith("PCA: ")
    assert "; UMAP needs at least 10 samples" in how
    assert len(Reducer.made) == 1


@pytest.mark.slow
def test_umap_is_fitted_on_benign_values() -> None:
    pytest.importorskip("umap")
    values = values_of(1, 40, 6)
    values[0, 20:, 0] += 50
    values[1] = values[0] + 1e-3
    values[1, 7, 1] = np.nan
    found, how = project(values, "auto")
    assert how.startswith("UMAP of benign values, 15 neighbours; 1 samples")
    assert np.isnan(found[1, 7]).all()
    assert np.isfinite(np.delete(found, 7, 1)).all()
    again, _ = project(values, "umap")
    assert np.array_equal(found, again, equal_nan=True), "the seed is fixed"
    alone, _ = project(values[:1], "umap")
    assert np.array_equal(alone[0], found[0])
    centres = found[0, :20].mean(0), found[0, 20:].mean(0)
    spread = found[0, :20].std(0).max()
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * spread, "two blobs are two"
    _, how = project(values[:, :9], "umap")
    assert how.endswith("; UMAP needs at least 10 samples; 1 samples with values that are not finite are left out")
