"""The audit against an independent computation, its counts, its traces and its refusals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit import AuditReport, audit

Data = tuple[Tensor, Tensor]
MEASURED = ["convolutions", "norms", "linear", "activations"]


def float64_sensitivity(model: nn.Module, benign: Tensor, adversarial: Tensor, name: str) -> Tensor:
    """Mean absolute change of each channel of layer ``name``, from two separate stored passes."""
    kept: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: kept.append(out.double()))
    with torch.no_grad():
        model.eval()(benign)
        model(adversarial)
    handle.remove()
    change = (kept[1] - kept[0]).abs()
    return change.flatten(2).mean((0, 2)) if change.dim() > 2 else change.mean(0)


def test_equals_hook_and_store_with_uneven_batches(model: Any, data: Data) -> None:
    attack = FGSM(model, eps=0.1)
    report = audit(model, data, attack, MEASURED, batch_size=16)
    adversarial = attack(*data)
    assert list(report.sensitivity) == ["0", "1", "2", "4"]
    for name, value in report.sensitivity.items():
        expected = float64_sensitivity(model, data[0], adversarial, name)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
        assert report.layers[name].statistics.samples == 17
    with torch.no_grad():
        right = [int((model(x).argmax(1) == data[1]).sum()) for x in (data[0], adversarial)]
    assert (report.correct_benign, report.correct_adversarial) == tuple(right)
    assert report.clean_accuracy == right[0] / 17
    assert (report.samples, report.labelled, report.neurons) == (17, 17, 22)


def test_iterables_and_max_samples(model: Any, data: Data) -> None:
    fetched = []

    def batches() -> Iterator[Data]:
        for start in range(0, 17, 4):
            fetched.append(start)
            yield data[0][start : start + 4], data[1][start : start + 4]

    attack = FGSM(model, eps=0.1)
    whole = audit(model, data, attack, max_samples=6)
    part = audit(model, batches(), attack, max_samples=6)
    assert part.samples == 6
    assert fetched == [0, 4], "a third batch was fetched in vain"
    for name, value in whole.sensitivity.items():
        torch.testing.assert_close(value, part.sensitivity[name], rtol=1e-6, atol=1e-9)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=4)
    assert audit(model, loader, attack).data == ("TensorDataset",)
    assert audit(model, list(batches()), attack).samples == 17


def test_merge_equals_one_audit(model: Any, data: Data) -> None:
    attack = FGSM(model, eps=0.1)
    whole = audit(model, data, attack)
    first = audit(model, (data[0][:10], data[1][:10]), attack, seed=1)
    second = audit(model, (data[0][10:], data[1][10:]), attack, seed=2)
    kept = {name: value.clone() for name, value in first.sensitivity.items()}
    merged = first.merge(second)
    for name in ("sensitivity", "cosine", "peak_change", "activation_frequency_adversarial"):
        for layer, value in whole.metric(name).items():
            torch.testing.assert_close(merged.metric(name)[layer], value, rtol=1e-6, atol=1e-7)
    assert (merged.samples, merged.correct_adversarial) == (17, whole.correct_adversarial)
    assert merged.seeds == (1, 2)
    assert all(torch.equal(first.sensitivity[name], value) for name, value in kept.items()), "merge changed its input"


def test_merge_refuses_what_differs(report: AuditReport, model: Any, data: Data) -> None:
    with pytest.raises(ValueError, match=r"different attacks: 'FGSM\(eps=0.1\)' and 'FGSM\(eps=0.2\)'"):
        report.merge(audit(model, data, FGSM(model, eps=0.2)))
    with pytest.raises(ValueError, match=r"different layers; not the same in both: 0, 1, 2$"):
        report.merge(audit(model, data, FGSM(model, eps=0.1), "linear"))
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(ValueError, match="different models: 'Sequential, 460 parameters'"):
        report.merge(audit(other, data, FGSM(other, eps=0.1), "all"))


def test_tuple_and_dict_inputs_and_any_callable() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.linear(x * mask)

    x, mask, y = torch.rand(5, 4), torch.ones(5, 4), torch.zeros(5, dtype=torch.int64)
    model = Masked()
    tuples = audit(model, [((x, mask), y)], lambda inputs, labels: (inputs[0] + 1, inputs[1]), "linear")
    dicts = audit(model, [({"x": x, "mask": mask}, y)], lambda inputs, labels: {**inputs, "x": inputs["x"] + 1}, "lin*")
    expected = model.linear.weight.sum(1).abs().double()
    torch.testing.assert_close(tuples.sensitivity["linear"], expected.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(tuples.sensitivity["linear"], dicts.sensitivity["linear"])
    assert "test_tuple_and_dict_inputs_and_any_callable" in tuples.attack
    assert "0x" not in tuples.attack


def test_seed_repeats_attacks_that_use_global_randomness(model: Any, data: Data) -> None:
    def noise(x: Tensor, y: Tensor) -> Tensor:
        shift = random.random() + numpy.random.rand()  # noqa: NPY002
        return (x + 0.05 * shift * torch.randn_like(x)).clamp(0, 1)

    first, again, other = (audit(model, data, noise, ["4"], seed=seed).sensitivity["4"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def traces(model: nn.Module) -> list[Any]:
    """Everything that an audit could have touched, as comparable values."""
    parameters = [
        (p.requires_grad, p._version, None if p.grad is None else (id(p.grad), p.grad.tolist()))
        for p in model.parameters()
    ]
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    numbers = [random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002
    return [parameters, modules, [buffer.tolist() for buffer in model.buffers()], numbers]


def rude(model: nn.Module, then: BaseException | None = None) -> Any:
    """An attack that fills gradients, moves batch norm, freezes parameters and draws numbers."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        model.train()
        x = x.clone().requires_grad_(True)
        nn.functional.cross_entropy(model(x), y).backward()
        model.requires_grad_(False)
        numpy.random.rand(), random.random(), torch.rand(1)  # noqa: NPY002
        if then is not None:
            raise then
        assert x.grad is not None
        return (x + x.grad).detach()

    return attack


@pytest.mark.parametrize("make", [FGSM, PGD, rude])
def test_no_trace(make: Any, model: Any, data: Data) -> None:
    model[1].eval()
    model[0].weight.grad = torch.ones(6, 1, 3, 3)
    model[4].bias.requires_grad_(False)
    before = traces(model)
    audit(model, data, make(model))
    assert traces(model) == before


@pytest.mark.parametrize("error", [ValueError("attack"), KeyboardInterrupt()])
def test_no_trace_after_an_exception(error: BaseException, model: Any, data: Data) -> None:
    def failing() -> Iterator[Data]:
        yield data
        raise error

    model[0].weight.grad = torch.ones(6, 1, 3, 3)
    before = traces(model)
    with pytest.raises(type(error)):
        audit(model, data, rude(model, error))
    assert traces(model) == before
    with pytest.raises(type(error)):
        audit(model, failing(), FGSM(model))
    assert traces(model) == before
    with pytest.raises(ValueError, match=r"fails on inputs .* in layer '0'"):
        audit(model, (data[0].expand(-1, 2, -1, -1), data[1]), lambda x, y: x)
    assert traces(model) == before


def test_the_attacks_own_forwards_are_not_measured(model: Any, data: Data) -> None:
    assert audit(model, data, PGD(model, steps=5), ["0"]).layers["0"].statistics.samples == 17


def test_an_attack_that_writes_its_input_spoils_nothing(model: Any, data: Data) -> None:
    def in_place(x: Tensor, y: Tensor) -> Tensor:
        x.requires_grad_()
        nn.functional.cross_entropy(model(x), y).backward()
        y.zero_()
        return x.detach().add_(0.1)

    images, labels = data[0].clone(), data[1].clone()
    report = audit(model, [(images, labels)], in_place, ["0"])
    assert torch.equal(images, data[0])
    assert torch.equal(labels, data[1])
    assert (images.requires_grad, images.grad) == (False, None)
    expected = audit(model, data, lambda x, y: x + 0.1, ["0"])
    torch.testing.assert_close(report.sensitivity["0"], expected.sensitivity["0"])


def test_buffers_that_a_forward_fills_or_resizes(data: Data) -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(36, 4)
            self.register_buffer("cache", None)
            self.register_buffer("sizes", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.cache = x.detach()
            sizes: Any = self.sizes
            sizes.resize_(5).fill_(1)
            return self.linear(x.flatten(1))

    caching = Caching()
    assert audit(caching, data, lambda x, y: x + 0.1, "linear").samples == 17
    assert caching.state_dict().keys() == {"linear.weight", "linear.bias", "sizes"}
    assert caching.state_dict()["sizes"].tolist() == [0, 0]


def test_logits_by_name_and_models_without_any(data: Data) -> None:
    class Named(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.linear = nn.Linear(36, classes)

        def forward(self, x: Tensor) -> Any:
            logits = self.linear(x.flatten(1))
            return {"features": logits * 0, "logits": logits}

    named = Named(4)
    report = audit(named, data, lambda x, y: x, "linear")
    right = int((named.linear(data[0].flatten(1)).argmax(1) == data[1]).sum())
    assert (report.labelled, report.correct_benign) == (17, right)
    assert PGD(named, steps=1)(*data).shape == data[0].shape
    assert audit(Named(1), data, lambda x, y: x, "linear").labelled == 0, "one number is no choice of a class"


def test_layers_that_never_run(model: Any, data: Data) -> None:
    model[2].spare = nn.Linear(2, 2)
    assert audit(model, data, FGSM(model), "linear").not_run == ("2.spare",)
    with pytest.raises(ValueError, match=r"layer '2.spare' did not run in the model's forward; leave it out"):
        audit(model, data, FGSM(model), ["0", "2.spare"])
    with pytest.raises(ValueError, match="layer '2#3' did not run"):
        audit(model, data, FGSM(model), ["2#1", "2#3"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": ["convv"]}, ValueError, "no layer 'convv'"),
        ({"model": len}, TypeError, "model must be a torch.nn.Module"),
        ({"attack": "pgd"}, TypeError, r"attack must be a callable \(x, y\) -> x_adv, got str"),
        ({"data": []}, ValueError, "data gave no sample"),
        ({"data": torch.rand(3)}, TypeError, "tuple of two tensors, got a Tensor"),
        ({"data": [torch.rand(3, 1, 6, 6)]}, TypeError, "labels a tensor .N., got a Tensor"),
        ({"data": [(torch.rand(3, 1, 6, 6), [1, 2, 3])]}, TypeError, "labels a tensor"),
        ({"data": [(torch.rand(3, 1, 6, 6), torch.zeros(2))]}, ValueError, "3 inputs and labels of shape .2."),
        ({"data": (torch.rand(3, 1, 6, 6), torch.zeros(2))}, ValueError, "of data differ in length"),
        ({"attack": lambda x, y: x[:1]}, ValueError, "differ in shape"),
        ({"attack": lambda x, y: None}, TypeError, "the attack returned a NoneType; it must return inputs"),
        ({"max_samples": 0}, ValueError, "max_samples must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, ValueError, "batch_size must be a whole number"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str, model: Any, data: Data) -> None:
    with pytest.raises(error, match=message):
        audit(**{"model": model, "data": data, "attack": lambda x, y: x, **change})
