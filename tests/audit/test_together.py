"""An audit by several processes is the audit by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.checkpoint import unfinished
from neurosens_fast.support.names import REPORT
from tests.processes import ROOT, run_processes, together

from .conftest import build

COUNTS = ("samples", "labelled", "correct_benign", "correct_adversarial")
PREPARE = """
    from neurosens_fast.attacks import PGD
    from neurosens_fast.audit import audit
    from tests.audit.conftest import build

    model = build()
    with torch.no_grad():
        model[0].weight[1, 0, 0, 0] = 3e38  # infinite for some samples, and not a number where two of them meet
    images = torch.rand(26, 1, 6, 6, generator=torch.Generator().manual_seed(8))
    images[9, 0, 0, 0] = 1e6
    labels = torch.arange(26) % 4

    def noise(x, y):
        return x + 0.1 * torch.rand_like(x)
"""

SCRIPT = (
    PREPARE
    + """
    for name, most, size in (("many", None, 4), ("few", 3, 4), ("uneven", 17, 5)):
        place = folder / f"{name}-{count}"
        place.mkdir(exist_ok=True)
        report = audit(
            model, (images, labels), noise, "all", batch_size=size, max_samples=most, checkpoint=place,
            distributed=True, progress=False, verify=False,
        )
        report.save(folder / f"{name}-{count}-{rank}.safetensors")
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("together")
    for count in (1, 2, 3):
        (place / "meeting").unlink(missing_ok=True)
        run_processes(SCRIPT, place, count)
    return place


@pytest.mark.parametrize("name", ["many", "few", "uneven"])
@pytest.mark.parametrize("count", [2, 3])
def test_the_report_of_all_processes(folder: Path, name: str, count: int) -> None:
    alone = AuditReport.load(folder / f"{name}-1-0.safetensors")
    assert alone.samples == {"many": 26, "few": 3, "uneven": 17}[name]
    if name != "few":
        assert any(row.statistics.maxima.isnan().any() for row in alone.layers.values())
    written = AuditReport.load(folder / f"{name}-{count}" / REPORT)
    assert not unfinished(folder / f"{name}-{count}")
    returned = [AuditReport.load(folder / f"{name}-{count}-{rank}.safetensors") for rank in range(count)]
    for report in (written, *returned):
        assert list(report.layers) == list(alone.layers)
        for what in (*COUNTS, "model", "attack", "data", "seeds"):
            assert getattr(report, what) == getattr(alone, what)
        for layer, row in alone.layers.items():
            found = report.layers[layer].statistics
            assert found.samples == row.statistics.samples == alone.samples
            torch.testing.assert_close(found.sums, row.statistics.sums, rtol=1e-9, atol=0, equal_nan=True)
            assert torch.equal(found.maxima.nan_to_num(), row.statistics.maxima.nan_to_num())
            assert torch.equal(found.maxima.isnan(), row.statistics.maxima.isnan())


def test_no_sample_in_any_process(tmp_path: Path) -> None:
    script = (
        PREPARE
        + """
    import pytest
    with pytest.raises(ValueError, match="data gave no sample"):
        audit(model, [], noise, "all", distributed=True, progress=False)
"""
    )
    run_processes(script, tmp_path)


def test_a_partner_that_is_gone_at_the_end(tmp_path: Path) -> None:
    script = (
        PREPARE
        + """
    import os
    import pytest
    if rank == 1:
        os._exit(0)
    with pytest.raises(RuntimeError, match="another process ended before all were done; what it says tells why"):
        audit(model, (images, labels), noise, distributed=True, progress=False, verify=False)
"""
    )
    run_processes(script, tmp_path)


def test_distributed_without_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="distributed=True needs a process group; call torch"):
        audit(build(), [], lambda x, y: x, distributed=True)


def test_one_process_alone_among_several(tmp_path: Path) -> None:
    script = (
        PREPARE
        + """
    if rank == 0:
        folder.joinpath("alone").mkdir()
        audit(model, (images, labels), noise, checkpoint=folder / "alone", progress=False, verify=False)
    torch.distributed.barrier()
"""
    )
    run_processes(script, tmp_path)
    assert (tmp_path / "alone" / REPORT).exists()


def torchrun(*words: str, count: int = 2) -> subprocess.Popen[str]:
    """``torchrun -m neurosens_fast WORDS``."""
    arguments = ["--nproc-per-node", str(count), "--master-port", "0", "-m", "neurosens_fast", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


DATA = """
import time
import torch

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 160

    def __getitem__(self, index):
        time.sleep(0.02)
        return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index)), index % 10

def load():
    return Slow()
"""


@pytest.mark.slow
def test_a_process_that_dies(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(DATA)
    out = tmp_path / "out"
    words = (
        *("audit", "--model", "digits-cnn", "--data", f"{tmp_path / 'data.py'}:load", "--attack", "fgsm"),
        *("--batch-size", "4", "--threads", "1", "--save-every", "0", "--out"),
    )
    started = torchrun(*words, str(out))
    try:
        deadline = time.monotonic() + 100
        while len(unfinished(out)) < 2:
            assert started.poll() is None, started.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        _, errors = started.communicate(timeout=100)
    finally:
        started.kill()
    assert started.returncode != 0
    lines = [line for line in errors.splitlines() if line.startswith("neurosens-fast:")]
    assert lines == [
        "neurosens-fast: ended by SIGTERM, which torchrun sends when another process has failed; what was done is kept "
        f"in {out}, the same command with --resume goes on"
    ]
    assert len(unfinished(out)) == 2
    for end in ((str(out), "--resume"), (str(tmp_path / "whole"),)):
        processes = together(*words, *end)
        errors = "".join(process.communicate()[1] for process in processes)
        assert [process.wait() for process in processes] == [0, 0], errors
    assert not unfinished(out)
    assert (out / REPORT).read_bytes() == (tmp_path / "whole" / REPORT).read_bytes()


def test_processes_do_not_change_what_one_finds() -> None:
    images = torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(8))
    first = audit(build(), (images, torch.arange(9) % 4), lambda x, y: x + torch.rand_like(x), batch_size=4)
    second = audit(build(), (images, torch.arange(9) % 4), lambda x, y: x + torch.rand_like(x), batch_size=4)
    assert torch.equal(first.layers["2"].statistics.sums, second.layers["2"].statistics.sums)
