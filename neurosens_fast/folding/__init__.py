"""A private copy of a model with batch norm folded into the layers before it, for whoever runs a model many times."""

from .private_copy import PrivateCopy
from .shadow import fingerprint, shadow
from .taps import FusedTaps
from .trace import NotTraced, has_hooks, is_special
from .trial import TRIAL_SAMPLES, agreement, suits_channels_last, tolerance

__all__ = [
    "TRIAL_SAMPLES",
    "FusedTaps",
    "NotTraced",
    "PrivateCopy",
    "agreement",
    "fingerprint",
    "has_hooks",
    "is_special",
    "shadow",
    "suits_channels_last",
    "tolerance",
]
