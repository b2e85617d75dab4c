"""scikit-learn's digits, split in two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosens_fast.support.packages import import_package


@dataclass(frozen=True)
class Split:
    """Training and test images ``[N, C, H, W]`` float32 in [0, 1] with labels ``[N]`` int64, and a description."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    description: str


def digits(seed: int = 0, test_share: float = 0.3) -> Split:
    """scikit-learn's 1,797 handwritten digits ``[N, 1, 8, 8]`` in 17 grey levels, split at random by ``seed``.

    The images ship inside scikit-learn's wheel: nothing is downloaded. Raises ``ModuleNotFoundError``
    with the command to type if scikit-learn is missing, ``ValueError`` for a share outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, got {test_share}")
    bunch = import_package("sklearn.datasets", "the digits need").load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).div_(16).unsqueeze(1)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out = max(1, min(len(images) - 1, round(len(images) * test_share)))
    test, train = order[:held_out], order[held_out:]
    description = f"scikit-learn digits, test split of seed {seed}"
    return Split(images[train], labels[train], images[test], labels[test], description)
