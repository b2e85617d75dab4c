"""Classes and single samples: against a loop over samples, and the same after an interruption and by processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.audit import AuditReport, ReportError, audit, read_scores
from neurosens_fast.audit import scores as scores_file
from neurosens_fast.audit.per_sample import ClassTotals
from neurosens_fast.capture import Taps
from tests.processes import run_processes

from .conftest import build

GENERATOR = torch.Generator().manual_seed(6)
X = torch.rand(13, 1, 6, 6, generator=GENERATOR, dtype=torch.float64)
Y = torch.tensor([0, 2, 2, 0, 3, 2, 0, 0, 3, 3, 2, -1, 0])


def weaker(x: Tensor, y: Tensor) -> Tensor:
    return x * 0.8


def activations(x: Tensor) -> dict[str, Tensor]:
    """What every layer puts out for each sample, ``[C, S]``."""
    net, found = build().double().eval(), {}
    with torch.no_grad():
        for name, module in net.named_children():
            x = module(x)
            found[name] = x.flatten(2) if x.dim() > 2 else x[..., None]
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditReport, Path]:
    folder = tmp_path_factory.mktemp("scores")
    report = audit(build().double(), (X, Y), weaker, "all", batch_size=5, by_class=True, scores=folder)
    return report, folder


def test_classes_against_a_loop(measured: tuple[AuditReport, Path]) -> None:
    report, _ = measured
    benign, adversarial = activations(X), activations(X * 0.8)
    assert list(report.class_sensitivity) == list(benign)
    for name, found in report.class_sensitivity.items():
        change = (adversarial[name] - benign[name]).abs().mean(2)
        assert found.shape == (4, change.shape[1])
        for label in range(4):
            if label == 1:
                assert bool(found[1].isnan().all())
            else:
                torch.testing.assert_close(found[label], change[label == Y].mean(0), rtol=1e-12, atol=1e-15)
    table = report.classes_to_pandas()
    assert list(table.columns) == ["class", "layer", "samples", "score", "most_sensitive"]
    assert len(table) == 4 * len(benign)
    row = table[(table["class"] == 2) & (table["layer"] == "4")].iloc[0]
    assert row["samples"] == 4
    assert row["score"] == pytest.approx(float(report.class_sensitivity["4"][2].mean()))
    assert row["most_sensitive"] == int(report.class_sensitivity["4"][2].argmax())
    assert table[table["class"] == 1]["samples"].tolist() == [0] * len(benign)
    assert table[table["class"] == 1]["most_sensitive"].isna().all()


def test_scores_against_a_loop(measured: tuple[AuditReport, Path]) -> None:
    report, folder = measured
    table = read_scores(folder)
    benign, adversarial = activations(X), activations(X * 0.8)
    assert table["sample"].tolist() == list(range(13))
    assert table["label"].tolist() == Y.tolist()
    assert table["prediction_benign"].tolist() == benign["4"].squeeze(-1).argmax(1).tolist()
    assert table["prediction_adversarial"].tolist() == adversarial["4"].squeeze(-1).argmax(1).tolist()
    assert list(table.columns)[5:] == [f"layer {name}" for name in report.layers]
    relative = []
    for name in report.layers:
        change = (adversarial[name] - benign[name]).abs().mean((1, 2))
        assert table[f"layer {name}"].tolist() == pytest.approx(change.tolist(), rel=1e-12)
        relative.append(change / benign[name].abs().mean((1, 2)))
    assert table["score"].tolist() == pytest.approx(torch.stack(relative).mean(0).tolist(), rel=1e-12)


def test_the_totals_stay_what_they_are(measured: tuple[AuditReport, Path]) -> None:
    plain = audit(build().double(), (X, Y), weaker, "all", batch_size=5)
    for name, row in plain.layers.items():
        assert row.by_class is None
        assert torch.equal(row.statistics.sums, measured[0].layers[name].statistics.sums)
    with pytest.raises(ValueError, match="the report has no classes; audit with by_class=True"):
        _ = plain.class_sensitivity


def test_saved_and_merged(measured: tuple[AuditReport, Path], tmp_path: Path) -> None:
    report, _ = measured
    report.save(tmp_path / "report")
    loaded = AuditReport.load(tmp_path / "report")
    first = audit(build().double(), (X[:5], Y[:5]), weaker, "all", batch_size=5, by_class=True)
    second = audit(build().double(), (X[5:], Y[5:]), weaker, "all", batch_size=5, by_class=True)
    for other in (loaded, first.merge(second)):
        for name, found in other.class_sensitivity.items():
            torch.testing.assert_close(found, report.class_sensitivity[name], rtol=1e-12, atol=1e-15, equal_nan=True)


def test_classes_of_different_numbers_merge() -> None:
    small, large = ClassTotals(2, 3), ClassTotals(5, 3)
    small.add(torch.tensor([1]), torch.ones(1, 3), 2)
    large.add(torch.tensor([4, 1]), torch.full((2, 3), 2.0), 5)
    small.merge(large)
    assert small.samples.tolist() == [0, 2, 0, 0, 1]
    assert small.sums[:, 0].tolist() == [0, 3, 0, 0, 2]
    nan = ClassTotals(2, 2)
    nan.add(torch.tensor([0, 0, 1]), torch.tensor([[torch.nan, 1.0], [1.0, 1.0], [torch.nan, torch.nan]]), 2)
    assert nan.samples.tolist() == [2, 0]  # the last sample was not seen
    assert str(nan.means()[0].tolist()) == "[nan, 1.0]"


def test_a_model_without_logits() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).double()
    report = audit(model, (X, Y), weaker, by_class=True, batch_size=5)
    assert [row.by_class.classes for row in report.layers.values() if row.by_class is not None] == [4]
    assert report.labelled == 0


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_files_after_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_file.ScoreWriter.__init__, "__defaults__", (4,))
    options: Any = {"batch_size": 3, "by_class": True}
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    audit(build(), (X.float(), Y), weaker, "all", checkpoint=tmp_path / "whole", scores=tmp_path / "a", **options)
    assert len(files(tmp_path / "a")) == 3
    calls = 0

    def unsteady(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls in (2, 4, 5, 8):
            raise OSError("gone")
        return x * 0.8

    while not (tmp_path / "broken" / "audit.safetensors").exists():
        try:
            audit(
                *(build(), (X.float(), Y), unsteady, "all"),
                checkpoint=tmp_path / "broken",
                scores=tmp_path / "b",
                resume=True,
                attack_description=f"{weaker.__module__}.{weaker.__qualname__}",
                **options,
            )
        except OSError:
            continue
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "whole") == files(tmp_path / "broken")


def test_by_processes(tmp_path: Path) -> None:
    script = """
    from neurosens_fast.audit import audit
    from tests.audit.conftest import build
    from tests.audit.test_per_sample import X, Y, weaker

    report = audit(
        build().double(), (X, Y), weaker, "all", batch_size=2, by_class=True, scores=folder / "scores",
        distributed=True, progress=False,
    )
    report.save(folder / f"{rank}")
"""
    run_processes(script, tmp_path)
    alone = audit(build().double(), (X, Y), weaker, "all", batch_size=2, by_class=True, scores=tmp_path / "alone")
    for rank in range(2):
        for name, found in AuditReport.load(tmp_path / str(rank)).class_sensitivity.items():
            torch.testing.assert_close(found, alone.class_sensitivity[name], rtol=1e-9, atol=1e-15, equal_nan=True)
    table = read_scores(tmp_path / "scores")
    pandas.testing.assert_frame_equal(table, read_scores(tmp_path / "alone"), rtol=1e-9)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="holds no scores; audit with scores first"):
        read_scores(tmp_path)
    audit(build(), (X.float(), Y), weaker, scores=tmp_path)
    with pytest.raises(ReportError, match="holds scores already; choose another folder or remove them"):
        audit(build(), (X.float(), Y), weaker, scores=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match=r"cannot write to the folder .*file"):
        audit(build(), (X.float(), Y), weaker, scores=tmp_path / "file")


def test_samples_under_a_mask() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 5)
            self.act = nn.ReLU()

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.act(self.embed(ids)).mean(1)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Words()
    ids, other = torch.randint(0, 9, (4, 6)), torch.randint(0, 9, (4, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    taps = Taps(model, ["act"])
    taps.keeps_samples, taps.mask = True, mask
    with taps, torch.no_grad():
        model(torch.cat((ids, other)), torch.cat((mask, mask)))
    with torch.no_grad():
        values = [model.act(model.embed(part)) for part in (ids, other)]
    found = taps.samples["act"]
    assert bool(found[2].isnan().all())
    for sample in (0, 1, 3):
        real = mask[sample].bool()
        benign, adversarial = (part[sample][real] for part in values)
        torch.testing.assert_close(found[sample, :, 0], (adversarial - benign).abs().mean(0))
        torch.testing.assert_close(found[sample, :, 1], benign.abs().mean(0))


def test_a_layer_that_is_called_as_a_column(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = nn.Linear(36, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.score(x.flatten(1))  # type: ignore[no-any-return]

    report = audit(Named().double(), (X, Y), weaker, ["score"], scores=tmp_path)
    table = read_scores(tmp_path)
    assert table["layer score"].mean() == pytest.approx(float(report.sensitivity["score"].mean()))
    assert table["score"].tolist() != table["layer score"].tolist()
