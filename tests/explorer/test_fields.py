"""Receptive fields of chosen neurons, and whether covering them takes the neurons' values away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.audit.setting import Setting
from neurosens_fast.explorer.exploration import Fields
from neurosens_fast.explorer.fields import one_field, receptive_fields, validated
from neurosens_fast.explorer.masks import masks
from neurosens_fast.explorer.neuron_layer import NeuronLayer, find_neuron_layer
from neurosens_fast.explorer.swaps import pixel_swap

from .field_networks import PixelPerNeuron, pooled, same_after


def setting_of(model: nn.Module, dtype: torch.dtype | None = None) -> Setting:
    return Setting(model, None, None, dtype)


def close(found: Any, wanted: Any, rtol: float = 1e-5, atol: float = 0.0) -> None:
    np.testing.assert_allclose(found, wanted, rtol, atol)


def drawn(
    bands: int = 3,
    size: tuple[int, int] = (8, 7),
    images: int = 3,
    levels: int = 2,
) -> tuple[nn.Module, NeuronLayer, Tensor, Tensor, Tensor, Tensor]:
    model = pooled(bands)
    benign = torch.rand(images, bands, *size, dtype=torch.float64)
    steps = torch.tensor([0.05, 0.3, 0.1][:levels], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    adversarial = benign + steps * torch.randn(levels, *benign.shape, dtype=torch.float64).sign()
    labels, others = torch.randint(4, (images,)), torch.randint(4, (levels, images))
    return model, find_neuron_layer(model, None, benign), benign, adversarial, labels, others


def values_of(model: nn.Module, image: Tensor) -> Tensor:
    parts = list(model.children())
    with torch.no_grad():
        found: Tensor = nn.Sequential(*parts[:-1], nn.Flatten())(image[None])[0]
    return found


@pytest.mark.parametrize(("bands", "size"), [(1, (7, 5)), (3, (8, 9))])
def test_fields_are_those_of_plain_loops(bands: int, size: tuple[int, int]) -> None:
    model, layer, benign, adversarial, labels, others = drawn(bands, size)
    neurons = [5, 0, 3]
    model.train()
    reports: list[tuple[int, int | None]] = []
    with same_after(model):
        fields = receptive_fields(
            *(setting_of(model), layer, benign, adversarial, [4, 7, 9], labels, others, neurons),
            share=0.4,
            batch=5,
            progress=lambda done, total: reports.append((done, total)),
        )
    model.eval()
    assert reports[-1][0] == reports[-1][1] == 3 * 3 * (1 + 2 * 4 + 2)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert fields.rows.tolist() == [4, 7, 9]
    assert fields.neurons.tolist() == neurons
    assert fields.share == 0.4
    grey = benign.mean((2, 3), keepdim=True)
    for level in range(2):
        wanted = masks(model, layer, benign, adversarial[level], neurons, 0.4)
        assert np.array_equal(fields.masks[level], wanted.numpy())
        drop, rise = pixel_swap(model, benign, adversarial[level], wanted, labels, others[level])
        close(fields.drop[level], drop, rtol=1e-5, atol=1e-7)
        close(fields.rise[level], rise, rtol=1e-5, atol=1e-7)
        for image in range(3):
            for place in range(3):
                for version, shown in enumerate((benign[image], adversarial[level, image])):
                    mixed = torch.where(wanted[image, place], shown, grey[image])
                    with torch.no_grad():
                        after = model(mixed[None]).softmax(1)[0]
                    both = after[torch.stack([labels[image], others[level, image]])]
                    close(fields.seen[level, image, place, version], both, rtol=1e-5)
    strongest = torch.from_numpy(fields.masks[1])
    for place, neuron in enumerate(neurons):
        falls = []
        for image in range(3):
            before = values_of(model, benign[image])[neuron]
            covered = torch.where(strongest[image, place], grey[image], benign[image])
            if before != 0:
                falls.append(float((1 - values_of(model, covered)[neuron] / before).clamp(-1, 1)))
        close(fields.own[place], sum(falls) / len(falls) if falls else np.nan)


def test_the_control_is_another_neurons_mask() -> None:
    model, layer, benign, adversarial, labels, others = drawn(images=1)
    neurons = [1, 4]  # with two neurons the other is known
    fields = receptive_fields(setting_of(model), layer, benign, adversarial, [0], labels, others, neurons)
    grey = benign.mean((2, 3), keepdim=True)
    for place, neuron in enumerate(neurons):
        before = values_of(model, benign[0])[neuron]
        covered = torch.where(torch.from_numpy(fields.masks[1, 0, 1 - place]), grey[0], benign[0])
        fall = (1 - values_of(model, covered)[neuron] / before).clamp(-1, 1)
        close(fields.control[place], fall if before != 0 else np.nan, rtol=1e-5)


def test_the_draw_of_controls_depends_on_the_seed_alone() -> None:
    model, layer, benign, adversarial, labels, others = drawn()

    def run(seed: int, batch: int = 128) -> Fields:
        return receptive_fields(
            *(setting_of(model), layer, benign, adversarial, range(3), labels, others, range(6)),
            seed=seed,
            batch=batch,
        )

    first = run(3, batch=2)
    torch.rand(5)
    state = torch.get_rng_state()
    second = run(3)
    assert torch.equal(torch.get_rng_state(), state)
    close(first.control, second.control)
    with pytest.raises(AssertionError):
        close(first.control, run(4).control)


def test_one_field_has_the_same_numbers() -> None:
    model, layer, benign, adversarial, labels, others = drawn()
    neurons = [2, 5]
    many = receptive_fields(setting_of(model), layer, benign, adversarial, [3, 4, 5], labels, others, neurons)
    for level, image, place in ((0, 0, 0), (1, 2, 1)):
        classes = int(labels[image]), int(others[level, image])
        one = one_field(
            setting_of(model), layer, benign[image], adversarial[level, image], 3 + image, *classes, neurons[place]
        )
        assert one.masks.shape == (1, 1, 1, 8, 7)
        assert (one.rows.tolist(), one.neurons.tolist()) == ([3 + image], [neurons[place]])
        assert np.array_equal(one.masks[0, 0, 0], many.masks[level, image, place])
        for name in ("drop", "rise", "seen"):
            ours, theirs = getattr(one, name)[0, 0, 0], getattr(many, name)[level, image, place]
            close(ours, theirs, rtol=1e-6, atol=1e-9)
        assert np.isnan(one.control).all()


def test_neurons_that_are_pixels() -> None:
    """Neuron k is pixel k: its mask is that pixel, and covering it moves the value to the mean of the image."""
    model = PixelPerNeuron(6, dead=(5,))
    benign = torch.tensor([[4.0, 1.0, 2.0, 0.0, 2.0, 3.0]]).view(1, 1, 2, 3)
    adversarial = benign.clone()[None]
    adversarial[0, 0, 0, 0, 0] = 1.0
    labels, others = torch.tensor([0]), torch.tensor([[1]])
    layer = find_neuron_layer(model, None, benign)
    fields = receptive_fields(setting_of(model), layer, benign, adversarial, [0], labels, others, range(6))
    wanted = np.eye(6, dtype=bool)
    wanted[[3, 5]] = False  # off at 0, where ReLU has no gradient, and dead
    assert np.array_equal(fields.masks[0, 0].reshape(6, 6), wanted)
    close(fields.own, [0.5, -1.0, 0.0, np.nan, 0.0, np.nan])
    before = torch.tensor([4.0, 1, 2, 0, 2, 0]).softmax(0)
    after = torch.tensor([1.0, 1, 2, 0, 2, 0]).softmax(0)
    close(fields.drop[0, 0], [before[0] - after[0], 0, 0, 0, 0, 0], rtol=1e-5, atol=1e-7)
    close(fields.rise[0, 0], [after[1] - before[1], 0, 0, 0, 0, 0], rtol=1e-5, atol=1e-7)
    alone = torch.tensor([[4.0, 2, 2, 2, 2, 0], [1.0, 2, 2, 2, 2, 0]]).softmax(1)
    close(fields.seen[0, 0, 0], alone[:, :2], rtol=1e-5)


def test_dead_neurons_have_no_mask_and_no_fall() -> None:
    model, layer, benign, adversarial, labels, others = drawn()
    with torch.no_grad():
        model.get_parameter("conv2.bias")[2] = -1e3
    fields = receptive_fields(setting_of(model), layer, benign, adversarial, range(3), labels, others, [2, 2])
    assert not fields.masks.any()
    assert not fields.drop.any()
    assert not fields.rise.any()
    assert np.isnan(fields.own).all()
    assert np.isnan(fields.control).all()
    assert all(np.isnan(validated(fields)))


def test_validated() -> None:
    own = np.array([0.9, 0.5, 0.2, np.nan, 0.7], np.float32)
    control = np.array([0.1, 0.5, 0.3, 0.2, np.nan], np.float32)
    none = np.zeros(0)
    share, middle, other = validated(Fields(none, none, none, none, none, none, own, control, 0.5))
    assert share == pytest.approx(1 / 3)
    assert [middle, other] == pytest.approx([0.5, 0.3])


def test_masks_of_a_network_that_looks_at_places_hold() -> None:
    """Neurons of distant patches: covering the own patch takes the value away, another's does not."""
    model = nn.Sequential(nn.Conv2d(1, 1, 4, stride=4, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)).eval()
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.linspace(-1, 2, 16).view(1, 1, 4, 4))
    benign = torch.rand(4, 1, 12, 12)
    adversarial = (benign + 0.1 * torch.randn(1, 4, 1, 12, 12)).clamp(0, 1)
    layer = find_neuron_layer(model, None, benign)
    labels, others = torch.zeros(4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)
    fields = receptive_fields(setting_of(model), layer, benign, adversarial, range(4), labels, others, range(9))
    close(fields.control, 0, atol=1e-6)
    assert (np.abs(fields.own.astype(float)) > 1e-3).all()


def test_settings_cast_and_lower() -> None:
    model = pooled(dtype=torch.float32)
    _, _, benign, adversarial, labels, others = drawn()
    layer = find_neuron_layer(model, None, benign.float())
    given: Any = (layer, benign, adversarial, range(3), labels, others, [0, 1])
    exact = receptive_fields(setting_of(model, torch.float32), *given)
    low = receptive_fields(setting_of(model, torch.bfloat16), layer, benign.float(), adversarial.float(), *given[3:])
    assert np.array_equal(exact.masks, low.masks)  # gradients are not of half precision
    assert not np.array_equal(exact.seen, low.seen)
    close(exact.seen, low.seen, atol=2e-2)


def test_what_is_wrong_is_said_and_leaves_no_trace() -> None:
    model, layer, benign, adversarial, labels, others = drawn()
    model.train()

    def run(**changed: Any) -> Fields:
        given = {
            **{"inputs": benign, "adversarial": adversarial, "rows": [0, 1, 2], "labels": labels},
            **{"adversarial_classes": others, "neurons": [0, 1]},
        }
        return receptive_fields(setting_of(model), layer, **{**given, **changed})

    with same_after(model):
        with pytest.raises(ValueError, match=r"images \[J, B, H, W\] with B 1 or 3, got torch.float64 \[3, 3, 8\]"):
            run(inputs=benign[..., 0])
        with pytest.raises(ValueError, match="with B 1 or 3"):
            run(inputs=benign.repeat(1, 2, 1, 1))
        with pytest.raises(ValueError, match=r"adversarial must be \[E, J, B, H, W\]"):
            run(adversarial=adversarial[0])
        with pytest.raises(ValueError, match=r"adversarial_classes must be \[2, 3\], got \[3\]"):
            run(adversarial_classes=others[0])
        with pytest.raises(ValueError, match="rows must name 3 images, got 2"):
            run(rows=[0, 1])
        with pytest.raises(ValueError, match="neurons is empty"):
            run(neurons=[])
        with pytest.raises(ValueError, match="neuron 9 was given"):
            run(neurons=[0, 9])
        with pytest.raises(ValueError, match="class 9 was given, and the model has classes 0 to 3"):
            run(labels=labels * 0 + 9)
        with pytest.raises(ValueError, match="share must be"):
            run(share=1.5)


def test_an_exception_in_the_middle_leaves_no_trace() -> None:
    model, layer, benign, adversarial, labels, others = drawn()
    model.train()

    def stop(done: int, total: int | None) -> None:
        if total is not None and done > total // 2:
            raise KeyboardInterrupt

    state = torch.get_rng_state()
    with same_after(model), pytest.raises(KeyboardInterrupt):
        receptive_fields(
            *(setting_of(model), layer, benign, adversarial, range(3), labels, others, [0, 1]), progress=stop
        )
    assert torch.equal(torch.get_rng_state(), state)
