"""``neurosens-fast audit``: what it measures, writes, prints and passes on."""

from __future__ import annotations

import base64
import csv
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.data import digits
from neurosens_fast.models import load_model
from neurosens_fast.statistics import METRICS

from .conftest import Run

DIGITS = ("audit", "--model", "digits-cnn", "--data", "digits")
TEST_SPLIT = "scikit-learn digits, test split of seed 0"
FILES = ["audit.safetensors", "neurons.csv", "report.html", "report.md", "sensitivity.png"]


def test_writes_the_report_that_python_gives(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    result = run(*DIGITS, "--attack", "fgsm", "--eps", "1/4", "--layers", "relu*,fc4", "--top", "3", "--out", out)
    assert (result.status, result.err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == FILES
    report = AuditReport.load(out / "audit.safetensors")
    split, model = digits(), load_model("digits-cnn")
    data = split.test_images, split.test_labels
    expected = audit(model, data, FGSM(model, eps=0.25), ["relu*", "fc4"], progress=False)
    assert list(report.layers) == ["relu1", "relu2", "relu3", "fc4", "relu4"]
    for layer, values in expected.sensitivity.items():
        torch.testing.assert_close(report.sensitivity[layer], values, rtol=1e-6, atol=1e-9)
    assert report.adversarial_accuracy == expected.adversarial_accuracy
    with (out / "neurons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == report.neurons
    assert set(METRICS) <= rows[0].keys()
    assert matplotlib.image.imread(out / "sensitivity.png").std() > 0.05
    assert "(sensitivity.png)" in (out / "report.md").read_text(encoding="utf-8")
    picture = base64.b64encode((out / "sensitivity.png").read_bytes()).decode()
    assert f"data:image/png;base64,{picture}" in (out / "report.html").read_text(encoding="utf-8")
    for text in (
        "model    digits-cnn, random weights (seed 0); 57,594 parameters",
        f"data     {TEST_SPLIT}",
        "attack   FGSM(eps=0.25)",
        "layers   relu*, fc4: 5 modules",
        "audit    368 neurons in 5 layers, 539 pairs",
        f"accuracy {report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial",
        "The 3 neurons with the largest sensitivity",
        "dead, 0 for every sample",
    ):
        assert text in result.out
    assert max(map(len, result.out.splitlines()[:-1])) <= 80  # the last line holds a path


class _SeenError(Exception):
    """Raised in place of the audit."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that the command hands to ``audit``."""
    arguments: dict[str, Any] = {}

    def spy(model: Any, data: Any, attack: Any, layers: Any, **others: Any) -> None:
        arguments.update(others, model=model, data=data, attack=attack, layers=layers)
        raise _SeenError

    monkeypatch.setattr("neurosens_fast.audit.audit", spy)
    return arguments


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        ("", "layers", ["activations"]),
        ("--layers norms,conv1 --layers relu*", "layers", ["norms", "conv1", "relu*"]),
        ("--channel-dim relu*=1 --channel-dim relu4=-1", "channel_dims", {"relu*": 1, "relu4": -1}),
        ("--batch-size 7", "batch_size", 7),
        ("--max-samples 7", "max_samples", 7),
        ("--max-samples 7 --seed 3", "data_description", f"{TEST_SPLIT}, 7 of 539 drawn by seed 3"),
        ("--split train", "data_description", "scikit-learn digits, training split of seed 0"),
        ("--device cpu", "device", torch.device("cpu")),
        ("--device cpu:0", "device", torch.device("cpu")),
        ("--dtype bfloat16", "dtype", torch.bfloat16),
        ("", "dtype", torch.float32),
        ("--seed 9", "seed", 9),
        ("--seed 9", "model_description", "digits-cnn, random weights (seed 9)"),
        ("--normalize 0.5/0.25", "model_description", "digits-cnn, random weights (seed 0), normalised 0.5/0.25"),
        ("", "progress", True),
        ("--no-progress", "progress", False),
        ("--quiet", "progress", False),
        ("", "attack", "PGD(eps=0.0313725, alpha=0.00784314, steps=10, random_start=True, norm='linf')"),
        ("--eps 0.5 --steps 5", "attack", "PGD(eps=0.5, alpha=0.25, steps=5, random_start=True, norm='linf')"),
        (
            "--eps 2 --alpha 1/4 --norm l2 --no-random-start",
            "attack",
            "PGD(eps=2, alpha=0.25, steps=10, random_start=False, norm='l2')",
        ),
        ("--attack none", "attack_description", "none, inputs unchanged"),
    ],
)  # fmt: skip
def test_options_reach_the_audit(
    words: str, name: str, expected: object, seen: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    assert run(*DIGITS, *words.split(), "--out", tmp_path / "out").status == 1
    value = repr(seen[name]) if name == "attack" else seen[name]
    assert value == expected


def test_options_reach_the_model(seen: dict[str, Any], run: Run, own: Path) -> None:
    words = ("--model", f"{own}:build", "--data", f"{own}:load", "--num-classes", "7", "--dtype", "float64")
    run("audit", *words, "--threads", "1", "--out", own.parent / "out")
    assert seen["model"](torch.zeros(1, 3, 8, 8, dtype=torch.float64)).shape == (1, 7)
    assert torch.get_num_threads() == 1


def test_downloads_only_on_request(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    asked: list[dict[str, bool]] = []

    def spy(spec: str, **options: bool) -> None:
        asked.append(options)
        raise ValueError("not now")

    monkeypatch.setattr("neurosens_fast.data.load_data", spy)
    for words in ((), ("--download",), ("--split", "train")):
        run("audit", "--model", "mnist-cnn", "--data", f"mnist:{tmp_path}", *words, "--out", tmp_path / "out")
    assert [options["download"] for options in asked] == [False, True, False]
    assert [options["train"] for options in asked] == [False, False, True]


def test_samples_are_drawn_from_all(seen: dict[str, Any], run: Run, tmp_path: Path) -> None:
    run(*DIGITS, "--max-samples", "60", "--seed", "1", "--out", tmp_path / "out")
    images = digits().test_images
    drawn = torch.stack([image for image, _ in seen["data"]])
    places = [int((images == image).flatten(1).all(1).nonzero()[0]) for image in drawn]
    assert len(drawn) == len(set(places)) == 60
    assert places == sorted(places)
    assert places != list(range(60))


def test_no_attack_moves_nothing(run: Run, tmp_path: Path) -> None:
    assert run(*DIGITS, "--attack", "none", "--max-samples", "9", "--quiet", "--out", tmp_path).out == ""
    report = AuditReport.load(tmp_path / "audit.safetensors")
    assert all((values == 0).all() for values in report.sensitivity.values())
    assert report.samples == 9


def test_a_file_of_ones_own(run: Run, own: Path) -> None:
    words = [
        f"--{name}={own}:{function}" for name, function in (("model", "build"), ("data", "load"), ("attack", "noise"))
    ]
    result = run("audit", *words, "--max-samples", "7", "--batch-size", "3", "--out", own.parent / "out")
    assert (result.status, result.err) == (0, "")
    report = AuditReport.load(own.parent / "out" / "audit.safetensors")
    assert list(report.layers) == ["1.relu", "1.relu#2"]
    assert report.samples == 7
    assert report.attack.startswith("own.py:noise (sha256 ")
    assert "note     functions cannot be tapped: F.gelu in '1' (Block); write it as a module" in result.out


def test_results_are_replaced_only_on_request(run: Run, tmp_path: Path) -> None:
    for name in FILES:
        out = tmp_path / name.partition(".")[2]
        out.mkdir()
        (out / name).write_text("mine")
        words = (*DIGITS, "--attack", "none", "--max-samples", "2", "--out", out)
        result = run(*words)
        assert result == (2, "", result.err)
        assert f"already holds {name}; choose another folder for --out, or add --overwrite" in result.err
        assert (out / name).read_text() == "mine"
        assert run(*words, "--overwrite").status == 0
        assert AuditReport.load(out / "audit.safetensors").samples == 2
