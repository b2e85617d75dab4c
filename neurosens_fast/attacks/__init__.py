"""Adversarial attacks in torchattacks' shape: ``PGD(model, eps=8/255, alpha=2/255, steps=10)(x, y) -> x_adv``.

Any callable ``(x, y) -> x_adv`` is an attack to the rest of the package.
"""

from .apgd import APGD, APGDT
from .base import NORMS, Attack
from .cw import CW
from .fgsm import FFGSM, FGSM
from .mifgsm import MIFGSM
from .neuron_loss import NeuronLoss, neuron_loss
from .pgd import BIM, PGD
from .square import Square
from .worst import Worst, judged, run_attack

__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "CW",
    "FFGSM",
    "FGSM",
    "MIFGSM",
    "NORMS",
    "PGD",
    "Attack",
    "NeuronLoss",
    "Square",
    "Worst",
    "judged",
    "neuron_loss",
    "run_attack",
]
