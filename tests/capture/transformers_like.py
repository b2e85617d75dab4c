"""A small text classifier with the interface of transformers: ids and masks by keyword, a mapping with ``logits``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

PAD = 0
LENGTHS = (5, 2, 7, 5, 1, 3)


class ModelOutput(OrderedDict[str, Any]):
    """A mapping whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class GELUActivation(nn.Module):
    """GELU as a class of the library's own that holds a function."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.functional.gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class SelfAttention(nn.Module):
    """Attention of two heads with a norm of the queries in the layout ``[N, heads, L, D]``."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.q_norm = nn.LayerNorm(width // 2)
        self.causal = causal

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        out = nn.functional.scaled_dot_product_attention(self.q_norm(q), k, v, attn_mask=allowed)
        return out.transpose(1, 2).flatten(2)


class EncoderLayer(nn.Module):
    """Returns a tuple, as those of transformers do."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(width, causal)
        self.norm = nn.LayerNorm(width)
        self.intermediate, self.intermediate_act_fn = nn.Linear(width, 2 * width), GELUActivation()
        self.output = nn.Linear(2 * width, width)

    def forward(self, hidden_states: Tensor, allowed: Tensor) -> tuple[Tensor]:
        x = self.norm(hidden_states + self.attention(hidden_states, allowed))
        return (x + self.output(self.intermediate_act_fn(self.intermediate(x))),)


class TextClassifier(nn.Module):
    """``input_ids [N, L]`` and ``attention_mask [N, L]`` to a mapping with ``logits [N, 3]``.

    Positions count real tokens only, so that a sample gives the same with and without padding, left or right.
    ``causal`` pools the last real token as decoders do, else the first.
    """

    def __init__(self, width: int = 8, causal: bool = False) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(30, width, padding_idx=PAD)
        self.position_embeddings = nn.Embedding(16, width)
        self.layers = nn.ModuleList(EncoderLayer(width, causal) for _ in range(2))
        self.pooler, self.pooler_activation = nn.Linear(width, width), nn.Tanh()
        self.classifier = nn.Linear(width, 3)
        self.causal = causal

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> ModelOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        real = attention_mask != 0
        positions = (real.cumsum(1) - 1).clamp(min=0)
        hidden = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        allowed = real[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
        if self.causal:
            allowed = allowed & torch.ones(allowed.shape[-2:], dtype=torch.bool, device=allowed.device).tril()
        for layer in self.layers:
            (hidden,) = layer(hidden, allowed)  # NaN at padding that sees nothing, as in decoders padded on the left
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        place = (real * places).argmax(1) if self.causal else real.int().argmax(1)
        pooled = self.pooler_activation(self.pooler(hidden[torch.arange(len(hidden)), place]))
        return ModelOutput(logits=self.classifier(pooled), last_hidden_state=hidden)


def text_classifier(causal: bool = False) -> TextClassifier:
    """A classifier with large random weights of a fixed seed, in evaluation mode."""
    torch.manual_seed(0)
    model = TextClassifier(causal=causal)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.7)
    return model.eval()


def padded(samples: list[Tensor], length: int, side: str) -> dict[str, Tensor]:
    """Token ids of samples of different lengths as one batch, with its mask."""
    ids = torch.full((len(samples), length), PAD)
    mask = torch.zeros(len(samples), length, dtype=torch.int64)
    for row, sample in enumerate(samples):
        place = slice(0, len(sample)) if side == "right" else slice(length - len(sample), length)
        ids[row, place], mask[row, place] = sample, 1
    return {"input_ids": ids, "attention_mask": mask}


def texts(seed: int, lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    """Token ids without padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 30, (length,), generator=generator) for length in lengths]
