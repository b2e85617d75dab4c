"""Synaptic filters: the right weights are removed, and counts are those of networks with weights set by hand."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.fragility.filter_report import FilterReport
from neurosens_fast.fragility.synaptic_filter import bands_of, checked_thresholds, synaptic_filter
from neurosens_fast.fragility.weights import LayerWeight, WeightGroup
from tests.capture.networks import TupleTransformer
from tests.trained import images, trained

QUIET: dict[str, Any] = {"progress": False}
STEPS = [0.0, 0.1, 0.3, 0.6, 1.0]
KINDS = ("high", "low", "pulse")


def four_weights() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A linear layer with sizes 1, 2, 3 and 4, and four points that it gets right."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 1.0], [-2.0, 3.0]]))
    return nn.Sequential(layer), (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.25, 1.0]]),
        torch.tensor([0, 1, 0, 1]),
    )


def swapped(model: nn.Module, eps: float) -> Any:
    """An attack that at eps 1 exchanges the two coordinates."""
    return lambda x, y: (1 - eps) * x + eps * x.flip(1)


@pytest.mark.parametrize(
    ("kind", "removed", "clean", "adversarial"),
    [
        ("high", [0, 1, 2, 3, 4], [4, 4, 4, 2, 2], [1, 1, 1, 2, 2]),
        ("low", [4, 3, 2, 1, 0], [2, 2, 2, 4, 4], [2, 2, 2, 1, 1]),
        ("pulse", [1, 1, 1, 1], [4, 4, 2, 4], [1, 1, 2, 1]),
    ],
)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_four_weights_by_hand(
    kind: str, removed: list[int], clean: list[int], adversarial: list[int], scope: str
) -> None:
    model, data = four_weights()
    report = synaptic_filter(model, data, swapped, [1.0, 0.0], kind, scope, thresholds=5, batch_size=3, **QUIET)
    assert report.curves == (("0",) if scope == "layer" else ("all layers",))
    assert (report.weights, report.largest, report.layers, report.samples) == ((4,), (4.0,), ("0",), 4)
    assert report.removed.tolist() == [removed]
    assert report.surviving().tolist() == [[1 - count / 4 for count in removed]]
    assert report.correct[0, :, 0].tolist() == clean
    assert report.correct[0, :, 1].tolist() == adversarial
    assert report.correct[0, :, 2].tolist() == clean, "at eps 0 the attack changes nothing"
    assert report.unfiltered.tolist() == [4, 1, 4]
    assert report.accuracy(1.0).tolist() == [[count / 4 for count in adversarial]]


def test_scores_and_classes_of_four_weights() -> None:
    model, data = four_weights()
    report = synaptic_filter(model, data, swapped, [1.0], thresholds=5, **QUIET)
    # accuracy less share: 0, 1/4, 1/2, 1/4, 1/2 clean, and -3/4, -1/2, -1/4, 1/4, 1/2 adversarial
    assert report.score("clean").tolist() == pytest.approx([0.3125])
    assert report.score().tolist() == pytest.approx([-0.15625])
    assert report.score("difference").tolist() == pytest.approx([-0.46875])
    assert report.change("clean").tolist() == pytest.approx([-0.25]), "over the four points that remove something"
    assert report.change().tolist() == pytest.approx([0.125])
    assert report.change("difference").tolist() == pytest.approx([0.375])
    assert report.classes("clean") == ("fragile",)
    assert report.classes() == ("robust",), "1/8 is within the error of 1 right of 4"
    assert report.classes(threshold=0.1) == ("antifragile",)


@pytest.mark.parametrize("kind", KINDS)
def test_filters_that_remove_the_same_weights_run_once(kind: str) -> None:
    model, data = four_weights()
    calls = []
    with model.register_forward_hook(lambda module, inputs, output: calls.append(1)):
        report = synaptic_filter(model, data, swapped, [1.0], kind, thresholds=41, **QUIET)
    assert len(calls) == 2 * (1 + 4), "of 41 points, four differ from each other and from the unfiltered model"
    counts = [0, 1, 2, 3, 4] if kind == "high" else [4, 3, 2, 1, 0]
    expected = [count for count in counts for _ in range(10)][:40] + counts[-1:]
    assert kind == "pulse" or report.removed[0].tolist() == expected
    assert int((report.removed > 0).sum()) == {"high": 31, "low": 40, "pulse": 4}[kind]


def numpy_filtered(weight: numpy.ndarray, largest: float, kind: str, ends: tuple[float, float]) -> numpy.ndarray:
    """A weight after the filter, one number at a time."""
    kept = weight.copy()
    for place, value in enumerate(weight.flat):
        size = abs(float(value))
        low, high = (end * largest for end in ends)
        gone = size <= low if kind == "high" else size > low if kind == "low" else low < size <= high
        kept.flat[place] = 0 if gone else value
    return kept


def right_by_hand(
    model: nn.Module, scope: str, kind: str, inputs: Iterable[Tensor], y: Tensor
) -> list[list[list[int]]]:
    """``[L][P][1 + E]`` from copies of the network whose weights are overwritten."""
    layers = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    arrays = {name: model.get_submodule(name).weight.detach().numpy() for name in layers}  # type: ignore[operator, union-attr]
    found = []
    for group in [[name] for name in layers] if scope == "layer" else [layers]:
        largest = max(float(numpy.abs(arrays[name]).max()) for name in group)
        points = itertools.pairwise(STEPS) if kind == "pulse" else ((step, step) for step in STEPS)
        rows = []
        for ends in points:
            changed = copy.deepcopy(model).eval()
            with torch.no_grad():
                for name in group:
                    new = torch.from_numpy(numpy_filtered(arrays[name], largest, kind, ends))
                    changed.get_submodule(name).weight.copy_(new)  # type: ignore[operator, union-attr]
                rows.append([int((changed(x).argmax(1) == y).sum()) for x in inputs])
        found.append(rows)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_counts_are_those_of_overwritten_copies(scope: str, kind: str) -> None:
    model, (x, y) = trained().train(), images(50)
    report = synaptic_filter(
        model,
        (x, y),
        FGSM,
        [0.05, 0.2],
        kind,
        scope,
        thresholds=STEPS,
        batch_size=16 if scope == "layer" else 50,
        **QUIET,
    )
    clone = copy.deepcopy(model).eval()
    inputs = [x, *(FGSM(clone, eps=eps)(x, y) for eps in (0.05, 0.2))]
    expected = right_by_hand(clone, scope, kind, inputs, y)
    assert report.correct.tolist() == expected
    assert len({count for rows in expected for row in rows for count in row}) > 4, "too little happens for a test"
    with torch.no_grad():
        assert report.unfiltered.tolist() == [int((clone(z).argmax(1) == y).sum()) for z in inputs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_high_and_low_are_complements_and_pulses_partition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(shape, generator=generator) for shape in ((7, 3, 3, 3), (11, 5))]
    made[1] = (made[1] * 4).round() / 4  # ties, zeros, and sizes that lie at thresholds
    made[1][0, 0] = 4.0
    weights = [nn.Parameter(values.to(dtype)) for values in made]
    group = WeightGroup.of("both", [LayerWeight(weight, (str(place),)) for place, weight in enumerate(weights)])
    thresholds = checked_thresholds(17)
    kept = {kind: [group.filtered(band) for band in bands_of(kind, thresholds)] for kind in KINDS}
    for place, weight in enumerate(weights):
        name, values = str(place), weight.detach()
        for high, low in zip(kept["high"], kept["low"], strict=True):
            assert torch.equal(high[name] + low[name], values)
            assert not ((high[name] != 0) & (low[name] != 0)).any()
        gone = [(values != point[name]) for point in kept["pulse"]]
        assert torch.equal(torch.stack(gone).sum(0), (values != 0).long()), "each weight in one band"
        assert torch.equal(kept["high"][0][name], values)
        assert torch.equal(kept["low"][-1][name], values)
        assert not kept["high"][-1][name].any()
        assert not kept["low"][0][name].any()
    assert group.largest == 4.0
    assert group.count == sum(int((weight != 0).sum()) for weight in weights)
    assert [group.up_to(share) for share in (0.0, 1.0)] == [0, group.count]


def test_removed_adds_up_and_zeros_are_not_counted() -> None:
    model = trained()
    with torch.no_grad():
        model.fc4.weight[3:60] = 0
    reports = [synaptic_filter(model, images(8), eps=[0.1], kind=kind, thresholds=9, **QUIET) for kind in KINDS]
    high, low, pulse = reports
    total = torch.tensor(high.weights)
    assert high.weights[3] == 71 * 256
    assert torch.equal(high.removed + low.removed, total[:, None].expand(5, 9))
    assert torch.equal(pulse.removed.sum(1), total)
    assert torch.equal(pulse.removed.cumsum(1), high.removed[:, 1:])
    for report in reports:
        ends = report.surviving()[:, [0, -1]]
        assert ends.tolist() == {"high": [[1, 0]] * 5, "low": [[0, 1]] * 5}.get(report.kind, ends.tolist())
    assert torch.equal(high.correct[:, -1], low.correct[:, 0]), "nothing is left of the layer"
    assert torch.equal(high.correct[:, 0], high.unfiltered.expand(5, 2))


def same(ours: FilterReport, theirs: FilterReport) -> None:
    for name in ("removed", "correct", "unfiltered", "samples"):
        first, second = getattr(ours, name), getattr(theirs, name)
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second)), name


def test_batches_add_up_and_repeat() -> None:
    model, (x, y) = trained(torch.float64), images(41, torch.float64)
    arguments: dict[str, Any] = {"eps": [0.1], "thresholds": 6, "layers": ["conv2", "logits"], **QUIET}
    whole = synaptic_filter(model, (x, y), **arguments)
    same(whole, synaptic_filter(model, (x, y), batch_size=7, **arguments))
    same(whole, synaptic_filter(model, [(x[:9], y[:9]), (x[9:], y[9:])], **arguments))
    few = synaptic_filter(model, (x, y), max_samples=10, batch_size=4, **arguments)
    same(few, synaptic_filter(model, (x[:10], y[:10]), **arguments))


def test_layers_that_are_chosen_and_their_scope() -> None:
    model, data = trained(), images(30)
    arguments: dict[str, Any] = {"eps": [0.1], "thresholds": STEPS, **QUIET}
    every = synaptic_filter(model, data, **arguments)
    assert every.curves == every.layers == ("conv1", "conv2", "conv3", "fc4", "logits")
    some = synaptic_filter(model, data, layers=["fc4", "conv1"], **arguments)
    assert some.curves == ("conv1", "fc4")
    assert torch.equal(some.correct, every.correct[[0, 3]])
    assert synaptic_filter(model, data, layers="convolutions", **arguments).curves == ("conv1", "conv2", "conv3")
    one = synaptic_filter(model, data, scope="global", layers="conv2", **arguments)
    assert one.curves == ("all layers",)
    assert torch.equal(one.correct, every.correct[[1]])


def test_attention_with_inputs_by_keyword() -> None:
    """The output projection of attention is a linear layer, whose weight attention reads itself; the input's is not."""
    torch.manual_seed(0)
    model = TupleTransformer()
    inputs = {"inputs_embeds": torch.randn(40, 4, 5), "attention_mask": torch.ones(40, 4)}
    y = model(**inputs)["logits"].argmax(1)
    report = synaptic_filter(
        model, [(inputs, y)], lambda model, eps: lambda x, y: x, [0.1], "low", thresholds=[0, 1], **QUIET
    )
    name = "layer.0.attention.out_proj"
    assert name in report.curves
    assert not any("in_proj" in name for name in report.layers)
    with torch.no_grad():
        model.layer[0].attention.out_proj.weight.zero_()  # type: ignore[union-attr, operator]
        right = int((model(**inputs)["logits"].argmax(1) == y).sum())
    assert report.correct[report.curves.index(name), 0].tolist() == [right, right]
    assert right < 40
