"""Adversarial training and SNS: losses for loops of your own, and :func:`fit`, which runs one."""

from .checkpoints import CheckpointError
from .fit import fit
from .loader import DeviceLoader, held_out
from .losses import (
    alp_loss,
    mart_loss,
    pgd_at_loss,
    sns_objective,
    trades_loss,
    vulnerability_suppression_loss,
)
from .methods import METHODS, Method
from .result import Epoch, TrainingResult
from .settings import Settings
from .watch import DivergedError

__all__ = [
    "METHODS",
    "CheckpointError",
    "DeviceLoader",
    "DivergedError",
    "Epoch",
    "Method",
    "Settings",
    "TrainingResult",
    "alp_loss",
    "fit",
    "held_out",
    "mart_loss",
    "pgd_at_loss",
    "sns_objective",
    "trades_loss",
    "vulnerability_suppression_loss",
]
