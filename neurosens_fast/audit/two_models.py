"""Auditing two models against each other on the same inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neurosens_fast.capture import Inputs, PairedModels, logits_of

from .paired_run import AuditRun
from .scores import ScoreWriter
from .setting import Setting


class TwoModelRun(AuditRun):
    """The same inputs through two models."""

    rows: PairedModels

    def __init__(
        self,
        setting: Setting,
        models: PairedModels,
        verify: bool,
        by_class: bool = False,
        scores: ScoreWriter | None = None,
    ) -> None:
        super().__init__(setting, models, by_class, scores)
        setting.others = (models.model_b,)
        self.verify = verify
        self.not_fused = "two models are compared"

    def begin(self, inputs: Inputs) -> None:
        """Look for layers of either model that mix samples, where that is wanted."""
        if not self.verify:
            return
        for model, selection, axes in self.rows.sides():
            for row, (layer, error) in self._check(model, selection, inputs, axes).items():
                self.rows.skip(*self.rows.names_in_a(model, row, layer), error)

    def measure(self, inputs: Inputs, labels: Tensor, first: int) -> tuple[Tensor | None, Tensor | None]:
        """Run both models."""
        self.whole = False
        outputs: tuple[Any, Any] = self.rows.forward(inputs, self.setting.autocast)
        first_logits, second_logits = (logits_of(output, len(labels)) for output in outputs)
        return first_logits, second_logits
