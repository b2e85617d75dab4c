"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import torch
from safetensors.torch import load_file

from neurosens_fast.audit import AuditReport
from neurosens_fast.statistics import METRICS

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def python(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python WORDS`` in ``folder``, with this package."""
    environment = {**os.environ, "PYTHONPATH": PATH, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=heed_ctrl_c,
    )


def heed_ctrl_c() -> None:
    """Shells start what they run in the background deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``neurosens-fast WORDS`` in ``folder``."""
    return python("-m", "neurosens_fast", *words, folder=folder)


def test_demo_then_audit_and_show_of_its_network(tmp_path: Path) -> None:
    words = ("--out", "results/demo", "--epochs", "2", "--eps", "1/8", "--steps", "3", "--top", "4")
    result = run("demo", *words, folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    folder = tmp_path / "results" / "demo"
    written = ["audit.safetensors", "explorer.html", "model.safetensors", "neurons.csv", "sensitivity.png"]
    assert sorted(path.name for path in folder.iterdir()) == written
    report = AuditReport.load(folder / "audit.safetensors")
    assert list(report.layers)[::3] == ["conv1", "conv2", "conv3", "fc4"]
    assert len(report.layers) == 12
    assert report.clean_accuracy > 0.9
    assert report.adversarial_accuracy < report.clean_accuracy - 0.1
    assert report.samples == report.labelled == 539
    assert "PGD(eps=0.125, alpha=0.104167, steps=3, " in result.stdout
    assert f"{report.clean_accuracy:.1%} clean, {report.adversarial_accuracy:.1%} adversarial" in result.stdout
    ranked = result.stdout[result.stdout.index("The 4 neurons with the largest sensitivity") :]
    shown = [cells for cells in map(str.split, ranked.splitlines()) if cells[3:4] == ["of"]]
    expected = [(row.layer, str(row.neuron), f"{row.value:.4f}") for row in report.top(4)]
    assert [(cells[0], cells[1], cells[5]) for cells in shown] == expected
    assert max(map(len, result.stdout.splitlines())) <= 80
    with (folder / "neurons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert set(METRICS) | {"layer", "neuron", "rank"} <= rows[0].keys()
    assert matplotlib.image.imread(folder / "sensitivity.png").std() > 0.05
    assert load_file(folder / "model.safetensors")["conv1.weight"].shape == (16, 1, 3, 3)

    subject = ("--model", "digits-cnn", "--weights", "results/demo/model.safetensors", "--data", "digits")
    same = ("--attack", "pgd", "--eps", "1/8", "--alpha", "0.10416666666666667", "--steps", "3")
    again = run("audit", *subject, *same, "--out", "run1", folder=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    second = AuditReport.load(tmp_path / "run1" / "audit.safetensors")
    assert list(second.layers) == ["relu1", "relu2", "relu3", "relu4"]
    assert (second.clean_accuracy, second.adversarial_accuracy) == (report.clean_accuracy, report.adversarial_accuracy)
    for layer, values in second.sensitivity.items():
        torch.testing.assert_close(values, report.sensitivity[layer])
    show = run("show", "run1", "--layers", folder=tmp_path)
    assert (show.returncode, show.stderr) == (0, "")
    assert "model    digits-cnn, weights model.safetensors (sha256 " in show.stdout


def test_typed_wrong(tmp_path: Path) -> None:
    result = run("demo", "--eps", "eight", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "'eight' is not a number of at least 0; write 0.03 or 8/255" in result.stderr
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
    result = run("audit", *words, folder=tmp_path)
    said = "neurosens-fast: interrupted; what was done is kept in run, the same command with --resume goes on\n"
    assert (result.returncode, result.stderr) == (130, said)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["audit.unfinished-0-of-1.safetensors"]


def test_importing_the_package_needs_torch_and_numpy_only(tmp_path: Path) -> None:
    late = ("safetensors", "typer", "rich", "pandas", "matplotlib", "sklearn", "torchvision", "timm")
    code = (
        "import sys, neurosens_fast, neurosens_fast.audit, neurosens_fast.audit.tables, neurosens_fast.demo\n"
        "import neurosens_fast.reproduce\n"
        "import neurosens_fast.attacks, neurosens_fast.data, neurosens_fast.models, neurosens_fast.training\n"
        f"assert not [name for name in {late!r} if name in sys.modules], 'imported too early'"
    )
    result = python("-c", code, folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from neurosens_fast.cli import main\n"
        "assert main(['audit', '--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'imported too early'"
    )
    result = python("-c", code, folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
