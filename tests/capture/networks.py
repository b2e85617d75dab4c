"""Networks for the tests: a 1-d one, a transformer that returns tuples and dicts, small torchvision ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Conv1dNet(nn.Module):
    """``[N, 2, L]`` to logits ``[N, 4]``, with one ReLU called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.conv2 = nn.Conv1d(6, 8, 3, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        return self.head(self.relu(self.conv2(x)).mean(2))


class GELUActivation(nn.Module):
    """An activation module of a library of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


class Layer(nn.Module):
    """A transformer layer that returns ``(hidden states, attention weights)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.intermediate, self.activation = nn.Linear(width, 2 * width), GELUActivation()
        self.output = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attended, weights = self.attention(x, x, x)
        x = self.norm(x + attended)
        return x + self.output(self.activation(self.intermediate(x))), weights


class TupleTransformer(nn.Module):
    """Token vectors ``[N, L, 5]`` and a mask ``[N, L]``, by keyword, to ``{"logits": ..., "hidden": ...}``."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Linear(5, width)
        self.layer = nn.ModuleList(Layer(width) for _ in range(2))
        self.classifier = nn.Linear(width, 3)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        x = self.embedding(inputs_embeds) * attention_mask.unsqueeze(-1)
        for layer in self.layer:
            x, _ = layer(x)
        return {"logits": self.classifier(x[:, 0]), "hidden": x}


def torchvision_model(name: str, **settings: Any) -> nn.Module:
    """A torchvision network with random weights of a fixed seed, in evaluation mode."""
    import torchvision

    torch.manual_seed(0)
    if name == "vit":
        return torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=40, num_classes=5
        ).eval()
    if name == "swin":
        return torchvision.models.SwinTransformer(
            patch_size=[4, 4], embed_dim=12, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=5
        ).eval()
    return torchvision.models.get_model(name, weights=None, num_classes=5, **settings).eval()
