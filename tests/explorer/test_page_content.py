"""What is on the page, and what is made smaller when it would be too large."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neurosens_fast.explorer.exploration import Exploration
from neurosens_fast.explorer.page.content import content
from neurosens_fast.explorer.page.packing import text_size
from neurosens_fast.explorer.page.thumbnails import any_pixel, averaged, reduced
from tests.explorer.synthetic import exploration
from tests.explorer.test_packing import unpacked

PLENTY = 10**9


def arrays_of(explorations: list[Exploration], budget: int = PLENTY) -> tuple[list[dict[str, Any]], list[str]]:
    made = content(explorations, budget)
    return [model["arrays"] for model in made["models"]], made["page"]["notes"]


def total(explorations: list[Exploration], budget: int = PLENTY) -> int:
    return sum(text_size(entry) for arrays in arrays_of(explorations, budget)[0] for entry in arrays.values())


def test_everything_is_there_in_full() -> None:
    shown = exploration()
    (arrays,), notes = arrays_of([shown])
    assert notes == []
    images = shown.images
    assert images.benign is not None
    assert images.adversarial is not None
    np.testing.assert_array_equal(unpacked(arrays["benign"]), images.benign)
    back = (unpacked(arrays["adversarial"]) + images.benign).astype(np.uint8)
    np.testing.assert_array_equal(back, images.adversarial)
    np.testing.assert_array_equal(unpacked(arrays["predictions"]), images.probabilities.argmax(-1))
    np.testing.assert_allclose(unpacked(arrays["probabilities"]), images.probabilities.astype(float), atol=1e-5)
    assert unpacked(arrays["measures"]).shape == (2, 3, 24)
    assert shown.fields is not None
    np.testing.assert_array_equal(unpacked(arrays["fields_masks"]), shown.fields.masks)
    assert {"features_patches", "clusters_linkage", "weights", "agreement"} <= set(arrays)


def test_what_is_missing_is_left_out() -> None:
    shown = exploration()
    images = replace(shown.images, benign=None, adversarial=None)
    shown = replace(shown, images=images, fields=None, features=None, clusters=None, weights=None)
    (arrays,), _ = arrays_of([shown])
    assert not [name for name in arrays if name.startswith(("benign", "f", "clusters", "weights"))]
    assert "adversarial" not in arrays


def test_averages() -> None:
    pictures = np.arange(2 * 5 * 3).reshape(1, 2, 5, 3, 1).astype(np.uint8)
    small = averaged(pictures, 2)
    assert small.shape == (1, 2, 3, 2, 1)
    assert small[0, 0, 0, 0, 0] == 2  # of 0, 1, 3, 4
    assert small[0, 1, 2, 1, 0] == 29  # the corner that is left over
    assert small[0, 0, 2, 0, 0] == 12  # of 12 and 13: 12.5, to the even number


def test_masks_keep_any_pixel() -> None:
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 3, 4] = True
    assert np.argwhere(any_pixel(masks, 2)).tolist() == [[0, 1, 2]]


def test_all_pictures_are_reduced_together() -> None:
    shown = exploration(side=13)
    assert shown.features is not None
    shown = replace(shown, features=replace(shown.features, extra=np.full((2, 13, 13, 3), 7, np.uint8)))
    small = reduced(shown, 3)
    assert small.images.benign is not None
    assert small.images.adversarial is not None
    assert small.fields is not None
    assert small.features is not None
    assert small.features.extra is not None
    assert small.images.benign.shape == (60, 5, 5, 3)
    assert small.images.adversarial.shape == (2, 60, 5, 5, 3)
    assert small.fields.masks.shape[-2:] == (5, 5)
    assert (small.features.extra == 7).all()
    assert small.features.patches[0, 0].tolist() == [0, 1, 3, 4]  # of 2, 3, 9, 10
    assert small.images.values is shown.images.values


def test_pictures_are_reduced_before_values_are_dropped() -> None:
    shown = exploration(side=64)
    full = total([shown])
    budget = full // 2
    (arrays,), notes = arrays_of([shown], budget)
    assert content([shown], budget)["page"]["factor"] == 2
    assert arrays["benign"]["shape"] == [60, 32, 32, 3]
    assert arrays["values"]["shape"] == [3, 60, 24]
    assert notes == [f"Pictures are shown at half of their size so that the page stays below {budget / 1e6:.1f} MB."]
    assert total([shown], budget) <= budget


def test_what_other_things_take_counts() -> None:
    shown = exploration(side=64)
    full = total([shown])
    assert content([shown], full + 1000, taken=1000)["page"]["factor"] == 1
    assert content([shown], full + 1000, taken=full // 2)["page"]["factor"] == 2


def test_then_fewer_images_keep_values() -> None:
    shown = exploration(samples=100, neurons=200, side=16)
    full = total([shown])
    values = text_size(arrays_of([shown])[0][0]["values"])
    budget = full - values // 2
    (arrays,), notes = arrays_of([shown], budget)
    kept = arrays["values"]["shape"][1]
    assert 30 < kept < 60
    assert arrays["benign"]["shape"] == [100, 16, 16, 3]
    np.testing.assert_allclose(unpacked(arrays["values"]), shown.images.values[:, :kept].astype(float), atol=1e-2)
    assert notes == [
        f"Values of single neurons are on the page for the first {kept} of 100 images (numbers 0 to {kept - 1}) so "
        f"that the page stays below {budget / 1e6:.1f} MB; measures are over all 100 samples."
    ]
    assert total([shown], budget) <= budget


def test_says_when_nothing_more_can_be_made_smaller() -> None:
    (arrays,), notes = arrays_of([exploration()], 1000)
    assert arrays["values"]["shape"][1] == 1
    assert notes[-1] == "The page is larger than 0.0 MB: what is left cannot be made smaller."


def test_says_which_images_have_values() -> None:
    notes = arrays_of([exploration(samples=1200, neurons=3, side=2, kept=50)])[1]
    assert notes == [
        "Values of single neurons are on the page for the first 50 of 1,200 images (numbers 0 to 49); "
        "measures are over all 1,200 samples."
    ]


def test_second_model_shares_what_is_the_same() -> None:
    one, other = exploration(), exploration(seed=1, name="Other")
    other = replace(other, images=replace(other.images, benign=one.images.benign))
    _, second = arrays_of([one, other])[0]
    assert second["benign"] == second["labels"] == second["samples"] == {"same": True}
    assert "text" in second["values"]


@pytest.mark.parametrize("what", ["classes", "attacks", "images", "labels"])
def test_refuses_models_that_cannot_be_compared(what: str) -> None:
    one = exploration()
    images = one.images
    other = {
        "classes": replace(one, classes=("a", "b", "c", "d")),
        "attacks": replace(one, levels=one.levels[::-1]),
        "images": replace(one, images=replace(images, samples=images.samples[::-1])),
        "labels": replace(one, images=replace(images, labels=images.labels[::-1])),
    }[what]
    with pytest.raises(ValueError, match=f"different {what}; explore both models"):
        content([one, other], PLENTY)


def test_probabilities_of_many_classes_pack_small() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 200, 1000)) * 3
    logits[..., 0] += 8
    p = np.exp(logits)
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    shown = exploration(samples=200, classes=4)
    shown = replace(
        shown,
        classes=tuple(map(str, range(1000))),
        images=replace(shown.images, probabilities=p),
        weights=np.zeros((1000, 24), np.float32),
    )
    arrays = arrays_of([shown])[0][0]
    assert text_size(arrays["probabilities"]) < 2 * p.size
    np.testing.assert_allclose(unpacked(arrays["probabilities"]), p, atol=1e-5)
