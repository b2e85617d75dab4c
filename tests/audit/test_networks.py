"""Audits of whole architectures against an independent float64 computation that stores every activation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.audit import AuditReport, audit
from tests.capture.networks import Conv1dNet, TupleTransformer, torchvision_model


def stored_float64(model: nn.Module, inputs: Any) -> dict[str, list[Tensor]]:
    """Every output of every module, in float64, cloned at once; by name, one per call."""
    kept: dict[str, list[Tensor]] = {}
    doubled = copy.deepcopy(model).double().eval()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            while isinstance(output, tuple):
                output = output[0]
            if isinstance(output, Tensor):
                kept.setdefault(name, []).append(output.detach().clone())

        return hook

    for name, module in doubled.named_modules():
        module.register_forward_hook(keep(name))
    with torch.no_grad():
        doubled(**inputs) if isinstance(inputs, dict) else doubled(inputs)
    return kept


def compare(report: AuditReport, benign: dict[str, list[Tensor]], adversarial: dict[str, list[Tensor]]) -> None:
    """Means, peaks and norms of every row to 1e-4 of the row's largest neuron."""
    for row, layer in report.layers.items():
        name, _, call = row.partition("#")
        z, z_adv = (
            stored[name][int(call or 1) - 1].movedim(layer.channel_dim, 1).flatten(2) if stored[name][0].dim() > 2
            else stored[name][int(call or 1) - 1].unsqueeze(2)
            for stored in (benign, adversarial)
        )  # fmt: skip
        change = z_adv - z
        expected = {
            "sensitivity": change.abs().mean((0, 2)),
            "mean_shift": change.mean(2).abs().mean(0),
            "activation_shift": change.square().sum(2).sqrt().mean(0),
            "peak_change": change.abs().amax((0, 2)),
            "mean_activation_adversarial": z_adv.mean((0, 2)),
        }
        for metric, value in expected.items():
            scale = z_adv.abs().mean() if metric == "mean_activation_adversarial" else value.max()
            error = (report.metric(metric)[row] - value).abs()
            assert bool((error <= 1e-4 * (value.abs() + scale)).all()), (row, metric)


@pytest.mark.parametrize(("name", "rows"), [("resnet18", 75), ("vit", 29), ("conv1d", 6)])
def test_every_layer_of_a_network(name: str, rows: int) -> None:
    model = Conv1dNet().eval() if name == "conv1d" else torchvision_model(name)
    if name == "vit":
        nn.init.normal_(model.heads.head.weight)  # type: ignore[union-attr, arg-type]
    shape = (5, 2, 9) if name == "conv1d" else (5, 3, 32, 32)
    benign = torch.rand(shape)
    adversarial = (benign + 0.1 * torch.randn(shape).sign()).clamp(0, 1)
    chosen = iter([adversarial[:3], adversarial[3:]])
    report = audit(model, (benign, torch.zeros(5, dtype=torch.int64)), lambda x, y: next(chosen), "all", batch_size=3)
    assert len(report.layers) == rows
    assert not report.skipped
    compare(report, stored_float64(model, benign.double()), stored_float64(model, adversarial.double()))


def test_a_transformer_with_dict_inputs_tuples_and_a_mask() -> None:
    torch.manual_seed(0)
    model = TupleTransformer().eval()
    mask = torch.ones(4, 7)
    mask[:, 5:] = 0
    benign = {"inputs_embeds": torch.rand(4, 7, 5), "attention_mask": mask}
    adversarial = {**benign, "inputs_embeds": benign["inputs_embeds"] + 0.2}
    report = audit(model, [(benign, torch.zeros(4, dtype=torch.int64))], lambda x, y: adversarial, ["all", "layer.1"])
    assert report.labelled == 4, "the logits of a model that returns a mapping are found"
    assert {"layer.0", "layer.1.activation", "layer.0.attention"} <= report.layers.keys()
    doubled = [{key: value.double() for key, value in inputs.items()} for inputs in (benign, adversarial)]
    stored = [stored_float64(model, inputs) for inputs in doubled]
    real = [  # padding does not count
        {row: [value[:, :5] if value.shape[1] == 7 else value for value in calls] for row, calls in found.items()}
        for found in stored
    ]
    compare(report, *real)


def test_length_first_layers_are_left_out_or_refused() -> None:
    class LengthFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x.transpose(0, 1)).mean(0))

    data = torch.rand(4, 8, 5), torch.zeros(4, dtype=torch.int64)
    report = audit(LengthFirst(), data, lambda x, y: x + 0.1, "linear")
    assert list(report.layers) == ["head"]
    assert "leave it out of layers" in report.skipped["embed"]
    with pytest.raises(ValueError, match="layer 'embed' puts out something else for a sample alone"):
        audit(LengthFirst(), data, lambda x, y: x + 0.1, ["embed", "head"])
    assert list(audit(LengthFirst(), data, lambda x, y: x + 0.1, ["embed"], verify=False).layers) == ["embed"]
