"""``neurosens-fast attack``: what Python gives, as files and a table."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
from safetensors.torch import save_file

from neurosens_fast.attacks import APGD, FGSM
from neurosens_fast.data import digits
from neurosens_fast.demo import train_digits
from neurosens_fast.models import load_model
from neurosens_fast.robustness import robust_accuracy

from .conftest import Run

DIGITS = ("attack", "--model", "digits-cnn", "--data", "digits", "--max-samples", "40")


def test_writes_what_python_gives(run: Run, tmp_path: Path) -> None:
    split = digits()
    weights = tmp_path / "trained.safetensors"
    save_file(train_digits(split, epochs=2, seed=0).state_dict(), weights)
    words = ("--model", "digits-cnn", "--data", "digits", "--weights", weights, "--eps", "0.1", "--steps", "5")
    result = run("attack", *words, "--attack", "fgsm,apgd-dlr", "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    files = ["attacks.csv", "robustness.json", "samples.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    model = load_model("digits-cnn", weights=weights)
    attacks = {"fgsm": FGSM(model, 0.1), "apgd-dlr": APGD(model, 0.1, 5, loss="dlr", seed=0)}
    report = robust_accuracy(model, (split.test_images, split.test_labels), attacks, progress=False)
    found = pandas.read_csv(tmp_path / "out" / "attacks.csv").drop(columns=["seconds", "how"])
    expected = report.to_pandas().drop(columns=["seconds", "how"])
    pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    facts = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert facts["worst_case_accuracy"] == report.worst_case_accuracy
    assert len(pandas.read_csv(tmp_path / "out" / "samples.csv")) == report.samples == 539
    clean, worst = report.clean_accuracy, report.worst_case_accuracy
    assert f"accuracy {clean:.1%} clean, {worst:.1%} in the worst case, 539 samples" in result.out
    row = next(line.split() for line in result.out.splitlines() if line.startswith("apgd-dlr"))
    assert row[1] == f"{report.outcomes[1].accuracy:.1%}"
    assert max(len(line) for line in result.out.splitlines() if str(tmp_path) not in line) <= 80


def test_switches_reach_the_attacks(run: Run, tmp_path: Path) -> None:
    switched = run(*DIGITS, "--steps", "2", "--compaction", "--dtype", "bfloat16", "--out", tmp_path / "a")
    assert "compaction=True" in switched.out
    assert "bfloat16" in switched.out
    assert "exact=True" in run(*DIGITS, "--steps", "2", "--exact", "--out", tmp_path / "b").out


def test_cascade_and_own_attacks(run: Run, own: Path, tmp_path: Path) -> None:
    words = ("attack", f"--model={own}:build", f"--data={own}:load", f"--attack=fgsm,{own}:noise", "--cascade")
    result = run(*words, "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    assert "after each attack" in result.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--attack fgsm,pdg", "unknown attack 'pdg'; did you mean pgd?"),
        ("--attack fgsm,square --steps 3", "--steps says nothing to --attack fgsm,square; leave it out"),
        ("--exact --compaction", "--exact leaves no room for --compaction; drop one"),
        ("--exact --dtype bfloat16", "--exact leaves no room for --dtype bfloat16; drop one"),
        ("--dtype float16", "--dtype float16 says nothing to attacks"),
        ("--attack apgd-ce --norm l1", "norm must be one of 'linf', 'l2', got 'l1'"),
    ],
)
def test_typed_wrong(words: str, text: str, run: Run, tmp_path: Path) -> None:
    result = run(*DIGITS, *words.split(), "--out", tmp_path / "out")
    assert (result.status, result.out) == (2, "")
    assert text in " ".join(result.err.split())
    assert not (tmp_path / "out").exists()


def test_masked_gradients_are_noted(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "masked.py"
    own.write_text(
        "from torch import nn\nfrom neurosens_fast.data import digits\nfrom neurosens_fast.demo import train_digits\n"
        "class Rounded(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = train_digits(digits(), 2, 0)\n"
        "    def forward(self, x):\n        return self.net((x * 16).round() / 16)\n"
        "def build():\n    return Rounded()\n"
    )
    words = ("attack", f"--model={own}:build", "--data", "digits", "--max-samples", "100", "--eps", "0.15")
    result = run(*words, "--attack", "pgd,square", "--queries", "60", "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    text = " ".join(result.out.split())
    assert "note the gradient of 100 of 100 samples in the first batch is zero" in text
    assert "its gradients are probably masked" in text
