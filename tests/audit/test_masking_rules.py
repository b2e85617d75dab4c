"""Masking curves: what is left out, how orders and scopes are made, no trace in the model, one-sentence errors."""

from __future__ import annotations

import random
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM
from neurosens_fast.audit import AuditReport, audit
from neurosens_fast.audit.masking import masking_curve
from neurosens_fast.audit.masking.hooks import Masks
from neurosens_fast.audit.masking.ranking import Plan, make_plan
from tests.capture.networks import torchvision_model

Data = tuple[Tensor, Tensor]
X, Y = torch.rand(6, 1, 6, 6), torch.zeros(6, dtype=torch.int64)


def moved(x: Tensor, y: Tensor) -> Tensor:
    """A little attack."""
    return x + 0.1


def masked(plan: Plan, order: str, repeat: int, count: int) -> dict[str, list[int]]:
    """Layer -> neurons of one point."""
    index = next(index for *key, index in plan.points if key == [order, repeat, count])
    return {row: flags.nonzero().flatten().tolist() for row, flags in plan.masks[index].items()}


def test_orders_in_the_scope_of_a_layer_take_as_many_neurons_of_each() -> None:
    values = {"a": torch.rand(10, dtype=torch.float64), "b": 100 * torch.rand(4, dtype=torch.float64)}
    plan = make_plan(values, ["most", "random", "least"], 2, "layer", range(15), seed=0)
    for count in range(15):
        per_layer = []
        for order, repeat in (("most", 1), ("random", 1), ("random", 2), ("least", 1)):
            chosen = masked(plan, order, repeat, count)
            assert sum(map(len, chosen.values())) == count
            per_layer.append({row: len(neurons) for row, neurons in chosen.items()})
            if count:
                before = masked(plan, order, repeat, count - 1)
                assert all(set(neurons) <= set(chosen[row]) for row, neurons in before.items()), "masks must grow"
        assert all(numbers == per_layer[0] for numbers in per_layer)
        assert abs(per_layer[0].get("a", 0) / 10 - count / 14) <= 0.1
    assert masked(plan, "random", 1, 5) != masked(plan, "random", 2, 5)
    assert masked(plan, "random", 2, 5) == masked(make_plan(values, ["random"], 2, "layer", [5], 0), "random", 2, 5)
    assert masked(make_plan(values, ["most"], 1, "model", [4], 0), "most", 1, 4) == {"b": [0, 1, 2, 3]}


@pytest.mark.parametrize(("order", "expected"), [("most", {"a": [0, 2], "b": [0]}), ("least", {"a": [1], "b": [1, 2]})])
def test_ties_keep_the_order_of_execution(order: str, expected: dict[str, list[int]]) -> None:
    values = {"a": torch.tensor([1.0, 0.0, 1.0]), "b": torch.tensor([1.0, 0.0, 0.0, 1.0])}
    plan = make_plan({row: column.double() for row, column in values.items()}, [order], 1, "model", [3], 0)
    assert masked(plan, order, 1, 3) == expected


def test_infinity_is_the_largest_value() -> None:
    values = {"a": torch.tensor([1.0, torch.inf, torch.nan, -torch.inf], dtype=torch.float64)}
    plan = make_plan(values, ["most", "least"], 1, "layer", [1, 2], 0)
    assert (masked(plan, "most", 1, 1), masked(plan, "least", 1, 2)) == ({"a": [1]}, {"a": [0, 3]})
    assert plan.unranked == {"a": [2]}


def test_counts_and_shares() -> None:
    values = {"a": torch.rand(30, dtype=torch.float64)}
    plan = make_plan(values, ["most", "least"], 1, "layer", [0.1, 3, 0.11, 1.0, 0, 0.0], 0)
    assert [count for order, _, count, _ in plan.points if order == "most"] == [0, 3, 4, 30]
    assert len(plan.masks) == 6, "none and all are measured once"
    default = make_plan(values, ["most"], 1, "layer", None, 0)
    assert [point[2] for point in default.points] == [0, 1, 2, 3, 5, 6, 9, 12, 15, 23, 30]


def test_neurons_with_nan_are_named_and_never_masked(model: Any, report: AuditReport, data: Data) -> None:
    broken = report.merge(report)
    broken.layers["2"].statistics.sums[3] = torch.nan
    curve = masking_curve(model, broken, data, FGSM(model), layers=["1", "2"])
    assert (curve.unranked, curve.layers, curve.neurons) == ({"2": [3]}, {"1": 6, "2": 5}, 11)
    assert max(point.masked for point in curve.points) == 11
    broken.layers["2"].statistics.sums[:] = torch.nan
    with pytest.raises(ValueError, match="NaN for every neuron"):
        masking_curve(model, broken, data, FGSM(model), layers=["2"])


def test_the_layer_of_the_classes_is_masked_only_by_name(model: Any, report: AuditReport, data: Data) -> None:
    curve = masking_curve(model, report, data, moved, counts=[0])
    assert (curve.output_layers, list(curve.layers)) == (("4",), ["0", "1", "2"])
    assert masking_curve(model, report, data, moved, layers=["2", "4"], counts=[0]).output_layers == ()
    with pytest.raises(ValueError, match="nothing to mask: the neurons of '4' are the model's classes; name it"):
        masking_curve(model, report, data, moved, layers="linear")
    # After a last pooling, too, but not before a layer with weights.
    head = nn.Sequential(nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 4), nn.LogSoftmax(1))
    deep = nn.Sequential(nn.Flatten(), head)
    curve = masking_curve(deep, audit(deep, data, moved, "all"), data, moved, counts=[0])
    assert (curve.output_layers, list(curve.layers)) == (("1.2", "1.3", "1"), ["0", "1.0", "1.1"])
    squeeze = torchvision_model("squeezenet1_1")
    images = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    found = masking_curve(squeeze, audit(squeeze, images, moved), images, moved, counts=[0]).output_layers
    assert found == ("classifier.2",)


def test_outputs_of_every_structure() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    model, values, kept = Net(), torch.ones(2, 3), torch.ones(1)
    point: Any = namedtuple("point", "first second")
    masks = Masks(model, {"inner": -1})
    masks.active = {"inner": torch.tensor([False, True, False])}
    with masks:
        for output in ((values, kept), [values, kept], {"a": values}, OrderedDict(a=values), ((values,), kept)):
            changed: Any = model(output)
            assert type(changed) is type(output)
            while not isinstance(changed, Tensor):
                changed = changed["a"] if isinstance(changed, dict) else changed[0]
            assert changed.tolist() == [[1, 0, 1]] * 2
        named = model(point(values, kept))
        assert named.first.tolist() == [[1, 0, 1]] * 2
        assert named.second is kept
    assert model(values) is values
    assert bool(values.all()), "the input was changed in place"
    assert masks.applied == 6


@pytest.mark.parametrize("where", ["nowhere", "attack", "model", "data"])
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_no_trace(where: str, error: BaseException, model: Any, report: AuditReport) -> None:
    def fail(*values: Any) -> Any:
        raise error

    def careless(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        random.random(), torch.rand(3)
        assert x.grad is not None
        return fail() if where == "attack" else x + 0.1 * x.grad.sign()

    model[4].weight.grad = torch.ones_like(model[4].weight)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generators = torch.get_rng_state(), random.getstate()
    handle = None
    if where == "model":  # fails once masks are at work
        handle = model[4].register_forward_pre_hook(lambda m, x: fail() if len(x[0]) == 12 else None)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    batches: Any = map(fail, [0]) if where == "data" else [(X, Y)]
    if where == "nowhere":
        masking_curve(model, report, batches, careless)
    else:
        with pytest.raises((ValueError, RuntimeError, KeyboardInterrupt), match=r"mine|^$"):
            masking_curve(model, report, batches, careless)
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is grads[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    if handle is not None:
        handle.remove()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "beauty"}, "unknown metric 'beauty'; choose one of sensitivity"),
        ({"orders": ["most", "top"]}, "an order must be one of most, random, least, got 'top'"),
        ({"orders": []}, "orders is empty; choose among most, random, least"),
        ({"scope": "net"}, "scope must be one of layer, model, got 'net'"),
        ({"protocol": "both"}, "protocol must be one of fixed, adaptive, got 'both'"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1, got 0"),
        ({"dtype": torch.int8}, "dtype must be one of torch.float32"),
        ({"device": "meta"}, r"device='meta' was asked for and the model is on cpu"),
        ({"counts": [5, 19]}, r"counts must lie in 0..18, the neurons of the chosen layers, got 19"),
        ({"counts": [-1]}, r"counts must lie in 0..18"),
        ({"counts": [1.5]}, r"a share in counts must lie in \[0, 1\], got 1.5; use an int"),
        ({"counts": []}, "counts is empty"),
        ({"counts": 5}, "counts must be a list of numbers"),
        ({"counts": ["5"]}, "counts must hold numbers .* got '5'"),
        ({"layers": ["3"]}, "the report did not measure layer '3'; its layers begin 0, 1, 2, 4"),
        ({"layers": ["relu"]}, "the model has no layer 'relu'"),
        ({"data": X}, "must give batches or samples"),
        ({"data": [(X,)]}, "an attack needs labels"),
        ({"data": [(X, Y[:3])]}, r"6 inputs and labels of shape \[3\]"),
        ({"data": []}, "data gave no sample"),
        ({"data": (torch.rand(2, 1, 9, 9), Y[:2])}, r"fails on inputs .* in layer '4' \(Linear\)"),
        ({"attack": "pgd"}, "attack must be a callable"),
        ({"report": {}}, "report must be the AuditReport that audit"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str, model: Any, report: AuditReport) -> None:
    arguments: dict[str, Any] = {"report": report, "data": (X, Y), "attack": moved, **settings}
    with pytest.raises((ValueError, TypeError), match=message):
        masking_curve(model, **arguments)


def test_reports_of_another_model(model: Any, report: AuditReport) -> None:
    names = OrderedDict(body=nn.Conv2d(1, 6, 3), flat=nn.Flatten(), last=nn.Linear(96, 4))
    with pytest.raises(ValueError, match="the report is of another model: it has a layer '0', this one has none"):
        masking_curve(nn.Sequential(names), report, (X, Y), moved)
    wider = nn.Sequential(nn.Conv2d(1, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Flatten(), nn.Linear(112, 4))
    with pytest.raises(ValueError, match=r"layer '0' has 6 neurons on axis 1, and here it puts out \[4, 7, 4, 4\]"):
        masking_curve(wider, report, (X, Y), moved)
    shared = nn.Conv2d(1, 1, 1)
    twice = nn.Sequential(shared, nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(36, 4))
    again = audit(nn.Sequential(shared, shared, nn.Flatten(), nn.Linear(36, 4)), (X, Y), moved, ["0"])
    assert list(again.layers) == ["0", "0#2"]
    with pytest.raises(ValueError, match="layer '0#2' does not run in this one's forward"):
        masking_curve(twice, again, (X, Y), moved)
    flat = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"puts out logits \[N, classes\]; for .* shape \[4, 2, 4, 4\]"):
        masking_curve(flat, audit(flat, (X, Y), moved), (X, Y), moved)
