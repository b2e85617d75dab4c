"""Receptive fields that are computed when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosens_fast.audit.progress import Report, progress_bar
from neurosens_fast.audit.setting import Setting

from .exploration import Array, Fields
from .fields import one_field, receptive_fields
from .neuron_layer import NeuronLayer


@dataclass(frozen=True)
class FieldsOnDemand:
    """What receptive fields are computed of: N ``inputs`` ``[N, B, H, W]``, ``adversarial`` ``[E, N, B, H, W]``.

    ``labels`` are ``[N]``, ``adversarial_classes`` ``[E, N]``, ``share`` that of masks; all on the CPU.
    """

    setting: Setting
    layer: NeuronLayer
    inputs: Tensor
    adversarial: Tensor
    labels: Tensor
    adversarial_classes: Tensor
    share: float

    def many(
        self, rows: Sequence[int], neurons: Sequence[int], batch: int, seed: int, progress: bool | Report
    ) -> Fields:
        """Those of ``neurons`` in the samples ``rows``, at every level."""
        chosen = torch.tensor(list(rows))
        with progress_bar(progress, None, "receptive fields") as report:
            return receptive_fields(
                self.setting,
                self.layer,
                self.inputs[chosen],
                self.adversarial[:, chosen],
                rows,
                self.labels[chosen],
                self.adversarial_classes[:, chosen],
                neurons,
                self.share,
                batch,
                seed,
                report,
            )

    def field(self, level: int, row: int, neuron: int) -> dict[str, Array]:
        """One field as in :class:`Fields`: ``mask`` ``[H, W]``, ``drop`` and ``rise`` ``[1]``, ``seen`` ``[2, 2]``.

        Raises ``ValueError`` for a level, a row or a neuron that does not exist.
        """
        for name, value, count in (
            ("level", level, len(self.adversarial)),
            ("image", row, len(self.inputs)),
            ("neuron", neuron, self.layer.channels),
        ):
            if not 0 <= value < count:
                raise ValueError(f"there is no {name} {value}; they are counted from 0 to {count - 1}")
        found = one_field(
            self.setting,
            self.layer,
            self.inputs[row],
            self.adversarial[level, row],
            row,
            int(self.labels[row]),
            int(self.adversarial_classes[level, row]),
            neuron,
            self.share,
        )
        return {
            "mask": found.masks[0, 0, 0],
            "drop": found.drop[0, 0],
            "rise": found.rise[0, 0],
            "seen": found.seen[0, 0, 0],
        }
