"""Adversarial targeting: the most hit neurons are those that were hit, by definition and by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit import audit
from neurosens_fast.fragility.targeting import target
from neurosens_fast.fragility.targeting_report import TargetingReport
from tests.trained import images, trained

LABELS = [0, 1, 2, 3, 0, 1, 0]


def channelwise(**layers: nn.Module) -> nn.Sequential:
    """Neuron k of ``conv`` is channel k of images ``[N, 4, 2, 2]``, times k + 1; then ``layers``."""
    conv = nn.Conv2d(4, 4, 1, groups=4, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(1.0, 5).view(4, 1, 1, 1))
    model = nn.Sequential()
    model.add_module("conv", conv)
    for name, layer in layers.items():
        model.add_module(name, layer)
    model.add_module("flat", nn.Flatten())
    model.add_module("logits", nn.Linear(16, 4))
    return model


def to_the_class(model: nn.Module, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack that adds eps to the channel that bears the number of the class."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        x[torch.arange(len(x), device=x.device), y] += eps
        return x

    return attack


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Ones ``[7, 4, 2, 2]``."""
    return torch.ones(7, 4, 2, 2), torch.tensor(LABELS)


def test_the_neuron_that_is_hit_is_the_most_hit(data: tuple[Tensor, Tensor], device: str) -> None:
    found = target(channelwise().to(device), data, to_the_class, eps=[0.25, 0.5], batch_size=3)
    assert (found.layer, found.zeroed, found.channels, found.samples) == ("conv", "conv", 4, 7)
    assert found.histogram.tolist() == [[3, 2, 1, 1]] * 2
    assert found.by_class.tolist() == [[[3, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]] * 2
    assert found.class_samples.tolist() == [3, 2, 1, 1]
    assert found.unhit.tolist() == [0, 0]
    share = torch.tensor([3, 2, 1, 1], dtype=torch.float64) / 7
    assert torch.equal(found.share, torch.stack((share, share)))
    assert torch.allclose(found.mean_relative_change, torch.outer(torch.tensor([0.25, 0.5]).double(), share))
    assert not found.infinite.any()


def test_only_changed_neurons_are_hit(data: tuple[Tensor, Tensor]) -> None:
    model = channelwise()
    wide = target(model, data, to_the_class, eps=0.5, top=3)
    assert wide.histogram.tolist() == [[3, 2, 1, 1]], "of the three most hit, two are not hit at all"
    model.conv.weight.data[0] = 0  # type: ignore[union-attr, operator]
    dead = target(model, data, to_the_class, eps=0.5)
    assert dead.histogram.tolist() == [[0, 2, 1, 1]]
    assert dead.unhit.tolist() == [3]
    assert dead.by_class[0, 0].tolist() == [0, 0, 0, 0]
    assert dead.class_samples.tolist() == [3, 2, 1, 1]
    assert dead.mean_relative_change[0, 0] == 0
    assert not dead.infinite.any()


def test_zero_activations_that_change_are_hit_infinitely(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    x[:, 1] = 0

    def everywhere(model: nn.Module, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            x[y == 1] += 0.1 * eps
            return to_the_class(model, eps)(x, y)

        return attack

    found = target(channelwise(), (x, y), everywhere, eps=0.5)
    assert found.histogram.tolist() == [[3, 2, 1, 1]]
    assert found.infinite.tolist() == [[0, 2, 0, 0]]
    assert found.mean_relative_change[0].tolist() == pytest.approx([(3 * 0.5 + 0.1) / 7, 0, 0.6 / 7, 0.6 / 7])
    always = target(channelwise(), (x[y == 1], y[y == 1]), everywhere, eps=0.5)
    assert math.isnan(always.mean_relative_change[0, 1]), "no finite one"


@pytest.mark.parametrize("top", [1, 2, 4])
def test_ties_go_to_the_lowest_index(top: int, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    for values in (x, torch.zeros_like(x)):  # all changes are the same, or all are infinite
        found = target(channelwise(), (values, y), lambda model, eps: lambda x, y: x + eps, eps=0.5, top=top)
        assert found.histogram.tolist() == [[7] * top + [0] * (4 - top)]
        assert found.infinite.any() == (not values.any())


class Jitter(nn.Module):
    """Adds what depends on the place within the batch, as rounding may on some devices."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-6 * torch.arange(float(len(x))).view(-1, 1, 1, 1)


@pytest.mark.parametrize("layer", ["conv", "jitter"])
def test_without_a_perturbation_no_neuron_is_hit(layer: str, data: tuple[Tensor, Tensor]) -> None:
    x = data[0] / 2
    model = channelwise(jitter=Jitter())
    found = target(model, (x, data[1]), FGSM, layer, [0, 0.1], batch_size=4)
    assert found.unhit.tolist() == [7, 0]
    assert found.histogram.sum(1).tolist() == [0, 7]
    assert found.by_class.sum((1, 2)).tolist() == [0, 7]
    assert not found.mean_relative_change[0].any()


def test_labels_of_no_class_and_classes_without_samples(data: tuple[Tensor, Tensor]) -> None:
    y = torch.tensor([0, 0, 0, -1, -1, 2, 2])
    found = target(channelwise(), (data[0], y), lambda model, eps: lambda x, y: x + eps, eps=0.5, batch_size=3)
    assert found.class_samples.tolist() == [3, 0, 2, 0]
    assert found.histogram.tolist() == [[7, 0, 0, 0]]
    assert found.by_class[0, :, 0].tolist() == [3, 0, 2, 0]


def by_hand(layer: Callable[[nn.Module, Tensor], Tensor], eps: float, top: int, count: int) -> dict[str, Any]:
    """The counts of each sample by itself, in Python; ``layer`` gives the activation ``[1, C, ...]``."""
    model = trained(torch.float64).eval()
    x, y = images(count, torch.float64)
    hits: dict[int, int] = {}
    classes: dict[tuple[int, int], int] = {}
    changes: dict[int, list[float]] = {}
    for image, label in zip(x[:, None], y.tolist(), strict=True):
        image = image.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(image), torch.tensor([label])), image)
        attacked = (image + eps * gradient.sign()).clamp(0, 1)
        ranked = []
        for neuron, (z, z_adv) in enumerate(zip(layer(model, image)[0], layer(model, attacked)[0], strict=True)):
            size, change = float(z.norm()), float((z_adv - z).norm())
            t = 0.0 if change == 0 else math.inf if size == 0 else change / size
            ranked.append((-t, neuron))
            changes.setdefault(neuron, []).append(t)
        for t, neuron in sorted(ranked)[:top]:
            if t < 0:
                hits[neuron] = hits.get(neuron, 0) + 1
                classes[label, neuron] = classes.get((label, neuron), 0) + 1
    neurons = range(len(changes))
    finite = [[t for t in changes[neuron] if math.isfinite(t)] for neuron in neurons]
    return {
        "hits": [hits.get(neuron, 0) for neuron in neurons],
        "classes": [[classes.get((label, neuron), 0) for neuron in neurons] for label in range(10)],
        "mean": [sum(values) / len(values) if values else math.nan for values in finite],
        "infinite": [count - len(values) for values in finite],
    }


def _until(last: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        for name, module in model.named_children():
            x = module(x.flatten(1) if name == "fc4" else x).detach()
            if name == last:
                break
        return x

    return run


@pytest.mark.parametrize(
    ("layer", "where", "read", "top"),
    [
        (None, "after_norm", "bn1", 1),
        ("conv2", "before_norm", "conv2", 2),
        ("relu3", "after_norm", "relu3", 3),
        ("fc4", "after_norm", "fc4", 1),
        ("relu4", "after_norm", "relu4", 5),
    ],
)
def test_equals_single_samples_by_hand(layer: str | None, where: str, read: str, top: int) -> None:
    count = 40
    expected = by_hand(_until(read), 0.1, top, count)
    assert len({*expected["hits"]}) > 2, "all neurons are alike, so this test could not fail"
    for batch_size in (1, 7, 40):
        model = trained(torch.float64)
        data = images(count, torch.float64)
        found = target(model, data, FGSM, layer, 0.1, top=top, where=where, batch_size=batch_size)
        assert found.zeroed == read
        assert found.layer == (layer or "conv1")
        assert found.histogram[0].tolist() == expected["hits"]
        assert found.by_class[0].tolist() == expected["classes"]
        assert found.infinite[0].tolist() == expected["infinite"]
        assert found.mean_relative_change[0].tolist() == pytest.approx(expected["mean"], rel=1e-9, nan_ok=True)
    if read == "relu4":
        assert sum(expected["infinite"]) > 0, "no neuron was switched on, so half of this went untried"


def test_mean_change_is_the_metric_of_an_audit() -> None:
    model = trained()
    report = audit(model, images(100), FGSM(model, eps=0.05), ["bn1"])
    found = target(model, images(100), eps=0.05)
    torch.testing.assert_close(found.mean_relative_change[0], report.metric("relative_l2")["bn1"], rtol=1e-6, atol=0)


class Twice(nn.Module):
    """Calls one linear layer twice; of what the first puts out, only channel 1 goes on. Takes two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.same.weight)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.same(self.same(tokens * mask[..., None]) * torch.tensor([0.0, 1.0, 0.0])).sum(1)


def test_calls_token_layouts_and_several_inputs() -> None:
    inputs = {"tokens": torch.ones(5, 4, 3), "mask": torch.ones(5, 4, dtype=torch.int64)}
    data = [(inputs, torch.tensor([2, 2, 1, 0, 2]))]

    def make(model: nn.Module, eps: float) -> Any:
        def attack(x: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
            x["tokens"][torch.arange(len(y)), :, y] += eps
            return x

        return attack

    first = target(Twice(), data, make, "same", 0.5)
    assert first.histogram.tolist() == [[1, 1, 3]]
    second = target(Twice(), data, make, "same#2", 0.5)
    assert (second.layer, second.zeroed) == ("same#2", "same#2")
    assert second.histogram.tolist() == [[0, 1, 0]]
    assert second.unhit.tolist() == [4]


def test_random_attacks_are_repeated_by_seed_and_compiled_models_measured() -> None:
    model, data = trained(), images(30)
    one, again, other = (target(model, data, PGD, "conv2", 0.2, seed=seed, batch_size=16) for seed in (1, 1, 2))
    assert torch.equal(one.mean_relative_change, again.mean_relative_change)
    assert not torch.equal(one.mean_relative_change, other.mean_relative_change)
    compiled: Any = torch.compile(model.eval(), backend="eager")
    compiled(data[0])
    plain = target(model, data, eps=0.1)
    assert torch.equal(target(compiled, data, eps=0.1).histogram, plain.histogram)


def state(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        yield module.training
        yield len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)
    for parameter in model.parameters():
        yield parameter.requires_grad
        yield None if parameter.grad is None else parameter.grad.tolist()
    yield from (tensor.tolist() for tensor in model.state_dict().values())
    yield torch.get_rng_state().tolist()
    yield random.getstate()
    yield str(numpy.random.get_state())  # noqa: NPY002 - the global state itself


@pytest.mark.parametrize("fails", ["", "attack", "maker"])
def test_the_model_is_left_as_it_was(fails: str) -> None:
    model = trained().train()
    model.bn2.eval()
    model.conv2.weight.requires_grad_(False)
    x, y = images(20)
    F.cross_entropy(model(x), y).backward()
    before = list(state(model))

    def make(model: Any, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
        model.train()
        model.conv1.weight.requires_grad_(False)
        torch.rand(3)
        if fails == "maker":
            raise RuntimeError("no attack")

        def attack(x: Tensor, y: Tensor) -> Tensor:
            model.train()
            model.requires_grad_()
            F.cross_entropy(model(x), y).backward()
            random.random()
            if fails == "attack" and eps > 0.1:
                raise RuntimeError("no step")
            return x + eps * torch.rand_like(x)

        return attack

    if fails:
        with pytest.raises(RuntimeError, match=r"^no (attack|step)$"):
            target(model, (x, y), make, eps=[0.1, 0.2])
    else:
        target(model, (x, y), make, eps=[0.1, 0.2])
    assert list(state(model)) == before


def refused(
    sentence: str, kind: type[Exception] = ValueError, model: Any = None, data: Any = None, **given: Any
) -> None:
    """Asserts that :func:`target` says ``sentence``."""
    with pytest.raises(kind, match=sentence):
        target(model or trained(), images(6) if data is None else data, **{"eps": 0.1, **given})


def test_bad_input_is_one_sentence() -> None:
    refused(r"^the model has no layer 'conv9'; closest: conv", layer="conv9")
    refused(r"^where must be one of before_norm, after_norm, got 'there'$", where="there")
    refused(r"^eps must be numbers of at least 0, got -1$", eps=-1)
    refused(r"^top must be a whole number of at least 1, got 0$", top=0)
    refused(r"^top must be a whole number of at least 1, got 0.5$", top=0.5)
    refused(r"^top is 17, and layer 'conv1' has 16 neurons$", top=17)
    refused(r"^attack must be a callable \(model, eps=...\) -> attack, got str", TypeError, attack="FGSM")
    refused(r"^report must be a FragilityReport, got str$", TypeError, report="report")
    refused(r"^audit must be an AuditReport, got dict$", TypeError, audit={})
    refused(r"data gave no sample", data=[])
    model = channelwise()
    model.conv.weight.data *= 1e30  # type: ignore[union-attr, operator]
    refused(
        r"^layer 'conv' puts out NaN or infinite values .* at eps 0.1, so that no neuron .* wider dtype$",
        model=model,
        data=(torch.ones(3, 4, 2, 2) / 2, torch.zeros(3, dtype=torch.int64)),
    )


class Sometimes(nn.Module):
    """Runs its layer on large batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if len(x) > 2 else x


def test_layers_that_change_between_batches_are_refused() -> None:
    y = torch.zeros(5, dtype=torch.int64)

    def make(model: nn.Module, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: x + eps

    sentence = r"^layer 'layer' did not run for a batch; choose one that always does$"
    rest: dict[str, Any] = {"attack": make, "batch_size": 4}
    refused(sentence, model=Sometimes(), data=(torch.rand(5, 4), y), layer="layer", **rest)
    grows = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool1d(2))
    batches = [(torch.rand(3, 4, 2), y[:3]), (torch.rand(3, 5, 2), y[:3])]
    refused(
        r"^layer '0' has 5 neurons on axis 1, in the first batch it had 4$",
        model=grows,
        data=batches,
        layer="0",
        **rest,
    )


def test_report_says_what_was_measured() -> None:
    found = target(
        trained(), images(6), layer="conv2", eps=[0.1, 0.2], top=2, seed=7, max_samples=5, attack_description="steps"
    )
    assert isinstance(found, TargetingReport)
    assert repr(found) == (
        "TargetingReport(DigitsCNN, 57,594 parameters; steps, eps 0.1, 0.2; the 2 most hit of 32 neurons of conv2, "
        "5 samples, 0 correlations)"
    )
    assert (found.zeroed, found.module_type, found.where) == ("bn2", "Conv2d", "after_norm")
    assert (found.data, found.seed, found.dtype, found.device) == ("tensors [6, 1, 8, 8]", 7, "as given", "cpu")
    assert "torch" in found.versions
