"""``neurosens-fast mask``: the curve that Python gives, as files and a table."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas
from safetensors.torch import save_file

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport
from neurosens_fast.audit.masking import masking_curve
from neurosens_fast.data import digits
from neurosens_fast.demo import train_digits
from neurosens_fast.models import load_model

from .conftest import Run

WORDS = ("--model", "digits-cnn", "--data", "digits", "--attack", "fgsm", "--eps", "0.1")


def test_writes_the_curve_that_python_gives(run: Run, tmp_path: Path) -> None:
    split = digits()
    trained = train_digits(split, epochs=2, seed=0)
    weights = tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), weights)
    words = (*WORDS, "--weights", weights)
    assert run("audit", *words, "--max-samples", "99", "--quiet", "--out", tmp_path / "run").status == 0
    counts = ("--counts", "0,3", "--counts", "50%", "--repeats", "2", "--scope", "model", "--by", "mean_shift")
    result = run("mask", tmp_path / "run", *words, *counts, "--layers", "relu[34]", "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masking.csv", "masking.png"]
    model = load_model("digits-cnn", weights=weights)
    curve = masking_curve(
        model,
        AuditReport.load(tmp_path / "run" / "audit.safetensors"),
        (split.test_images, split.test_labels),
        FGSM(model, eps=0.1),
        "mean_shift",
        layers="relu[34]",
        counts=[0, 3, 0.5],
        repeats=2,
        scope="model",
        progress=False,
    )
    found = pandas.read_csv(tmp_path / "out" / "masking.csv")
    pandas.testing.assert_frame_equal(found, curve.to_pandas(), check_dtype=False)
    assert matplotlib.image.imread(tmp_path / "out" / "masking.png").std() > 0.05
    lines = [line.split() for line in result.out.splitlines()]
    random = [point for point in curve.points if (point.order, point.masked) == ("random", 96)]
    accuracies = [
        100 * sum(getattr(point, f"{kind}_accuracy") for point in random) / 2 for kind in ("clean", "adversarial")
    ]
    assert random[0].clean_accuracy != random[1].clean_accuracy
    row = next(cells for cells in lines if cells[:3] == ["96", "50.0", "%"])
    assert row[5:7] == [f"{accuracy:.1f}" for accuracy in accuracies]
    assert "ranking  mean_shift, model scope, fixed attack" in result.out
    assert "masked   at most 192 neurons in 2 layers; 539 pairs" in result.out
    assert "note" not in result.out
    assert max(len(line) for line in result.out.splitlines() if str(tmp_path) not in line) <= 80


def test_says_when_the_report_is_of_other_weights(run: Run, audited: Path, tmp_path: Path) -> None:
    words = (*WORDS, "--seed", "1", "--counts", "0,1", "--repeats", "1", "--max-samples", "20", "--out", tmp_path)
    result = run("mask", audited, *words)
    assert result.status == 0
    assert "note     the report is of another model: digits-cnn, random weights (seed 0)" in result.out
    refused = run("mask", audited, *words)
    assert (refused.status, refused.out) == (2, "")
    assert "already holds masking.csv, masking.png" in refused.err


def test_names_layers_that_hold_the_classes(run: Run, tmp_path: Path) -> None:
    few = ("--max-samples", "20")
    assert run("audit", *WORDS, *few, "--layers", "linear", "--quiet", "--out", tmp_path / "run").status == 0
    words = (*WORDS, *few, "--protocol", "adaptive", "--counts", "0,5", "--repeats", "1")
    result = run("mask", tmp_path / "run", *words, "--out", tmp_path / "run")
    assert result.status == 0
    assert "note     not masked, as its neurons are the classes: logits" in result.out
    assert "masked   at most 128 neurons in 1 layer; 20 pairs" in result.out


def test_adaptive_needs_an_attack_on_the_model(run: Run, audited: Path, own: Path) -> None:
    words = (
        "--model",
        "digits-cnn",
        "--data",
        "digits",
        "--attack",
        f"{own}:noise",
        "--counts",
        "0,5",
        "--max-samples",
        "9",
    )
    result = run("mask", audited, *words, "--protocol", "adaptive", "--out", own.parent / "out")
    assert result.status == 2
    assert "cannot adapt to the masks" in result.err
    assert run("mask", audited, *words, "--out", own.parent / "out").status == 0
