"""One pass over the data against plain loops: one sample at a time, hooks by hand, float64."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.attacks import PGD
from neurosens_fast.audit.setting import AttackCallable, Setting
from neurosens_fast.explorer import first_samples
from neurosens_fast.explorer.collected import Collected
from neurosens_fast.explorer.stream import collect
from neurosens_fast.statistics import METRICS, PairStatistics

EPS = (0.05, 0.2)


class Pooled(nn.Module):
    """Maps ``[N, 6, 3, 3]``, whose means are the six neurons that a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.relu(self.norm(self.conv(images))).mean((2, 3)))
        return logits


def vectors() -> nn.Module:
    """Five neurons of vectors ``[N, 8]``, without a map."""
    return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def towards(model: nn.Module, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    """One step of the sign of the gradient, for each sample alone."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x.requires_grad_(True)
            (step,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
        return x.detach() + eps * step.sign()

    return attack


def gathered(
    model: nn.Module,
    data: Any,
    attacks: list[AttackCallable] | None = None,
    layer: str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Collected:
    attacks = [towards(model.eval(), eps) for eps in EPS] if attacks is None else attacks
    given: dict[str, Any] = {"shown": 10, "top": 3, "batch_size": 7, "max_samples": None, "progress": False, "seed": 0}
    given |= {"eps": EPS if len(attacks) == 2 else (None,) * len(attacks)} | options
    return collect(Setting(model, None, None, dtype), layer, data, attacks, **given)


@pytest.fixture
def model() -> nn.Module:
    model = Pooled().double().eval()
    with torch.no_grad():
        model.linear.weight.mul_(4)
        model.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    return model


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Twenty-three images; class 2 is missing."""
    labels = torch.tensor([0, 1, 3])[torch.arange(23) % 3]
    return torch.rand(23, 1, 6, 6, dtype=torch.float64), labels


class ByHand:
    """The same by loops: one sample and one neuron at a time."""

    def __init__(self, model: Pooled, data: tuple[Tensor, Tensor]) -> None:
        weights = model.linear.weight.detach().double()
        self.maps: list[list[Tensor]] = [[], [], []]
        self.logits: list[list[Tensor]] = [[], [], []]
        self.inputs: list[list[Tensor]] = [[], [], []]
        names = ("activation_change", "true_contribution", "adversarial_contribution", "swap_drop", "swap_rise")
        self.means = {name: torch.zeros(2, 6, dtype=torch.float64) for name in names}
        for x, y in zip(*data, strict=True):
            for level, eps in enumerate((0.0, *EPS)):
                given = x[None] if not level else towards(model, eps)(x[None].clone(), y[None])
                kept: list[Tensor] = []
                handle = model.relu.register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output))
                with torch.no_grad():
                    self.logits[level].append(model(given)[0])
                handle.remove()
                self.maps[level].append(kept[0][0])
                self.inputs[level].append(given[0])
            for level in range(2):
                before = self.logits[0][-1]
                values = self.maps[0][-1].mean((1, 2))
                adversarial = self.maps[1 + level][-1].mean((1, 2))
                other = int(self.logits[1 + level][-1].argmax())
                for neuron in range(6):
                    change = adversarial[neuron] - values[neuron]
                    swapped = values.clone()
                    swapped[neuron] = adversarial[neuron]
                    after = model.linear(swapped).detach().softmax(0)
                    one = {
                        "activation_change": change.abs(),
                        "true_contribution": weights[y, neuron] * change,
                        "adversarial_contribution": weights[other, neuron] * change,
                        "swap_drop": before.softmax(0)[y] - after[y],
                        "swap_rise": after[other] - before.softmax(0)[other],
                    }
                    for name, value in one.items():
                        self.means[name][level, neuron] += value / len(data[1])

    @property
    def values(self) -> Tensor:
        """``[1 + E, N, C]``."""
        return torch.stack([torch.stack(level).mean((2, 3)) for level in self.maps])


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_everything_is_that_of_plain_loops(batch_size: int, model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    found = gathered(model, data, batch_size=batch_size)
    plain = ByHand(model, data)
    values, (inputs, labels) = plain.values, data
    assert (found.samples, found.layer.name, found.map_shape) == (23, "linear (its input)", (3, 3))
    for name, expected in plain.means.items():
        assert expected.abs().max() > 1e-3, "the test would show nothing"
        assert np.allclose(getattr(found, name), expected, rtol=1e-5, atol=1e-7), name
    assert np.allclose(found.values, values[:, :10], atol=1e-6)
    assert np.allclose(found.logits, torch.stack([torch.stack(level[:10]) for level in plain.logits]), atol=1e-5)
    assert found.numbers.tolist() == list(range(10))
    assert found.labels.tolist() == labels[:10].tolist()
    assert found.inputs is not None
    assert found.adversarial is not None
    assert torch.equal(found.inputs, inputs[:10])
    adversarial = torch.stack([torch.stack(level[:10]) for level in plain.inputs[1:]])
    assert torch.allclose(found.adversarial, adversarial)
    assert np.allclose(found.linf, [[eps] * 10 for eps in EPS])
    assert np.allclose(found.l2, (adversarial - inputs[:10]).flatten(2).norm(dim=2))
    predicted = torch.stack([torch.stack(level) for level in plain.logits]).argmax(2)
    assert found.right.tolist() == (predicted == labels).sum(1).tolist()
    assert found.accuracy.tolist() == [count / 23 for count in found.right]
    assert found.class_samples.tolist() == [8, 8, 0, 7]
    for number in range(4):
        of_class = values[:, labels == number]
        expected = of_class.mean(1) if number != 2 else torch.full((3, 6), torch.nan)
        assert np.allclose(found.class_means[:, number], expected, equal_nan=True)
    for level in range(2):
        statistics = PairStatistics(6)
        for before, after in zip(plain.maps[0], plain.maps[1 + level], strict=True):
            statistics.update(before[None], after[None])
        for name in METRICS:
            assert torch.allclose(found.statistics[level].metric(name), statistics.metric(name)), name
    order = (-values[0]).argsort(dim=0, stable=True)[:3].T
    assert found.top.samples.tolist() == order.tolist()
    assert np.allclose(found.top.values, values[0].gather(0, order.T).T)
    for neuron, samples in enumerate(order.tolist()):
        places = [int(plain.maps[0][sample][neuron].flatten().argmax()) for sample in samples]
        assert found.top.positions[neuron].tolist() == places
    wanted = {sample for sample in order.flatten().tolist() if sample >= 10}
    assert set(found.top.pictures) == wanted
    assert wanted
    ranks = (values[..., None] > values[:, :, None]).sum(3) + ((values[..., None] == values[:, :, None]).sum(3) / 2)
    exact = np.median((ranks * 100 / 6).numpy(), 1)
    assert np.abs(found.medians - exact).max() < 0.2
    assert not found.notes


def test_batches_of_any_size_give_the_same(model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    """Also of an attack that draws random numbers, and where batches cross the end of what is shown."""
    attacks: list[AttackCallable] = [PGD(model, eps=eps, alpha=eps / 2, steps=3, seed=1) for eps in EPS]
    ways = [gathered(model, data, attacks, batch_size=batch_size) for batch_size in (1, 7, 64)]
    cut = ((data[0][first : first + 4], data[1][first : first + 4]) for first in range(0, 23, 4))
    ways.append(gathered(model, cut, attacks))
    for way in ways[1:]:
        for name in ("linf", "l2", "logits", "values", "activation_change", "swap_drop", "swap_rise", "class_means"):
            assert np.allclose(getattr(way, name), getattr(ways[0], name), atol=1e-6, equal_nan=True), name
        assert np.array_equal(way.top.samples, ways[0].top.samples)
        assert way.right.tolist() == ways[0].right.tolist()
        assert way.top.pictures.keys() == ways[0].top.pictures.keys()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool, model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    attacks: list[AttackCallable] = [towards(model, 0.1)]
    if fails:

        def broken(x: Tensor, y: Tensor) -> Tensor:
            raise KeyError("an attack's own")

        attacks.append(broken)
    model.train()
    model.norm.eval()
    model.linear.weight.grad = torch.ones_like(model.linear.weight)
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    if fails:
        with pytest.raises(KeyError, match="an attack's own"):
            gathered(model, data, attacks)
    else:
        gathered(model, data, attacks)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.linear.weight.grad, torch.ones_like(model.linear.weight))
    assert model.conv.weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    model = Pooled()

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(count):
            yield torch.rand(5, 1, 6, 6), torch.randint(0, 4, (5,))

    def every() -> list[Tensor]:
        return [item for item in gc.get_objects() if issubclass(type(item), Tensor)]

    before = every()  # held, so that no other tensor gets the place of one that other tests left, fake ones among them
    known = {id(item) for item in before}

    def alive(done: int, total: int | None) -> None:
        if done in (20, 100, 300):
            gc.collect()
            tensors = [item for item in every() if id(item) not in known]
            storages = {item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in tensors}
            sizes.append(sum(storages.values()))
            pictures.append(sum(item.shape == (1, 6, 6) for item in tensors))

    sizes: list[int] = []
    pictures: list[int] = []
    found = gathered(model, batches(60), [lambda x, y: x + 0.1], shown=5, top=2, progress=alive)
    assert found.samples == 300
    assert len(found.top.pictures) <= 6 * 2
    assert 0 < max(pictures) <= 6 * 2
    assert abs(sizes[2] - sizes[1]) < 36 * 4 * 12, "no more than pictures that came and went"


def test_a_layer_without_weights_has_no_contributions(model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    found = gathered(model, data, layer="conv", batch_size=64)
    assert found.layer.weights is None
    assert (found.true_contribution, found.adversarial_contribution) == (None, None)
    assert (found.swap_drop, found.swap_rise) == (None, None)
    with torch.no_grad():
        benign = model.conv(data[0]).mean((2, 3))
        adversarial = model.conv(towards(model, EPS[1])(data[0].clone(), data[1])).mean((2, 3))
    assert np.allclose(found.activation_change[1], (adversarial - benign).abs().mean(0))


def test_vectors_have_no_map() -> None:
    model = vectors()
    inputs, labels = torch.randn(9, 8), torch.arange(9) % 3
    found = gathered(model, (inputs, labels), batch_size=4)
    assert found.map_shape is None
    assert found.layer.map_row is None
    assert (found.top.positions == -1).all()
    assert found.inputs is not None
    assert torch.equal(found.inputs, inputs)
    sensitivity = found.statistics[0].metric("sensitivity")
    assert np.allclose(sensitivity, found.activation_change[0], rtol=1e-5)


def test_tokens_in_a_dict_are_not_shown() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 6)
            self.head = nn.Linear(6, 3)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = self.head((self.mix(tokens).relu() * mask[..., None]).mean(1))
            return logits

    def attack(inputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        return {"tokens": inputs["tokens"] + 0.5, "mask": inputs["mask"]}

    samples = [({"tokens": torch.randn(5, 4), "mask": torch.ones(5)}, number % 3) for number in range(6)]
    found = gathered(Tokens(), samples, [attack, attack])
    assert (found.inputs, found.adversarial) == (None, None)
    assert not found.top.pictures
    assert np.allclose(found.linf, 0.5)
    assert np.allclose(found.l2, 0.5 * np.sqrt(20))
    assert found.notes == ("inputs are not shown: they are several tensors, or differ in size",)


def test_images_may_differ_in_size_from_batch_to_batch() -> None:
    model = Pooled()
    data = [(torch.rand(4, 1, side, side), torch.arange(4)) for side in (6, 8, 6)]
    found = gathered(model, data, shown=12, top=12)
    assert found.samples == 12
    assert found.inputs is None
    assert found.map_shape == (3, 3)
    other = (found.top.samples >= 4) & (found.top.samples < 8)
    assert ((found.top.positions == -1) == other).all(), "positions of another map are none of this one"


@pytest.mark.parametrize("count", [1, 6])
def test_one_class_or_one_sample_will_do(count: int, model: Pooled) -> None:
    data = torch.rand(count, 1, 6, 6).double(), torch.full((count,), 3)
    found = gathered(model, data, top=8)
    assert found.samples == count
    assert found.class_samples.tolist() == [0, 0, 0, count]
    assert np.isfinite(found.class_means[:, 3]).all()
    assert np.isnan(found.class_means[:, :3]).all()
    assert (found.top.samples[:, count:] == -1).all()
    assert np.isfinite(found.medians).all()


def test_values_of_too_many_neurons_are_kept_of_fewer_samples(
    model: Pooled, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_samples, "MOST_VALUES", 3 * 6 * 4 + 5)
    found = gathered(model, data, batch_size=3)
    assert found.values.shape == (3, 4, 6)
    assert found.logits.shape == (3, 10, 4)
    (note,) = found.notes
    assert note.startswith("values of single neurons are shown for the first 4 of 10 samples")
    monkeypatch.undo()
    assert np.array_equal(found.values, gathered(model, data, batch_size=3).values[:, :4])


def test_values_that_are_not_finite_are_said(model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    def broken(x: Tensor, y: Tensor) -> Tensor:
        return x + torch.inf

    found = gathered(model, data, [broken], eps=(0.5,))
    (note,) = found.notes
    assert "not finite on adversarial (at eps 0.5) inputs" in note
    assert np.isfinite(found.values[0]).all()


@pytest.mark.parametrize("wrong", [-1, 4])
def test_labels_must_be_classes(wrong: int, model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    data[1][9] = wrong
    with pytest.raises(ValueError, match=rf"label {wrong} of sample 9 is none of the model's 4 classes"):
        gathered(model, data)


def test_wrong_arguments_are_named(model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="attacks is empty"):
        gathered(model, data, [])
    with pytest.raises(ValueError, match="2 attacks and 1 strengths"):
        gathered(model, data, eps=(0.1,))
    with pytest.raises(ValueError, match="shown must be a whole number of at least 1"):
        gathered(model, data, shown=0)
    with pytest.raises(ValueError, match="data gave no sample"):
        gathered(model, iter(()))
    with pytest.raises(ValueError, match="linears"):
        gathered(model, data, layer="linears")


def test_half_precision_and_the_device(device: str) -> None:
    model = Pooled().to(device)
    data = torch.rand(8, 1, 6, 6), torch.arange(8) % 4
    found = gathered(model, data)
    half = gathered(model, data, dtype=torch.bfloat16)
    assert half.values.dtype == np.float32
    assert np.allclose(half.values, found.values, atol=0.05)
    assert half.swap_drop is not None
    assert np.isfinite(half.swap_drop).all()


def test_the_layer_is_told_before_anything_is_attacked(model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    seen: list[str] = []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        seen.append("attack")
        return x

    gathered(model, data, [attack], batch_size=12, on_layer=lambda layer: seen.append(layer.name))
    assert seen == ["linear (its input)", "attack", "attack"]


def test_max_samples_are_the_first(model: Pooled, data: tuple[Tensor, Tensor]) -> None:
    found = gathered(model, data, max_samples=5)
    assert found.samples == len(found.numbers) == 5
    exact = gathered(model, (data[0][:5], data[1][:5]))
    assert np.array_equal(found.activation_change, exact.activation_change)
