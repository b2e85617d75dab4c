"""Linear layers of a private copy that run by oneDNN: the same function, and the layer itself in every other case."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.capture import Taps, paired_forward
from neurosens_fast.folding import FusedTaps, PrivateCopy
from neurosens_fast.folding import linear as module
from neurosens_fast.folding.linear import FastLinear


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that oneDNN was called with."""
    seen: list[tuple[int, ...]] = []

    def counted(inputs: Tensor, *others: Any) -> Any:
        seen.append(tuple(inputs.shape))
        return torch.ops.mkldnn._linear_pointwise(inputs, *others)

    monkeypatch.setattr(module, "_linear", counted)
    return seen


def made(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(300, 400), (3, 100, 400), (2, 15, 10, 400)])
def test_large_layers_give_what_the_layer_gives(
    shape: tuple[int, ...], bias: bool, calls: list[tuple[int, ...]]
) -> None:
    layer = made(400, 300, bias)
    inputs = torch.randn(shape)
    for given in (inputs, inputs.transpose(0, -2).contiguous().transpose(0, -2), torch.randn(*shape, 2)[..., 0]):
        exact = nn.functional.linear(given.double(), layer.weight.double(), layer.bias.double() if bias else None)
        result = FastLinear(layer)(given)
        assert result.shape == exact.shape
        assert (result - exact).abs().amax() < 1e-5
    assert len(calls) == 3


def test_all_else_runs_as_it_is(calls: list[tuple[int, ...]]) -> None:
    layer = made(400, 300)
    large = torch.randn(300, 400)
    cases: list[tuple[nn.Linear, Tensor]] = [
        (layer, torch.randn(8, 400)),  # small
        (layer, large.clone().requires_grad_()),
        (made(400, 300).double(), large.double()),
        (made(400, 300).bfloat16(), large.bfloat16()),
    ]
    for plain, inputs in cases:
        assert torch.equal(FastLinear(plain)(inputs), plain(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        assert FastLinear(made(400, 300))(large).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        FastLinear(made(399, 300))(large)
    assert calls == []


def test_audits_use_it_and_attacks_do_not(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 300), nn.BatchNorm1d(300), nn.ReLU()).eval()
    benign, adversarial = torch.randn(200, 400), torch.randn(200, 400)
    fused = FusedTaps(Taps(model, "activations"), benign)
    fused.forward(benign, adversarial)
    assert calls == [(400, 400), (400, 300)]
    assert len(fused.fused) == 2
    plain = Taps(model, "activations")
    with plain:
        paired_forward(model, benign, adversarial)
    for name, row in plain.rows.items():
        expected = row.statistics.metric("sensitivity")
        torch.testing.assert_close(fused.rows[name].statistics.metric("sensitivity"), expected, rtol=1e-5, atol=1e-7)
    copied = PrivateCopy(model, fold=True, channels_last=False, dtype=None)
    copied.refresh()
    copied.run(torch.randn(400, 400))
    assert len(calls) == 2


def test_a_folded_norm_over_another_axis_is_refused_behind_it_too() -> None:
    """Of tokens batch norm takes the second axis, a linear layer the last: equal sizes and values do not hide that."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(320, 320), nn.BatchNorm1d(320), nn.ReLU()).eval()
    tokens = torch.randn(4, 320, 320)
    fused = FusedTaps(Taps(model, "activations", {"2": -1}), tokens)
    assert "normalises another axis" in fused.reason
