"""All statistics of a pair in one read, against a plain read of the same bytes, eager PyTorch and torch.compile.

Bytes moved: both halves once, N * C * S * 2 elements; the totals are a few kilobytes. 17 to 21 operations per
pair of elements, so large tensors are memory-bound; 16-bit ones that fit the last-level cache are compute-bound.
``NEUROSENS_FAST_BENCH_COMPILE=0`` leaves torch.compile out: compiling takes most of the time of a run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference
from neurosens_fast.statistics import new_totals

from .interleaved import ratio, run_interleaved

SHAPES = [
    (64, 64, 32, 32),
    (128, 64, 56, 56),
    (256, 64, 56, 56),
    (128, 256, 14, 14),
    (128, 512, 7, 7),
    (128, 512, 4, 4),
    (256, 4096),
    (32, 197, 768),
]
# Rows of one element and token layouts have their channels last already.
CASES = [
    (shape, layout)
    for shape in SHAPES
    for layout in ("contiguous", "channels_last")
    if len(shape) == 4 or layout == "channels_last"
]
COMPILE = os.environ.get("NEUROSENS_FAST_BENCH_COMPILE", "1") == "1"
LARGE = 100e6
"""Bytes of both halves in float32 above which a shape counts as large."""


def make_pair(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str) -> tuple[Tensor, Tensor]:
    """Activations as a ReLU before batch norm would see them: half of them negative."""
    z = torch.randn(shape, device=device)
    z_adv = (z + 0.05 * torch.randn(shape, device=device)).to(dtype)
    z = z.to(dtype)
    if layout == "channels_last" and z.dim() == 4:
        return z.contiguous(memory_format=torch.channels_last), z_adv.contiguous(memory_format=torch.channels_last)
    return z, z_adv


def compiled_reference() -> Callable[..., None]:
    torch._dynamo.reset()
    return torch.compile(reference.accumulate_pair_statistics_, fullgraph=True, dynamic=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("shape", "layout"), CASES, ids=[f"{'x'.join(map(str, shape))}-{layout}" for shape, layout in CASES]
)
def bench_accumulate(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str, benchmark: Any, table: Any
) -> None:
    channel_dim = 2 if len(shape) == 3 else 1
    z, z_adv = make_pair(shape, dtype, layout, device)
    totals = {name: new_totals(shape[channel_dim], device) for name in ("ours", "eager", "compiled")}

    check = [new_totals(shape[channel_dim], device) for _ in range(2)]
    ops.accumulate_pair_statistics_(*check[0], z, z_adv, channel_dim)
    reference.accumulate_pair_statistics_(*check[1], z, z_adv, channel_dim)
    for ours, theirs in zip(*check, strict=True):
        torch.testing.assert_close(ours / shape[0], theirs / shape[0], rtol=1e-3, atol=1e-4)

    others: dict[str, Callable[[], Any]] = {
        "read": lambda: torch.ops.neurosens_fast.read_bytes(z, z_adv),
        "eager": lambda: reference.accumulate_pair_statistics_(*totals["eager"], z, z_adv, channel_dim),
    }
    if COMPILE:
        compiled = compiled_reference()
        others["compiled"] = lambda: compiled(*totals["compiled"], z, z_adv, channel_dim)
    times = run_interleaved(
        benchmark,
        lambda: ops.accumulate_pair_statistics_(*totals["ours"], z, z_adv, channel_dim),
        others,
        device,
        seconds=4.0,
    )
    moved = 2 * z.numel() * z.element_size()
    against_read = ratio(times["ours"], times["read"])
    gigabytes = moved / sorted(times["ours"])[len(times["ours"]) // 2] / 1e9
    ours_faster = {name: ratio(times[name], times["ours"]) for name in times if name in ("eager", "compiled")}
    benchmark.extra_info.update(
        bytes=moved, gb_per_s=gigabytes, over_read=against_read.median, **{k: v.median for k, v in ours_faster.items()}
    )
    large = 2 * math.prod(shape) * 4 > LARGE
    table(
        f"All statistics in one read, {device}",
        {
            "shape": f"{list(shape)}{' large' if large else ''}",
            "layout": layout if len(shape) == 4 else "channel last",
            "dtype": str(dtype).removeprefix("torch."),
            "MB": f"{moved / 1e6:.0f}",
            "ms": f"{sorted(times['ours'])[len(times['ours']) // 2] * 1e3:.2f}",
            "GB/s": f"{gigabytes:.1f}",
            "time / plain read": str(against_read),
            "share of read bandwidth": f"{100 / against_read.median:.0f} %",
            "times faster than eager": str(ours_faster["eager"]),
            "times faster than torch.compile": str(ours_faster.get("compiled", "not run")),
        },
    )
