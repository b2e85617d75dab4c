"""One line each on what was audited, for reports."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from neurosens_fast.capture import Layers


def describe_layers(layers: Layers) -> str:
    """``activations``, ``relu1, relu2``, or the name of the function that chose."""
    if isinstance(layers, str):
        return layers
    return describe_callable(layers) if callable(layers) else ", ".join(layers)


def describe_model(model: nn.Module) -> str:
    """``DigitsCNN, 57,594 parameters``."""
    return f"{type(model).__name__}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters"


def describe_callable(attack: Callable[..., Any]) -> str:
    """The ``repr`` of an attack object, or the name of a function or class: one line without memory addresses."""
    if isinstance(attack, type):
        return attack.__name__
    if isinstance(attack, functools.partial):
        given = [repr(value) for value in attack.args] + [
            f"{name}={value!r}" for name, value in attack.keywords.items()
        ]
        return f"partial({', '.join([describe_callable(attack.func), *given])})"[:500]
    text = " ".join(repr(attack).split())
    if " at 0x" in text or len(text) > 500:
        named = attack if hasattr(attack, "__qualname__") else type(attack)
        text = f"{named.__module__}.{named.__qualname__}"
    return text


def describe_data(data: Any) -> str:
    """The type of a data set, or the shape of tensors."""
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        return f"tensors {list(data[0].shape)}"
    return type(data.dataset if isinstance(data, DataLoader) else data).__name__


def package_versions() -> dict[str, str]:
    """Versions of this package, torch, numpy and Python."""
    return {
        "neurosens_fast": package_version(),
        "torch": str(torch.__version__),
        "numpy": str(numpy.__version__),
        "python": platform.python_version(),
    }


def package_version() -> str:
    """The installed version of this package; ``unknown`` when it runs from a tree that is not installed."""
    try:
        return metadata.version("neurosens-fast")
    except metadata.PackageNotFoundError:
        return "unknown"
