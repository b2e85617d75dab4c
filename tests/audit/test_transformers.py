"""Models of Hugging Face transformers, tiny, with random weights: padding does not count, and pairs of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from neurosens_fast.audit import audit, audit_pairs

transformers = pytest.importorskip("transformers")

LENGTHS = (7, 4, 9, 6)
GENERATOR = torch.Generator().manual_seed(2)
TEXTS = [torch.randint(3, 50, (2, length), generator=GENERATOR) for length in LENGTHS]  # a text and its paraphrase


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    return transformers.BertForSequenceClassification(config)


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0
    )
    return transformers.GPT2ForSequenceClassification(config)


def batch(side: int, padding: str) -> dict[str, Tensor]:
    """All texts as one batch."""
    ids, mask = torch.zeros(4, 9, dtype=torch.int64), torch.zeros(4, 9, dtype=torch.int64)
    for row, text in enumerate(TEXTS):
        place = slice(None, text.shape[1]) if padding == "right" else slice(9 - text.shape[1], None)
        ids[row, place], mask[row, place] = text[side], 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("tokens", ["all", "cls", "last"])
@pytest.mark.parametrize("make", [bert, gpt2])
def test_padding_does_not_count(make: Any, tokens: str) -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    padded = audit(model, [(batch(0, "right"), batch(1, "right"))], None, tokens=tokens)
    alone = [
        audit(
            model,
            [tuple({"input_ids": text[side][None], "attention_mask": torch.ones(1, text.shape[1])} for side in (0, 1))],
            None,
            tokens=tokens,
        )
        for text in TEXTS
    ]
    merged = alone[0].merge(alone[1]).merge(alone[2]).merge(alone[3])
    assert len(padded.layers) >= 2
    assert padded.samples == 4
    for name, row in merged.layers.items():
        found = padded.layers[name].statistics
        assert found.samples == 4
        for metric in ("sensitivity", "rms_change", "peak_change", "mean_activation_benign", "max_activation_benign"):
            wanted = row.statistics.metric(metric)
            torch.testing.assert_close(found.metric(metric), wanted, rtol=1e-4, atol=1e-5)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_labels_logits_and_an_attack_on_embeddings() -> None:
    model = bert()
    inputs = batch(0, "right")
    with torch.no_grad():
        embeds = model.bert.embeddings.word_embeddings(inputs["input_ids"])
    data = [({"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}, torch.tensor([0, 1, 2, 0]))]

    def noise(x: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        return {**x, "inputs_embeds": x["inputs_embeds"] + 0.1 * torch.randn_like(x["inputs_embeds"])}

    report = audit(model, data, noise, ["activations", "norms", "linear"])
    assert report.labelled == 4
    assert report.not_fused
    assert all(float(value.max()) > 0 for value in report.sensitivity.values())


def test_a_quantised_copy() -> None:
    model, half = bert(), bert().bfloat16()
    report = audit_pairs(model, half, [(batch(0, "left"), torch.tensor([0, 1, 2, 0]))])
    for name, value in report.metric("relative_l1").items():
        assert 0 < float(value.mean()) < 0.2, name


def test_vision_transformer() -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=4
    )
    model = transformers.ViTForImageClassification(config)
    report = audit(model, (torch.rand(5, 3, 16, 16), torch.zeros(5, dtype=torch.int64)), lambda x, y: x + 0.1)
    assert report.labelled == report.samples == 5
    assert all(row.channel_dim == -1 for row in report.layers.values())
