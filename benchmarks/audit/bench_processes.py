"""A whole audit by two processes against one, on the CPU, with one thread each.

Two processes run together. In every round the first does the audit alone, while the other waits without work, then
both share it; then each multiplies the same matrices, alone and at the same time as the other, which tells what the
machine's cores give at most. A round ends for both when the slower one has ended. The report of both must be that of
one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import neurosens_fast
from neurosens_fast.benchmarking.contest import Contest, agreement
from neurosens_fast.benchmarking.results import OURS, Row
from neurosens_fast.benchmarking.timing import ratio

ALONE = "one process"

PROCESS = """
import json, sys, time
import torch
from torch import distributed
from neurosens_fast.attacks import PGD
from neurosens_fast.audit import audit
from neurosens_fast.models import load_model

meeting, rank, samples, rounds = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
images = torch.rand(samples, 1, 28, 28, generator=torch.Generator().manual_seed(0))
model = load_model("mnist-cnn")
matrix = torch.rand(512, 512)

def audited(shared):
    attack = PGD(model, eps=0.1, steps=5, seed=0)
    data = (images, torch.zeros(samples, dtype=torch.int64))
    return audit(model, data, attack, batch_size=32, distributed=shared, progress=False)

def multiplied(shared):
    for _ in range(samples // 16):
        matrix @ matrix

times = {name: [] for name in ("audit True", "audit False", "product True", "product False")}
reports = {}
for _ in range(rounds + 1):
    for name, work in (("audit", audited), ("product", multiplied)):
        for shared in (False, True):
            distributed.barrier()
            begin = time.perf_counter()
            if shared or rank == 0:
                reports[name, shared] = work(shared)
            distributed.barrier()
            times[f"{name} {shared}"].append(time.perf_counter() - begin)
if rank == 0:
    found = {name: seconds[1:] for name, seconds in times.items()}  # the first round warms up
    for shared in (True, False):
        report = reports["audit", shared]
        found[f"report {shared}"] = [report.samples, *map(torch.Tensor.tolist, report.sensitivity.values())]
    print(json.dumps(found))
distributed.destroy_process_group()
"""


def _answer(folder: Path, samples: int, rounds: int) -> dict[str, list[float]]:
    """What the first of two processes printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(neurosens_fast.__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder / "meeting"), str(rank), str(samples), str(rounds)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    found: dict[str, list[float]] = json.loads(answers[0])
    return found


def bench_processes(device: str, contest: Contest, tmp_path: Path) -> None:
    if device != "cpu":
        pytest.skip("the processes run on the CPU")
    samples = 64 if contest.quick else 1024
    found = _answer(tmp_path, samples, rounds=2 if contest.quick else 7)
    (count, *shared), (count_alone, *alone) = found["report True"], found["report False"]
    assert count == count_alone == samples
    agreed = agreement(map(torch.tensor, shared), map(torch.tensor, alone), rtol=1e-6)
    # Both do the whole of the products, so that twice the time of one alone is what one would need for both.
    most = ratio([2 * seconds for seconds in found["product False"]], found["product True"])
    contest.recorder.add(
        Row(
            "A whole audit by two processes of one thread each",
            {"model": "mnist-cnn", "attack": "PGD-5", "images": f"{samples:,} in batches of 32"},
            device,
            {OURS: found["audit True"], ALONE: found["audit False"]},
            agreed,
            rivals=(ALONE,),
            facts={f"{ALONE} / ours, of plain matrix products": str(most)},
        )
    )
    contest.benchmark.pedantic(lambda: None, rounds=1)  # the rounds above are the measurement
