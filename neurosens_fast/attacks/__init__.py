"""Adversarial attacks in torchattacks' shape: ``PGD(model, eps=8/255, alpha=2/255, steps=10)(x, y) -> x_adv``.

Any callable ``(x, y) -> x_adv`` is an attack to the rest of the package.
"""

from .base import Attack
from .fgsm import FGSM
from .pgd import PGD

__all__ = ["FGSM", "PGD", "Attack"]
