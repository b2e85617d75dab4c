"""Activations that hooks cannot reach are found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.capture import functional_activations

from .networks import Conv1dNet, TupleTransformer


class Inner(nn.Module):
    """Activations of all spellings."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) + torch.sigmoid(x).relu_()


class Model(nn.Module):
    """Three functional activations and one module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.module = Inner(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > -1e9:  # a branch on data, which symbolic tracing could not follow
            x = F.relu(x)
        return F.relu(self.inner(self.module(x)), inplace=True)


def test_found_with_place_and_number_of_calls() -> None:
    model = Model()
    found = functional_activations(model, torch.rand(2, 3))
    assert [str(item) for item in found] == [
        "F.relu in the model's own forward (Model), 2 times",
        "F.gelu in 'inner' (Inner)",
        "torch.sigmoid in 'inner' (Inner)",
        "Tensor.relu_ in 'inner' (Inner)",
    ]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_none_where_all_are_modules() -> None:
    assert functional_activations(Conv1dNet(), torch.rand(2, 2, 9)) == []
    inputs = {"inputs_embeds": torch.rand(3, 7, 5), "attention_mask": torch.ones(3, 7)}
    assert functional_activations(TupleTransformer(), inputs) == []


def test_nothing_stays_behind_after_an_exception() -> None:
    model = Model()
    with pytest.raises(TypeError, match="positional arguments"):
        functional_activations(model, (torch.rand(2, 3), torch.rand(2, 3)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert len(functional_activations(model, torch.rand(2, 3))) == 4
