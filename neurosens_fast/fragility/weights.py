"""The weights that filters act on, and which of them a filter removes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurosens_fast.capture import Layers, select_layers
from neurosens_fast.capture.channels import CONVOLUTIONS, is_linear, is_norm

Band = tuple[float, float]
"""``(lower, upper)``: the sizes above ``lower`` and up to ``upper``, as shares of the largest one."""


@dataclass(frozen=True)
class WeightGroup:
    """Weights that are filtered together: layer -> its weight, and the ``largest`` absolute value of them all.

    ``count`` is the number of weights that are not 0. Those that are have nothing to lose and are not counted.
    """

    name: str
    weights: dict[str, nn.Parameter]
    largest: float
    count: int

    def filtered(self, band: Band) -> dict[str, Tensor]:
        """Parameter name -> a copy of the weight with 0 in the place of sizes within ``band``."""
        return {
            f"{layer}.weight": weight.detach().masked_fill(self._within(weight, band), 0)
            for layer, weight in self.weights.items()
        }

    def up_to(self, share: float) -> int:
        """How many weights have a size above 0 and up to ``share`` of the largest."""
        return sum(int(self._within(weight, (0.0, share)).sum()) for weight in self.weights.values())

    def _within(self, weight: Tensor, band: Band) -> Tensor:
        sizes = weight.detach().abs().to(torch.float64)  # so that no bound is rounded to the weights' dtype
        lower, upper = band
        return (sizes > lower * self.largest) & (sizes <= upper * self.largest)


def group_of(name: str, weights: Mapping[str, nn.Parameter]) -> WeightGroup:
    """The ``weights`` under one name."""
    largest = max(float(weight.detach().abs().max()) for weight in weights.values())
    return WeightGroup(name, dict(weights), largest, sum(int(weight.count_nonzero()) for weight in weights.values()))


def find_weights(model: nn.Module, layers: Layers | None) -> tuple[dict[str, nn.Parameter], tuple[str, ...]]:
    """Layer -> its weight, and notes on what was left out or is shared.

    ``layers`` chooses as in ``select_layers``, by default convolutions and linear layers. A weight is a parameter
    called ``weight`` of two dimensions or more, not that of a norm. Raises ``ValueError`` for a layer that was named
    one by one and has none, and where no weight is left.
    """
    chosen, named = _chosen(model, layers)
    found: dict[str, nn.Parameter] = {}
    notes = []
    for name, module in chosen.items():
        reason = _unfit(module)
        if reason and name in named:
            raise ValueError(f"layer {name!r} {reason}, so there is nothing to filter; choose layers with weights")
        if reason and (isinstance(module, CONVOLUTIONS) or is_linear(module)):
            notes.append(f"left out {name}: it {reason}")
        weight = module._parameters.get("weight")
        if not reason and weight is not None and not any(weight is other for other in found.values()):
            found[name] = weight
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


def _shared(model: nn.Module, found: Mapping[str, nn.Parameter]) -> Iterator[str]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for layer, weight in found.items():
        others = [name for name in names[id(weight)] if name != f"{layer}.weight"]
        if others:
            yield f"the weight of {layer} is also {', '.join(others)}: it is filtered once, in all of them"
