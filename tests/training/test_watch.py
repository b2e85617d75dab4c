"""What ends a run early: collapse, no progress, a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neurosens_fast.training import DivergedError, TrainingResult, fit
from neurosens_fast.training import checkpoints as files
from neurosens_fast.training.validation import Validation

from .networks import QUICK, data, network


def scripted(
    monkeypatch: pytest.MonkeyPatch, accuracies: list[float], **settings: Any
) -> tuple[TrainingResult, nn.Module]:
    """A run whose validation says ``accuracies`` one after the other."""
    answers = iter(accuracies)
    monkeypatch.setattr(Validation, "__call__", lambda self, model: (0.9, next(answers)))
    model = network()
    return fit(
        model, *data(), "fast", len(accuracies), progress=False, **{**QUICK, "collapse": "stop", **settings}
    ), model


def test_collapse_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = scripted(monkeypatch, [0.5, 0.6, 0.41, 0.39, 0.6])
    assert len(result.history) == 4
    assert result.best_epoch == 2
    assert result.stopped == "collapse: accuracy fell from 60.0% in epoch 2 to 39.0% in epoch 4"


def test_collapse_can_be_ignored_or_measured_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not scripted(monkeypatch, [0.6, 0.1, 0.1], collapse="ignore")[0].stopped
    assert scripted(monkeypatch, [0.6, 0.54, 0.1], collapse_points=5)[0].stopped


def test_back_off_returns_to_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[Tensor] = []
    answers = iter([0.6, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1])

    def validate(self: Validation, model: nn.Module) -> tuple[float, float]:
        weights.append(model.state_dict()["0.weight"].clone())
        return 0.9, next(answers)

    monkeypatch.setattr(Validation, "__call__", validate)
    model, rates = network(), []
    result = fit(
        model, *data(), "fast", 7, progress=False, on_epoch=lambda row: rates.append(row.lr),
        **{**QUICK, "schedule": "constant", "collapse": "back-off"},
    )  # fmt: skip
    # Epochs 2, 4 and 5 fall, so that epochs 3, 5 and 6 start from the best weights at half the rate each time.
    assert rates == [0.05, 0.05, 0.025, 0.025, 0.0125, 0.00625]
    assert result.stopped.startswith("collapse: accuracy fell from 60.0% in epoch 1 to 10.0% in epoch 6")
    assert torch.equal(model.state_dict()["0.weight"], weights[0])
    assert float((weights[2] - weights[0]).abs().max()) < float((weights[1] - weights[0]).abs().max())


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = scripted(monkeypatch, [0.5, 0.6, 0.6, 0.59, 0.7], patience=2)
    assert result.stopped == "no better accuracy than 60.0% since epoch 2"
    assert len(result.history) == 4


def test_validation_every_third_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([0.5, 0.3, 0.25])
    monkeypatch.setattr(Validation, "__call__", lambda self, model: (0.9, next(answers)))
    settings = {**QUICK, "val_every": 3, "collapse": "stop"}
    result = fit(network(), *data(), "fast", 8, progress=False, **settings)
    assert [row.epoch for row in result.history if row.clean_accuracy == row.clean_accuracy] == [3, 6, 8]
    assert result.best_epoch == 3
    assert result.stopped == "collapse: accuracy fell from 50.0% in epoch 3 to 25.0% in epoch 8"


def test_the_best_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for keep in ("best", "last"):
        result, model = scripted(monkeypatch, [0.6, 0.5], keep=keep)
        same = torch.equal(model.state_dict()["0.weight"], result.best["0.weight"])
        assert same == (keep == "best")


def test_a_collapse_that_nobody_scripted() -> None:
    """From the fifth epoch on the attack shows noise with the labels of images, which unlearns everything."""
    calls = 0

    def attack(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x if calls <= 4 * 6 else torch.rand_like(x)

    train, val = data(192)
    settings = {**QUICK, "eps": 0.01, "optimizer": "adam", "lr": 0.02, "collapse": "stop", "schedule": "constant"}
    result = fit(network(), train, val, "pgd-at", 12, attack=attack, progress=False, **settings)
    assert result.stopped.startswith("collapse: accuracy fell from ")
    assert result.history[result.best_epoch - 1].adversarial_accuracy > result.history[-1].adversarial_accuracy + 0.2


class Explodes(nn.Module):
    """Infinite from its ``call``-th training forward on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x / 0 if self.training and self.calls >= self.call else x


def test_a_loss_that_is_not_finite_names_batch_and_layer(tmp_path: Path) -> None:
    model = nn.Sequential(*network())
    model[6] = Explodes(5)
    with pytest.raises(DivergedError, match="the loss is not finite in epoch 2, batch 2: layer '6' is the first"):
        fit(model, *data(), "pgd-at", 3, out=tmp_path, progress=False, **QUICK)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    last = load_file(tmp_path / files.LAST)
    assert all(bool(value.isfinite().all()) for value in last.values())
    assert (tmp_path / files.CHECKPOINT).exists()
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["standard", "pgd-at", "sns"])
def test_weights_that_are_not_finite_are_named(method: str) -> None:
    model = network()
    with torch.no_grad():
        model[7].bias[1] = torch.nan
    with pytest.raises(DivergedError, match=r"epoch 1, batch 1: the weights '7\.bias' are not finite; lower the"):
        fit(model, *data(), method, 1, progress=False, **QUICK)


def test_an_update_that_ruins_the_weights_is_not_saved(tmp_path: Path) -> None:
    settings = {**QUICK, "batch_size": 96, "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=torch.inf)}
    del settings["lr"]
    with pytest.raises(DivergedError, match=r"the weights '0\.weight' are not finite after epoch 1"):
        fit(network(), *data(), "standard", 2, out=tmp_path, progress=False, **settings)
    assert list(tmp_path.iterdir()) == []
