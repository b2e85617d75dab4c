"""Logits of many images of the same model, faster than it computes them itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks.engine import Engine, checked_switches
from neurosens_fast.capture import logits_of, plain_forward

_REPAID = 10**9
"""Images times parameters from which on a private copy saves more time than it takes to make: about 90 images of a
ResNet-18 on two cores (a choice of this package)."""


class Forwards:
    """Runs ``model`` in evaluation mode without gradients, under ``autocast`` if a dtype is given.

    With so many ``images`` ahead that they repay it, the forwards run as those of attacks do: on a private copy with
    batch norm folded into the layers before it and in channels_last memory, where a trial on ``few`` ``[N, B, H, W]``
    gives what the model does; else the model runs as it is. The copy has the weights that the model has now.
    """

    def __init__(self, model: nn.Module, few: Tensor, images: int, autocast: torch.dtype | None = None) -> None:
        self._model, self._autocast = model, autocast
        self._engine: Engine | None = None
        # Half precision rounds a folded weight otherwise than weight and norm apart, so there the model runs as it is.
        work = images * sum(parameter.numel() for parameter in model.parameters())
        if work >= _REPAID and len(few) and autocast is None and self._logits(few[:1]) is not None:
            self._engine = Engine(model, checked_switches({"graph": False}), "the explorer")
            begin = self._engine.begin
            plain_forward(model, few, run=lambda given: begin(given, images, named_loss=False))

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of ``images``; ``ValueError`` for a model that puts out something else."""
        found = self._logits(images)
        if found is None:
            raise ValueError("the model must put out logits [N, classes]; wrap one that puts out something else")
        return found

    def _logits(self, images: Tensor) -> Tensor | None:
        return logits_of(plain_forward(self._model, images, self._autocast, self._run), len(images))

    def _run(self, images: Tensor) -> Any:
        if self._engine is None:
            return self._model(images)
        return self._engine.logits(images.contiguous(memory_format=self._engine.memory_format))
