"""The wrapper for normalised input, and the digits."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch
from torch import nn

from neurosens_fast.data import digits
from neurosens_fast.models import DigitsCNN, Normalized


def test_normalized_equals_normalising_first() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mean, std = torch.tensor([0.5, 0.25, 0.75]), torch.tensor([0.5, 0.25, 1.0])
    wrapped = Normalized(nn.Identity(), mean.tolist(), std.tolist())
    assert torch.equal(wrapped(x), (x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert torch.equal(Normalized(nn.Identity(), 0.5, 2.0)(x), (x - 0.5) / 2)
    with pytest.raises(ValueError, match="hold 3 channels"):
        wrapped(x[:, :2])


@pytest.mark.parametrize(("mean", "std"), [([0.5], [1.0, 1.0]), ([0.5], [0.0]), ([0.5], [float("nan")]), ([], [])])
def test_normalized_refuses(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="mean"):
        Normalized(nn.Identity(), mean, std)


def test_digits_split_is_fixed_by_its_seed_and_disjoint() -> None:
    split, again, other = digits(0), digits(0), digits(1)
    assert torch.equal(split.test_images, again.test_images)
    assert not torch.equal(split.test_images, other.test_images)
    assert split.train_images.shape == (1258, 1, 8, 8)
    assert len(split.train_labels) + len(split.test_labels) == 1797
    everything = torch.cat((split.train_images, split.test_images)).flatten(1)
    assert (float(everything.min()), float(everything.max())) == (0, 1)
    assert len(everything.unique(dim=0)) == 1797
    assert DigitsCNN()(split.test_images[:2]).shape == (2, 10)


def test_missing_scikit_learn_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        digits()
