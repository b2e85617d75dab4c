"""robust_accuracy: counts against a loop by hand, warnings, and what it refuses."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neurosens_fast.attacks import CW, FGSM, PGD, Square, Worst
from neurosens_fast.data import digits
from neurosens_fast.demo import train_digits
from neurosens_fast.models import DigitsCNN
from neurosens_fast.robustness import RobustnessWarning, robust_accuracy


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return train_digits(digits(), epochs=4, seed=0)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    split = digits()
    return split.test_images[:120], split.test_labels[:120]


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x).argmax(1) == y


def test_counts_equal_a_loop_by_hand(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    fgsm, pgd = FGSM(trained, 0.1), PGD(trained, 0.1, 0.03, 5, random_start=False)
    report = robust_accuracy(trained, data, {"one step": fgsm, "pgd": pgd}, progress=False, batch_size=50)
    clean = right(trained, x, y)
    stands = {name: right(trained, attack(x, y), y) for name, attack in (("one step", fgsm), ("pgd", pgd))}
    assert report.samples == 120
    assert report.clean_accuracy == clean.double().mean()
    for outcome in report.outcomes:
        expected = clean & stands[outcome.name]
        assert outcome.accuracy == expected.double().mean()
        assert outcome.attacked == int(clean.sum())
        assert torch.equal(report.fooled[outcome.name], clean & ~stands[outcome.name])
    assert report.worst_case_accuracy == (clean & stands["one step"] & stands["pgd"]).double().mean()
    assert 0 < report.worst_case_accuracy < report.clean_accuracy
    change = (pgd(x, y).double() - x.double())[clean & ~stands["pgd"]].flatten(1)
    assert report.outcomes[1].linf == pytest.approx(float(change.abs().amax(1).mean()), rel=1e-6)
    assert report.outcomes[1].l2 == pytest.approx(float(change.norm(dim=1).mean()), rel=1e-6)
    assert report.outcomes[1].l1 == pytest.approx(float(change.abs().sum(1).mean()), rel=1e-6)


def test_cascade_attacks_what_still_stands(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    fgsm, pgd = FGSM(trained, 0.1), PGD(trained, 0.1, 0.03, 5, seed=1)
    every = robust_accuracy(trained, data, [fgsm, pgd], progress=False)
    cascade = robust_accuracy(trained, data, [fgsm, pgd], cascade=True, progress=False)
    assert cascade.worst_case_accuracy == every.worst_case_accuracy
    assert cascade.outcomes[1].accuracy == cascade.worst_case_accuracy
    assert cascade.outcomes[1].attacked == round(120 * every.outcomes[0].accuracy)
    assert every.outcomes[1].attacked == round(120 * every.clean_accuracy)


@pytest.mark.parametrize("batch_size", [7, 40])
def test_batches_do_not_matter(batch_size: int, trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    model = train_digits(digits(), epochs=2, seed=0).double()
    double = data[0].double(), data[1]
    attacks = {"pgd": PGD(model, 0.1, 0.03, 3, seed=5), "square": Square(model, 0.1, 20, seed=5)}
    whole = robust_accuracy(model, double, attacks, progress=False, batch_size=120)
    parts = robust_accuracy(model, DataLoader(TensorDataset(*double), batch_size), attacks, progress=False)
    for name in attacks:
        assert torch.equal(whole.fooled[name], parts.fooled[name])


def test_files(trained: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    report = robust_accuracy(trained, data, FGSM(trained, 0.0), max_samples=9, progress=False)
    report.save(tmp_path / "r.json")
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["samples"] == 9
    assert facts["outcomes"][0]["name"] == "FGSM"
    assert facts["outcomes"][0]["linf"] is None, "no example fooled the model"
    report.samples_to_csv(tmp_path / "samples.csv")
    report.to_csv(tmp_path / "attacks.csv")
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    assert lines[0] == "sample,label,right,FGSM"
    assert len(lines) == 10


class Quantised(nn.Module):
    """Rounds its input: the gradient is zero everywhere, the decision boundary is where it was."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model((x * 16).round() / 16)


def test_masked_gradients_are_found(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    model = Quantised(trained)
    attacks = {"pgd": PGD(model, 0.15, 0.03, 10, random_start=False), "square": Square(model, 0.15, 100, seed=0)}
    with pytest.warns(RobustnessWarning) as caught:
        report = robust_accuracy(model, data, attacks, progress=False)
    assert report.outcomes[0].accuracy == report.clean_accuracy, "PGD finds nothing"
    assert report.outcomes[1].accuracy < report.clean_accuracy - 0.2, "Square does"
    texts = [str(warning.message) for warning in caught]
    assert texts == report.warnings
    assert any("gradient of 120 of 120 samples in the first batch is zero" in text for text in texts)
    assert any("square fooled the model on" in text and "masked" in text for text in texts)


class Probabilities(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).softmax(1)


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x + 0.3 * torch.rand_like(x))


@pytest.mark.parametrize(("wrapper", "text"), [(Probabilities, "look like probabilities"), (Noisy, "model is random")])
def test_suspicious_models(wrapper: Any, text: str, trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    model = wrapper(trained)
    with pytest.warns(RobustnessWarning, match=text):
        robust_accuracy(model, data, FGSM(model, 0.05), progress=False, max_samples=30)


def test_a_good_model_gives_no_warning(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    attacks = [PGD(trained, 0.1, 0.02, 10, seed=0), Square(trained, 0.1, 30, seed=0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert robust_accuracy(trained, data, attacks, progress=False).warnings == []


def test_attacks_without_eps_are_named(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    attacks = [FGSM(trained, 0.1), CW(trained, steps=5, binary_search_steps=2)]
    with pytest.warns(RobustnessWarning, match="CW has no eps"):
        robust_accuracy(trained, data, attacks, progress=False, max_samples=10)


def test_functions_and_worst(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    def shift(x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.3).clamp(0, 1)

    worst = Worst([FGSM(trained, 0.1), shift])
    report = robust_accuracy(trained, data, [shift, FGSM(trained, 0.1), worst, shift], progress=False)
    assert [outcome.name for outcome in report.outcomes] == ["shift", "FGSM", "Worst", "shift#2"]
    assert report.outcomes[2].accuracy == report.worst_case_accuracy


def test_the_model_is_left_as_it_was(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    trained.train()
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    gradients = [
        (id(parameter.grad), parameter.grad.clone()) for parameter in trained.parameters() if parameter.grad is not None
    ]
    assert gradients, "training left some"
    robust_accuracy(trained, data, [FGSM(trained), Square(trained, n_queries=5)], progress=False, max_samples=20)
    assert all(module.training for module in trained.modules())
    for parameter, (place, value) in zip(trained.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert id(parameter.grad) == place
        assert torch.equal(parameter.grad, value)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    trained.eval()


def test_refused(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    other = DigitsCNN()
    with pytest.raises(ValueError, match="needs at least one attack"):
        robust_accuracy(trained, data, [], progress=False)
    with pytest.raises(TypeError, match="attack 'int' must be a callable"):
        robust_accuracy(trained, data, [3], progress=False)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="'FGSM' attacks another model"):
        robust_accuracy(trained, data, FGSM(other), progress=False)
    with pytest.raises(ValueError, match="'FGSM' is targeted"):
        robust_accuracy(trained, data, FGSM(trained, targeted=True), progress=False)
    with pytest.raises(ValueError, match="gave no sample"):
        robust_accuracy(trained, [], FGSM(trained), progress=False)
    with pytest.raises(ValueError, match=r"must return images of shape \[9, 1, 8, 8\], got \[9, 1, 4, 8\]"):
        robust_accuracy(trained, data, lambda x, y: x[:, :, ::2], progress=False, max_samples=9)
