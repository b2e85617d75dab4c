"""What stops a training run early: no progress, a collapse of adversarial accuracy, or a loss that is not finite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.capture import untouched
from neurosens_fast.support.processes import rank_and_world

BACK_OFFS = 3
"""How often a run goes back to its best weights before it stops."""


class DivergedError(FloatingPointError):
    """The loss of a training run is not finite; the message names epoch, batch and layer."""


@dataclass
class Watch:
    """Follows one accuracy over epochs; ``points`` (percentage points) below the best are a collapse."""

    collapse: str
    points: float
    patience: int | None
    best: float = -1.0
    best_epoch: int = 0
    back_offs: int = field(default=0)

    def add(self, epoch: int, accuracy: float) -> bool:
        """Note an accuracy; whether it is the best so far (the first of equals stays best)."""
        if accuracy <= self.best:
            return False
        self.best, self.best_epoch = accuracy, epoch
        return True

    def collapsed(self, accuracy: float) -> bool:
        """Whether the accuracy fell too far below the best one."""
        return self.collapse != "ignore" and 100 * (self.best - accuracy) > self.points

    def tired(self, epoch: int) -> bool:
        """Whether too many epochs passed without a better accuracy."""
        return self.patience is not None and epoch - self.best_epoch >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best": self.best, "best_epoch": self.best_epoch, "back_offs": self.back_offs}

    def load(self, state: dict[str, Any]) -> None:
        """Go on with :meth:`state`."""
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.back_offs = int(state["back_offs"])


def place_of_failure(model: nn.Module, inputs: Tensor) -> str | None:
    """Where in ``model`` values stop being finite: words that name a parameter or a layer; None where all are.

    ``inputs`` ``[N, ...]`` go through it once more in its present modes (of one process alone: layers may wait for
    others) and in evaluation mode, as attacks see it; it is left as it was.
    """
    if (weights := bad_weights(model)) is not None:
        return weights
    modes = [{}, {module: module.training for module in model.modules()}]
    for training in modes[: 1 if rank_and_world()[1] > 1 else 2][::-1]:
        if (layer := _first_bad_layer(model, inputs, training)) is not None:
            return f"layer {layer!r} is the first whose output is not finite"
    return None


def bad_weights(model: nn.Module) -> str | None:
    """Words that name the first parameter that is not finite; None without one."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            return f"the weights {name!r} are not finite"
    return None


def _first_bad_layer(model: nn.Module, inputs: Tensor, training: dict[nn.Module, bool]) -> str | None:
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):

            def hook(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor) and not found and not bool(output.isfinite().all()):
                    found.append(name)

            handles.append(module.register_forward_hook(hook))
    try:
        with untouched(model), torch.no_grad():  # in evaluation mode
            for module, mode in training.items():
                module.training = mode
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
