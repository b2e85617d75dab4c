"""The hook-and-store reference against plain float64 formulas, and the taps against both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference_audit
from neurosens_fast.capture import Taps, paired_forward
from neurosens_fast.statistics import METRICS, metric
from tests.capture.networks import Conv1dNet, torchvision_model

LAYERS = ["convolutions", "norms", "activations"]


def two_stored_passes(model: nn.Module, benign: Tensor, adversarial: Tensor, layers: Sequence[str]) -> Any:
    """Row -> (z, z'), cloned at once, from one forward for each."""
    passes = []
    for inputs in (benign, adversarial):
        kept: dict[str, Tensor] = {}

        def keep(name: str, kept: dict[str, Tensor] = kept) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                call = 1 + sum(row.partition("#")[0] == name for row in kept)
                kept[name if call == 1 else f"{name}#{call}"] = output.detach().clone()

            return hook

        handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
        with torch.no_grad():
            model(inputs)
        for handle in handles:
            handle.remove()
        passes.append(kept)
    return {row: (z, passes[1][row]) for row, z in passes[0].items()}


def plain_metrics(z: Tensor, z_adv: Tensor, axis: int) -> dict[str, Tensor]:
    """Every metric of ``[C]`` by its definition."""
    z, z_adv = (values.movedim(axis, 1).reshape(values.shape[0], values.shape[axis], -1) for values in (z, z_adv))
    d = z_adv - z
    length, l2, size = z.shape[2], (d**2).sum(2).sqrt(), (z**2).sum(2).sqrt()
    size_adv = (z_adv**2).sum(2).sqrt()
    product = size * size_adv
    cosine = torch.where(product > 0, (z * z_adv).sum(2) / product, 0.0) + ((size == 0) & (size_adv == 0))
    found = {
        "sensitivity": d.abs().mean(2).mean(0),
        "sensitivity_l2": (l2 / length).mean(0),
        "relative_l1": torch.where(size > 0, d.abs().sum(2) / z.abs().sum(2), 1.0).mean(0),
        "relative_l2": torch.where(size > 0, l2 / size, 1.0).mean(0),
        "mean_shift": d.mean(2).abs().mean(0),
        "rms_change": (d**2).mean((0, 2)).sqrt(),
        "activation_shift": l2.mean(0),
        "cosine": cosine.mean(0),
        "cosine_distance": 1 - cosine.mean(0),
        "peak_change": d.abs().amax((0, 2)),
    }
    for branch, values in (("benign", z), ("adversarial", z_adv)):
        means = values.mean(2)
        found[f"activation_frequency_{branch}"] = (means > 0.01 * means.amax(1, keepdim=True)).double().mean(0)
        found[f"mean_activation_{branch}"] = means.mean(0)
        found[f"max_activation_{branch}"] = values.amax((0, 2))
        found[f"active_share_{branch}"] = (values > 0).double().mean((0, 2))
    return found


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A float64 model and a pair of inputs for it."""
    model = (Conv1dNet() if name == "conv1d" else torchvision_model(name)).double().eval()
    shape = (5, 2, 9) if name == "conv1d" else (3, 3, 32, 32)
    benign = torch.rand(shape, dtype=torch.float64)
    return model, benign, (benign + 0.1 * torch.randn(shape, dtype=torch.float64)).clamp(0, 1)


@pytest.mark.parametrize(("name", "rows"), [("conv1d", 5), ("resnet18", 57), ("vit", 12)])
def test_every_metric_of_every_row(name: str, rows: int) -> None:
    model, benign, adversarial = network(name)
    groups = ["norms", "activations", "linear"] if name == "vit" else LAYERS
    with Taps(model, groups) as taps:
        layers = list(taps.selection.modules)
        paired_forward(model, benign, adversarial)
    axes = {row: tap.channel_dim for row, tap in taps.rows.items()}
    expected = two_stored_passes(model, benign, adversarial, layers)
    overwritten = reference_audit.overwritten_rows(model, benign, layers)
    assert bool(overwritten) == (name != "vit"), "in-place activations spoil what batch norm put out"
    for chosen in (None, overwritten):
        totals = reference_audit.audit_pass(model, benign, adversarial, layers, axes, chosen)
        assert list(totals) == list(expected) == list(taps.rows)
        assert len(totals) == rows
        for row, (sums, maxima) in totals.items():
            plain = plain_metrics(expected[row][0], expected[row][1], axes[row])
            assert plain.keys() == METRICS.keys()
            for key, value in plain.items():
                slow = metric(key, sums, maxima, len(benign))
                tapped = taps.rows[row].statistics.metric(key)
                for ours in (slow, tapped):
                    assert torch.allclose(ours, value, rtol=1e-9, atol=1e-9), (row, key)
    for row, sensitivity in reference_audit.sensitivity_pass(model, benign, adversarial, layers, axes).items():
        z, z_adv = expected[row]
        torch.testing.assert_close(sensitivity, plain_metrics(z, z_adv, axes[row])["sensitivity"])


def test_only_overwritten_rows_are_cloned() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu_()
            return self.third(self.second(x) + 1).tanh()

    model = Net().eval()
    benign, adversarial = torch.randn(2, 6, 4)
    layers = ["first", "second", "third"]
    overwritten = reference_audit.overwritten_rows(model, benign, layers)
    assert overwritten == {"first"}
    expected = two_stored_passes(model, benign, adversarial, layers)
    for row, sensitivity in reference_audit.sensitivity_pass(
        model, benign, adversarial, layers, overwritten=overwritten
    ).items():
        change = (expected[row][1] - expected[row][0]).abs().mean(0)
        torch.testing.assert_close(sensitivity, change)
    spoilt = reference_audit.sensitivity_pass(model, benign, adversarial, layers, overwritten=())
    assert not torch.allclose(spoilt["first"], (expected["first"][1] - expected["first"][0]).abs().mean(0))
    assert not any(module._forward_hooks for module in model.modules())
