"""The weights that filters act on, and which of them a filter removes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurosens_fast.capture import Layers, select_layers
from neurosens_fast.capture.channels import CONVOLUTIONS, is_linear, is_norm

Band = tuple[float, float]
"""``(lower, upper)``: the sizes above ``lower`` and up to ``upper``, as shares of the largest one."""


@dataclass(frozen=True)
class LayerWeight:
    """A weight, and the names under which modules hold it: one name for each module, however many names that has."""

    parameter: nn.Parameter
    names: tuple[str, ...]

    def within(self, band: Band, largest: float) -> Tensor:
        """Which of its sizes lie within ``band``, a bool tensor of its shape."""
        sizes = self.parameter.detach().abs().to(torch.float64)  # so that no bound is rounded to the weights' dtype
        lower, upper = band
        return (sizes > lower * largest) & (sizes <= upper * largest)


@dataclass(frozen=True)
class WeightGroup:
    """Weights that are filtered together, and the ``largest`` absolute value of them all.

    ``count`` is the number of weights that are not 0. Those that are have nothing to lose and are not counted.
    """

    name: str
    weights: tuple[LayerWeight, ...]
    largest: float
    count: int

    @classmethod
    def of(cls, name: str, weights: Iterable[LayerWeight]) -> WeightGroup:
        """The ``weights`` under one name."""
        held = tuple(weights)
        values = [weight.parameter.detach() for weight in held]
        largest = max(float(value.abs().max()) for value in values)
        return cls(name, held, largest, sum(int(value.count_nonzero()) for value in values))

    def filtered(self, band: Band) -> dict[str, Tensor]:
        """Parameter name -> a copy of the weight with 0 in the place of sizes within ``band``."""
        changed: dict[str, Tensor] = {}
        for weight in self.weights:
            copy = weight.parameter.detach().masked_fill(weight.within(band, self.largest), 0)
            changed.update(dict.fromkeys(weight.names, copy))
        return changed

    def up_to(self, share: float) -> int:
        """How many weights have a size above 0 and up to ``share`` of the largest."""
        return sum(int(weight.within((0.0, share), self.largest).sum()) for weight in self.weights)


def find_weights(model: nn.Module, layers: Layers | None) -> tuple[dict[str, LayerWeight], tuple[str, ...]]:
    """Layer -> its weight, and notes on what was left out or is shared.

    ``layers`` chooses as in ``select_layers``, by default convolutions and linear layers. A weight is a parameter
    called ``weight`` of two dimensions or more, not that of a norm. Raises ``ValueError`` for a layer that was named
    one by one and has none, and where no weight is left.
    """
    chosen, named = _chosen(model, layers)
    found: dict[str, LayerWeight] = {}
    notes = []
    for name, module in chosen.items():
        reason = _unfit(module)
        if reason and name in named:
            raise ValueError(f"layer {name!r} {reason}, so there is nothing to filter; choose layers with weights")
        if reason and (isinstance(module, CONVOLUTIONS) or is_linear(module)):
            notes.append(f"left out {name}: it {reason}")
        weight = module._parameters.get("weight")
        if not reason and weight is not None and not any(weight is other.parameter for other in found.values()):
            found[name] = LayerWeight(weight, _names(model, weight))
    if not found:
        raise ValueError(
            "there are no weights to filter: none of the chosen layers has a parameter called weight of two dimensions "
            "or more that is not 0 throughout; choose convolutions or linear layers"
        )
    return found, (*notes, *_shared(model, found))


def _chosen(model: nn.Module, layers: Layers | None) -> tuple[Mapping[str, nn.Module], set[str]]:
    if layers is not None:
        selection = select_layers(model, layers)
        if selection.calls:
            name = next(iter(selection.calls))
            raise ValueError(f"a weight is the same in every call of its layer; name {name!r} without #")
        return selection.modules, selection.named
    usual = {name: part for name, part in model.named_modules() if isinstance(part, CONVOLUTIONS) or is_linear(part)}
    if "" in usual:
        raise ValueError("the model is a bare layer without a name; wrap it as in nn.Sequential(layer)")
    return usual, set()


def _unfit(module: nn.Module) -> str | None:
    """Why a layer has no weight to filter; None if it has."""
    weight = module._parameters.get("weight")
    if weight is None:
        computed = isinstance(getattr(module, "weight", None), Tensor)
        return "computes its weight from other parameters" if computed else "has no weight of its own"
    if is_norm(module):
        return "is a norm"
    if weight.dim() < 2 or not weight.is_floating_point():
        return "has no weight of two dimensions or more in floating point"
    return None if bool(weight.detach().any()) else "has a weight that is 0 throughout"


def _names(model: nn.Module, weight: nn.Parameter) -> tuple[str, ...]:
    return tuple(
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is weight
    )


def _shared(model: nn.Module, found: Mapping[str, LayerWeight]) -> Iterator[str]:
    every = list(model.named_parameters(remove_duplicate=False))
    for layer, weight in found.items():
        others = [name for name, parameter in every if parameter is weight.parameter and name != f"{layer}.weight"]
        if others:
            yield f"the weight of {layer} is also {', '.join(others)}: it is filtered once, in all of them"
