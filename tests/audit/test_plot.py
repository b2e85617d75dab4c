"""The picture: drawn, not blank, and without touching matplotlib's global state."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.plot import scale
from neurosens_fast.statistics import METRICS


def drawn(path: Path) -> numpy.ndarray:
    """The picture as ``[height, width, 4]``, which must hold curves in both halves."""
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[0] > 700
    assert pixels.shape[1] > 1700
    for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]):
        colourful = (half[..., :3].max(2) - half[..., :3].min(2)) > 0.25
        assert colourful.mean() > 0.001, "no curve in this half"
        assert (half[..., :3] > 0.99).all(2).mean() > 0.5, "no background"
    return pixels


def test_picture_has_curves_and_leaves_matplotlib_alone(report: AuditReport, tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    report.plot(tmp_path / "sensitivity.png")
    assert dict(mpl.rcParams) == settings
    first = drawn(tmp_path / "sensitivity.png")
    report.plot(tmp_path / "shift.png", by="mean_shift")
    second = drawn(tmp_path / "shift.png")
    assert first.shape != second.shape or (first != second).any(), "the metric does not show"


@pytest.mark.parametrize("metric", ["cosine", "mean_activation_benign", "peak_change"])
def test_metrics_with_negative_values_or_without_units(report: AuditReport, tmp_path: Path, metric: str) -> None:
    assert metric in METRICS
    report.plot(tmp_path / "metric.png", by=metric)
    drawn(tmp_path / "metric.png")


def test_many_layers(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(36, 36) for _ in range(40)))
    audit(model, data, FGSM(model), "linear").plot(tmp_path / "deep.png")
    drawn(tmp_path / "deep.png")


def test_nonfinite_neurons_are_left_out(report: AuditReport, tmp_path: Path) -> None:
    broken = report.merge(report)
    broken.layers["1"].statistics.sums[0] = torch.nan
    broken.plot(tmp_path / "some.png")
    drawn(tmp_path / "some.png")
    for entry in broken.layers.values():
        entry.statistics.sums[:] = torch.nan
    broken.plot(tmp_path / "none.svg")
    assert "no neuron with a finite value" in (tmp_path / "none.svg").read_text()


def test_refusals(report: AuditReport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot draw a .txt file; the suffix of 'a.txt' must be one of .*png"):
        report.plot(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="unknown metric 'beauty'"):
        report.plot(tmp_path / "a.png", by="beauty")
    assert list(tmp_path.iterdir()) == []


def test_a_linear_axis_shows_the_largest_value() -> None:
    axes = Figure().subplots()
    scale(axes, {"layer": torch.tensor([1.5, 1.0, 0.4])})
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 1.5
