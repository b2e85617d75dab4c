"""The three claims in one call: what is written, that it goes on where it stopped, what the verdicts say."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pandas
import pytest

from neurosens_fast.cli import main
from neurosens_fast.reproduce import WRITTEN, Plan, plan_for, reproduce
from neurosens_fast.reproduce.plan import COMPARED
from neurosens_fast.reproduce.verdicts import verdict_on_masking, verdict_on_robustness, verdict_on_sensitivity

SMALL: dict[str, Any] = {"epochs": 1, "steps": 1, "seeds": 2, "samples": 80, "test_samples": 24}


def command(folder: Path) -> int:
    words = ["--epochs", "1", "--steps", "1", "--seeds", "2", "--samples", "80", "--test-samples", "24"]
    return main(["reproduce", "--data", "digits", *words, "--out", str(folder)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small reproduction that was stopped in the middle and finished by the command; what it said."""
    folder = tmp_path_factory.mktemp("reproduction")
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if len(said) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce("digits", folder, say=stop, **SMALL)
    assert not (folder / "report.md").exists()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command(folder) == 0
    parts = [line.split()[2] for line in out.getvalue().splitlines() if " s  " in line]
    assert parts[0] == said[-1]  # what was under way begins anew, what was finished does not
    assert not set(parts) & set(said[:-1])
    return folder, out.getvalue()


@pytest.mark.slow
def test_files_and_tables(finished: tuple[Path, str]) -> None:
    assert {entry.name for entry in finished[0].iterdir() if entry.is_file()} == {*WRITTEN, "plan.json"}
    robustness = pandas.read_csv(finished[0] / "robustness.csv")
    assert list(robustness["method"]) == [method for method in COMPARED for _ in range(2)]
    assert (robustness["worst case"] <= robustness[["fgsm", "pgd-20", "apgd-ce", "apgd-dlr"]].min(axis=1)).all()
    assert (robustness[["clean", "worst case"]] <= 1).all().all()
    assert (robustness[["ebd", "ebd-2", "eni"]].dropna() >= 0).all().all()
    sensitivity = pandas.read_csv(finished[0] / "sensitivity.csv")
    assert len(sensitivity) == len(COMPARED) * 2 * 4
    overlap = pandas.read_csv(finished[0] / "overlap.csv")
    assert ((overlap["overlap"] >= 0) & (overlap["overlap"] <= 1)).all()
    selection = pandas.read_csv(finished[0] / "selection.csv")
    assert selection.groupby("method").size().to_dict() == {"alp": 2, "sns": 6, "trades": 2, "vulnerability": 3}
    for _, tried in selection.groupby("method"):
        assert tried["chosen"].sum() == 1
        assert tried.loc[tried["chosen"], "accuracy"].item() == tried["accuracy"].max()


@pytest.mark.slow
def test_the_report_begins_with_the_verdicts(finished: tuple[Path, str]) -> None:
    lines = (finished[0] / "report.md").read_text().splitlines()
    assert lines[0] == "# Neuron sensitivity: three claims, measured"
    assert [line[:2] for line in lines[2:5]] == ["1.", "2.", "3."]
    assert all("**" in line for line in lines[2:5])
    text = "\n".join(lines)
    assert all(f"({name})" in text for name in ("masking.png", "robustness.png", "sensitivity.png", "overlap.png"))
    assert "gradient evaluations" in text


@pytest.mark.slow
def test_equal_budget(finished: tuple[Path, str]) -> None:
    found = pandas.read_csv(finished[0] / "robustness.csv").groupby("method")["gradient evaluations"].first()
    assert found["standard"] == found["pgd-at"] == 64 * 2
    assert found["sns"] == 64 * 3


@pytest.mark.slow
def test_a_folder_of_another_plan_is_refused(finished: tuple[Path, str]) -> None:
    with pytest.raises(ValueError, match=r"holds a reproduction with eps 0\.15, not 0\.2"):
        reproduce("digits", finished[0], **SMALL, eps=0.2)


def test_plans() -> None:
    plan = Plan(epochs=12, steps=7)
    assert [plan.epochs_of(method) for method in COMPARED] == [96, 12, 11, 11, 11, 11]
    with pytest.raises(ValueError, match=r"say which model to train on own\.py:load"):
        plan_for("own.py:load")
    with pytest.raises(ValueError, match="seeds must be at least 2"):
        plan_for("digits", seeds=1)


@pytest.mark.slow
def test_what_the_command_says(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, said = finished
    assert all(f"claim {number}" in said for number in (1, 2, 3))
    assert "training-sns-seed1" in said
    assert command(folder) == 0  # all is there
    assert "training-" not in capsys.readouterr().out
    assert main(["reproduce", "--data", "digits", "--out", str(folder)]) == 2
    assert "choose another folder" in capsys.readouterr().err


def masking(gap: float) -> list[dict[str, Any]]:
    return [
        {"method": "m", "seed": seed, "order": order, "share": share, "adversarial_accuracy": 0.5 + sign * gap}
        for seed in range(2)
        for order, sign in (("most", -1), ("random", 0), ("least", 1))
        for share in (0.0, 0.1, 0.5, 1.0)
    ]


def test_verdicts_follow_the_rows() -> None:
    assert verdict_on_masking(masking(0.1)).answer == "holds"
    assert verdict_on_masking(masking(-0.1)).answer == "does not hold"
    near = masking(0.1)
    for row in near:
        row["adversarial_accuracy"] = 0.49 if row["order"] == "least" else row["adversarial_accuracy"]
    assert verdict_on_masking(near).answer == "holds"  # the claim is about the most sensitive ones
    mixed = masking(0.1)
    mixed[-1 - 4 - 4 - 1]["adversarial_accuracy"] = 0.9
    mixed[-1 - 4 - 4 - 2]["adversarial_accuracy"] = 0.9
    assert verdict_on_masking(mixed).answer == "undecided"
    rows: list[dict[str, Any]] = [
        {"method": method, "seed": seed, "worst case": 0.6 if method == "sns" else 0.5 + 0.2 * (seed and better)}
        for better in (0,)
        for method in COMPARED
        for seed in range(2)
    ]
    assert verdict_on_robustness(rows).answer == "holds"
    assert "+10.0 points against pgd-at [+10.0, +10.0]" in verdict_on_robustness(rows).reason
    for row in rows:
        row["worst case"] = 0.4 if row["method"] == "sns" and row["seed"] else row["worst case"]
    assert verdict_on_robustness(rows).answer == "undecided"
    layers: list[dict[str, Any]] = [
        {"method": method, "seed": seed, "layer": layer, "sensitivity": 1.0 if method == "standard" else 0.5}
        for method in COMPARED
        for seed in range(2)
        for layer in ("a", "b")
    ]
    assert verdict_on_sensitivity(layers).answer == "holds"
    assert "sns 0.50 [0.50, 0.50], lower in 2 of 2 layers" in verdict_on_sensitivity(layers).reason
    for row in layers:
        row["sensitivity"] = 1.5 if row["method"] == "alp" else row["sensitivity"]
    assert verdict_on_sensitivity(layers).answer == "holds in part"
