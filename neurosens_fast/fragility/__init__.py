"""Fragile and robust neurons: accuracy without each of them, how attacks hit them, and mending them.

A reconstruction of Pravin, Martino, Nicosia and Ojha (ICANN 2021; AIJ 327:104060, 2024).
"""

from .correlations import Correlation
from .counts import Counts
from .dropout import nodal_dropout
from .evaluation import RepairEvaluation, evaluate
from .filter_report import KINDS as FILTER_KINDS
from .filter_report import FilterReport
from .judging import CLASSES, SCORES
from .repair import repair, repair_scales
from .report import FragilityReport
from .scaling import scale_neurons
from .sweep import RepairReport, repair_sweep
from .synaptic_filter import FILTER_SCOPES, synaptic_filter
from .targeting import target
from .targeting_report import TargetingReport

__all__ = [
    "CLASSES",
    "FILTER_KINDS",
    "FILTER_SCOPES",
    "SCORES",
    "Correlation",
    "Counts",
    "FilterReport",
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
    "synaptic_filter",
    "target",
]
