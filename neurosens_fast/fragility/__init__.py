"""Fragile and robust neurons: accuracy without each of them, how attacks hit them, and mending them.

A reconstruction of Pravin, Martino, Nicosia and Ojha (ICANN 2021; AIJ 327:104060, 2024).
"""

from .counts import Counts
from .dropout import nodal_dropout
from .report import CLASSES, SCORES, FragilityReport

__all__ = ["CLASSES", "SCORES", "Counts", "FragilityReport", "nodal_dropout"]
