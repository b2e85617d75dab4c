"""How many samples a model still gets right when they are attacked."""

from .evaluation import RobustnessWarning, robust_accuracy
from .report import AttackOutcome, RobustnessReport

__all__ = ["AttackOutcome", "RobustnessReport", "RobustnessWarning", "robust_accuracy"]
