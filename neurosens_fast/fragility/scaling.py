"""Neurons scaled by factors, in a copy of the model: in the weights of a layer, or in those of the norm behind it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neurosens_fast.audit.masking.hooks import split_row
from neurosens_fast.capture import closest, hookable
from neurosens_fast.capture.channels import CONVOLUTIONS, NORMS_FIRST, NORMS_LAST, is_linear

NORMS = NORMS_FIRST + NORMS_LAST
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_KINDS = "a convolution, a linear layer or a norm of torch"


def scale_neurons(model: nn.Module, layer: str, scales: Tensor | Sequence[float]) -> nn.Module:
    """A deep copy of ``model`` in which each output channel of ``layer`` is multiplied by its factor.

    ``layer`` is the dotted name of a convolution, linear layer or norm with C output channels, ``scales`` ``[C]`` are
    finite; they are multiplied into its weight and bias in float64 and rounded to their dtype. The copy scaled by the
    inverse factors is the model again, up to rounding. A norm without weights gets ones that no optimiser would move
    (``requires_grad=False``): weight ``scales`` and, where its kind has one, bias 0.

    A norm behind ``layer`` undoes the scaling with statistics of its own; see :func:`repair`. Every call of a module
    that runs several times in a forward is scaled. The copy has the model's modes, hooks and ``requires_grad``, no
    ``.grad``; of a compiled model it is one of what was compiled. The model is not touched.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: an unknown layer or one of another
    kind, one call of several (``conv#2``), factors that are not finite or not one per channel, weights that are shared
    with another module or computed at each forward (parametrizations, weight norm, pruning), a ``LayerNorm`` over
    several axes, a model that cannot be copied.
    """
    checked_model(model)
    name, module = module_of(model, layer)
    factors = torch.as_tensor(scales, dtype=torch.float64).detach().cpu()
    channels = channels_of(name, module)
    if factors.shape != (channels,):
        raise ValueError(f"scales must be [{channels}], one per channel of {name!r}, got shape {list(factors.shape)}")
    if not bool(factors.isfinite().all()):
        raise ValueError("scales must be finite numbers, got NaN or infinity among them")
    _check_own(model, name, module)
    scaled = copied(model)
    _scale(scaled, scaled.get_submodule(name), factors)
    return scaled


def checked_model(model: object) -> None:
    """``TypeError`` for what is no model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` (of a compiled one, of what was compiled); ``ValueError`` where there is none."""
    try:
        return copy.deepcopy(hookable(model))
    except Exception as error:  # whatever a module of the user's raises
        raise ValueError(
            f"the model cannot be copied by copy.deepcopy ({error}), and it must not be changed"
        ) from error


def module_of(model: nn.Module, row: str) -> tuple[str, nn.Module]:
    """Name and module of a row of a report, one whose output channels can be scaled; else ``ValueError``."""
    modules = dict(hookable(model).named_modules(remove_duplicate=False))
    modules.pop("", None)
    name, call = split_row(row, modules)
    if name not in modules:
        raise ValueError(f"the model has no layer {row!r}; {closest(row, list(modules))}")
    if call > 1:
        raise ValueError(
            f"layer {name!r} runs several times in a forward and call {call} of it cannot be scaled alone, since all "
            "share its weights; give every call a module of its own"
        )
    module = modules[name]
    if not isinstance(module, (*CONVOLUTIONS, nn.Bilinear, *NORMS)) and not is_linear(module):
        raise ValueError(f"layer {name!r} is a {type(module).__name__}, without weights to scale; choose {_KINDS}")
    if isinstance(module, NORMS_LAST) and len(module.normalized_shape) > 1:  # type: ignore[arg-type]
        raise ValueError(
            f"layer {name!r} is a {type(module).__name__} over several axes, whose weights are not per channel; "
            "scale the layer before it (where='before_norm')"
        )
    return name, module


def channels_of(name: str, module: Any) -> int:
    """Number of output channels of a module of :func:`module_of`."""
    if isinstance(module, NORMS):
        for count in ("num_features", "num_channels"):
            if hasattr(module, count):
                return int(getattr(module, count))
        return int(module.normalized_shape[0])  # type: ignore[union-attr, index]
    return len(filter_norms(name, module))


def filter_norms(name: str, module: Any) -> Tensor:
    """L2 norm of the filter of each output channel, ``[C]`` float64 on the CPU; biases do not count.

    Of a norm: ``|gamma / sigma|``, what it multiplies a channel with; gamma alone where sigma is computed from the
    inputs.
    """
    if isinstance(module, NORMS):
        return norm_gain(name, module).abs()
    weight = _values(name, module)
    if isinstance(module, _TRANSPOSED):
        grouped = weight.view(module.groups, -1, *weight.shape[1:])  # [groups, inputs, outputs, *kernel]
        return grouped.transpose(1, 2).flatten(2).norm(dim=2).flatten()
    return (weight.T if _has_channels_last(module) else weight).flatten(1).norm(dim=1)


def norm_gain(name: str, module: Any) -> Tensor:
    """``gamma / sigma`` of a norm, ``[C]`` float64 on the CPU; see :func:`filter_norms`."""
    learned = "weight" in module._parameters and module._parameters["weight"] is None
    gain = torch.ones(channels_of(name, module), dtype=torch.float64) if learned else _values(name, module)
    variance = getattr(module, "running_var", None)
    return gain if variance is None else gain * (variance.detach().cpu().double() + module.eps).rsqrt()


def _values(name: str, module: nn.Module) -> Tensor:
    weight = module._parameters.get("weight")
    if weight is None:  # parametrizations and the older hooks compute an attribute of this name
        raise ValueError(
            f"the weight of layer {name!r} is computed at each forward (a parametrization, weight norm or pruning); "
            "make it a parameter first, as torch.nn.utils.parametrize.remove_parametrizations does"
        )
    if is_lazy(weight):
        raise ValueError(f"the weight of layer {name!r} is not initialised yet; run one forward of the model first")
    return weight.detach().cpu().double()


def _has_channels_last(module: nn.Module) -> bool:
    return not isinstance(module, nn.Linear | nn.Bilinear) and is_linear(module)  # GPT-2's Conv1D: [inputs, outputs]


def _check_own(model: nn.Module, name: str, module: nn.Module) -> None:
    """``ValueError`` if another module has a parameter of ``module``, too."""
    own = {id(parameter) for parameter in module._parameters.values() if parameter is not None}
    for other_name, other in hookable(model).named_modules():
        if other is not module and any(id(parameter) in own for parameter in other._parameters.values()):
            raise ValueError(
                f"layers {name!r} and {other_name!r} share weights, so to scale one is to scale the other; give them "
                "weights of their own first"
            )


def _scale(model: nn.Module, module: Any, factors: Tensor) -> None:
    if isinstance(module, NORMS) and module._parameters.get("weight") is None:
        _give_weights(model, module, factors)
        return
    with torch.no_grad():
        for parameter in (module._parameters["weight"], module._parameters.get("bias")):
            if parameter is not None:
                spread = factors if parameter.dim() == 1 else _spread(module, parameter, factors)
                parameter.copy_((parameter.cpu().double() * spread).to(parameter.dtype))


def _spread(module: Any, weight: Tensor, factors: Tensor) -> Tensor:
    """``factors`` in a shape that multiplies ``weight`` by output channel."""
    if _has_channels_last(module):
        return factors
    if isinstance(module, _TRANSPOSED):  # [inputs, outputs / groups, *kernel], inputs by group
        rows = factors.view(module.groups, -1).repeat_interleave(weight.shape[0] // module.groups, dim=0)
        return rows.view(*rows.shape, *(1,) * (weight.dim() - 2))
    return factors.view(-1, *(1,) * (weight.dim() - 1))


def _give_weights(model: nn.Module, norm: Any, factors: Tensor) -> None:
    """Weights for a norm that has none; they lie where its statistics or other weights of ``model`` do."""
    tensors = itertools.chain(norm.buffers(), model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    norm.weight = nn.Parameter(factors.to(like), requires_grad=False)
    if "bias" in norm._parameters:
        norm.bias = nn.Parameter(torch.zeros_like(norm.weight), requires_grad=False)
    for flag in ("affine", "elementwise_affine"):
        if hasattr(norm, flag):
            setattr(norm, flag, True)
