"""Rank correlations of the histogram: by hand, with their intervals, and with the right numbers of each report."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from torch import Tensor

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.fragility import SCORES, Counts, FragilityReport, correlations
from neurosens_fast.fragility.correlations import Partner, correlations_of, holm, partners_of
from neurosens_fast.fragility.place import Place
from neurosens_fast.fragility.targeting import target
from neurosens_fast.fragility.targeting_report import TargetingReport
from neurosens_fast.statistics import METRICS
from tests.audit.made import made
from tests.audit.test_plot import drawn
from tests.trained import images, trained

pytestmark = pytest.mark.filterwarnings("error")


def one(hits: Sequence[int], values: Sequence[float], neurons: tuple[int, ...] | None = None, seed: int = 0) -> Any:
    """The correlation of ``hits`` with ``values``."""
    chosen = tuple(range(len(hits))) if neurons is None else neurons
    partner = Partner("x", None, chosen, torch.tensor(values, dtype=torch.float64))
    (found,) = correlations_of(torch.tensor([hits]), [0.1], [partner], seed)
    return found


def test_hand_ranked_numbers() -> None:
    # Ranks 3, 1.5, 1.5, 4 and 2, 1, 4, 3; centred .5 -1 -1 1.5 and -.5 -1.5 1.5 .5; with two degrees of freedom the
    # p-value of Student's t is 1 - |r|.
    expected = 0.5 / math.sqrt(4.5 * 5)
    found = one([3, 0, 0, 5], [0.2, -7, 40, 0.3])
    assert found[:2] == (0.1, "x")
    assert found.correlation == pytest.approx(expected, abs=1e-14)
    assert found.p_value == pytest.approx(1 - expected, abs=1e-12)
    assert found.p_value_holm == found.p_value
    assert found.neurons == 4
    # The neurons that were dropped only, in the order of their scores; and without one that has no number.
    some = one([5, 9, 3, 9, 0, 0], [0.3, 0.2, -7, 40], (0, 2, 4, 5))
    assert some.correlation == pytest.approx(expected, abs=1e-14)
    finite = one([3, 1, 0, 0, 5, 1], [0.2, math.nan, -7, 40, 0.3, math.inf])
    assert finite[2:] == found[2:]
    assert one([0, 1, 2, 3], [-3, -4, -5, -6]).correlation == pytest.approx(-1)


@pytest.mark.parametrize(
    ("hits", "values", "neurons"),
    [
        ([4, 4, 4, 4], [1, 2, 3, 4], 4),
        ([1, 2, 3, 4], [0.5] * 4, 4),
        ([0, 0, 0], [0, 0, 0], 3),
        ([1, 2], [1, 2], 2),
        ([1, 2, 3], [1, math.nan, 2], 2),
        ([1, 2, 3], [math.nan] * 3, 0),
    ],
)
def test_without_a_correlation_there_are_nans(hits: list[int], values: list[float], neurons: int) -> None:
    found = one(hits, values)
    assert all(math.isnan(number) for number in found[2:7])
    assert found.neurons == neurons


def test_interval_is_the_percentile_bootstrap_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlations, "RESAMPLES", 300)
    hits, values = [9, 0, 0, 2, 5, 0, 1], [0.1, 0.3, -0.2, 0.3, 0.9, -0.5, 0.0]
    found = one(hits, values, seed=5)
    assert found == one(hits, values, seed=5)
    other = one(hits, values, seed=6)
    assert (other.low, other.high) != (found.low, found.high)
    assert other.correlation == found.correlation
    drawn_places = numpy.random.default_rng(5).integers(7, size=(300, 7))
    seen = []
    for places in drawn_places:
        pair = pandas.DataFrame({"hits": hits, "values": values}).iloc[places].rank()
        if pair.nunique().min() > 1:
            seen.append(float(numpy.corrcoef(pair.hits, pair["values"])[0, 1]))
    assert (found.low, found.high) == pytest.approx(tuple(numpy.percentile(seen, [2.5, 97.5])), abs=1e-12)
    assert -1 <= found.low < found.correlation < found.high <= 1


def test_interval_without_enough_resamples() -> None:
    found = one([1] + [0] * 19, [0, 1] + [0] * 18)  # most resamples miss one of two neurons
    assert found.correlation == pytest.approx(-1 / 19)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_holm() -> None:
    corrected = holm([0.01, 0.04, math.nan, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def dropped(layer: str = "conv1", channels: int = 16, neurons: tuple[int, ...] | None = None) -> FragilityReport:
    """A report of random counts at eps 0.05 and 0.2."""
    chosen = tuple(range(channels)) if neurons is None else neurons
    counts = Counts.zeros(len(chosen), 3)
    draw = torch.Generator().manual_seed(1)
    counts.add(torch.rand(3, 50, generator=draw) > 0.3, torch.rand(len(chosen), 3, 50, generator=draw) > 0.4)
    facts: dict[str, Any] = {"model": "m", "attack": "a", "data": "d", "dtype": "f", "device": "cpu", "versions": {}}
    return FragilityReport(
        layer, "bn1", "Conv2d", channels, chosen, (0.05, 0.2), counts, "after_norm", "fixed", seed=0, **facts
    )


@pytest.fixture(scope="module")
def audited() -> AuditReport:
    """An audit of the first batch norm and the convolution before it."""
    model = trained()
    return audit(model, images(60), FGSM(model, eps=0.05), ["conv1", "bn1"])


@pytest.fixture(scope="module")
def found(audited: AuditReport) -> TargetingReport:
    """Targeting with both reports."""
    report = dropped(neurons=(1, 2, 4, 6, 9, 11, 15))
    return target(trained(), images(60), eps=[0.02, 0.05, 0.2], top=2, report=report, audit=audited)


def test_every_score_and_metric_is_correlated(found: TargetingReport, audited: AuditReport) -> None:
    from scipy.stats import spearmanr

    scores, metrics = [f"fragility: {name}" for name in SCORES], [f"audit: {name}" for name in METRICS]
    by_eps = {eps: [entry.with_what for entry in found.correlations if entry.eps == eps] for eps in found.eps}
    assert by_eps == {0.02: metrics, 0.05: scores + metrics, 0.2: scores + metrics}
    report = dropped(neurons=(1, 2, 4, 6, 9, 11, 15))
    for entry in found.correlations:
        hits = found.histogram[found.eps.index(entry.eps)]
        kind, name = entry.with_what.split(": ")
        if kind == "fragility":
            net = report.counts.gained - report.counts.lost  # whole numbers, of which equal ones are ties
            column = 1 + report.eps.index(entry.eps)
            values = {"clean": net[:, 0], "adversarial": net[:, column], "difference": net[:, column] - net[:, 0]}[name]
            hits = hits[list(report.neurons)]
        else:
            values = audited.metric(name)["bn1"]
        assert entry.neurons == len(values)
        assert (entry.correlation, entry.p_value) == pytest.approx(tuple(spearmanr(hits, values)), abs=1e-12)
    assert list(found.correlations_to_pandas().p_value_holm) == holm([entry.p_value for entry in found.correlations])
    assert found.notes == ()


def test_differences_of_scores_that_are_equal_stay_ties() -> None:
    counts = Counts.zeros(4, 2)
    counts.samples = 10
    counts.gained = torch.tensor([[1, 3], [0, 2], [7, 9], [0, 0]])  # differences of 2, 2, 2 and 0 samples
    differences = counts.change()[:, 1] - counts.change()[:, 0]
    assert len(set(differences.tolist())) > 2, "no rounding, so this test could not fail"
    report = dropped(channels=4)
    report.counts, report.eps = counts, (0.2,)
    (partner,) = (
        entry
        for entry in partners_of(Place("conv1", "bn1", "Conv2d", 1, 4), [0.2], report, None)
        if entry.with_what == "fragility: difference"
    )
    (found,) = correlations_of(torch.tensor([[5, 1, 3, 0]]), [0.2], [partner], 0)
    assert found.correlation == pytest.approx(math.sqrt(0.6), abs=1e-14)


def test_rows_of_an_audit_and_places_that_differ() -> None:
    model = trained()
    before = audit(model, images(20), FGSM(model), ["conv1"])
    late = target(model, images(20), eps=0.1, audit=before)
    assert late.notes == ("metrics of the audit are those of conv1, neurons are read at bn1",)
    assert late.correlations[0].correlation == pytest.approx(
        pandas.Series(late.histogram[0].numpy()).rank().corr(pandas.Series(before.sensitivity["conv1"].numpy()).rank())
    )
    early = target(model, images(20), eps=0.05, where="before_norm", report=dropped())
    assert early.notes == ("neurons were dropped at bn1 and are read at conv1",)


def test_reports_of_other_layers_are_refused(audited: AuditReport) -> None:
    def refused(sentence: str, **given: Any) -> None:
        seen = []

        def make(model: Any, eps: float) -> Any:
            def attack(x: Tensor, y: Tensor) -> Tensor:
                seen.append(len(x))
                return x

            return attack

        with pytest.raises(ValueError, match=sentence):
            target(trained(), images(8), make, **{"eps": 0.05, **given})
        assert not seen, "found out after the work was done"

    refused(
        r"^report is of layer 'conv2', and 'conv1' is targeted; give layer='conv2', or a report of 'conv1'$",
        report=dropped("conv2", 32),
    )
    refused(r"^report is of another model: there layer 'conv1' has 8 neurons, here 16$", report=dropped("conv1", 8))
    refused(
        r"^report and eps have no strength in common; the report's are 0.05, 0.2, got 0.1$",
        report=dropped(),
        eps=0.1,
    )
    refused(
        r"^audit did not measure 'bn2' or 'conv2', only conv1, bn1; audit with layers=\['bn2'\]$",
        audit=audited,
        layer="conv2",
    )
    refused(r"^audit did not measure 'relu2', only conv1, bn1; audit", audit=audited, layer="relu2")
    refused(r"^audit is of another model: there 'bn1' has 2 neurons, here 16$", audit=made({"bn1": [0.1, 0.2]}))


def test_missing_scipy_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.stats", raising=False)
    sentence = r"^rank correlations need scipy; type: pip install 'neurosens-fast\[fragility\]'$"
    with pytest.raises(ModuleNotFoundError, match=sentence):
        target(trained(), images(4), eps=0.05, report=dropped())
    assert target(trained(), images(4), eps=0.05).correlations == ()


def test_tables(found: TargetingReport, tmp_path: Path) -> None:
    frame = found.to_pandas()
    assert len(frame) == 3 * 16
    row = frame[(frame.eps == 0.05) & (frame.neuron == 4)].iloc[0]
    assert (row.layer, row.hits, row.infinite) == ("conv1", int(found.histogram[1, 4]), int(found.infinite[1, 4]))
    assert row.share == int(found.histogram[1, 4]) / 60
    assert row.mean_relative_change == float(found.mean_relative_change[1, 4])
    assert frame.groupby("eps").hits.sum().tolist() == [120, 120, 120]
    classes = found.classes_to_pandas()
    assert len(classes) == 3 * 10 * 16
    entry = classes[(classes.eps == 0.2) & (classes["class"] == 3) & (classes.neuron == 1)].iloc[0]
    assert (entry.hits, entry.samples) == (int(found.by_class[2, 3, 1]), int(found.class_samples[3]))
    merged = classes.groupby(["eps", "neuron"]).hits.sum()
    assert merged.tolist() == frame.hits.tolist()
    found.to_csv(tmp_path / "targeting.csv")
    with (tmp_path / "targeting.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(frame.columns)
    for column in frame.columns.drop("layer"):
        assert [float(line[column]) for line in rows] == frame[column].tolist(), "full precision"


def test_picture(found: TargetingReport, tmp_path: Path) -> None:
    found.plot(tmp_path / "all.png")
    drawn(tmp_path / "all.png")
    with pytest.raises(ValueError, match=r"cannot draw a .txt file"):
        found.plot(tmp_path / "a.txt")
    nothing = target(trained(), images(6), eps=[0], audit=made({"bn1": [0.0] * 16}))
    assert all(math.isnan(entry.correlation) for entry in nothing.correlations)
    nothing.plot(tmp_path / "nothing.png")
    unknown = images(6)[0], torch.full((6,), -1)
    classless = target(trained(), unknown, lambda model, eps: lambda x, y: x + eps, "conv3", [0, 0.1])
    assert classless.class_samples.tolist() == [0] * 10
    classless.plot(tmp_path / "classless.png")
    assert (tmp_path / "classless.png").stat().st_size > 20_000
