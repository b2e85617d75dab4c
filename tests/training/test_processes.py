"""Two processes, each with half of every batch, train as one process with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neurosens_fast.training import checkpoints as files
from neurosens_fast.training import fit
from tests.processes import run_processes, together

from .networks import QUICK, data, network

METHODS = ("pgd-at", "trades", "sns", "vulnerability")

SCRIPT = """
    from neurosens_fast.training import fit
    from tests.training.networks import QUICK, data, network

    for method in ("pgd-at", "trades", "sns", "vulnerability"):
        model = network(norm=False, dtype=torch.float64)
        (x, y), (x_val, y_val) = data()
        fit(
            model, (x.double(), y), (x_val.double(), y_val), method, 2, out=folder / method, keep="last",
            progress=False, **QUICK,
        )
        torch.save(model.state_dict(), folder / f"{method}-{rank}.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    run_processes(SCRIPT, place)
    return place


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one(folder: Path, method: str, tmp_path: Path) -> None:
    model = network(norm=False, dtype=torch.float64)
    (x, y), (x_val, y_val) = data()
    result = fit(
        model, (x.double(), y), (x_val.double(), y_val), method, 2, out=tmp_path, keep="last", progress=False, **QUICK
    )
    shares = [torch.load(folder / f"{method}-{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in model.state_dict().items():
        assert torch.equal(shares[0][name], shares[1][name])
        torch.testing.assert_close(shares[0][name], value, rtol=1e-8, atol=1e-10)
    theirs = (folder / method / files.LOG).read_text().splitlines()[1:]
    ours = (tmp_path / files.LOG).read_text().splitlines()[1:]
    for first, second in zip(theirs, ours, strict=True):
        assert [float(cell or "nan") for cell in first.split(",")[:8]] == pytest.approx(
            [float(cell or "nan") for cell in second.split(",")[:8]], rel=1e-8, nan_ok=True
        )
    assert result.history[-1].epoch == 2


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    words = "train --method sns --data digits --eps 0.1 --steps 1 --val-steps 1 --epochs 1 --threads 1 --out"
    started = together(*words.split(), tmp_path / "out")
    outputs, errors = zip(*(process.communicate() for process in started), strict=True)
    assert [process.wait() for process in started] == [0, 0], errors
    assert "".join(outputs).count("epoch   1/1") == 1
    assert load_file(tmp_path / "out" / files.BEST)
