"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch

from neurosens_fast.audit import AuditReport
from neurosens_fast.cli import main
from neurosens_fast.data import Split, digits
from neurosens_fast.statistics import METRICS

ROOT = Path(__file__).parents[2]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python -m neurosens_fast ARGUMENTS`` in ``folder``."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "neurosens_fast", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_demo_prints_and_writes_what_it_says(tmp_path: Path) -> None:
    result = run(
        "demo", "--out", "results/demo", "--epochs", "3", "--eps", "1/8", "--steps", "3", "--top", "4", folder=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "")
    folder = tmp_path / "results" / "demo"
    assert sorted(path.name for path in folder.iterdir()) == ["audit.safetensors", "neurons.csv", "sensitivity.png"]
    report = AuditReport.load(folder / "audit.safetensors")
    assert report.clean_accuracy > 0.9
    assert report.adversarial_accuracy < report.clean_accuracy - 0.1
    assert report.samples == report.labelled == 539
    assert "PGD(eps=0.125, alpha=0.104167, steps=3, " in result.stdout
    assert f"{report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial" in result.stdout
    for layer in report.layers:
        assert f" {layer} " in result.stdout
    ranked = result.stdout[result.stdout.index("The 4 neurons with the largest sensitivity") :]
    shown = [line.split() for line in ranked.splitlines() if line.split()[2:3] and line.split()[2].isdigit()]
    expected = [(row.layer, str(row.neuron), str(row.rank), f"{row.value:.4f}") for row in report.top(4)]
    assert [(cells[0], cells[1], cells[2], cells[6]) for cells in shown] == expected
    assert max(map(len, result.stdout.splitlines())) <= 80
    with (folder / "neurons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert set(METRICS) | {"layer", "neuron", "rank"} <= rows[0].keys()
    best = min(rows, key=lambda row: int(row["rank"]))
    assert (best["layer"], int(best["neuron"])) == (report.top(1)[0].layer, report.top(1)[0].neuron)
    assert matplotlib.image.imread(folder / "sensitivity.png").std() > 0.05


def test_typed_wrong_in_a_process(tmp_path: Path) -> None:
    result = run("demo", "--eps", "eight", folder=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "'eight' is not a number of at least 0; write 0.03 or 8/255" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_needs_torch_and_numpy_only() -> None:
    late = ("safetensors", "typer", "rich", "pandas", "matplotlib", "sklearn", "torchvision")
    code = (
        "import sys, neurosens_fast, neurosens_fast.audit, neurosens_fast.attacks, neurosens_fast.demo\n"
        f"assert not [name for name in {late!r} if name in sys.modules], 'imported too early'"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmeo"], "No such command 'dmeo'"),
        (["demo", "--frobnicate"], "No such option: --frobnicate"),
        (["demo", "--epochs", "0"], "--epochs"),
        (["demo", "--epochs"], "--epochs"),
        (["demo", "--eps", "-1"], "'-1' is not a number of at least 0"),
        (["demo", "--eps", "1/0"], "'1/0' is not a number of at least 0"),
        (["demo", "--eps", "nan"], "'nan' is not a number"),
        (["demo", "--seed", "x"], "--seed"),
        (["demo", "extra"], "extra"),
        (["demo", "--out", "FILE"], "is a file"),
        (["demo", "--out", "FILE/sub"], "cannot write to the folder"),
    ],
)
def test_typed_wrong(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    arguments = [argument.replace("FILE", str(tmp_path / "file")) for argument in arguments]
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("neurosens-fast: ")
    assert streams.err.count("\n") == 1
    assert message in streams.err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ([], "demo"),
        (["--help"], "Usage: neurosens-fast"),
        (["demo", "-h"], "8/255"),
        (["--version"], "neurosens-fast "),
        (["env"], str(torch.__version__)),
    ):
        assert main(arguments) == 0
        streams = capsys.readouterr()
        assert words in streams.out
        assert streams.err == ""


def test_other_failures_are_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, status, message in (
        (ModuleNotFoundError("type: pip install scikit-learn"), 1, "type: pip install scikit-learn"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):

        def fail(*arguments: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("neurosens_fast.demo.run_demo", fail)
        assert main(["demo"]) == status
        assert capsys.readouterr().err == f"neurosens-fast: {message}\n"


def test_demo_repeats_and_leaves_the_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from neurosens_fast.demo import run_demo

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
    state = torch.get_rng_state()
    for name in ("a", "b"):
        with (tmp_path / f"{name}.txt").open("w") as stream:
            run_demo(tmp_path / name, seed=5, epochs=1, steps=1, console=Console(file=stream))
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("audit.safetensors", "neurons.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
