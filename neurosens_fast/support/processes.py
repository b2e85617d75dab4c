"""Where this process stands among those of ``torchrun``, and what they do together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank_and_world() -> tuple[int, int]:
    """The number of this process and how many there are; 0 and 1 without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def process_count() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A process group for the processes that ``torchrun`` started (nccl on CUDA, else gloo); nothing without it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams that torch makes by itself belong to the current device
    if process_count() == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The CUDA device of this process, where ``torchrun`` started several."""
    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def summed(totals: Tensor) -> Tensor:
    """``totals`` added up over all processes."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(totals)
    return totals


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process."""
    if rank_and_world()[1] == 1:
        return flag
    shared = torch.tensor(int(flag), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)


def raise_together(problem: Exception | None, where: str, device: torch.device) -> None:
    """Raise ``problem``, and in the processes that have none an error too: else they would wait for this one."""
    if anywhere(problem is not None, device):
        raise problem or RuntimeError(f"another process stopped in {where}; its message says why")


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first one: each saw other samples in batch norm."""
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def wait_for_all() -> None:
    """Return when every process is here. ``RuntimeError`` in one sentence where one of them is gone."""
    if rank_and_world()[1] > 1:
        with partners_named():
            dist.barrier()


@contextmanager
def partners_named() -> Iterator[None]:
    """Says of a failing collective operation that another process is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError("another process ended before all were done; what it says tells why") from error
