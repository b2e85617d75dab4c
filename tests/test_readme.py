"""The README's examples run, its commands exist, and its lists are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from neurosens_fast.cli import main
from neurosens_fast.statistics import METRICS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def run_examples(page: str) -> dict[str, Any]:
    """The names that all blocks of a page leave, run in order."""
    namespace: dict[str, Any] = {}
    for block in python_blocks((ROOT / page).read_text(encoding="utf-8")):
        exec(compile(block, page, "exec"), namespace)
    return namespace


def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in one namespace, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    assert len(python_blocks(README)) == 8
    namespace = run_examples("README.md")
    written = {"neurons.csv", "audit.safetensors", "sensitivity.png", "report.html", "masking.png", "large"}
    assert {path.name for path in tmp_path.iterdir()} == {*written, "page.html"}
    assert namespace["report"].sensitivity["relu2"].shape == (32,)
    assert namespace["features"].shape == (8, 32, 6, 6)
    assert [row.layer for row in namespace["comparison"].layers] == list(namespace["report"].layers)
    assert {path.name for path in (tmp_path / "large").iterdir()} == {"audit.safetensors", "scores"}
    assert namespace["large"].class_sensitivity["relu2"].shape == (10, 32)
    assert namespace["dropout"].score().shape == (16,)
    assert namespace["repaired"].test.samples == 139
    assert namespace["explorer"].explorations[0].neurons == 128
    assert namespace["benign"].grad is not None


def test_examples_of_auditing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the page on auditing, likewise."""
    monkeypatch.chdir(tmp_path)
    namespace = run_examples("docs/auditing.md")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "scores"}
    assert len(namespace["table"]) == 200
    assert namespace["differences"].samples == 200


def test_examples_of_fragility_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the page on fragile neurons, likewise, and what their comments say."""
    monkeypatch.chdir(tmp_path)
    namespace = run_examples("docs/fragility.md")
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"run/fragility.safetensors", "targeting.png", "filter.png"}
    assert namespace["dropout"].notes[0].startswith("what comes before bn1 was computed once")
    assert namespace["plain"].notes == ("the whole model ran for each neuron: as was asked for",)
    assert namespace["targeting"].histogram.shape == (1, 16)
    assert namespace["sweep"].test.conditions == (("clean", 0.0), ("FGSM", 0.1), ("PGD", 0.1))
    assert namespace["filtered"].accuracy().shape == (2, 10)


def test_examples_of_the_explorer_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the page on the explorer, likewise."""
    monkeypatch.chdir(tmp_path)
    namespace = run_examples("docs/explorer.md")
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "both.html"}
    assert [one.name for one in namespace["both"].explorations] == ["two epochs", "one epoch"]
    assert 0 <= namespace["most"] < 128


COMMANDS = [shlex.split(line) for line in re.findall(r"^neurosens-fast (.*)$", README, re.M)]


def test_commands_and_their_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert [words[0] for words in COMMANDS] == [
        *("audit", "show", "audit", "compare", "layers", "mask", "audit"),
        *("fragility", "explore", "attack", "train", "audit"),
    ]
    for name, *words in COMMANDS:
        assert main([name, "--help"]) == 0
        explained = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert f" {option} " in explained, (name, option)


@pytest.mark.slow
def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After a short demo, every command of the README in order, as it stands there."""
    monkeypatch.chdir(tmp_path)
    for words in (["demo", "--epochs", "2", "--steps", "2"], *COMMANDS):
        assert main(words) == 0, capsys.readouterr().err
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "run1/audit.safetensors",
        "run1/neurons.csv",
        "run1/report.html",
        "ranked.csv",
        "relative.html",
        "run1-run2/comparison.png",
        "run1-mask/masking.png",
        "run3/classes.csv",
        "run3/scores/part-000000000000.parquet",
        "run5/report.md",
        "run5/correlations.csv",
        "run5/repaired.safetensors",
        "page.html",
        "run1-attack/attacks.csv",
        "run1-trades/best.safetensors",
        "run1-trades-audit/audit.safetensors",
    } <= written


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make ([a-z-]+)", README, re.M) + re.findall(r"`make ([a-z-]+)`", README)
    assert {"demo", "test", "gpu"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_metrics_are_listed() -> None:
    listed = re.search(r"METRICS` lists(.*?)\n\n", README, re.S)
    assert listed
    named = set(re.findall(r"`([a-z_0-9]+)`", listed[1]))
    assert named == {re.sub(r"_(benign|adversarial)$", "", name) for name in METRICS}


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
