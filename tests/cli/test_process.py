"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from safetensors.torch import load_file

from neurosens_fast.audit import AuditReport
from neurosens_fast.statistics import METRICS
from tests.processes import ROOT, Process

PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}


def python(*words: str, folder: Path) -> tuple[int, str, str]:
    """Exit status, output and errors of ``python WORDS`` in ``folder``, an interpreter of its own with this package."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **PLAIN},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def run(*words: str, folder: Path) -> tuple[int, str, str]:
    """Exit status, output and errors of ``neurosens-fast WORDS`` in ``folder``."""
    process = Process(*words, folder=folder, environment=PLAIN)
    output, errors = process.communicate(300)
    return process.wait(), output, errors


@pytest.mark.slow
def test_demo_then_audit_and_show_of_its_network(tmp_path: Path) -> None:
    words = ("--out", "results/demo", "--epochs", "2", "--eps", "1/8", "--steps", "3", "--top", "4")
    status, output, errors = python("-m", "neurosens_fast", "demo", *words, folder=tmp_path)
    assert (status, errors) == (0, "")
    folder = tmp_path / "results" / "demo"
    written = ["audit.safetensors", "explorer.html", "model.safetensors", "neurons.csv", "sensitivity.png"]
    assert sorted(path.name for path in folder.iterdir()) == written
    report = AuditReport.load(folder / "audit.safetensors")
    assert list(report.layers)[::3] == ["conv1", "conv2", "conv3", "fc4"]
    assert len(report.layers) == 12
    assert report.clean_accuracy > 0.9
    assert report.adversarial_accuracy < report.clean_accuracy - 0.1
    assert report.samples == report.labelled == 539
    assert "PGD(eps=0.125, alpha=0.104167, steps=3, " in output
    assert f"{report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial" in output
    ranked = output[output.index("The 4 neurons with the largest sensitivity") :]
    shown = [cells for cells in map(str.split, ranked.splitlines()) if cells[3:4] == ["of"]]
    expected = [(row.layer, str(row.neuron), f"{row.value:.4f}") for row in report.top(4)]
    assert [(cells[0], cells[1], cells[5]) for cells in shown] == expected
    assert max(map(len, output.splitlines())) <= 80
    with (folder / "neurons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert set(METRICS) | {"layer", "neuron", "rank"} <= rows[0].keys()
    assert matplotlib.image.imread(folder / "sensitivity.png").std() > 0.05
    assert load_file(folder / "model.safetensors")["conv1.weight"].shape == (16, 1, 3, 3)

    subject = ("--model", "digits-cnn", "--weights", "results/demo/model.safetensors", "--data", "digits")
    same = ("--attack", "pgd", "--eps", "1/8", "--alpha", "0.10416666666666667", "--steps", "3")
    status, _, errors = run("audit", *subject, *same, "--out", "run1", folder=tmp_path)
    assert (status, errors) == (0, "")
    second = AuditReport.load(tmp_path / "run1" / "audit.safetensors")
    assert list(second.layers) == ["relu1", "relu2", "relu3", "relu4"]
    assert (second.clean_accuracy, second.adversarial_accuracy) == (report.clean_accuracy, report.adversarial_accuracy)
    for layer, values in second.sensitivity.items():
        torch.testing.assert_close(values, report.sensitivity[layer])
    status, output, errors = run("show", "run1", "--layers", folder=tmp_path)
    assert (status, errors) == (0, "")
    assert "model    digits-cnn, weights model.safetensors (sha256 " in output


def test_typed_wrong(tmp_path: Path) -> None:
    status, output, errors = python("-m", "neurosens_fast", "demo", "--eps", "eight", folder=tmp_path)
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert "'eight' is not a number of at least 0; write 0.03 or 8/255" in errors
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C in the second batch: one line that says what is kept, status 130."""
    (tmp_path / "own.py").write_text(
        "import os, signal, time\n"
        "def attack(model):\n"
        "    seen = []\n"
        "    def run(x, y):\n"
        "        seen.append(x)\n"
        "        if len(seen) == 2:\n"
        f"            os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "            time.sleep(60)\n"
        "        return x\n"
        "    return run\n"
    )
    words = ("--model", "digits-cnn", "--data", "digits", "--attack", "own.py:attack", "--out", "run")
    status, _, errors = run("audit", *words, folder=tmp_path)
    said = "neurosens-fast: interrupted; what was done is kept in run, the same command with --resume goes on\n"
    assert (status, errors) == (130, said)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["audit.unfinished-0-of-1.safetensors"]


def test_importing_the_package_needs_torch_and_numpy_only(tmp_path: Path) -> None:
    late = ("safetensors", "typer", "rich", "pandas", "matplotlib", "sklearn", "torchvision", "timm")
    code = (
        "import sys, neurosens_fast, neurosens_fast.audit, neurosens_fast.audit.tables, neurosens_fast.demo\n"
        "import neurosens_fast.reproduce\n"
        "import neurosens_fast.attacks, neurosens_fast.data, neurosens_fast.models, neurosens_fast.training\n"
        f"assert not [name for name in {late!r} if name in sys.modules], 'imported too early'"
    )
    status, _, errors = python("-c", code, folder=tmp_path)
    assert (status, errors) == (0, "")


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from neurosens_fast.cli import main\n"
        "assert main(['audit', '--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'imported too early'"
    )
    status, _, errors = python("-c", code, folder=tmp_path)
    assert (status, errors) == (0, "")
