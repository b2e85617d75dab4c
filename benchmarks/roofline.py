"""What this machine can read and copy, beside the plain read that every benchmark times in its own rounds.

``python -m benchmarks.roofline`` prints gigabytes per second of a plain read (a kernel of this package) and of
``Tensor.copy_`` over sizes from the caches to main memory.
"""

from __future__ import annotations

import statistics

import torch

import neurosens_fast.ops  # noqa: F401 - registers the operators

from .interleaved import timed


def bandwidth(megabytes: float, device: str, rounds: int = 15) -> tuple[float, float]:
    """Median GB/s of reading and of copying (bytes read plus bytes written) two halves of that size in all."""
    half = torch.randn(int(megabytes * 1e6 / 8), device=device)
    other = half.clone()
    reads, copies = [], []
    for _ in range(rounds + 2):
        reads.append(timed(lambda: torch.ops.neurosens_fast.read_bytes(half, other), device))
        copies.append(timed(lambda: other.copy_(half), device))
    moved = 2 * half.numel() * half.element_size() / 1e9
    return moved / statistics.median(reads[2:]), moved / statistics.median(copies[2:])


def main() -> None:
    """Print the table."""
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        print(f"{device}, {torch.get_num_threads()} threads\n{'MB':>8} {'read GB/s':>10} {'copy GB/s':>10}")
        for megabytes in (1, 4, 8, 16, 32, 64, 128, 256, 512):
            read, copy = bandwidth(megabytes, device)
            print(f"{megabytes:8.0f} {read:10.1f} {copy:10.1f}")


if __name__ == "__main__":
    main()
