"""Neuron sensitivity: how strongly every neuron of a network reacts to an attack, in one read.

``audit`` measures a model, ``attacks`` make the inputs, ``nn`` trains against sensitivity; ``training`` and
``robustness`` train and judge, ``fragility`` and ``explorer`` look at single neurons, ``models`` and ``data`` go by
name, ``adapters`` are for other libraries. ``statistics`` holds totals and metrics, ``ops`` the fused operators,
``reference`` the same in pure PyTorch. Names are loaded when they are first used, so that ``python -m
neurosens_fast.env`` can report on an installation whose extension is missing.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        attacks,
        audit,
        data,
        explorer,
        fragility,
        models,
        nn,
        ops,
        reference,
        robustness,
        statistics,
        training,
    )
    from .attacks import FGSM, PGD
    from .statistics import PairStatistics

__all__ = [
    "FGSM",
    "PGD",
    "PairStatistics",
    "__version__",
    "attacks",
    "audit",
    "data",
    "explorer",
    "fragility",
    "models",
    "nn",
    "ops",
    "reference",
    "robustness",
    "statistics",
    "training",
]

try:
    __version__ = version("neurosens-fast")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "unknown"

_HOMES = {"FGSM": "attacks", "PGD": "attacks", "PairStatistics": "statistics"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
