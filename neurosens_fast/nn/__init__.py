"""SNS training: a loss on the most sensitive neurons, and modules that mark where a model is measured.

``SNSLoss(model)`` hooks the layers it is given. ``tap(model)`` puts tap modules into a model instead: a ``TappedReLU``
measures in the very pass in which it writes its output, ``Tapped(module)`` and ``SensitivityTap()`` mark a place. An
``SNSLoss`` without ``layers`` takes all of them.
"""

from .sns_loss import SNSLoss
from .tap_model import tap, untap
from .taps import SensitivityTap, Tapped, TappedReLU

__all__ = ["SNSLoss", "SensitivityTap", "Tapped", "TappedReLU", "tap", "untap"]
