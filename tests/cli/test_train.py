"""``neurosens-fast train``: what Python gives, as files; and an audit of the result at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neurosens_fast.data import load_data
from neurosens_fast.models import load_model
from neurosens_fast.training import METHODS, fit, held_out

from .conftest import Run

QUICK = ("train", "--data", "digits", "--max-samples", "200", "--epochs", "2", "--steps", "1", "--val-steps", "1")
FILES = ["best.safetensors", "checkpoint.safetensors", "last.safetensors", "log.csv", "training.json"]


def test_writes_what_python_gives(run: Run, tmp_path: Path) -> None:
    words = ("train", "--method", "sns", "--data", "digits", "--epochs", "1", "--eps", "0.1", "--steps", "1")
    more = (
        "-k",
        "0.2",
        "--weight",
        "2",
        "--distance",
        "mse",
        "--layers",
        "relu1,relu4",
        "--optimizer",
        "adam",
        "--seed",
        "3",
    )
    result = run(*words, *more, "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    model = load_model("digits-cnn", seed=3)
    images, labels = load_data("digits", train=True).dataset.tensors
    train, val = held_out(images, labels, share=0.1, seed=3)
    fit(
        model, train, val, "sns", 1, eps=0.1, steps=1, k=0.2, weight=2.0, distance="mse", layers=("relu1", "relu4"),
        optimizer="adam", seed=3, progress=False,
    )  # fmt: skip
    found = load_file(tmp_path / "out" / "best.safetensors")
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    assert "sensitive neuron stabilising (Zhang et al., IEEE TIP 2021)" in result.out
    assert "epoch   1/1  loss" in result.out
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["method"] == "sns"
    assert facts["settings"]["layers"] == ["relu1", "relu4"]
    assert max(len(line) for line in result.out.splitlines() if str(tmp_path) not in line) <= 100


def test_the_result_can_be_audited_at_once(run: Run, tmp_path: Path) -> None:
    assert run(*QUICK, "--out", tmp_path / "a", "-q").out == ""
    words = ("audit", "--model", "digits-cnn", "--data", "digits", "--max-samples", "20", "--attack", "fgsm")
    for name in ("best", "last"):
        result = run(*words, "--weights", tmp_path / "a" / f"{name}.safetensors", "--out", tmp_path / name)
        assert (result.status, result.err) == (0, "")


def test_fine_tuning_resuming_and_replacing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert run(*QUICK, "--out", folder).status == 0
    first = load_file(folder / "last.safetensors")
    assert "already holds best.safetensors" in run(*QUICK, "--out", folder).err
    again = run(*QUICK, "--resume", "--out", folder)
    assert (again.status, again.err) == (0, "")
    assert all(torch.equal(first[name], value) for name, value in load_file(folder / "last.safetensors").items())
    other = run(*QUICK, "--method", "trades", "--resume", "--out", folder)
    assert other.status == 2
    assert "is of another method: 'sns', not 'trades'" in other.err
    tuned = run(*QUICK, "--weights", folder / "best.safetensors", "--lr", "0.001", "--out", tmp_path / "b")
    assert (tuned.status, tuned.err) == (0, "")
    assert run(*QUICK, "--method", "standard", "--overwrite", "--out", folder).status == 0
    assert not torch.equal(first["conv1.weight"], load_file(folder / "last.safetensors")["conv1.weight"])


def test_own_data_and_models(run: Run, own: Path, tmp_path: Path) -> None:
    words = (
        "train",
        "--method",
        "pgd-at",
        f"--model={own}:build",
        f"--data={own}:load",
        "--epochs",
        "1",
        "--steps",
        "1",
    )
    result = run(*words, "--val-share", "0.3", "--out", tmp_path / "a")
    assert (result.status, result.err) == (0, "")
    assert "6 samples, 3 more for validation" in " ".join(result.out.split())
    assert run(*words, f"--val-data={own}:load", "--out", tmp_path / "b").status == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--method", "snss"), "unknown method 'snss'"),
        (("--val-share", "0"), "--val-share 0 leaves no validation data; give a share, or --val-data DATA"),
        (("--resume", "--overwrite"), "--resume goes on with what --overwrite would replace; drop one"),
        (("--resume",), "to go on from; train without resume first"),
        (("--distance", "l7"), "Invalid value for '--distance'"),
        (("-k", "0"), "k must be at least 1, got 0"),
        (("-k", "2.5"), "neither a count nor a share"),
        (("--data", "own.py:load", "--model", "digits-cnn"), "there is no file"),
        (("--data", "imagefolder:nowhere"), "say which model to train on imagefolder:nowhere: --model MODEL"),
        (("--model", "mnist-cnn"), "digits"),
        (("--norm", "l2", "--method", "fast"), "takes steps in the Linf ball only"),
    ],
)
def test_typed_wrong(run: Run, tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    result = run(*QUICK, *words, "--out", tmp_path / "out")
    assert result.status == 2
    assert text in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_help_names_every_method(run: Run) -> None:
    text = " ".join(run("train", "--help").out.split())
    assert all(name in text for name in METHODS)
