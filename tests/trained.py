"""What comparisons with other libraries run on: a network trained on scikit-learn's digits, and images for it."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn

from neurosens_fast.data import Split, digits
from neurosens_fast.demo import accuracy, train_digits
from neurosens_fast.models import DigitsCNN


def trained(dtype: torch.dtype = torch.float32) -> DigitsCNN:
    """A copy of the trained network, in evaluation mode."""
    return copy.deepcopy(_network()).to(dtype)


def images(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images ``[count, 1, 8, 8]`` and labels: the 539 test images, then images of the training set."""
    split = _split()
    every = torch.cat((split.test_images, split.train_images)), torch.cat((split.test_labels, split.train_labels))
    return every[0][:count].to(dtype), every[1][:count]


def right(model: nn.Module, adversarial: Tensor, labels: Tensor) -> int:
    """How many of ``adversarial`` ``[N, 1, 8, 8]`` the model gets right."""
    return round(accuracy(model, adversarial, labels) * len(labels))


@functools.cache
def _split() -> Split:
    return digits()


@functools.cache
def _network() -> DigitsCNN:
    return train_digits(_split(), epochs=4, seed=0)
