"""Every neuron's sensitivity, of any model, data and attack: ``audit(model, data, attack) -> AuditReport``."""

from .report import AuditReport, LayerSummary, Neuron
from .run import audit
from .storage import ReportError

__all__ = ["AuditReport", "LayerSummary", "Neuron", "ReportError", "audit"]
