"""How attacks run a model: its gradient for the input, exactly as it stands or on a faster private copy."""

from .engine import Engine, Evaluation, memory_format_of
from .switches import SWITCHES, Choice, Switches, checked_switches

__all__ = ["SWITCHES", "Choice", "Engine", "Evaluation", "Switches", "checked_switches", "memory_format_of"]
