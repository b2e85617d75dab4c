"""What the C++ schemas need from Python: shapes for tracing, autograd, the reference for other devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # importing the extension runs its registrations
from . import reference
from .columns import ROW_STATISTICS

_NAMESPACE = "neurosens_fast"
_library = torch.library.Library(_NAMESPACE, "FRAGMENT")


def _accumulation_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# Shapes and dtypes for fake and meta tensors.


@torch.library.register_fake(f"{_NAMESPACE}::pair_statistics")
def _(benign: Tensor, adversarial: Tensor, channel_dim: int = 1) -> Tensor:
    shape = (benign.shape[0], benign.shape[channel_dim], len(ROW_STATISTICS))
    return benign.new_empty(shape, dtype=_accumulation_dtype(benign))


@torch.library.register_fake(f"{_NAMESPACE}::accumulate_pair_statistics_")
def _(sums: Tensor, maxima: Tensor, benign: Tensor, adversarial: Tensor, channel_dim: int = 1) -> None:
    return None


@torch.library.register_fake(f"{_NAMESPACE}::neuron_sensitivity")
def _(benign: Tensor, adversarial: Tensor, norm: str = "1", channel_dim: int = 1) -> Tensor:
    return benign.new_empty((benign.shape[channel_dim],), dtype=_accumulation_dtype(benign))


@torch.library.register_fake(f"{_NAMESPACE}::neuron_sensitivity_backward")
def _(grad: Tensor, benign: Tensor, adversarial: Tensor, norm: str, channel_dim: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(benign), torch.empty_like(adversarial)


@torch.library.register_fake(f"{_NAMESPACE}::topk_neurons")
def _(sensitivity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return sensitivity.new_empty((k,)), sensitivity.new_empty((k,), dtype=torch.int64)


@torch.library.register_fake(f"{_NAMESPACE}::project_step_")
def _(
    adversarial: Tensor,
    gradient: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    norm: str = "linf",
    low: float = 0.0,
    high: float = 1.0,
) -> None:
    return None


@torch.library.register_fake(f"{_NAMESPACE}::read_bytes")
def _(benign: Tensor, adversarial: Tensor) -> Tensor:
    return benign.new_empty((1,), dtype=torch.int64)


# Gradients. Mutating operators take none.


def _setup_sensitivity(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    benign, adversarial, ctx.norm, ctx.channel_dim = inputs
    ctx.save_for_backward(benign, adversarial)


def _sensitivity_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    benign, adversarial = ctx.saved_tensors
    grad_benign, grad_adversarial = torch.ops.neurosens_fast.neuron_sensitivity_backward(
        grad, benign, adversarial, ctx.norm, ctx.channel_dim
    )
    needs_benign, needs_adversarial = ctx.needs_input_grad[:2]
    return grad_benign if needs_benign else None, grad_adversarial if needs_adversarial else None, None, None


torch.library.register_autograd(
    f"{_NAMESPACE}::neuron_sensitivity", _sensitivity_backward, setup_context=_setup_sensitivity
)


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("neuron_sensitivity is differentiable once; its gradient has no derivative")


torch.library.register_autograd(f"{_NAMESPACE}::neuron_sensitivity_backward", _no_second_derivative)


# Any device without kernels of its own runs the reference.


def _norm(norm: str) -> int | str:
    return 1 if norm == "1" else norm


def _reference_sensitivity(benign: Tensor, adversarial: Tensor, norm: str = "1", channel_dim: int = 1) -> Tensor:
    return reference.neuron_sensitivity(benign, adversarial, _norm(norm), channel_dim)


def _reference_sensitivity_backward(
    grad: Tensor, benign: Tensor, adversarial: Tensor, norm: str, channel_dim: int
) -> tuple[Tensor, Tensor]:
    return reference.neuron_sensitivity_backward(grad, benign, adversarial, _norm(norm), channel_dim)


for _name, _function in (
    ("pair_statistics", reference.pair_statistics),
    ("accumulate_pair_statistics_", reference.accumulate_pair_statistics_),
    ("neuron_sensitivity", _reference_sensitivity),
    ("neuron_sensitivity_backward", _reference_sensitivity_backward),
    ("topk_neurons", reference.topk_neurons),
    ("project_step_", reference.project_step_),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
