"""Every neuron's sensitivity, of any model, data and attack: ``audit(model, data, attack) -> AuditReport``."""

from .compare import Comparison, LayerComparison, MovedNeuron, compare
from .masking import MaskingCurve, MaskingPoint, masking_curve
from .report import AuditReport, LayerSummary, Neuron
from .run import audit, audit_pairs
from .scores import read_scores
from .storage import ReportError

__all__ = [
    "AuditReport",
    "Comparison",
    "LayerComparison",
    "LayerSummary",
    "MaskingCurve",
    "MaskingPoint",
    "MovedNeuron",
    "Neuron",
    "ReportError",
    "audit",
    "audit_pairs",
    "compare",
    "masking_curve",
    "read_scores",
]
