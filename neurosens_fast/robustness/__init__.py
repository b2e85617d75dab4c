"""How many samples a model still gets right when they are attacked, and how far its boundary lies from them."""

from .boundary import (
    BoundaryDistances,
    empirical_boundary_distance,
    empirical_boundary_distance_2,
    empirical_noise_insensitivity,
)
from .evaluation import RobustnessWarning, robust_accuracy
from .report import AttackOutcome, RobustnessReport

__all__ = [
    "AttackOutcome",
    "BoundaryDistances",
    "RobustnessReport",
    "RobustnessWarning",
    "empirical_boundary_distance",
    "empirical_boundary_distance_2",
    "empirical_noise_insensitivity",
    "robust_accuracy",
]
