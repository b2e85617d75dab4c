"""Counts against sums over samples written out, and tests against their definitions."""

from __future__ import annotations

from math import comb, sqrt

import pytest
import torch

from neurosens_fast.fragility import Counts
from neurosens_fast.fragility.counts import mcnemar


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    """Right without dropping ``[3, 40]``, and with ``[5, 3, 40]``."""
    generator = torch.Generator().manual_seed(1)
    before = torch.rand(3, 40, generator=generator) < 0.7
    flipped = torch.rand(5, 3, 40, generator=generator) < 0.3
    return before, before ^ flipped


def filled(before: torch.Tensor, after: torch.Tensor, size: int) -> Counts:
    counts = Counts.zeros(5, 3)
    for first, second in zip(before.split(size, 1), after.split(size, 2), strict=True):
        counts.add(first, second)
    return counts


@pytest.mark.parametrize("size", [1, 7, 40])
def test_accuracies_changes_and_errors_are_those_of_the_samples(
    answers: tuple[torch.Tensor, torch.Tensor], size: int
) -> None:
    before, after = answers
    counts = filled(before, after, size)
    assert counts.samples == 40
    change = after.double() - before.double()
    torch.testing.assert_close(counts.accuracy().double(), before.double().mean(1))
    torch.testing.assert_close(counts.change().double(), change.mean(2))
    torch.testing.assert_close(counts.change_error().double(), change.std(2, correction=0) / sqrt(40))
    difference = change - change[:, :1]
    torch.testing.assert_close(counts.difference_error().double(), difference.std(2, correction=0) / sqrt(40))
    share = before.double().mean(1)
    torch.testing.assert_close(counts.accuracy_error().double(), (share * (1 - share) / 40).sqrt())


def test_p_values_are_those_of_a_sign_test_by_hand(answers: tuple[torch.Tensor, torch.Tensor]) -> None:
    counts = filled(*answers, 40)
    found = counts.p_values()
    for neuron in range(5):
        for condition in range(3):
            lost, gained = int(counts.lost[neuron, condition]), int(counts.gained[neuron, condition])
            pairs = lost + gained
            tail = sum(comb(pairs, k) for k in range(min(lost, gained) + 1))
            assert found[neuron, condition].item() == pytest.approx(min(1.0, 2 * tail / 2**pairs), rel=1e-12)


def test_mcnemar_of_many_pairs() -> None:
    tail = sum(comb(2000, k) for k in range(951))
    assert mcnemar(950, 1050) == pytest.approx(2 * tail / 2**2000, rel=1e-9)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(6, 0) == mcnemar(0, 6) == pytest.approx(2 / 64)
