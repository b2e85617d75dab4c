"""Two processes, each with half of the batch, train as one process with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from neurosens_fast.nn import SNSLoss

from .networks import batch, gradients, small

SAMPLES = 4
TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-7}}
SETTINGS: list[dict[str, Any]] = [
    {"k": 3},
    {"k": 0.3, "scope": "model", "norm": "mse"},
    {"k": 3, "refresh": 2, "select_by": "distance", "norm": "l2"},
]


def train(rank: int, world: int, dtype: torch.dtype, settings: dict[str, Any], wrapped: bool = True) -> list[Any]:
    """Gradients, chosen neurons and losses of two steps on this process's share of the batches."""
    model: Any = small("TappedReLU", dtype)
    inner = model
    if world > 1:
        model = DistributedDataParallel(model)
        settings = {**settings, "process_group": None if wrapped else dist.new_group()}
    sns = SNSLoss(model if wrapped else inner, **settings)
    assert sns.layers == ["act1", "act2", "act3"]
    found = []
    for seed in range(2):
        share = slice(rank * SAMPLES, (rank + 1) * SAMPLES) if world > 1 else slice(None)
        x, x_adv, y = (half[share] for half in batch(2 * SAMPLES, dtype, seed))
        with sns.pairs():
            logits = model(torch.cat((x, x_adv)))[len(x) :]
        loss = cross_entropy(logits, y) + sns.loss()
        loss.backward()
        found.append((gradients(inner), sns.neurons, loss.detach()))
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        found = [
            train(rank, 2, dtype, settings, wrapped)
            for dtype, wrapped in ((torch.float64, True), (torch.float32, False))
            for settings in SETTINGS
        ]
        found.append(train(rank, 2, torch.float64, {"k": 3, "sync": False}))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


def agree(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_two_processes_equal_one(results: list[list[Any]], dtype: torch.dtype) -> None:
    offset = 0 if dtype == torch.float64 else len(SETTINGS)
    for place, settings in enumerate(SETTINGS):
        expected = train(0, 1, dtype, settings)
        for rank in range(2):
            for (found, neurons, _), (gradient, chosen, _) in zip(results[rank][place + offset], expected, strict=True):
                assert agree(neurons, chosen)
                torch.testing.assert_close(found, gradient, **TOLERANCE[dtype])  # type: ignore[arg-type]
        for both in zip(results[0][place + offset], results[1][place + offset], expected, strict=True):
            mean = (both[0][2] + both[1][2]) / 2
            torch.testing.assert_close(mean, both[2][2], **TOLERANCE[dtype])  # type: ignore[arg-type]


def test_without_sync_each_process_chooses_its_own(results: list[list[Any]]) -> None:
    alone = [result[-1] for result in results]
    assert not all(agree(first[1], second[1]) for first, second in zip(*alone, strict=True))
