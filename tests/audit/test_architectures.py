"""Audits of the architectures that people have: vision transformers, ConvNeXt, Swin, timm, text, bfloat16, compiled."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.capture import pair_inputs
from neurosens_fast.statistics import METRICS, metric, new_totals
from tests.capture.networks import torchvision_model
from tests.capture.transformers_like import padded, text_classifier, texts

from .test_networks import compare, stored_float64

MEASURED = ["convolutions", "linear", "norms", "activations", "blocks"]


def network(name: str) -> tuple[nn.Module, int]:
    """A small network with random weights, and the size of its images."""
    torch.manual_seed(0)
    if name == "convnext":
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt

        stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)]
        return ConvNeXt(stages, num_classes=5, layer_scale=0.5), 32
    if name in ("vit", "swin"):
        model = torchvision_model(name)
        if name == "vit":
            nn.init.normal_(model.heads.head.weight)  # type: ignore[union-attr, arg-type]
        return model, 32
    timm = pytest.importorskip("timm")
    settings: dict[str, Any]
    if name == "timm vit":
        settings = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "qk_norm": True}
        return timm.create_model("vit_tiny_patch16_224", num_classes=5, **settings), 32
    if name == "timm swin":
        settings = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)}
        return timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **settings), 32
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), num_classes=5), 32


def images(size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Three pairs of images."""
    benign = torch.rand(3, 3, size, size)
    return benign.to(dtype), (benign + 0.2 * torch.randn(benign.shape).sign()).clamp(0, 1).to(dtype)


LABELS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "rows", "skipped"),
    [
        ("vit", 15, 0),
        ("convnext", 27, 0),
        ("swin", 31, 0),
        ("timm vit", 23, 0),
        ("timm swin", 32, 4),
        ("timm convnext", 34, 0),
    ],
)
def test_every_layer_of_a_network(name: str, rows: int, skipped: int) -> None:
    model, size = network(name)
    benign, adversarial = images(size)
    report = audit(model.eval(), (benign, LABELS), lambda x, y: adversarial, MEASURED)
    assert (len(report.layers), len(report.skipped)) == (rows, skipped)
    assert all("first axis is not the batch" in reason for reason in report.skipped.values()), "windows come first"
    compare(report, stored_float64(model, benign.double()), stored_float64(model, adversarial.double()))


def equal_to_stored(report: AuditReport, model: nn.Module, pair: Any, samples: int) -> None:
    """Every metric of every row, from clones of what one forward of ``pair`` puts out, by the reference."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            call = 1 + sum(row.partition("#")[0] == name for row in kept)
            output = output[0] if isinstance(output, tuple) else output
            kept[name if call == 1 else f"{name}#{call}"] = output.detach().clone()

        return hook

    chosen = {row.partition("#")[0] for row in report.layers}
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in chosen]
    with torch.no_grad():
        model(**pair) if isinstance(pair, dict) else model(pair)
    for handle in handles:
        handle.remove()
    for row, layer in report.layers.items():
        sums, maxima = new_totals(kept[row].shape[layer.channel_dim])
        values = kept[row].double()
        reference.accumulate_pair_statistics_(sums, maxima, values[:samples], values[samples:], layer.channel_dim)
        for key in METRICS:
            expected = metric(key, sums, maxima, samples)
            torch.testing.assert_close(report.metric(key)[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "convnext", "swin", "timm vit"])
def test_models_in_bfloat16(name: str) -> None:
    model, size = network(name)
    model = model.eval().bfloat16()
    benign, adversarial = images(size, torch.bfloat16)
    report = audit(model, (benign, LABELS), lambda x, y: adversarial, MEASURED)
    assert report.labelled == 3
    equal_to_stored(report, model, torch.cat((benign, adversarial)), 3)


def test_bfloat16_models_want_bfloat16_inputs() -> None:
    model = network("vit")[0].eval().bfloat16()
    with pytest.raises(ValueError, match=r"fails on inputs \[3, 3, 32, 32\] float32 on cpu in layer 'conv_proj'"):
        audit(model, (images(32)[0], LABELS), lambda x, y: x + 0.1, MEASURED)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_compiled_transformers_and_those_with_compiled_parts(name: str) -> None:
    model, size = network(name)
    benign, adversarial = images(size)
    plain = audit(model.eval(), (benign, LABELS), lambda x, y: adversarial, MEASURED)
    compiled: Any = torch.compile(copy.deepcopy(model), backend="eager")
    part = copy.deepcopy(model)
    for module in part.modules():
        if isinstance(module, nn.Linear):
            module.compile(backend="eager")
    for other in (compiled, part):
        report = audit(other, (benign, LABELS), lambda x, y: adversarial, MEASURED)
        assert list(report.layers) == list(plain.layers)
        assert all(torch.equal(report.sensitivity[row], value) for row, value in plain.sensitivity.items())


def replaced(inputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """An attack on text: every second real token is another one."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    odd = (mask.cumsum(1) % 2 == 1) & (mask != 0)
    return {**inputs, "input_ids": torch.where(odd, (ids + 7) % 29 + 1, ids)}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text_without_padding(causal: bool, dtype: torch.dtype) -> None:
    model = text_classifier(causal).to(dtype)
    inputs = padded(texts(0, (6, 6, 6)), 6, "right")
    report = audit(model, [(inputs, LABELS)], replaced, MEASURED)
    assert report.labelled == 3
    assert not report.skipped
    assert not report.functional
    assert {"layers.0", "layers.1.intermediate_act_fn", "layers.0.attention.q_norm"} <= report.layers.keys()
    equal_to_stored(report, model, pair_inputs(inputs, replaced(inputs, LABELS)), 3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_text_gives_the_predictions_of_each_sample_alone(causal: bool, side: str) -> None:
    model = text_classifier(causal).double()
    samples = texts(0)
    inputs = padded(samples, 9, side)
    labels = torch.arange(6) % 3
    report = audit(model, [(inputs, labels)], replaced, ["classifier", "pooler_activation"])
    alone = [padded([sample], len(sample), side) for sample in samples]
    single = audit(model, [(item, labels[[at]]) for at, item in enumerate(alone)], replaced, list(report.layers))
    assert report.correct_adversarial == single.correct_adversarial
    for row, layer in single.layers.items():
        torch.testing.assert_close(report.layers[row].statistics.sums, layer.statistics.sums, rtol=1e-9, atol=1e-9)
