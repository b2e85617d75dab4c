"""Masking curves: the right neurons are zero at the right place, and the counts are those of a run by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.masking import MaskingCurve, masking_curve
from tests.capture.networks import Conv1dNet, TupleTransformer

from .test_plot import drawn

Data = tuple[Tensor, Tensor]


def accuracies(curve: MaskingCurve, order: str = "most") -> dict[int, tuple[float, float]]:
    """Masked count -> clean and adversarial accuracy of the first repeat."""
    return {
        point.masked: (point.clean_accuracy, point.adversarial_accuracy)
        for point in curve.points
        if point.order == order and point.repeat == 1
    }


def ranking(report: AuditReport, layers: list[str], order: str, scope: str) -> list[tuple[str, int]]:
    """Neurons in the order of masking, by plain sorting."""
    keyed = []
    for place, layer in enumerate(layers):
        column = report.sensitivity[layer].tolist()
        inside = sorted(range(len(column)), key=lambda n: (-column[n] if order == "most" else column[n], n))
        for neuron, value in enumerate(column):
            share = (inside.index(neuron) + 0.5) / len(column)
            key = share if scope == "layer" else -value if order == "most" else value
            keyed.append((key, place, inside.index(neuron) if scope == "layer" else neuron, layer, neuron))
    return [(layer, neuron) for *_, layer, neuron in sorted(keyed)]


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("order", ["most", "least"])
def test_curve_equals_a_run_by_hand(order: str, scope: str, model: Any, data: Data) -> None:
    layers = ["0", "2"]
    with torch.no_grad():  # weights under which every neuron matters
        model[4].weight.normal_()
        model[1].bias.copy_(torch.linspace(-0.2, 1, 6))
    attack = FGSM(model, eps=0.1)
    report = audit(model, data, attack, layers)
    curve = masking_curve(
        model, report, data, attack, layers=layers, orders=order, counts=range(13), scope=scope, batch_size=5
    )
    x, y = data
    pair = torch.cat((x, attack(x, y)))
    ranked = ranking(report, layers, order, scope)
    model.eval()
    distinct = set()
    for count in range(13):
        z = pair
        for name, module in model.named_children():
            z = module(z).detach()
            z[:, [neuron for layer, neuron in ranked[:count] if layer == name]] = 0
        clean, adversarial = (z.argmax(1) == torch.cat((y, y))).view(2, -1).double().mean(1).tolist()
        assert accuracies(curve, order)[count] == (clean, adversarial), count
        distinct.add((clean, adversarial))
    assert len(distinct) > 3, "the masks change nothing, so this test could not fail"


def test_nothing_masked_is_the_report_of_an_attack_that_draws_random_numbers(model: Any, data: Data) -> None:
    attack = PGD(model, eps=0.3, steps=2)  # no seed: from torch's generator
    report = audit(model, data, attack, batch_size=6, seed=5)
    curve = masking_curve(model, report, data, attack, counts=[0], batch_size=6, seed=5)
    assert accuracies(curve)[0] == (report.clean_accuracy, report.adversarial_accuracy)
    point = curve.points[0]
    expected = math.sqrt(report.clean_accuracy * (1 - report.clean_accuracy) / 17)
    assert point.clean_standard_error == pytest.approx(expected)
    assert point.samples == curve.samples == 17


def test_batches_add_up(model: Any, report: AuditReport, data: Data) -> None:
    attack = FGSM(model, eps=0.1)
    whole = masking_curve(model, report, data, attack)
    uneven = masking_curve(model, report, [(data[0][:9], data[1][:9]), (data[0][9:], data[1][9:])], attack)
    ones = masking_curve(model, report, data, attack, batch_size=1)
    assert whole.points == uneven.points == ones.points
    few = masking_curve(model, report, data, attack, max_samples=7, batch_size=4)
    assert few.samples == 7
    assert few.points == masking_curve(model, report, (data[0][:7], data[1][:7]), attack).points


class Recorder:
    """An attack that keeps what the model gave it on its first layer, and changes nothing."""

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        self.model, self.seen = model, []  # type: ignore[var-annotated]
        self.layer = layer

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        handle = self.layer.register_forward_hook(lambda module, inputs, output: self.seen.append(output.detach()))
        self.model(x)
        handle.remove()
        return x.clone()


def test_protocols(model: Any, report: AuditReport, data: Data) -> None:
    settings: dict[str, Any] = {"layers": ["2"], "counts": [0, 2, 6], "orders": ["most", "least"]}
    fixed, adaptive = Recorder(model, model[2]), Recorder(model, model[2])
    masking_curve(model, report, data, fixed, **settings)
    masking_curve(model, report, data, adaptive, protocol="adaptive", **settings)
    unmasked = torch.relu(model.eval()[1](model[0](data[0])))
    assert len(fixed.seen) == 1, "once per batch"
    torch.testing.assert_close(fixed.seen[0], unmasked)
    alive = [int((values.flatten(2) != 0).any(2).any(0).sum()) for values in adaptive.seen]
    assert alive == [4, 2, 0, 3], "once per mask: none, 2 most, all, 2 least with a dead one among them"
    for foreign in (nn.Sequential(*model), nn.Sequential(nn.Flatten(), nn.Linear(36, 4))):
        with pytest.raises(
            ValueError, match=r"the attack (runs layer '0' outside|ran no masked layer).*protocol='fixed'"
        ):
            masking_curve(model, report, data, FGSM(foreign), protocol="adaptive")
        masking_curve(model, report, data, FGSM(foreign), counts=[1])


@pytest.mark.parametrize("protocol", ["fixed", "adaptive"])
def test_compiled_models_are_masked_all_the_same(protocol: str, model: Any, report: AuditReport, data: Data) -> None:
    plain = masking_curve(model, report, data, FGSM(model), protocol=protocol, layers=["2"])
    compiled: Any = torch.compile(model.eval(), backend="eager")
    compiled(data[0])
    assert masking_curve(compiled, report, data, FGSM(compiled), protocol=protocol, layers=["2"]).points == plain.points


def received(model: nn.Module, module: nn.Module, run: Any) -> list[Tensor]:
    """What ``module`` received in every forward of ``run``."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach().clone()))
    run()
    handle.remove()
    return seen


def test_calls_of_one_module_are_masked_apart() -> None:
    model = Conv1dNet().eval()
    nn.init.constant_(model.conv2.bias, 0.1)  # type: ignore[arg-type]
    data = torch.rand(6, 2, 9), torch.zeros(6, dtype=torch.int64)
    report = audit(model, data, lambda x, y: x + 0.1)
    assert list(report.layers) == ["relu", "relu#2"]
    after: Any = [model.conv2, model.head]
    for row, expected in (("relu#1", [False, True]), ("relu#2", [True, False]), ("relu", [False, False])):
        for module, alive in zip(after, expected, strict=True):
            seen = received(
                model,
                module,
                lambda row=row: masking_curve(
                    model, report, data, lambda x, y: x, layers=[row], counts=[1.0], orders="most"
                ),
            )
            assert bool(seen[-1].any()) == alive, (row, module)


def test_tuples_channels_last_and_dict_inputs() -> None:
    model = TupleTransformer().eval()
    inputs = {"inputs_embeds": torch.rand(5, 7, 5), "attention_mask": torch.ones(5, 7)}
    data = [(inputs, torch.zeros(5, dtype=torch.int64))]

    def attack(x: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        return {**x, "inputs_embeds": x["inputs_embeds"] + 0.2}

    report = audit(model, data, attack, ["layer.0"])
    seen = received(
        model,
        model.get_submodule("layer.1.attention"),
        lambda: masking_curve(model, report, data, attack, counts=[2], orders="most"),
    )
    assert len(seen) == 2, "a look at the first samples, and one forward with a mask"
    zero = [channel for channel in range(6) if not seen[-1][..., channel].any()]
    assert zero == sorted(neuron.neuron for neuron in report.top(2))


def test_table_and_picture(model: Any, report: AuditReport, data: Data, tmp_path: Path) -> None:
    curve = masking_curve(model, report, data, FGSM(model, eps=0.1), layers="activations", repeats=4)
    frame = curve.to_pandas()
    assert list(frame.groupby("order").repeat.max().items()) == [("least", 1), ("most", 1), ("random", 4)]
    assert (frame.share == frame.masked / 6).all()
    assert frame.masked.max() == 6 == curve.neurons
    assert "most, random, least of 6 neurons by sensitivity, 17 samples" in repr(curve)
    curve.to_csv(tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_text() == frame.to_csv(index=False)
    curve.plot(tmp_path / "curve.png")
    first = drawn(tmp_path / "curve.png")
    masking_curve(model, report, data, FGSM(model), by="cosine", counts=[0, 3]).plot(tmp_path / "one.png")
    assert (drawn(tmp_path / "one.png") != first).any()
    with pytest.raises(ValueError, match=r"cannot draw a .txt file; the suffix of 'a.txt' must be one of .*png"):
        curve.plot(tmp_path / "a.txt")
