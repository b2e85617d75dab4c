"""A stand-in for a model to be traced: what a forward writes on its modules lands there, not on the model."""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (list, tuple, set, dict, OrderedDict)
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_KNOWN = frozenset(vars(nn.Module()))  # hooks, parameters, ...: looked at apart


def shadow(model: nn.Module, keep: Callable[[nn.Module], bool]) -> nn.Module:
    """``model`` with copies of its modules and of their lists and dicts, which share all tensors.

    Modules that ``keep`` chooses are the model's own, and so is all inside them.
    """
    copies: dict[int, Any] = {}

    def collect(module: nn.Module) -> None:
        if id(module) in copies:
            return
        if keep(module):
            copies[id(module)] = module
            return
        copies[id(module)] = object.__new__(type(module))
        for inner in module._modules.values():
            if inner is not None:
                collect(inner)

    def copied(value: Any) -> Any:
        if id(value) in copies:
            return copies[id(value)]
        if isinstance(value, types.MethodType) and id(value.__self__) in copies:
            return types.MethodType(value.__func__, copies[id(value.__self__)])
        if type(value) in (list, set):
            copies[id(value)] = parts = type(value)()
            (parts.extend if isinstance(parts, list) else parts.update)(map(copied, value))
            return parts
        if type(value) in (dict, OrderedDict):
            copies[id(value)] = table = type(value)()
            table.update((key, copied(inner)) for key, inner in value.items())
            return table
        return tuple(map(copied, value)) if type(value) is tuple else value

    collect(model)
    for module in model.modules():
        own = copies.get(id(module), module)
        if own is not module:
            own.__dict__.update({name: copied(value) for name, value in vars(module).items()})
    result: nn.Module = copies[id(model)]
    return result


class _Same:
    """Equal to the same object only; holds it, so that no other can take its place in memory."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def fingerprint(model: nn.Module, special: Callable[[nn.Module], bool]) -> tuple[Any, ...]:
    """What a trace depends on: modules, attributes, where tensors lie, which modules are ``special``.

    While it is equal, a trace holds. The values of parameters and buffers are no part of it.
    """
    return tuple(
        (
            *(name, _Same(module), type(module), special(module)),
            tuple((key, _summary(value)) for key, value in vars(module).items() if key not in _KNOWN),
            tuple(
                (key, value is not None and (_Same(value), value.data_ptr(), value.dtype))
                for key, value in (*module._parameters.items(), *module._buffers.items())
            ),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    )


def _summary(value: Any, depth: int = 0) -> Any:
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return _Same(value), value.data_ptr(), value.dtype, None if value.is_inference() else value._version
    if type(value) not in _CONTAINERS or depth > 8:
        parts = () if isinstance(value, nn.Module | type) else getattr(value, "__dict__", {}).items()
        return _Same(value), tuple((key, part) for key, part in parts if isinstance(part, _PLAIN))
    if isinstance(value, dict):
        return type(value), tuple((_summary(key, depth + 1), _summary(part, depth + 1)) for key, part in value.items())
    return type(value), (frozenset if isinstance(value, set) else tuple)(_summary(part, depth + 1) for part in value)
