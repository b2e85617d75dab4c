"""Two models on the same inputs against a computation that stores clones of both models' outputs."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference
from neurosens_fast.capture import PairedModels
from neurosens_fast.statistics import METRICS, metric, new_totals

from .networks import Conv1dNet, TupleTransformer, torchvision_model
from .transformers_like import padded, text_classifier


class Overwriting(nn.Module):
    """In-place modules, functions and residual sums after tapped layers, and an input that is overwritten."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=True)
        self.conv, self.norm, self.relu = (
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.second, self.act = nn.Conv2d(width, width, 3, padding=1), nn.SiLU()
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.first(x))))
        residual = self.second(x)
        residual += x
        return self.head(self.act(residual).mul_(2).mean((2, 3)))


def perturbed(model: nn.Module, amount: float = 0.1) -> Any:
    """A copy with other weights, as after fine-tuning."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=amount)
    return other


def stored(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Clones of every module's output at once, by row name."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            call = 1 + sum(row.partition("#")[0] == name for row in kept)
            kept[name if call == 1 else f"{name}#{call}"] = output.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(inputs.clone())
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("make", [Overwriting, Conv1dNet])
def test_every_metric_of_every_row_over_uneven_batches(make: Any) -> None:
    model_a = make().double().eval()
    model_b = perturbed(model_a)
    batches = [torch.randn(n, *((2, 9) if make is Conv1dNet else (3, 6, 6)), dtype=torch.float64) for n in (3, 1, 4)]
    given = [x.clone() for x in batches]
    both = PairedModels(model_a, model_b, "all")
    for x in batches:
        outputs = both.forward(x)
        for output, model in zip(outputs, (model_a, model_b), strict=True):
            assert torch.equal(output, model(x.clone()))
    assert all(torch.equal(x, before) for x, before in zip(batches, given, strict=True)), "inputs are as before"
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    for x in batches:
        theirs = stored(model_b, x)
        for row, z in stored(model_a, x).items():
            totals = expected.setdefault(row, new_totals(z.shape[1]))
            reference.accumulate_pair_statistics_(*totals, z, theirs[row], 1)
    assert list(both.rows) == list(expected)
    assert ("relu#2" in both.rows) == (make is Conv1dNet)
    for row, totals in expected.items():
        assert both.statistics[row].samples == 8
        for key in METRICS:
            torch.testing.assert_close(both.statistics[row].metric(key), metric(key, *totals, 8), rtol=1e-9, atol=1e-9)


def test_only_what_is_overwritten_is_copied_and_found_in_one_more_forward() -> None:
    model_a, model_b = Overwriting().eval(), Overwriting().eval()
    runs: list[int] = []
    model_a.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    both = PairedModels(model_a, model_b, "all")
    for _ in range(3):
        both.forward(torch.randn(2, 3, 6, 6))
    assert len(runs) == 4
    assert both._overwritten == {"norm", "second", "act"}


def test_the_same_weights_give_no_change_and_nothing_is_kept_alive() -> None:
    model = Overwriting().eval()
    both = PairedModels(model, model, "all")
    alive: list[weakref.ref[Tensor]] = []
    model.conv.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output)))
    both.forward(torch.randn(2, 3, 6, 6))
    assert all(not totals.metric("sensitivity").any() for totals in both.statistics.values())
    assert not both._kept
    assert len(alive) == 3
    assert all(reference() is None for reference in alive)


def test_activations_of_the_first_model_go_one_by_one() -> None:
    """When a layer of the second model is done, what the first one put out there is gone."""
    model_a, model_b = (nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))) for _ in range(2))
    both = PairedModels(model_a, model_b, "linear")
    left: list[int] = []
    original = both._add

    def watch(*args: Any) -> None:
        original(*args)
        left.append(len(both._kept))

    both._adding._visit = watch
    both.forward(torch.rand(2, 3))
    assert left == [3, 2, 1, 0]


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_that_differ(low: torch.dtype) -> None:
    model_a = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))

    class Lower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, child in copy.deepcopy(model_a).named_children():
                self.add_module(name, child.to(low))

        def forward(self, x: Tensor) -> Tensor:
            x = x.to(low)
            for child in self.children():
                x = child(x)
            return x

    x = torch.randn(6, 5)
    model_b = Lower()
    both = PairedModels(model_a, model_b, "all")
    both.forward(x)
    theirs = stored(model_b, x)
    wide = torch.promote_types(low, torch.float32)
    for row, z in stored(model_a, x).items():
        expected = (theirs[row].to(wide) - z.to(wide)).abs().double().mean(0)
        assert theirs[row].dtype == low
        torch.testing.assert_close(both.statistics[row].metric("sensitivity"), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # torchao does otherwise
def test_quantised_outputs() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.head = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            quantised = self.relu(torch.quantize_per_tensor(x.relu(), 0.1, 0, torch.quint8))
            return self.head(quantised.dequantize() * 2)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.head = nn.ReLU(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(x) * 2)

    x = torch.rand(4, 3) - 0.2
    pairs: list[tuple[nn.Module, nn.Module]] = [(Plain(), Quantised()), (Quantised(), Plain())]
    for model_a, model_b in pairs:
        both = PairedModels(model_a, model_b, ["relu", "head"])
        both.forward(x)
        expected = (((x.relu() / 0.1).round() * 0.1) - x.relu()).abs().mean(0).double()
        torch.testing.assert_close(both.statistics["relu"].metric("sensitivity"), expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(both.statistics["head"].metric("sensitivity"), 2 * expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("failing", [None, "model_a", "model_b"])
def test_both_models_are_left_as_they_were(failing: str | None) -> None:
    models = {"model_a": Overwriting().train(), "model_b": Overwriting().train()}
    for model in models.values():
        model.norm.eval()
        model.norm.running_mean.fill_(0.3)  # type: ignore[union-attr, operator]
    before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
    modes = {name: [module.training for module in model.modules()] for name, model in models.items()}
    both = PairedModels(models["model_a"], models["model_b"], "all")
    if failing is not None:

        def fail(module: nn.Module, inputs: Any) -> None:
            raise ZeroDivisionError

        handle = models[failing].head.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            both.forward(torch.randn(2, 3, 6, 6))
        handle.remove()
        assert not both._kept
    outputs = both.forward(torch.randn(2, 3, 6, 6))
    assert not any(output.requires_grad or output.is_inference() for output in outputs)
    for name, model in models.items():
        assert [module.training for module in model.modules()] == modes[name]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_inference_mode_and_compiled_models() -> None:
    model_a = Overwriting().eval()
    model_b, x = perturbed(model_a), torch.randn(3, 3, 6, 6)
    plain = PairedModels(model_a, model_b, "all")
    plain.forward(x)
    inference = PairedModels(model_a, model_b, "all")
    with torch.inference_mode():
        inference.forward(x)
    compiled_a, compiled_b = (torch.compile(model, backend="eager") for model in (model_a, model_b))
    whole = PairedModels(compiled_a, compiled_b, "all")  # type: ignore[arg-type]
    whole.forward(x)
    for other in (inference, whole):
        assert list(other.rows) == list(plain.rows)
        for row, totals in plain.statistics.items():
            assert torch.equal(other.statistics[row].sums, totals.sums)


def test_transformers_with_padding_tuples_and_autocast() -> None:
    model_a = text_classifier().double()
    model_b = perturbed(model_a)
    samples = [torch.randint(1, 30, (length,)) for length in (5, 2, 7)]
    for tokens in ("all", "cls", "last"):
        joined, single = (PairedModels(model_a, model_b, ["blocks", "linear"], tokens=tokens) for _ in range(2))
        joined.forward(padded(samples, 9, "right"))
        for sample in samples:
            single.forward({"input_ids": sample[None], "attention_mask": torch.ones(1, len(sample))})
        assert joined.rows.keys() == single.rows.keys()
        for row, totals in joined.statistics.items():
            assert totals.samples == single.statistics[row].samples == 3
            torch.testing.assert_close(totals.sums, single.statistics[row].sums, rtol=1e-9, atol=1e-9)
    net = TupleTransformer().eval()
    inputs = {"inputs_embeds": torch.rand(4, 7, 5), "attention_mask": torch.ones(4, 7)}
    both = PairedModels(net, perturbed(net), "linear", {"classifier": 1})
    outputs = both.forward(inputs, autocast=torch.bfloat16)
    assert outputs[0]["logits"].dtype == torch.bfloat16
    assert both.rows["layer.0.intermediate"].statistics.samples == 4


def test_networks_of_torchvision() -> None:
    for name in ("resnet18", "vit", "swin"):
        model = torchvision_model(name)
        x = torch.rand(2, 3, 32, 32)
        both = PairedModels(model, perturbed(model, 0.01), ["norms", "linear", "activations"])
        both.forward(x)
        assert not both.skipped
        assert all(totals.metric("sensitivity").any() for totals in both.statistics.values())
