"""scikit-learn's digits."""

from __future__ import annotations

import sys

import pytest
import torch

from neurosens_fast.data import digits, load_data
from neurosens_fast.models import DigitsCNN


def test_split_is_fixed_by_its_seed_and_disjoint() -> None:
    split, again, other = digits(0), digits(0), digits(1)
    assert torch.equal(split.test_images, again.test_images)
    assert not torch.equal(split.test_images, other.test_images)
    assert split.train_images.shape == (1258, 1, 8, 8)
    assert len(split.train_labels) + len(split.test_labels) == 1797
    everything = torch.cat((split.train_images, split.test_images)).flatten(1)
    assert (float(everything.min()), float(everything.max())) == (0, 1)
    assert len(everything.unique(dim=0)) == 1797
    assert DigitsCNN()(split.test_images[:2]).shape == (2, 10)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_share_must_leave_both_parts(share: float) -> None:
    with pytest.raises(ValueError, match="test_share must lie between 0 and 1"):
        digits(0, share)


def test_by_name() -> None:
    split = digits(0)
    test, train = load_data("digits"), load_data("digits", train=True)
    assert (test.classes, test.shape) == (10, (1, 8, 8))
    assert (len(test.dataset), len(train.dataset)) == (539, 1258)
    assert test.description == split.description
    assert train.description == "scikit-learn digits, training split of seed 0"
    assert torch.equal(test.dataset[7][0], split.test_images[7])
    assert torch.equal(train.dataset[7][1], split.train_labels[7])


def test_missing_scikit_learn_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(ModuleNotFoundError, match="the digits need scikit-learn; type: pip install scikit-learn"):
        digits()
