"""Repairs judged: paired counts against a loop by hand, and a factor that is picked on validation data alone."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from neurosens_fast.attacks import FGSM, PGD, Square
from neurosens_fast.fragility.evaluation import evaluate
from neurosens_fast.fragility.levels import MakeAttack
from neurosens_fast.fragility.repair import repair
from neurosens_fast.fragility.sweep import RepairReport, repair_sweep
from tests.audit.test_plot import drawn
from tests.trained import images, trained

from .reports import report_of

CLASSES = "frrrrrrrrfrrrrrf"  # of the 16 neurons of conv1
EPS = (0.1, 0.2)
ATTACKS: dict[str, MakeAttack] = {"FGSM": FGSM, "PGD": partial(PGD, alpha=0.05, steps=3, seed=1)}


def right_by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float | None) -> Tensor:
    """Which samples the model gets right as they are, and under its own FGSM if there is an eps."""
    model = copy.deepcopy(model).eval()
    right = model(x).argmax(1) == y
    if eps is not None:
        x = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
        adversarial = (x.detach() + eps * slope.sign()).clamp(0, 1)
        right = right & (model(adversarial).argmax(1) == y)
    return right


def test_evaluation_equals_a_loop_by_hand() -> None:
    model, (x, y) = trained(torch.float64), images(200, torch.float64)
    repaired = repair(model, report_of(CLASSES), 0.2)
    found = evaluate(model, repaired, (x, y), {"FGSM": FGSM}, EPS, batch_size=64, progress=False)
    assert found.conditions == (("clean", 0.0), ("FGSM", 0.1), ("FGSM", 0.2))
    for place, eps in enumerate((None, *EPS)):
        before, after = (right_by_hand(network, x, y, eps).double() for network in (model, repaired))
        change = after - before
        assert found.before.dtype == torch.float64
        assert found.before[place] == before.mean()
        assert found.after[place].item() == pytest.approx(after.mean().item(), abs=1e-15)
        assert found.change[place] == change.mean()
        assert found.standard_error[place].item() == pytest.approx(change.std(correction=0).item() / 200**0.5)
        lost, gained = int((change < 0).sum()), int((change > 0).sum())
        expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert found.p_value[place].item() == pytest.approx(expected)
        assert lost + gained > 5 or eps is None, "the repair changes nothing, so this test could not fail"
    assert found.samples == 200
    frame = found.to_pandas()
    assert frame["accuracy_before"].tolist() == found.before.tolist()
    assert (frame["gained"] - frame["lost"]).tolist() == (200 * found.change).round().tolist()
    assert "FGSM 0.1" in repr(found)


def rights(factors: tuple[float, ...], x: Tensor, y: Tensor, eps: tuple[float, ...]) -> dict[float, Tensor]:
    """Factor -> how many of the strengths each sample withstands, ``[N]``."""
    model = trained(torch.float64)
    networks = {factor: model if factor == 1 else repair(model, report_of(CLASSES), factor) for factor in factors}
    return {
        factor: sum((right_by_hand(network, x, y, level).long() for level in eps), torch.zeros(len(y)).long())
        for factor, network in networks.items()
    }


@pytest.fixture(scope="module")
def withstood() -> dict[float, Tensor]:
    return rights((1.0, 0.6, 0.2), *images(400, torch.float64), EPS)


@pytest.mark.parametrize(("best", "other"), [(0.2, 1.0), (0.6, 0.2), (1.0, 0.2)])
def test_the_pick_is_by_validation_alone(withstood: dict[float, Tensor], best: float, other: float) -> None:
    model, (x, y) = trained(torch.float64), images(400, torch.float64)
    mine, theirs = withstood[best], withstood[other]
    (third,) = (value for factor, value in withstood.items() if factor not in (best, other))
    validation, test = (mine > theirs) & (mine >= third), (theirs > mine) & (theirs >= third)
    on_validation, on_test = (
        {factor: int(value[part].sum()) for factor, value in withstood.items()} for part in (validation, test)
    )
    assert max(on_validation, key=lambda factor: on_validation[factor]) == best
    assert max(on_test, key=lambda factor: on_test[factor]) != best, "the test data would pick the same"
    report = repair_sweep(
        *(model, report_of(CLASSES), (x[validation], y[validation]), (x[test], y[test]), (0.6, 0.2)),
        attacks={"FGSM": FGSM},
        eps=EPS,
        progress=False,
    )
    assert report.picked == best
    expected = model if best == 1 else repair(model, report_of(CLASSES), best)
    for name, value in expected.state_dict().items():
        assert torch.equal(report.repaired.state_dict()[name], value)
    assert {factor: found.right_after("FGSM") for factor, found in report.validation.items()} == on_validation
    assert report.test.right_after("FGSM") == on_test[best]


@pytest.fixture(scope="module")
def report() -> RepairReport:
    x, y = images(300)
    return repair_sweep(
        *(trained(), report_of(CLASSES), (x[:150], y[:150]), (x[150:], y[150:]), (0.8, 0.2), ATTACKS, EPS),
        progress=False,
    )


def test_every_factor_is_that_of_evaluate(report: RepairReport) -> None:
    model, (x, y) = trained(), images(300)
    assert list(report.validation) == [1.0, 0.8, 0.2]
    for factor in (0.8, 0.2):
        repaired = repair(model, report_of(CLASSES), factor)
        expected = evaluate(model, repaired, (x[:150], y[:150]), ATTACKS, EPS, progress=False)
        assert report.validation[factor].to_pandas().equals(expected.to_pandas())
    assert (report.validation[1.0].change == 0).all()
    assert (report.validation[1.0].p_value == 1).all()
    by_mean = {factor: float(found.after[1:3].sum()) for factor, found in report.validation.items()}
    assert by_mean[report.picked] == max(by_mean.values())
    repaired = report.repaired
    expected = evaluate(model, repaired, (x[150:], y[150:]), ATTACKS, EPS, progress=False)
    assert report.test.to_pandas().equals(expected.to_pandas())


def test_tables_picture_and_words(report: RepairReport, tmp_path: Path) -> None:
    frame = report.to_pandas()
    assert list(frame.columns[:4]) == ["split", "attack", "eps", "compress"]
    assert len(frame) == 4 * 5
    assert set(frame[frame["split"] == "test"]["compress"]) == {report.picked}
    report.to_csv(tmp_path / "repair.csv")
    with (tmp_path / "repair.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["standard_error"]) for row in rows] == frame["standard_error"].tolist()
    report.plot(tmp_path / "repair.png")
    drawn(tmp_path / "repair.png")
    with pytest.raises(ValueError, match=r"cannot draw a \.xyz file"):
        report.plot(tmp_path / "repair.xyz")
    assert "compress" in repr(report)
    assert "picked of 1, 0.8, 0.2" in repr(report)


def test_ties_go_to_the_mildest() -> None:
    x, y = images(60)
    kept = right_by_hand(trained(), x, y, None)
    kept &= right_by_hand(repair(trained(), report_of(CLASSES), 0.9), x, y, None)
    data = x[kept], y[kept]
    report = repair_sweep(trained(), report_of(CLASSES), data, data, [0.9], {"FGSM": FGSM}, 0.0, progress=False)
    assert report.validation[0.9].after.tolist() == [1.0, 1.0]
    assert report.picked == 1.0
    assert all(torch.equal(value, trained().state_dict()[name]) for name, value in report.repaired.state_dict().items())


class Counted:
    """Batches that count how often they are read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.passes = x, y, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        yield self.x, self.y


def test_every_model_is_attacked_itself_and_test_data_seen_by_two() -> None:
    attacked: list[Any] = []

    def attack(model: nn.Module, eps: float) -> Any:
        def run(x: Tensor, y: Tensor) -> Tensor:
            attacked.append(model)
            return x

        return run

    model, (x, y) = trained(), images(40)
    with torch.no_grad():
        model.bn1.weight[[0, 9, 15]] /= 4  # so that amplifying matters
    validation, test = Counted(x, y), Counted(x, y)
    report = repair_sweep(
        model, report_of(CLASSES), validation, test, (0.9, 0.5), {"none": attack}, 0.1, progress=False, threshold=0.01
    )
    assert validation.passes == 3
    assert test.passes == (1 if report.picked == 1 else 2)
    assert attacked[0] is model
    assert len({id(network) for network in attacked[:3]}) == 3
    for network, factor in zip(attacked[1:3], (0.9, 0.5), strict=True):
        expected: Any = repair(model, report_of(CLASSES), factor)
        assert torch.equal(network.bn1.weight, expected.bn1.weight)


def test_pick_by_another_attack_and_strengths_of_the_report() -> None:
    data = images(60)
    attacks: dict[str, MakeAttack] = {"FGSM": FGSM, "Square": partial(Square, n_queries=5, seed=0)}
    report = repair_sweep(
        trained(), report_of(CLASSES), data, data, 0.5, attacks, pick_by="Square", progress=False, where="before_norm"
    )
    assert report.test.conditions == (("clean", 0.0), ("FGSM", 0.1), ("Square", 0.1))
    right = {factor: found.right_after("Square") for factor, found in report.validation.items()}
    assert right[report.picked] == max(right.values())
    assert (report.pick_by, report.where) == ("Square", "before_norm")


def test_seeds_and_global_state() -> None:
    model, data = trained(), images(100)
    attacks = {"PGD": partial(PGD, alpha=0.05, steps=2)}  # draws from torch's generator
    state = torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    model.train()

    def table(seed: int) -> Any:
        sweep = repair_sweep(
            *(model, report_of(CLASSES), data, data, 0.3, attacks, 0.15), reestimate=data, progress=False, seed=seed
        )
        return sweep.to_pandas()

    first = table(3)
    torch.rand(5)
    assert first.equals(table(3))
    torch.set_rng_state(state)
    table(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_strengths_that_look_alike_are_told_apart() -> None:
    found = evaluate(trained(), trained(), images(8), {"FGSM": FGSM}, (8 / 255, 0.0313725), progress=False)
    assert found.conditions[1:] == (("FGSM", 8 / 255), ("FGSM", 0.0313725))
    assert len(found.after) == 3


def test_data_in_another_order_are_refused() -> None:
    x, y = images(64)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=generator)
    with pytest.raises(ValueError, match=r"another order.*DataLoader without shuffle"):
        evaluate(trained(), trained(), loader, {"FGSM": FGSM}, 0.1, progress=False)


def test_refusals() -> None:
    model, data, good = trained(), images(20), {"FGSM": FGSM}

    def sweep(**changes: Any) -> RepairReport:
        given: dict[str, Any] = {"compress": [0.5], "attacks": good, "progress": False, **changes}
        return repair_sweep(given.pop("model", model), given.pop("report", report_of(CLASSES)), data, data, **given)

    with pytest.raises(ValueError, match=r"must be a number in \(0, 1\], got 2"):
        sweep(compress=[0.5, 2])
    with pytest.raises(ValueError, match="no factor below 1"):
        sweep(compress=[1.0])
    with pytest.raises(ValueError, match="attacks is empty"):
        sweep(attacks={})
    with pytest.raises(TypeError, match="attacks must be a dict"):
        sweep(attacks=FGSM)
    with pytest.raises(ValueError, match="names other than 'clean'"):
        sweep(attacks={"clean": FGSM})
    with pytest.raises(TypeError, match="give what makes one for a model and eps"):
        sweep(attacks={"FGSM": FGSM(model, 0.1)})
    with pytest.raises(ValueError, match="pick_by must be one of FGSM"):
        sweep(pick_by="PGD")
    with pytest.raises(ValueError, match="eps must be numbers of at least 0"):
        sweep(eps=[-0.1])
    with pytest.raises(TypeError, match="report must be a FragilityReport"):
        sweep(report=None)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        sweep(model=None)
    with pytest.raises(ValueError, match="nothing to repair"):
        sweep(report=report_of("r" * 16))
