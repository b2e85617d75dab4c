"""The steps of attacks against eager PyTorch, torch.compile of it, and plainly reading and writing the same bytes.

Byte model, B being the bytes of one tensor: every step must read three tensors and write one, 4 B (momentum: read
four and write two, 6 B). Linf does it in one pass. L2 takes three passes over a sample and L1 one more for every
Newton step; on the CPU they read a sample out of the cache again. The plain side is ``torch.addcmul(out=)``, three
reads and one write; for momentum ``Tensor.copy_`` after it. Eager are the chains that torchattacks writes, which may
leave the epsilon ball by a rounding; ours and the reference never do.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neurosens_fast import ops
from neurosens_fast.benchmarking.contest import NOT_RUN, Contest, compiled
from neurosens_fast.benchmarking.inputs import copies, rotating
from neurosens_fast.benchmarking.roof import Work

from .pairs import COMPILED

SHAPES = [(64, 3, 32, 32), (256, 3, 32, 32), (64, 3, 224, 224)]
QUICK_SHAPES = [(4, 3, 9, 9)]
FLOPS = {"linf": 10, "l2": 14, "l1": 20, "momentum": 14}
"""Arithmetic operations for an element; of L1 with three Newton steps."""
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


CHAINS: dict[str, Callable[..., Tensor]] = {
    "linf": eager_linf,
    "l2": eager_l2,
    "l1": eager_l1,
    "momentum": eager_momentum,
}


def check(found: Tensor, wanted: Tensor) -> str:
    """Assert that ours is what the chain gives in float32, to one value of the dtype, but for elements whose step turns
    on a rounding; says how many those are.
    """
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1.01 * 2**-8}[found.dtype]
    apart = float(((found.float() - wanted.float()).abs() > rounding).float().mean())
    assert apart < 1e-3, f"{100 * apart:.2g} % of the elements differ"
    return "all" if apart == 0 else f"all but {1e6 * apart:.0f} ppm"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("norm", list(CHAINS))
def bench_step(
    shape: tuple[int, ...], norm: str, dtype: torch.dtype, device: str, contest: Contest, compiling: bool
) -> None:
    x = torch.rand(shape, device=device).to(dtype)
    gradient = torch.randn(shape, device=device).to(dtype)
    adversarial = (x.float() + EPS * (2 * torch.rand(shape, device=device) - 1)).clamp(0, 1).to(dtype)
    momentum = torch.randn(shape, device=device).to(dtype)
    alpha, eps = sizes(norm, x[0].numel())

    def ours(adversarial: Tensor, momentum: Tensor, gradient: Tensor, x: Tensor) -> None:
        if norm == "momentum":
            ops.momentum_step_(adversarial, momentum, gradient, x, alpha, eps, DECAY)
        else:
            ops.project_step_(adversarial, gradient, x, alpha, eps, norm)

    def chain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(adversarial: Tensor, momentum: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
            before = (adversarial, momentum) if norm == "momentum" else (adversarial,)
            return function(*before, gradient, x, alpha, eps)

        return run

    def plain(adversarial: Tensor, momentum: Tensor, gradient: Tensor, x: Tensor) -> None:
        torch.addcmul(adversarial, gradient, x, value=0.0, out=adversarial)
        if norm == "momentum":
            momentum.copy_(gradient)

    def inputs() -> list[tuple[Tensor, ...]]:
        """For a side of its own: every one of them overwrites some."""
        return copies((adversarial.clone(), momentum.clone(), gradient, x), device)

    (first, *_), (other, *_) = inputs(), inputs()
    ours(*first)
    agreed = check(first[0], chain(CHAINS[norm])(*(tensor.float() for tensor in other)))
    assert not torch.equal(first[0], adversarial), "no step"
    kernel = compiled(CHAINS[norm], run=compiling and (shape in COMPILED or shape not in SHAPES))
    tensors, written = (4, 2) if norm == "momentum" else (3, 1)
    contest(
        "Steps of attacks",
        {"shape": "x".join(map(str, shape)), "norm": norm, "dtype": str(dtype).removeprefix("torch.")},
        rotating(ours, inputs()),
        rivals={
            "eager": rotating(chain(CHAINS[norm]), inputs()),
            "torch.compile": rotating(chain(kernel), inputs()) if kernel else NOT_RUN,
        },
        floors={"plain read and write": rotating(plain, inputs())},
        agreed=agreed,
        work=Work(reads=tensors * x.nbytes, writes=written * x.nbytes, flops=FLOPS[norm] * x.numel()),
        memory=("ours", "eager"),
        seconds=1.0,
    )
