"""Layers whose first axis is not the batch, or that mix samples, are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import select_layers, verify_pairing

from .networks import Conv1dNet, TupleTransformer, torchvision_model
from .transformers_like import TextClassifier, padded, text_classifier, texts


def problems(model: nn.Module, inputs: Any, layers: Any = "all", **settings: Any) -> dict[str, str]:
    """Row -> reason."""
    found = verify_pairing(model, select_layers(model, layers), inputs, **settings)
    return {row: str(error) for row, (_, error) in found.problems.items()}


@pytest.mark.parametrize("name", ["vit", "swin", "resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_sound_networks_pass(name: str, autocast: torch.dtype | None) -> None:
    assert problems(torchvision_model(name), torch.rand(5, 3, 32, 32), autocast=autocast) == {}


def test_sound_networks_of_other_shapes_pass() -> None:
    assert problems(Conv1dNet(), torch.rand(1, 2, 9)) == {}
    inputs = {"inputs_embeds": torch.rand(3, 7, 5), "attention_mask": torch.ones(3, 7)}
    assert problems(TupleTransformer(), inputs) == {}
    exploding = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    exploding.load_state_dict({name: tensor + torch.inf for name, tensor in exploding.state_dict().items()})
    assert problems(exploding, torch.rand(3, 3)) == {}, "not finite in both, so nothing to tell apart"


class Wrong(nn.Module):
    """One sound layer, then one that does what it should not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.sound, self.odd = nn.Linear(4, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.sound(x)
        if self.kind == "length first":  # [L, N, C]: with L = 2N its length fits
            return self.odd(x.transpose(0, 1)).transpose(0, 1)
        if self.kind == "batch statistics":
            return self.odd((x - x.mean(0)) / x.std(0))
        if self.kind == "random":
            return self.odd(x + torch.randn_like(x))
        if self.kind == "repeated":
            return self.odd(x.repeat(2, 1, 1))[: len(x)]
        return self.odd(x.flip(0)).flip(0)


@pytest.mark.parametrize("kind", ["length first", "batch statistics", "random", "repeated", "reversed"])
@pytest.mark.parametrize("samples", [2, 3, 9])
def test_wrong_layers_are_found_and_no_other(kind: str, samples: int) -> None:
    torch.manual_seed(1)
    found = problems(Wrong(kind), torch.randn(samples, 2 * min(samples, 4), 4))
    assert list(found) == ["odd"]
    assert "layer 'odd' puts out" in found["odd"]
    assert "leave it out of layers" in found["odd"]


def test_functional_activations_come_with_it() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu(self.linear(x))

    model = Functional()
    found = verify_pairing(model, select_layers(model, "linear"), torch.rand(2, 3))
    assert [item.function for item in found.functional] == ["F.relu"]


TEXT_LAYERS = ["linear", "norms", "activations", "blocks", "word_embeddings"]


class Shifted(TextClassifier):
    """Wrong at its real tokens: layer ``odd`` sees the samples of the batch in reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        hidden = super().forward(input_ids, attention_mask)["last_hidden_state"]
        return self.odd(hidden.flip(0))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("samples", [1, 2, 6])
@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.float32, torch.bool])
def test_sound_transformers_pass_the_check(causal: bool, side: str, samples: int, mask_dtype: torch.dtype) -> None:
    model = text_classifier(causal)
    inputs = padded(texts(0)[:samples], 9, side)
    inputs["attention_mask"] = inputs["attention_mask"].to(mask_dtype)
    found = verify_pairing(model, select_layers(model, TEXT_LAYERS), inputs)
    assert found.problems == {}
    assert found.functional == []


@pytest.mark.parametrize("samples", [1, 2, 6])
def test_wrong_layers_of_transformers_are_found(samples: int) -> None:
    model = Shifted().eval()
    inputs = padded(texts(0)[:samples], 9, "right")
    assert list(verify_pairing(model, select_layers(model, "all"), inputs).problems) == ["odd"]


def test_padding_that_the_model_leaves_to_chance_is_no_problem() -> None:
    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.Identity()

        def forward(self, input_ids: Tensor, **masks: Tensor) -> Tensor:
            (mask,) = masks.values()
            x = input_ids[..., None].expand(-1, -1, 3).float()
            return self.odd(torch.where(mask[..., None] != 0, x, torch.randn(x.shape)))

    model = Chance()
    inputs = padded(texts(0), 9, "right")
    selection = select_layers(model, ["odd"])
    assert verify_pairing(model, selection, inputs, {"odd": -1}).problems == {}
    inputs["special_mask"] = inputs.pop("attention_mask")
    assert list(verify_pairing(model, selection, inputs, {"odd": -1}).problems) == ["odd"], (
        "that is not known as padding"
    )
