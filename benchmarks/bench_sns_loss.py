"""The SNS loss of one layer, forward and backward, against eager PyTorch, torch.compile and plain memory traffic.

Byte model, both halves holding B bytes in all: the forward reads B. The backward writes B, zeros for all but the
chosen neurons (k = 10 %), of which it reads 0.1 B, and is timed beside filling two new tensors of that size with zeros.
On the CPU most of the time of either is the system handing out fresh memory. Forward and backward are timed once more
with a consumer of the gradients, which would pay for pages that the backward left untouched.
``NEUROSENS_FAST_BENCH_COMPILE=0`` leaves torch.compile out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops, reference

from .bench_pair_statistics import COMPILE, make_pair
from .interleaved import ratio, run_interleaved

SHAPES = [(64, 64, 32, 32), (128, 64, 56, 56), (256, 64, 56, 56), (128, 256, 14, 14)]
SHARE = 0.1

Loss = Callable[[Tensor, Tensor], Tensor]


def step(loss: Loss, z: Tensor, z_adv: Tensor) -> tuple[Tensor, ...]:
    """Loss and gradients of one layer."""
    value = loss(z, z_adv)
    return value, *torch.autograd.grad(value, (z, z_adv))


def consumed(loss: Loss, z: Tensor, z_adv: Tensor) -> Tensor:
    """The same, its gradients read whole and one of them added to in place, as autograd adds a second gradient."""
    _, grad, grad_adv = step(loss, z, z_adv)
    return grad.add_(grad_adv)


def milliseconds(times: list[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(times) * 1e3:.1f} / {max(times) * 1e3:.0f}"


# The other norms on one shape.
CASES = [(shape, norm) for shape in SHAPES for norm in ops.NORMS if norm == 1 or shape == SHAPES[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "norm"), CASES, ids=[f"{'x'.join(map(str, shape))}-{norm}" for shape, norm in CASES])
def bench_sns_loss(
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    norm: int | str,
    device: str,
    benchmark: Any,
    table: Any,
) -> None:
    z, z_adv = (x.requires_grad_() for x in make_pair(shape, dtype, layout, device))
    k = ops.neuron_count(SHARE, shape[1])

    def fused(a: Tensor, b: Tensor) -> Tensor:
        return ops.sns_loss(a, b, k, norm).loss

    def plain(a: Tensor, b: Tensor) -> Tensor:
        return reference.sns_loss(a, b, k, norm)[0]

    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for ours, theirs in zip(step(fused, z, z_adv), step(plain, z, z_adv), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding * float(theirs.abs().max()))

    kept = fused(z, z_adv)
    others: dict[str, Callable[[], Any]] = {
        "read": lambda: torch.ops.neurosens_fast.read_bytes(z, z_adv),
        "forward": lambda: fused(z.detach(), z_adv.detach()),
        "zeros": lambda: (torch.zeros_like(z), torch.zeros_like(z_adv)),
        "backward": lambda: torch.autograd.grad(kept, (z, z_adv), retain_graph=True),
        "eager": partial(step, plain, z, z_adv),
        "consumed": partial(consumed, fused, z, z_adv),
        "eager_consumed": partial(consumed, plain, z, z_adv),
    }
    if COMPILE:
        torch._dynamo.reset()
        others["compiled"] = partial(step, torch.compile(plain, fullgraph=True, dynamic=False), z, z_adv)
    times = run_interleaved(benchmark, partial(step, fused, z, z_adv), others, device, seconds=5.0)
    moved = 2 * z.numel() * z.element_size()
    faster = {name: ratio(times[name], times["ours"]) for name in ("eager", "compiled") if name in times}
    used = ratio(times["eager_consumed"], times["consumed"])
    forward, backward = ratio(times["forward"], times["read"]), ratio(times["backward"], times["zeros"])
    benchmark.extra_info.update(
        bytes=moved,
        forward_over_read=forward.median,
        backward_over_zeros=backward.median,
        **{name: value.median for name, value in faster.items()},
    )
    table(
        f"SNS loss of one layer, {device}",
        {
            "shape": f"{list(shape)}",
            "layout": layout,
            "dtype": str(dtype).removeprefix("torch."),
            "norm": str(norm),
            "MB": f"{moved / 1e6:.0f}",
            "forward ms": f"{statistics.median(times['forward']) * 1e3:.2f}",
            "forward / plain read": str(forward),
            "backward ms": f"{statistics.median(times['backward']) * 1e3:.2f}",
            "backward / zeros": str(backward),
            "both ms, median / worst": milliseconds(times["ours"]),
            "both: times faster than eager": str(faster["eager"]),
            "than torch.compile": str(faster.get("compiled", "not run")),
            "both and a consumer: times faster than eager": str(used),
        },
    )
