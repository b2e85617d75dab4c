"""Every neuron's sensitivity, of any model, data and attack: ``audit(model, data, attack) -> AuditReport``."""

from .masking import MaskingCurve, MaskingPoint, masking_curve
from .report import AuditReport, LayerSummary, Neuron
from .run import audit, audit_pairs
from .scores import read_scores
from .storage import ReportError

__all__ = [
    "AuditReport",
    "LayerSummary",
    "MaskingCurve",
    "MaskingPoint",
    "Neuron",
    "ReportError",
    "audit",
    "audit_pairs",
    "masking_curve",
    "read_scores",
]
