"""Every neuron's sensitivity, of any model, data and attack: ``audit(model, data, attack) -> AuditReport``."""

from .compare import Comparison, LayerComparison, MovedNeuron, compare
from .masking import MaskingCurve, MaskingPoint, masking_curve
from .report import AuditReport, LayerSummary, Neuron
from .run import audit
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
    "compare",
    "masking_curve",
]
