"""Rankings, tables and summaries of a report."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from neurosens_fast._arguments import share_of
from neurosens_fast.audit import AuditReport, ReportError
from neurosens_fast.statistics import METRICS


def test_sensitivity_is_the_metric_and_metrics_are_named(report: AuditReport) -> None:
    for layer, value in report.sensitivity.items():
        assert torch.equal(value, report.metric("sensitivity")[layer])
        assert value.shape == (report.layers[layer].statistics.neurons,)
    with pytest.raises(ValueError, match="unknown metric 'sensitivty'; choose one of sensitivity,"):
        report.metric("sensitivty")


def test_top_ranks_over_all_layers(report: AuditReport) -> None:
    every = [
        (value, layer, n) for layer, column in report.sensitivity.items() for n, value in enumerate(column.tolist())
    ]
    every.sort(key=lambda entry: -entry[0])  # stable, as top() is
    assert [(row.value, row.layer, row.neuron) for row in report.top(1000)] == every
    assert [row.rank for row in report.top(7)] == list(range(1, 8))
    assert len(report.top(0.25)) == math.ceil(0.25 * 22)
    assert len(report.top(1e-9)) == 1
    assert report.top(0) == []
    inside = report.top(3, by="relative_l1", layer="1")
    assert [row.value for row in inside] == report.metric("relative_l1")["1"].sort(descending=True).values[:3].tolist()
    with pytest.raises(ValueError, match="no layer '9'; its layers are 0, 1, 2, 4"):
        report.top(3, layer="9")
    for k in (-1, 0.0, 1.5):
        with pytest.raises(ValueError, match="must"):
            report.top(k)


def test_nonfinite_neurons_rank_first_and_are_named(report: AuditReport) -> None:
    broken = report.merge(report)
    broken.layers["1"].statistics.sums[3, 0] = math.nan
    broken.layers["4"].statistics.maxima[1, 0] = math.inf
    assert broken.nonfinite() == {"1": [3], "4": [1]}
    assert (broken.top(1)[0].layer, broken.top(1)[0].neuron) == ("1", 3)
    assert broken.summary()[1].nonfinite == (3,)
    assert report.nonfinite() == {}


def test_dead_neurons_are_those_that_are_always_zero(report: AuditReport) -> None:
    assert report.dead() == {"2": [2]}
    assert [row.dead for row in report.summary()] == [(), (), (2,), ()]
    assert report.sensitivity["0"][4] == 0, "a neuron that never changes is not dead"
    assert 4 not in report.dead().get("0", [])


def test_summary_per_layer(report: AuditReport) -> None:
    rows = report.summary()
    assert [(row.layer, row.module_type, row.shape, row.channel_dim) for row in rows] == [
        ("0", "Conv2d", (6, 4, 4), 1),
        ("1", "BatchNorm2d", (6, 4, 4), 1),
        ("2", "ReLU", (6, 4, 4), 1),
        ("4", "Linear", (4,), -1),
    ]
    for row in rows:
        values = report.sensitivity[row.layer]
        assert row.score == pytest.approx(float(values.mean()))
        assert (row.maximum, row.most_sensitive) == (float(values.max()), int(values.argmax()))
        assert (row.neurons, row.samples) == (len(values), 17)


def test_table_has_every_metric_and_its_csv_reads_back(report: AuditReport, tmp_path: Path) -> None:
    table = report.to_pandas()
    assert list(table.columns) == ["layer", "neuron", *METRICS, "rank", "rank_in_layer"]
    assert len(table) == 22
    for metric in METRICS:
        assert table[metric].tolist() == torch.cat(list(report.metric(metric).values())).tolist()
    ordered = table.sort_values("rank")
    assert ordered["rank"].tolist() == list(range(1, 23))
    assert list(zip(ordered.layer, ordered.neuron, strict=True)) == [(row.layer, row.neuron) for row in report.top(22)]
    for layer, group in table.groupby("layer"):
        best = group.sort_values("rank_in_layer").neuron.tolist()
        assert best == [row.neuron for row in report.top(100, layer=str(layer))]
    report.to_csv(tmp_path / "neurons.csv")
    with (tmp_path / "neurons.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == list(table.columns)
    assert [row[0] for row in rows] == table.layer.tolist()
    assert [[float(cell) for cell in row[1:]] for row in rows] == table.iloc[:, 1:].astype(float).values.tolist()
    with pytest.raises(ReportError, match=r"cannot write .*nowhere"):
        report.to_csv(tmp_path / "nowhere" / "neurons.csv")


def test_descriptions(report: AuditReport) -> None:
    assert (report.model, report.attack) == ("Sequential, 460 parameters", "FGSM(eps=0.1)")
    assert (report.data, report.seeds, report.not_run) == (("random images",), (3,), ())
    assert report.versions["torch"] == str(torch.__version__)
    assert repr(report) == "AuditReport(Sequential, 460 parameters; FGSM(eps=0.1); 4 layers, 22 neurons, 17 samples)"


def test_shares_are_rounded_up_but_not_by_rounding_errors() -> None:
    assert [share_of(share, 100) for share in (0.07, 0.14, 0.28, 0.55, 0.071)] == [7, 14, 28, 55, 8]
    assert share_of(0.001, 10) == 1
