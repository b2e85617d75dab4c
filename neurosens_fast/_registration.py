"""What the C++ schemas need from Python: shapes for tracing, gradients, the reference for other devices."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # importing the extension runs its registrations
from . import _gradients as _gradients
from . import reference
from .columns import ROW_STATISTICS
from .reference_winograd import packed_shape

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


@torch.library.register_fake(f"{_NAMESPACE}::relu_accumulate_pair_statistics_")
def _(sums: Tensor, maxima: Tensor, pair: Tensor, channel_dim: int = 1) -> None:
    return None


@torch.library.register_fake(f"{_NAMESPACE}::neuron_sensitivity")
def _(benign: Tensor, adversarial: Tensor, norm: str = "1", channel_dim: int = 1) -> Tensor:
    return benign.new_empty((benign.shape[channel_dim],), dtype=_accumulation_dtype(benign))


@torch.library.register_fake(f"{_NAMESPACE}::neuron_sensitivity_backward")
def _two_gradients(
    grad: Tensor,
    benign: Tensor,
    adversarial: Tensor,
    norm: str,
    channel_dim: int,
    needs_benign: bool = True,
    needs_adversarial: bool = True,
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(benign) if needs_benign else benign.new_empty((0,)),
        torch.empty_like(adversarial) if needs_adversarial else adversarial.new_empty((0,)),
    )


def _two_totals(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    totals = x.new_empty((x.shape[channel_dim],), dtype=_accumulation_dtype(x))
    return totals, torch.empty_like(totals)


@torch.library.register_fake(f"{_NAMESPACE}::paired_sensitivity")
def _(pair: Tensor, norm: str = "1", channel_dim: int = 1, detach_benign: bool = False) -> tuple[Tensor, Tensor]:
    return _two_totals(pair, channel_dim)


@torch.library.register_fake(f"{_NAMESPACE}::paired_sensitivity_backward")
def _(grad: Tensor, pair: Tensor, norm: str, channel_dim: int, detach_benign: bool) -> Tensor:
    return torch.empty_like(pair)


@torch.library.register_fake(f"{_NAMESPACE}::relu_tap")
def _(
    pair: Tensor, norm: str = "1", channel_dim: int = 1, detach_benign: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(pair), *_two_totals(pair, channel_dim)


@torch.library.register_fake(f"{_NAMESPACE}::relu_tap_")
def _(pair: Tensor, norm: str = "1", channel_dim: int = 1) -> tuple[Tensor, Tensor]:
    return _two_totals(pair, channel_dim)


@torch.library.register_fake(f"{_NAMESPACE}::relu_tap_backward")
def _(grad_out: Tensor, grad: Tensor, out: Tensor, norm: str, channel_dim: int, detach_benign: bool) -> Tensor:
    return torch.empty_like(out)


@torch.library.register_fake(f"{_NAMESPACE}::sns_loss")
def _(
    benign: Tensor, adversarial: Tensor, k: int, norm: str = "1", channel_dim: int = 1, neurons: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    sensitivity = benign.new_empty((benign.shape[channel_dim],), dtype=_accumulation_dtype(benign))
    chosen = sensitivity.new_empty((k,), dtype=torch.int64) if neurons is None else torch.empty_like(neurons)
    return sensitivity.new_empty(()), chosen, sensitivity


@torch.library.register_fake(f"{_NAMESPACE}::sns_loss_backward")
def _(grad: Tensor, neurons: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
    return _two_gradients(grad, *rest, **named)


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


@torch.library.register_fake(f"{_NAMESPACE}::momentum_step_")
def _(
    adversarial: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    origin: Tensor,
    step_size: float,
    epsilon: float,
    decay: float,
    norm: str = "linf",
    low: float = 0.0,
    high: float = 1.0,
) -> None:
    return None


@torch.library.register_fake(f"{_NAMESPACE}::winograd_weight")
def _(weight: Tensor, transposed: bool = False) -> Tensor:
    out, channels = weight.shape[:2][:: -1 if transposed else 1]
    return weight.new_empty(packed_shape(out, channels))


@torch.library.register_fake(f"{_NAMESPACE}::winograd_convolution")
def _(images: Tensor, weight: Tensor, bias: Tensor | None, channels: int, tile: int = 4) -> Tensor:
    samples, _, height, width = images.shape
    return images.new_empty((samples, height, width, channels)).permute(0, 3, 1, 2)


@torch.library.register_fake(f"{_NAMESPACE}::read_bytes")
def _(benign: Tensor, adversarial: Tensor) -> Tensor:
    return benign.new_empty((1,), dtype=torch.int64)


# Any device without kernels of its own runs the reference.


def _with_norm(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the norm as the schemas spell it, where 1 is text."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        bound = inspect.signature(function).bind(*arguments, **named)
        if bound.arguments.get("norm") == "1":
            bound.arguments["norm"] = 1
        return function(*bound.args, **bound.kwargs)

    return call


for _name in (
    "pair_statistics",
    "accumulate_pair_statistics_",
    "relu_accumulate_pair_statistics_",
    "neuron_sensitivity",
    "neuron_sensitivity_backward",
    "paired_sensitivity",
    "paired_sensitivity_backward",
    "relu_tap",
    "relu_tap_",
    "relu_tap_backward",
    "sns_loss",
    "sns_loss_backward",
    "topk_neurons",
    "project_step_",
    "momentum_step_",
    "winograd_weight",
    "winograd_convolution",
):
    _library.impl(_name, _with_norm(getattr(reference, _name)), "CompositeExplicitAutograd")
