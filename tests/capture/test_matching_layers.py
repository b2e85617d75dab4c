"""Layers of two models that do not match: other names, other shapes, run by one only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import PairedModels

from .test_two_models import stored


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.classifier = nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.act(self.act(self.stem(x)) - 0.5))


class Named(nn.Module):
    def __init__(self, width: int = 7) -> None:
        super().__init__()
        self.fc, self.relu, self.head = nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.relu(self.fc(x)) - 0.5))


def test_layers_of_other_names() -> None:
    model_a, model_b, x = Named(), Renamed(), torch.randn(4, 5)
    names = {"fc": "stem", "relu": "act"}
    both = PairedModels(model_a, model_b, ["fc", "relu#2"], layers_b=names)
    both.forward(x)
    assert list(both.rows) == ["fc", "relu#2"]
    ours, theirs = stored(model_a, x), stored(model_b, x)
    for row, row_b in (("fc", "stem"), ("relu#2", "act#2")):
        change = (theirs[row_b] - ours[row]).abs().mean(0).double()
        torch.testing.assert_close(both.statistics[row].metric("sensitivity"), change)
    group = PairedModels(model_a, model_b, ["linear", "activations"], layers_b=names)
    group.forward(x)
    assert list(group.rows) == ["fc", "relu", "relu#2"]
    assert "model_b has no layer 'head'; map it in layers_b" in group.skipped["head"]
    assert group.silent() == []


@pytest.mark.parametrize(
    ("layers", "names", "message"),
    [
        (["fc"], {}, "model_b has no layer 'fc'; map it in layers_b; its layers begin stem, act"),
        ("linear", {}, "model_b has no layer 'fc'"),
        (["fc"], {"fcc": "stem"}, "layers_b maps 'fcc', which is not among the chosen .* of model_a; closest: fc"),
        (["fc"], {"fc": "stemm"}, "layers_b maps 'fc' to 'stemm', which model_b does not have; closest: stem"),
        (["fc", "head"], {"fc": "stem", "head": "stem"}, "'fc' and 'head' of model_a meet the same layer 'stem'"),
        (["fcc"], {}, "the model has no layer 'fcc'; closest: fc"),
    ],
)
def test_names_that_do_not_match(layers: Any, names: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedModels(Named(), Renamed(), layers, layers_b=names)


def test_shapes_that_differ() -> None:
    group = PairedModels(Named(), Named(9), "all")
    group.forward(torch.randn(4, 5))
    assert list(group.rows) == ["head"]
    assert "layer 'fc' puts out [4, 7] in model_a and [4, 9] in model_b ('fc'); map it" in group.skipped["fc"]
    with pytest.raises(ValueError, match="layer 'fc' puts out"):
        PairedModels(Named(), Named(9), ["fc"]).forward(torch.randn(4, 5))


def test_layers_that_only_one_model_runs() -> None:
    class Once(Named):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.fc(x)))

    x = torch.randn(4, 5)
    cases = ((Named(), Once(), "in model_a but not in model_b"), (Once(), Named(), "in model_b but not in model_a"))
    for model_a, model_b, message in cases:
        both = PairedModels(model_a, model_b, "all")
        both.forward(x)
        assert list(both.rows) == ["fc", "relu", "head"]
        assert message in both.skipped["relu#2"]
        with pytest.raises(ValueError, match=message):
            PairedModels(model_a, model_b, ["relu"]).forward(x)


def test_first_axis_that_is_not_the_batch() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.odd = nn.Linear(5, 5), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.odd(self.fc(x).transpose(0, 1)).sum()

    both = PairedModels(First(), First(), "all")
    both.forward(torch.randn(4, 3, 5))
    assert list(both.rows) == ["fc"]
    assert "puts out 3 rows for 4 samples" in both.skipped["odd"]
    with pytest.raises(ValueError, match="first axis is not the batch"):
        PairedModels(First(), First(), ["odd"]).forward(torch.randn(4, 3, 5))


def test_models_on_different_devices() -> None:
    with pytest.raises(ValueError, match="model_a is on cpu and model_b on meta; move one"):
        PairedModels(Named(), Named().to("meta"), "all")
