"""Putting tap modules into a model, and taking them out."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from neurosens_fast.capture import Layers, select_layers

from .taps import SensitivityTap, Tapped, TappedReLU

Model = TypeVar("Model", bound=nn.Module)


def tap(model: Model, layers: Layers = "activations") -> Model:
    """``model`` itself with its chosen modules tapped; :func:`untap` undoes it.

    An exact ``nn.ReLU`` becomes a :class:`TappedReLU` and stays the same object, any other module is put into a
    :class:`Tapped` wherever it stands in the model. State dict and names stay as they are. ``layers`` is anything that
    ``capture.select_layers`` takes, whose errors this raises, ``ValueError`` also for single calls such as ``relu#2``.
    Source: choice of this package.
    """
    selection = select_layers(model, layers)
    if selection.calls:
        raise ValueError(
            f"tap() takes whole layers, not single calls of {next(iter(selection.calls))!r}; name those in SNSLoss"
        )
    wrappers: dict[nn.Module, nn.Module] = {}
    for module in selection.modules.values():
        if type(module) is nn.ReLU:
            module.__class__ = TappedReLU
        elif not isinstance(module, TappedReLU | SensitivityTap) and type(module).forward is not nn.Module.forward:
            wrappers[module] = Tapped(module)
    for parent in list(model.modules()):
        if not isinstance(parent, Tapped):
            _replace(parent, wrappers)
    return model


def untap(model: Model) -> Model:
    """``model`` itself with the modules that :func:`tap` found, the same objects; a SensitivityTap stays."""
    for parent in list(model.modules()):
        _replace(parent, {child: child.tapped_module for child in parent.children() if isinstance(child, Tapped)})
        if type(parent) is TappedReLU:
            parent.__class__ = nn.ReLU  # type: ignore[assignment]
    return model


def _replace(parent: nn.Module, others: dict[nn.Module, nn.Module]) -> None:
    for name, child in parent._modules.items():
        if child in others:
            parent._modules[name] = others[child]
