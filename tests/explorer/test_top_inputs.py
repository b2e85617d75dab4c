"""The top inputs while samples stream by are those of sorting everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosens_fast.explorer.top_inputs import TopInputs


def streamed(values: Tensor, top: int, batch: int, whole: Tensor | None = None) -> TopInputs:
    found = TopInputs(values.shape[1], top)
    for first in range(0, len(values), batch):
        few = slice(first, first + batch)
        found.update(values[few], first, None if whole is None else whole[few])
    return found


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("top", [1, 5, 60])
def test_they_are_those_of_sorting_everything(batch: int, top: int) -> None:
    whole = torch.randint(0, 4, (50, 9, 2, 3)).float()  # many ties, of values and of positions
    values = whole.flatten(2).mean(2)
    found = streamed(values, top, batch, whole)
    for neuron in range(9):
        order = sorted(range(50), key=lambda sample: (-values[sample, neuron], sample))[:top]
        missing = top - len(order)
        assert found.samples[neuron].tolist() == order + [-1] * missing
        expected = [float(values[sample, neuron]) for sample in order] + [np.nan] * missing
        assert np.array_equal(found.values[neuron], np.array(expected, np.float32), equal_nan=True)
        places = [whole[sample, neuron].flatten().tolist() for sample in order]
        assert found.positions[neuron].tolist() == [row.index(max(row)) for row in places] + [-1] * missing


@pytest.mark.parametrize("batch", [1, 3])
def test_nan_is_never_among_the_top(batch: int) -> None:
    values = torch.tensor([[torch.nan, 1], [-torch.inf, torch.nan], [-3, torch.inf], [torch.nan, 2]])
    found = streamed(values, 3, batch)
    assert found.samples.tolist() == [[2, -1, -1], [2, 3, 0]]
    assert np.isnan(found.values[0, 1:]).all()
    assert found.values[1].tolist() == [np.inf, 2, 1]
    assert (found.positions == -1).all(), "there is no map"


def test_float64_values_that_are_one_in_float32_are_told_apart() -> None:
    values = torch.tensor([[1.0], [1 + 1e-12], [1 - 1e-12]], dtype=torch.float64)
    assert streamed(values, 3, 1).samples.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("batch", [1, 8])
def test_pictures_are_those_of_top_inputs_and_no_more(batch: int) -> None:
    values, inputs = torch.randn(400, 6), torch.rand(400, 1, 2, 2)
    found = TopInputs(6, 4, first_kept=10)
    for first in range(0, 400, batch):
        few = slice(first, first + batch)
        found.update(values[few], first, None, inputs[few])
        now = {int(sample) for sample in found.samples.flatten() if sample >= 0}
        assert set(found.pictures) == {sample for sample in now if sample >= 10}
        assert len(found.pictures) <= 6 * 4
    assert found.pictures
    for sample, picture in found.pictures.items():
        assert picture.dtype == torch.uint8
        assert torch.equal(picture, (inputs[sample] * 255).round().to(torch.uint8))
        assert picture.untyped_storage().nbytes() == 4, "a view would hold its batch"


def test_pictures_of_another_range_take_two_bytes_a_number() -> None:
    inputs = torch.tensor([[-0.5, 2.0], [0.0, 1.0], [-0.5, 1e6]])
    found = TopInputs(1, 3)
    found.update(torch.ones(3, 1), 0, None, inputs)
    inputs += 1
    assert found.pictures[0].tolist() == [-0.5, 2.0]
    assert found.pictures[0].untyped_storage().nbytes() == 4
    assert found.pictures[1].tolist() == [0, 255]
    assert found.pictures[2].tolist() == [-0.5, 1e6], "too large for two bytes, so as they were"
