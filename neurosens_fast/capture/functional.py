"""Activations that a model computes by functions instead of modules: hooks cannot reach them, users should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .channels import is_activation
from .pairs import Inputs, hookable, plain_forward
from .stack import ModuleStack

_NAMES = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid"),
    *("logsigmoid", "tanh", "softplus", "softsign", "hardtanh", "hardsigmoid", "hardswish", "threshold", "relu_"),
)
_FUNCTIONS: dict[Any, str] = {
    getattr(home, name): f"{prefix}.{name}"
    for home, prefix in ((torch.Tensor, "Tensor"), (torch, "torch"), (functional, "F"))
    for name in _NAMES
    if hasattr(home, name)
}


@dataclass(frozen=True)
class FunctionalActivation:
    """A function such as ``F.relu`` called ``calls`` times per forward inside ``module`` (``""``: the model itself)."""

    function: str
    module: str
    module_type: str
    calls: int

    def __str__(self) -> str:
        place = (
            f"{self.module!r} ({self.module_type})" if self.module else f"the model's own forward ({self.module_type})"
        )
        return f"{self.function} in {place}" + (f", {self.calls} times" if self.calls > 1 else "")


FUNCTIONAL_MEND = "write it as a module (nn.ReLU() for F.relu) to tap it, or tap the layer before it"
"""What to do about a :class:`FunctionalActivation`."""


class _Watch(TorchFunctionMode):
    """While active, counts the activation functions that run outside of activation modules."""

    def __init__(self, stack: ModuleStack) -> None:
        super().__init__()
        self._stack = stack
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        function = _FUNCTIONS.get(func)
        if function is not None and self._stack.running:
            name, module = self._stack.running[-1]
            if not is_activation(module):
                self.seen[function, name, type(module).__name__] += 1
        return func(*args, **(kwargs or {}))


def functional_activations(model: nn.Module, inputs: Inputs) -> list[FunctionalActivation]:
    """Activation functions that one forward of ``inputs`` ``[N, ...]`` calls outside of activation modules.

    Found by running the model under a ``torch.overrides.TorchFunctionMode``. Hooks cannot reach them:
    :data:`FUNCTIONAL_MEND` says what to do.
    """
    model = hookable(model)
    with ModuleStack(model) as stack, _Watch(stack) as watch:
        plain_forward(model, inputs)
    return [FunctionalActivation(function, name, kind, calls) for (function, name, kind), calls in watch.seen.items()]
