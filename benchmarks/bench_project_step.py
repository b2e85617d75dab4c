"""The steps of attacks against their eager chains and against plainly reading and writing the same bytes.

Byte model, B being the bytes of one tensor: every step must read three tensors and write one, 4 B (momentum: read
four and write two, 6 B). Linf does it in one pass. L2 takes three passes over a sample and L1 one more for every
Newton step; on the CPU they read a sample out of the cache again. The plain side is ``torch.addcmul(out=)``, three
reads and one write; for momentum ``Tensor.copy_`` after it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops

from .interleaved import ratio, run_interleaved

SHAPES = [(64, 3, 32, 32), (256, 3, 32, 32), (64, 3, 224, 224)]
ALPHA, EPS, DECAY = 2 / 255, 8 / 255, 1.0


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def eager_linf(adv: Tensor, gradient: Tensor, x: Tensor, alpha: float, eps: float) -> Tensor:
    """As torchattacks' PGD writes it."""
    adv = adv.detach() + alpha * gradient.sign()
    delta = torch.clamp(adv - x, min=-eps, max=eps)
    return torch.clamp(x + delta, min=0, max=1).detach()


def eager_l2(adv: Tensor, gradient: Tensor, x: Tensor, alpha: float, eps: float) -> Tensor:
    """As torchattacks' PGDL2 writes it."""
    norms = torch.norm(gradient.flatten(1), p=2, dim=1) + 1e-10
    adv = adv.detach() + alpha * gradient / per_sample(norms, x)
    delta = adv - x
    factor = torch.min(
        eps / torch.norm(delta.flatten(1), p=2, dim=1), torch.ones(len(x), device=x.device, dtype=x.dtype)
    )
    return torch.clamp(x + delta * per_sample(factor, x), min=0, max=1).detach()


def eager_l1(adv: Tensor, gradient: Tensor, x: Tensor, alpha: float, eps: float) -> Tensor:
    """The projection by sorting (Duchi et al., ICML 2008), in float32 at least: bfloat16 cannot sum a sample."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norms = gradient.flatten(1).to(wide).abs().sum(1) + 1e-10
    delta = (adv.to(wide) + alpha * gradient.to(wide) / per_sample(norms, x) - x.to(wide)).flatten(1)
    sizes = delta.abs().sort(dim=1, descending=True).values
    excess = (sizes.cumsum(1) - eps) / torch.arange(1, delta.shape[1] + 1, device=x.device)
    last = ((sizes > excess).sum(1, keepdim=True) - 1).clamp(min=0)
    shrunk = delta.sign() * (delta.abs() - excess.gather(1, last).clamp(min=0)).clamp(min=0)
    return torch.clamp(x + shrunk.view_as(x).to(x.dtype), min=0, max=1)


def eager_momentum(adv: Tensor, momentum: Tensor, gradient: Tensor, x: Tensor, alpha: float, eps: float) -> Tensor:
    """As torchattacks' MIFGSM writes it."""
    gradient = gradient / per_sample(gradient.abs().flatten(1).mean(1), x)
    momentum.copy_(gradient + momentum * DECAY)
    return eager_linf(adv, momentum, x, alpha, eps)


def sizes(norm: str, count: int) -> tuple[float, float]:
    """Step and epsilon whose typical change of an element is that of Linf."""
    scale = {"linf": 1.0, "momentum": 1.0, "l2": count**0.5, "l1": float(count)}[norm]
    return ALPHA * scale, EPS / 2 * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "momentum"])
@pytest.mark.parametrize("shape", SHAPES, ids=["x".join(map(str, shape)) for shape in SHAPES])
def bench_project_step(
    shape: tuple[int, ...], norm: str, dtype: torch.dtype, device: str, benchmark: Any, table: Any
) -> None:
    x = torch.rand(shape, device=device).to(dtype)
    gradient = torch.randn(shape, device=device).to(dtype)
    adversarial = (x.float() + EPS * (2 * torch.rand(shape, device=device) - 1)).clamp(0, 1).to(dtype)
    momentum = torch.randn(shape, device=device).to(dtype)
    alpha, eps = sizes(norm, x[0].numel())
    eager: Callable[[], Tensor]
    if norm == "momentum":
        theirs_momentum = momentum.clone()
        ours = partial(ops.momentum_step_, adversarial, momentum, gradient, x, alpha, eps, DECAY)
        eager = partial(eager_momentum, adversarial.clone(), theirs_momentum, gradient, x, alpha, eps)
    else:
        chain = {"linf": eager_linf, "l2": eager_l2, "l1": eager_l1}[norm]
        ours = partial(ops.project_step_, adversarial, gradient, x, alpha, eps, norm)
        eager = partial(chain, adversarial.clone(), gradient, x, alpha, eps)
    wanted = eager()
    ours()
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-6}[dtype]
    apart = ((adversarial.float() - wanted.float()).abs() > rounding).float().mean()
    assert float(apart) < 1e-3, "both sides must agree, but for signs that rounding decides"

    spare, other = torch.zeros_like(x), torch.zeros_like(x)

    def plain() -> None:
        torch.addcmul(spare, gradient, x, value=0.0, out=spare)
        if norm == "momentum":
            other.copy_(momentum)

    times = run_interleaved(benchmark, ours, {"eager": eager, "plain": plain}, device, seconds=2.0)
    moved = (6 if norm == "momentum" else 4) * x.numel() * x.element_size()
    faster, slower = ratio(times["eager"], times["ours"]), ratio(times["ours"], times["plain"])
    benchmark.extra_info.update(bytes=moved, over_plain=slower.median, eager=faster.median)
    table(
        f"Steps of attacks, {device}",
        {
            "shape": f"{list(shape)}",
            "norm": norm,
            "dtype": str(dtype).removeprefix("torch."),
            "MB": f"{moved / 1e6:.1f}",
            "ms": f"{statistics.median(times['ours']) * 1e3:.3f}",
            "GB/s": f"{moved / statistics.median(times['ours']) / 1e9:.1f}",
            "time / plain read and write": str(slower),
            "times faster than eager": str(faster),
        },
    )
