"""``neurosens-fast demo`` in this process; ``test_process`` runs it as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from neurosens_fast.data import Split, digits
from neurosens_fast.demo import run_demo

from .conftest import Run


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(seed: int) -> Split:
        full = digits(seed)
        return Split(
            full.train_images[:128],
            full.train_labels[:128],
            full.test_images[:40],
            full.test_labels[:40],
            "a few digits",
        )

    monkeypatch.setattr("neurosens_fast.demo.digits", few)


def test_repeats_and_leaves_the_random_state(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name in ("a", "b"):
        with (tmp_path / f"{name}.txt").open("w") as stream:
            run_demo(tmp_path / name, seed=5, epochs=1, steps=1, console=Console(file=stream))
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("audit.safetensors", "model.safetensors", "neurons.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_takes_every_kind_of_layer(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as stream:
        report = run_demo(tmp_path, epochs=1, steps=1, top=0, console=Console(file=stream))
    kinds = {layer.module_type for layer in report.layers.values()}
    assert kinds == {"Conv2d", "BatchNorm2d", "ReLU", "Linear"}


def test_results_elsewhere_are_replaced_only_on_request(run: Run, tmp_path: Path) -> None:
    (tmp_path / "audit.safetensors").write_text("mine")
    result = run("demo", "--out", tmp_path, "--epochs", "1", "--steps", "0", "--top", "0")
    assert result.status == 2
    assert "already holds audit.safetensors; choose another folder for --out, or add --overwrite" in result.err
    assert (tmp_path / "audit.safetensors").read_text() == "mine"
    result = run("demo", "--out", tmp_path, "--epochs", "1", "--steps", "0", "--top", "0", "--overwrite")
    assert result.status == 0
    assert "neurons with the largest" not in result.out
