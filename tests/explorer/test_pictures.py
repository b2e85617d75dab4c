"""Inputs as pictures, and which images are looked at in detail."""

from __future__ import annotations

import numpy as np
import torch

from neurosens_fast.explorer.pictures import Pictures, images_to_swap, is_pictures


def test_inputs_between_0_and_1_are_taken_as_they_are() -> None:
    inputs = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    pictures = Pictures(inputs)
    assert pictures(inputs).tolist() == [[[[0, 128, 255]]]]
    assert pictures(torch.tensor([0, 7, 255], dtype=torch.uint8).view(1, 3, 1, 1)).tolist() == [[[[0, 7, 255]]]]
    assert pictures.notes == []


def test_other_inputs_are_stretched_and_attacked_ones_like_benign_ones() -> None:
    benign = torch.tensor([-1.0, 3.0]).view(1, 1, 1, 2)
    pictures = Pictures(benign)
    assert pictures(torch.tensor([[-2.0, 1.0]]).view(1, 1, 1, 1, 2)).ravel().tolist() == [0, 128]
    assert "-1 (black) to 3 (white)" in pictures.notes[0]


def test_other_channels_become_grey_and_that_is_said() -> None:
    inputs = torch.tensor([0.0, 1.0, 0.2, 0.0]).view(1, 4, 1, 1)
    pictures = Pictures(inputs)
    assert pictures(inputs).tolist() == [[[[round(0.3 * 255)]]]]
    assert "4 channels" in pictures.notes[0]


def test_inputs_that_are_all_alike_are_black() -> None:
    inputs = torch.full((2, 1, 2, 2), 7.0)
    assert not Pictures(inputs)(inputs).any()


def test_what_is_a_picture() -> None:
    assert is_pictures(torch.rand(2, 3, 5, 7))
    assert not is_pictures(torch.rand(2, 3))
    assert not is_pictures(torch.zeros(2, 3, 5, 7, dtype=torch.int64))
    assert not is_pictures({"ids": torch.rand(2, 3, 5, 7)})


def test_images_to_swap_are_turned_ones_class_by_class() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    benign = np.array([0, 0, 0, 1, 1, 0])  # the last one is wrong from the start
    adversarial = np.array([1, 2, 0, 0, 1, 0])
    predictions = np.stack([benign, adversarial])
    assert images_to_swap(labels, predictions, 2).tolist() == [0, 3]
    assert images_to_swap(labels, predictions, 3).tolist() == [0, 1, 3]
    assert images_to_swap(labels, predictions, 5).tolist() == [0, 1, 2, 3, 4]
    assert images_to_swap(labels, predictions, 99).tolist() == [0, 1, 2, 3, 4, 5]
    assert images_to_swap(labels, predictions, 0).tolist() == []
