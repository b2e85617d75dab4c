"""Accuracy with neurons set to zero: the most sensitive ones, random ones, the least sensitive ones.

The experiment behind the first claim of Zhang et al. (IEEE TIP 30:1291, 2021), that sensitive neurons contribute most
to predictions in the adversarial setting. Orders, scopes and protocols are choices of this package.
"""

from .curve import MaskingCurve, MaskingPoint
from .experiment import PROTOCOLS, masking_curve
from .ranking import ORDERS, SCOPES

__all__ = ["ORDERS", "PROTOCOLS", "SCOPES", "MaskingCurve", "MaskingPoint", "masking_curve"]
