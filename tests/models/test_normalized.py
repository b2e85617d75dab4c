"""The wrapper for normalised input, and the texts that name a normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neurosens_fast.models import NORMALIZATIONS, Normalized
from neurosens_fast.models.normalized import normalized, parse_normalization


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


def test_texts_and_names_mean_numbers() -> None:
    assert parse_normalization("0.5/0.25") == ((0.5,), (0.25,))
    assert parse_normalization("0.485, 0.456,0.406/0.229,0.224,0.225") == NORMALIZATIONS["imagenet"]
    assert parse_normalization(" ImageNet ") == NORMALIZATIONS["imagenet"]
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(normalized(nn.Identity(), "mnist")(x), (x - 0.1307) / 0.3081)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("imagnet", "'imagnet'.*did you mean imagenet"),
        ("0.5", "MEAN/STD"),
        ("", "unknown normalisation ''"),
        ("0.5/0", "std positive"),
        ("0.5,0.5/0.25", "one number per channel each, got 2 and 1"),
        ("0.5/0.25/1", "could not convert"),
        ("a/b", "could not convert string to float: 'a'"),
        ("nan/1", "mean must be finite"),
    ],
)
def test_bad_texts_are_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_normalization(text)
    assert "\n" not in str(caught.value)
    assert "0.485,0.456,0.406/0.229,0.224,0.225" in str(caught.value)
