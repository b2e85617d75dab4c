"""Models by name: built-in ones, torchvision's, timm's, and functions of a person's own file."""

from __future__ import annotations

from .cifar_resnet18 import CifarResNet18
from .digits_cnn import DigitsCNN
from .load import describe_model, load_model, model_for, model_names
from .mnist_cnn import MnistCNN
from .normalized import NORMALIZATIONS, Normalized

__all__ = [
    "NORMALIZATIONS",
    "CifarResNet18",
    "DigitsCNN",
    "MnistCNN",
    "Normalized",
    "describe_model",
    "load_model",
    "model_for",
    "model_names",
]
