"""The paper's three claims, measured with one call: :func:`reproduce`."""

from .plan import Plan, plan_for
from .run import WRITTEN, Reproduction, reproduce
from .verdicts import Verdict

__all__ = ["WRITTEN", "Plan", "Reproduction", "Verdict", "plan_for", "reproduce"]
