"""EBD, EBD-2 and ENI against values that a linear model allows to write down."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.robustness import (
    empirical_boundary_distance,
    empirical_boundary_distance_2,
    empirical_noise_insensitivity,
)

ELEMENTS = 6


class Linear(nn.Module):
    """Two logits: 0 and the weighted sum of an image's elements less 1; notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(torch.rand(ELEMENTS, generator=generator, dtype=torch.float64) + 0.2)
        self.norm = nn.BatchNorm1d(1, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1) @ self.weight - 1
        return torch.stack([torch.zeros_like(value), self.norm(value[:, None])[:, 0]], 1)


def subject() -> tuple[Any, Tensor, Tensor]:
    model = Linear().train()
    # Together exactly 1 (the oldest supported torch refuses eps = 0): the norm passes values on unchanged.
    model.norm.eps = 2.0**-10
    model.norm.running_var = torch.full((1,), 1 - model.norm.eps, dtype=torch.float64)
    images = torch.rand(5, 1, 2, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    model.norm.eval()
    with torch.no_grad():
        labels = (images.flatten(1) @ model.weight > 1).long()
    model.norm.train()
    labels[4] = 1 - labels[4]  # the model is wrong about the last one
    return model, images, labels


def test_boundary_distance_of_a_linear_model() -> None:
    model, images, labels = subject()
    step = 0.01
    found = empirical_boundary_distance(model, images, labels, directions=4, step=step, steps=1000, seed=3)
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(ELEMENTS, 4, generator=generator, dtype=torch.float64)).Q
    weight = model.weight.detach()
    for row in range(4):
        margin = abs(float(images[row].flatten() @ weight) - 1)
        nearest = min(margin / abs(float(direction @ weight)) for direction in basis.T)
        assert float(found.distances[row]) == pytest.approx(math.floor(nearest / step + 1) * step, rel=1e-9)
    assert found.reached.tolist() == [True] * 4 + [False]
    assert bool(found.distances[4].isnan())
    assert found.mean == pytest.approx(float(found.distances[:4].mean()))


def test_a_boundary_out_of_reach_counts_as_the_largest_distance() -> None:
    model, images, labels = subject()
    found = empirical_boundary_distance(model, images, labels, directions=2, step=1e-6, steps=3)
    assert found.distances[:4].tolist() == pytest.approx([3e-6] * 4)
    assert not found.reached.any()


@pytest.mark.parametrize("batch_size", [1, 3, 512])
def test_gradient_steps_of_a_linear_model(batch_size: int) -> None:
    model, images, labels = subject()
    step = 0.003
    found = empirical_boundary_distance_2(model, images, labels, step=step, steps=500, batch_size=batch_size)
    weight = model.weight.detach()
    for row in range(4):
        value, sign = float(images[row].flatten() @ weight) - 1, 1 if labels[row] else -1
        current, taken = images[row].flatten().clone(), 0
        while sign * value > 0 or (value == 0 and labels[row] == 0):
            current = (current - sign * step * weight.sign()).clamp(0, 1)
            value, taken = float(current @ weight) - 1, taken + 1
        assert found.distances[row] == taken


def test_noise_insensitivity() -> None:
    model, images, labels = subject()
    adversarial = images.clone()
    adversarial[:3] += torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)[:, None, None, None]
    model.eval()
    expected = []
    for x, other, y in zip(images, adversarial, labels, strict=True):
        with torch.no_grad():
            losses = [float(F.cross_entropy(model(part[None]).float(), y[None])) for part in (x, other)]
        size = float((other - x).abs().max())
        expected.append(abs(losses[0] - losses[1]) / size if size else 0.0)
    found = empirical_noise_insensitivity(model, images, adversarial, labels, batch_size=2)
    assert found == pytest.approx(sum(expected) / 5, rel=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model, images, labels = subject()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    empirical_boundary_distance(model, images, labels, directions=2, steps=2)
    empirical_boundary_distance_2(model, images, labels, steps=2)
    empirical_noise_insensitivity(model, images, images, labels)
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert model.weight.grad is None


def test_bad_input() -> None:
    model, images, labels = subject()
    with pytest.raises(ValueError, match=r"directions must lie in 1\.\.6, the elements of an image, got 7"):
        empirical_boundary_distance(model, images, labels, directions=7)
    with pytest.raises(ValueError, match=r"images must be \[N, \.\.\.\] and labels \[N\]"):
        empirical_boundary_distance(model, images, labels[:3], directions=2)
    with pytest.raises(ValueError, match="differ in shape"):
        empirical_noise_insensitivity(model, images, images[:2], labels)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        empirical_boundary_distance_2(model, images, labels, steps=0)
    nothing = empirical_boundary_distance(model, images[:0], labels[:0])
    assert math.isnan(nothing.mean)
