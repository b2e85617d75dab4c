"""``neurosens-fast compare``: the tables and files that Python gives."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas
import pytest

from neurosens_fast.audit import AuditReport, compare

from .conftest import Run, audit_into

FILES = ["comparison.csv", "comparison.png", "neurons.csv"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit of the same network under PGD, with fewer samples and other layers."""
    folder = tmp_path_factory.mktemp("other") / "run"
    words = ("--attack", "pgd", "--eps", "0.1", "--max-samples", "30", "--layers", "relu[123],conv1")
    return audit_into(folder, *words)


def test_tables(run: Run, audited: Path, other: Path) -> None:
    a, b = (AuditReport.load(folder / "audit.safetensors") for folder in (audited, other))
    result = run("compare", audited, other / "audit.safetensors")
    assert (result.status, result.err) == (0, "")
    comparison = compare(a, b)
    cells = [line.split() for line in result.out.splitlines()]
    for row in (*comparison.layers, comparison.overall):
        found = next(line for line in cells if line[:1] == [row.layer])
        assert found[1:4] == [str(row.neurons), f"{row.mean_a:.4f}", f"{row.mean_b:.4f}"]
        assert found[4:] == [
            *(f"{row.ratio:.3f}", f"{row.spearman:.3f}", str(row.top), f"{row.overlap:.0%}", f"{row.jaccard:.2f}")
        ]
    for moved in (*comparison.moved(5).up, *comparison.moved(5).down):
        assert [moved.layer, str(moved.neuron), f"{moved.places:+g}"] in [line[:3] for line in cells]
    words = " ".join(result.out.split())
    for text in (
        "compared 112 neurons in 3 layers",
        f"accuracy {a.clean_accuracy:.1%} clean, {a.adversarial_accuracy:.1%} adversarial",
        "FGSM(eps=0.2)",
        "PGD(eps=0.1",
        "note only in A: relu4",
        "note only in B: conv1",
        "note measured on 40 samples in A, on 30 in B",
    ):
        assert text in words
    assert max(len(line) for line in result.out.splitlines() if "/" not in line) <= 80


def test_files(run: Run, audited: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    words = ("compare", audited, other, "--by", "relative_l2", "--top", "3", "--moved", "0", "--out", out)
    result = run(*words)
    assert (result.status, result.err) == (0, "")
    assert "moved" not in result.out
    assert f"written to {out}: comparison.csv, neurons.csv, comparison.png" in result.out
    assert sorted(path.name for path in out.iterdir()) == FILES
    a, b = (AuditReport.load(folder / "audit.safetensors") for folder in (audited, other))
    comparison = compare(a, b, "relative_l2", 3)
    pandas.testing.assert_frame_equal(pandas.read_csv(out / "comparison.csv"), comparison.to_pandas())
    pandas.testing.assert_frame_equal(pandas.read_csv(out / "neurons.csv"), comparison.neurons())
    assert comparison.to_pandas()["top"].tolist() == [3, 3, 3]
    assert matplotlib.image.imread(out / "comparison.png").std() > 0.05

    (out / "neurons.csv").write_text("mine")
    refused = run(*words)
    assert (refused.status, refused.out) == (2, "")
    assert "already holds comparison.csv, neurons.csv, comparison.png" in refused.err
    assert (out / "neurons.csv").read_text() == "mine"
    assert run(*words, "--overwrite", "--quiet") == (0, "", "")
    assert (out / "neurons.csv").read_text().startswith("layer,neuron")


def test_no_layer_in_common(run: Run, audited: Path, tmp_path: Path) -> None:
    words = ("--model", "digits-cnn", "--data", "digits", "--attack", "none", "--max-samples", "2")
    assert run("audit", *words, "--layers", "convolutions", "--quiet", "--out", tmp_path / "run").status == 0
    result = run("compare", audited, tmp_path / "run", "--out", tmp_path / "out")
    assert (result.status, result.out) == (2, "")
    assert "the reports have no layer in common (A has relu1, relu2, relu3, relu4, B has conv1," in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
