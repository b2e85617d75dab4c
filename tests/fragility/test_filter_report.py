"""What follows from the counts of a filter: integrals, classes, tables and the picture."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy
import pandas
import pytest
import torch

from neurosens_fast.fragility.filter_report import FilterReport
from neurosens_fast.fragility.synaptic_filter import bands_of

UNEVEN = (0.0, 0.1, 0.15, 0.4, 0.9)


def made(kind: str, curves: int = 3, thresholds: tuple[float, ...] = UNEVEN, seed: int = 0) -> FilterReport:
    """A report with random counts of 200 samples, at eps 0.05 and 0.2."""
    generator = torch.Generator().manual_seed(seed)
    bands = bands_of(kind, thresholds)
    weights = torch.randint(50, 100, (curves,), generator=generator)
    shares = torch.rand(curves, len(bands), generator=generator).sort(1, descending=kind == "low").values
    fields: dict[str, Any] = dict.fromkeys(("model", "attack", "data", "dtype", "device"), "made")
    return FilterReport(
        kind=kind,
        scope="layer",
        curves=tuple(f"a.long.name.of.a.block.layer{place}" for place in range(curves)),
        weights=tuple(weights.tolist()),
        largest=(0.5,) * curves,
        layers=tuple(f"layer{place}" for place in range(curves)),
        bands=bands,
        eps=(0.05, 0.2),
        removed=(shares * weights[:, None]).long(),
        correct=torch.randint(0, 200, (curves, len(bands), 3), generator=generator),
        unfiltered=torch.tensor([180, 120, 60]),
        samples=200,
        seed=0,
        versions={},
        **fields,
    )


@pytest.mark.parametrize("kind", ["high", "low", "pulse"])
def test_integral_is_that_of_numpy(kind: str) -> None:
    report = made(kind)
    for row in range(3):
        surviving = numpy.array([1 - int(count) / report.weights[row] for count in report.removed[row]])
        found = []
        for column in range(3):
            height = report.correct[row, :, column].numpy() / 200 - surviving
            if kind == "pulse":  # a step over each band
                steps = numpy.diff(UNEVEN)
                found.append(float((height * steps).sum() / steps.sum()))
            else:
                found.append(float(numpy.trapezoid(height, numpy.array(UNEVEN) / 0.9)))
        clean, weak, strong = found
        assert float(report.score("clean")[row]) == pytest.approx(clean, abs=1e-12)
        assert float(report.score("adversarial", 0.05)[row]) == pytest.approx(weak, abs=1e-12)
        assert float(report.score()[row]) == pytest.approx(strong, abs=1e-12), "the largest eps by default"
        assert float(report.score("difference", 0.05)[row]) == pytest.approx(weak - clean, abs=1e-12)


def test_thresholds_of_points() -> None:
    assert made("high").thresholds == made("low").thresholds == UNEVEN
    assert made("pulse").thresholds == pytest.approx((0.05, 0.125, 0.275, 0.65))


def test_classes_follow_the_change_over_filtered_points() -> None:
    report = made("high", 4)
    report.removed = torch.tensor([[0, 0, 5, 9, 20]] * 3 + [[0] * 5])
    report.correct[:, :, 2] = torch.tensor([[0, 0, 60, 61, 32], [0, 0, 60, 66, 60], [200, 200, 60, 80, 70], [9] * 5])
    error = sqrt(0.3 * 0.7 / 200)
    assert report.threshold() == pytest.approx(error)
    assert report.change().tolist() == pytest.approx([-0.045, 0.01, 0.05, 0], abs=1e-12)
    assert report.classes() == ("fragile", "robust", "antifragile", "robust"), f"by an error of {error}"
    assert report.classes(threshold=0.05) == ("robust",) * 4
    assert report.classes(threshold=0) == ("fragile", "antifragile", "antifragile", "robust")
    difference = report.change() - report.change("clean")
    assert report.change("difference").tolist() == pytest.approx(difference.tolist())
    assert report.threshold("difference") == pytest.approx(sqrt(error**2 + 0.9 * 0.1 / 200))


def test_tables(tmp_path: Path) -> None:
    report = made("pulse")
    table = report.to_pandas()
    assert len(table) == 3 * 4 * 2
    row = table[(table.layer == report.curves[1]) & (table.eps == 0.2) & (table.lower == 0.15)].iloc[0]
    share = int(report.correct[1, 2, 2]) / 200
    assert (row.upper, row.removed) == (0.4, int(report.removed[1, 2]))
    assert row.adversarial_accuracy == pytest.approx(share)
    assert row.adversarial_standard_error == pytest.approx(sqrt(share * (1 - share) / 200))
    assert row.clean_accuracy == pytest.approx(int(report.correct[1, 2, 0]) / 200)
    assert row.surviving == pytest.approx(1 - int(report.removed[1, 2]) / report.weights[1])
    report.to_csv(tmp_path / "curves.csv")
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "curves.csv"), table)
    scores = report.scores()
    assert len(scores) == 3 * 2
    row = scores[(scores.layer == report.curves[2]) & (scores.eps == 0.05)].iloc[0]
    for score in ("clean", "adversarial", "difference"):
        assert row[score] == float(report.score(score, 0.05)[2])
        assert row[f"{score}_change"] == float(report.change(score, 0.05)[2])
        assert row[f"{score}_class"] == report.classes(score, 0.05)[2]
    assert set(report.scores(threshold=2.0).adversarial_class) == {"robust"}


def test_accuracies_and_repr() -> None:
    report = made("high", 1)
    assert (report.clean_accuracy, report.adversarial_accuracy(), report.adversarial_accuracy(0.05)) == (0.9, 0.3, 0.6)
    assert repr(report) == (
        f"FilterReport(made; made, eps 0.05, 0.2; high filter, 1 curve of 5 points over {report.weights[0]} weights, "
        "200 samples)"
    )


@pytest.mark.parametrize("call", ["score", "change", "threshold", "classes"])
def test_unknown_scores_and_strengths(call: str) -> None:
    method = getattr(made("low"), call)
    with pytest.raises(ValueError, match="score must be one of clean, adversarial, difference, got 'total'"):
        method("total")
    with pytest.raises(ValueError, match=r"eps 0\.3 was not measured; choose one of 0\.05, 0\.2"):
        method("clean", 0.3)


def test_negative_threshold_of_classes() -> None:
    with pytest.raises(ValueError, match="threshold must be a number of at least 0"):
        made("low").classes(threshold=-0.1)


@pytest.mark.parametrize(("kind", "curves", "panels"), [("high", 1, (1, 1)), ("pulse", 11, (3, 5))])
def test_picture_has_a_panel_for_each_curve(kind: str, curves: int, panels: tuple[int, int], tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    made(kind, curves).plot(tmp_path / "curves.png")
    assert dict(mpl.rcParams) == settings
    pixels = matplotlib.image.imread(tmp_path / "curves.png")[..., :3]
    assert pixels.shape[1] > 1000
    rows, columns = panels
    assert pixels.shape[0] > 300 * rows
    colourful = (pixels.max(2) - pixels.min(2)) > 0.25
    top, bottom = int(0.2 * 150 * 2), int(0.4 * 150)  # the title, and axis and legend
    inside = colourful[top:-bottom]
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        height, width = inside.shape[0] // rows, inside.shape[1] // columns
        part = inside[row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert (part.mean() > 0.003) == (place < curves), place


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        made("high").plot(tmp_path / "curves.xyz")
