"""Fragile and robust neurons: accuracy without each of them, how attacks hit them, and mending them.

A reconstruction of Pravin, Martino, Nicosia and Ojha (ICANN 2021; AIJ 327:104060, 2024).
"""

from .correlations import Correlation
from .counts import Counts
from .dropout import nodal_dropout
from .evaluation import RepairEvaluation, evaluate
from .repair import repair, repair_scales
from .report import CLASSES, SCORES, FragilityReport
from .scaling import scale_neurons
from .sweep import RepairReport, repair_sweep
from .targeting import target
from .targeting_report import TargetingReport

__all__ = [
    "CLASSES",
    "SCORES",
    "Correlation",
    "Counts",
    "FragilityReport",
    "RepairEvaluation",
    "RepairReport",
    "TargetingReport",
    "evaluate",
    "nodal_dropout",
    "repair",
    "repair_scales",
    "repair_sweep",
    "scale_neurons",
    "target",
]
