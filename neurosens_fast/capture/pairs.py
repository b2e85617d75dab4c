"""Benign and adversarial inputs through the model as one batch of 2N, benign half first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a model takes: one tensor, a tuple of tensors (positional), or a dict of tensors (by keyword)."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module of ``model`` in evaluation mode inside, in the mode it had before afterwards.

    The flags are set directly: ``train()`` and ``eval()`` overridden by a user have no side effect here.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def batch_length(inputs: Inputs) -> int:
    """Number of samples N of model inputs ``[N, ...]``.

    Raises ``TypeError`` for inputs that are no tensor, tuple or dict of tensors, ``ValueError`` for
    leaves of different lengths.
    """
    lengths = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves(inputs)}
    if len(lengths) != 1:
        raise ValueError(f"the inputs of a batch differ in length: {sorted(lengths)}; their first axis is the sample")
    return lengths.pop()


def leaves(inputs: Inputs) -> list[Tensor]:
    """The tensors of model inputs; ``TypeError`` for anything that is no tensor, tuple or dict of tensors."""
    if isinstance(inputs, Tensor):
        return [inputs]
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"model inputs must be a tensor, a tuple or a dict of tensors, got {type(inputs).__name__}")
    return list(parts)


def pair_inputs(
    benign: Inputs, adversarial: Inputs, memory_format: torch.memory_format = torch.preserve_format
) -> Inputs:
    """One batch of 2N ``[benign, adversarial]``, concatenated leaf by leaf, in ``memory_format`` if one is given.

    Raises ``ValueError`` or ``TypeError`` where the two differ in structure, shape, dtype or device.
    """
    for first, second in ((benign, adversarial), (adversarial, benign)):
        if isinstance(first, Mapping) and (not isinstance(second, Mapping) or first.keys() != second.keys()):
            raise ValueError("benign and adversarial inputs must be dicts with the same keys")
    parts, others = leaves(benign), leaves(adversarial)
    if isinstance(benign, Mapping) and isinstance(adversarial, Mapping):
        others = [adversarial[key] for key in benign]
    if len(parts) != len(others) or isinstance(benign, Tensor) != isinstance(adversarial, Tensor):
        raise ValueError(f"benign inputs have {len(parts)} tensors, adversarial inputs {len(others)}")
    for part, other in zip(parts, others, strict=True):
        for what in ("shape", "dtype", "device"):
            ours, theirs = getattr(part, what), getattr(other, what)
            if ours != theirs:
                raise ValueError(f"benign and adversarial inputs differ in {what}: {_plain(ours)} and {_plain(theirs)}")
    joined = [_joined(part, other, memory_format) for part, other in zip(parts, others, strict=True)]
    if isinstance(benign, Tensor):
        return joined[0]
    return dict(zip(benign, joined, strict=True)) if isinstance(benign, Mapping) else tuple(joined)


def _joined(part: Tensor, other: Tensor, memory_format: torch.memory_format) -> Tensor:
    if memory_format == torch.preserve_format:
        return torch.cat((part, other))
    shape = (2 * part.shape[0], *part.shape[1:])
    whole = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=memory_format)
    return torch.cat((part.detach(), other.detach()), out=whole)


def _plain(value: object) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value)


def hookable(model: nn.Module) -> nn.Module:
    """The module whose hooks run: of one that ``torch.compile`` returned, that which was compiled.

    Raises ``TypeError`` for a scripted or traced model.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted or traced model calls no hooks; audit the nn.Module that it was made from")
    return getattr(model, "_orig_mod", model) if type(model).__name__ == "OptimizedModule" else model


def call_model(model: Callable[..., Any], inputs: Inputs) -> Any:
    """``model(x)``, ``model(*inputs)`` or ``model(**inputs)``, by the structure of ``inputs``."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def paired_forward(model: nn.Module, benign: Inputs, adversarial: Inputs, autocast: torch.dtype | None = None) -> Any:
    """The model's output for ``[benign, adversarial]`` as one batch of 2N; see :func:`plain_forward`."""
    return plain_forward(model, pair_inputs(benign, adversarial), autocast)


def plain_forward(
    model: nn.Module,
    inputs: Inputs,
    autocast: torch.dtype | None = None,
    run: Callable[..., Any] | None = None,
    gradient: bool = False,
) -> Any:
    """The model's output for ``inputs`` in evaluation mode, under autocast if a dtype is given; without gradients,
    unless they are asked for.

    ``run``, if given, is called in the place of ``model``: something that computes the same with its modules.
    Uses ``no_grad`` rather than inference mode: a tensor that the model caches in its forward stays
    usable in later training.
    """
    kind = leaves(inputs)[0].device.type
    lower = nullcontext() if autocast is None else torch.autocast(kind, dtype=autocast)
    with evaluation_mode(model), torch.set_grad_enabled(gradient), lower, _eager(model):
        return call_model(run or model, inputs)


def _eager(model: nn.Module) -> AbstractContextManager[Any]:
    """Runs what ``torch.compile`` made of modules as plain code inside, since compiled code calls no hooks."""
    if any(_compiled(module) for module in model.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or module.__dict__.get("_compiled_call_impl") is not None


def parameters_device(model: nn.Module) -> torch.device | None:
    """The device of the model's parameters and buffers; None without any, or with several."""
    devices = devices_of(model)
    return devices.pop() if len(devices) == 1 else None


def devices_of(model: nn.Module) -> set[torch.device]:
    """The devices that hold the model's parameters and buffers."""
    tensors: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    return {tensor.device for tensor in tensors}


def mapped(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The same structure with ``change`` applied to every tensor."""
    parts = [change(leaf) for leaf in leaves(inputs)]
    if isinstance(inputs, Tensor):
        return parts[0]
    return dict(zip(inputs, parts, strict=True)) if isinstance(inputs, Mapping) else tuple(parts)


def read_flags(flags: list[Tensor]) -> list[bool]:
    """The values of 0-dimensional bool tensors, waiting for their device once."""
    if not flags:
        return []
    values: list[bool] = torch.stack([flag.to(flags[0].device, non_blocking=True) for flag in flags]).tolist()
    return values
