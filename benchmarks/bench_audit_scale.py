"""A whole audit, attack included: time per sample against the number of samples, and by one and by two processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import audit
from neurosens_fast.models import load_model

from .interleaved import ratio, run_interleaved
from .memory import peak_bytes

COUNTS = (1_000, 5_000, 50_000)
ROOT = Path(__file__).parents[1]


def digits(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Random images in the shape of the digits."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, 8, 8, generator=generator).to(device)
    return images, torch.randint(0, 10, (count,), generator=generator).to(device)


def bench_samples(device: str, benchmark: Any, table: Any, tmp_path: Path) -> None:
    model = load_model("digits-cnn").to(device)
    attack = FGSM(model, eps=0.1)
    data = {count: digits(count, device) for count in COUNTS}

    def run(count: int) -> None:
        report = audit(model, data[count], attack, "all", batch_size=250, progress=False)
        assert report.samples == count

    others = {str(count): partial(run, count) for count in COUNTS[1:]}
    times = run_interleaved(benchmark, lambda: run(COUNTS[0]), others, device, seconds=60.0)
    times[str(COUNTS[0])] = times.pop("ours")
    per_sample = {count: [seconds / count for seconds in times[str(count)]] for count in COUNTS}
    for count in COUNTS:
        few = count <= 5_000  # the trace of more would fill the memory that it measures
        table(
            f"A whole audit of digits-cnn with FGSM, all layers, batches of 250, {device}",
            {
                "samples": f"{count:,}",
                "us per sample": f"{statistics.median(per_sample[count]) * 1e6:.0f}",
                "over that of 1,000": str(ratio(per_sample[count], per_sample[COUNTS[0]])),
                "peak MB": f"{peak_bytes(partial(run, count), device, tmp_path) / 1e6:.2f}" if few else "-",
            },
        )


PROCESS = """
import sys, time
from pathlib import Path
import torch
from neurosens_fast.attacks import PGD
from neurosens_fast.audit import audit
from neurosens_fast.models import load_model

folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count)
images = torch.rand(2048, 1, 28, 28, generator=torch.Generator().manual_seed(0))
model = load_model("mnist-cnn")
run = lambda: audit(
    model, (images, torch.zeros(2048, dtype=torch.int64)), PGD(model, eps=0.1, steps=5), batch_size=64,
    distributed=True, progress=False, verify=False,
)
run()
torch.distributed.barrier()
begin = time.perf_counter()
run()
print(time.perf_counter() - begin)
"""


def _seconds(folder: Path, count: int) -> float:
    (folder / "meeting").unlink(missing_ok=True)
    command = [sys.executable, "-c", PROCESS, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(count)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return max(map(float, answers))


def _spin(count: int) -> float:
    """Seconds that ``count`` processes take for the same arithmetic each: what this machine's cores give at most."""
    code = (
        "import torch, time; torch.set_num_threads(1); x = torch.rand(512, 512); b = time.perf_counter()\n"
        "for _ in range(150): x @ x\nprint(time.perf_counter() - b)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    return max(float(process.communicate()[0]) for process in processes)


def bench_processes(benchmark: Any, table: Any, tmp_path: Path) -> None:
    rounds: dict[str, list[float]] = {"audit 1": [], "audit 2": [], "spin 1": [], "spin 2": []}
    for _ in range(5):
        for count in (1, 2):
            rounds[f"audit {count}"].append(_seconds(tmp_path, count))
            rounds[f"spin {count}"].append(_spin(count))
    benchmark.pedantic(time.perf_counter, rounds=1)  # the rounds above are the measurement
    # Two processes that each do the whole work, against one: 2 is perfect.
    free = ratio([2 * seconds for seconds in rounds["spin 1"]], rounds["spin 2"])
    table(
        "An audit of mnist-cnn with PGD-5, 2,048 samples in batches of 64, one thread per process, cpu",
        {
            "1 process s": f"{statistics.median(rounds['audit 1']):.2f}",
            "2 processes s": f"{statistics.median(rounds['audit 2']):.2f}",
            "gain": str(ratio(rounds["audit 1"], rounds["audit 2"])),
            "gain of plain matrix products": str(free),
        },
    )
