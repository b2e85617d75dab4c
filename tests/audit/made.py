"""Reports made of given numbers."""

from __future__ import annotations

from typing import Any

import torch

from neurosens_fast.audit import AuditReport
from neurosens_fast.audit.report import LayerAudit
from neurosens_fast.columns import SUMS
from neurosens_fast.statistics import PairStatistics


def made(layers: dict[str, list[float]], **others: Any) -> AuditReport:
    """A report of one sample whose sensitivities are those of ``layers``; every other total is 0."""
    entries: dict[str, LayerAudit] = {}
    for name, values in layers.items():
        statistics = PairStatistics(len(values))
        statistics.sums[:, SUMS.index("sensitivity")] = torch.tensor(values, dtype=torch.float64)
        statistics.maxima.zero_()
        statistics.samples = 1
        entries[name] = LayerAudit("ReLU", 1, (len(values), 2, 2), statistics)
    fields: dict[str, Any] = {
        "samples": 1,
        "labelled": 1,
        "correct_benign": 1,
        "correct_adversarial": 0,
        "model": "Net, 3 parameters",
        "attack": "FGSM(eps=0.1)",
        "data": ("tensors [1, 3]",),
        "layer_choice": "activations",
        "device": "cpu",
        "dtype": "float32",
        "seeds": (0,),
        "versions": {"torch": "2.14.1"},
    }
    return AuditReport(entries, **{**fields, **others})
