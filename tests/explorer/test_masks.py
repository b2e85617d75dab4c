"""Masks of receptive fields: the fewest pixels with a share of the influence."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.explorer.masks import influence, masks, smallest_sets
from neurosens_fast.explorer.neuron_layer import find_neuron_layer
from neurosens_fast.explorer.receptive_field import geometry

from .field_networks import PixelPerNeuron, Pooled, pooled, same_after


def by_hand(influence: Tensor, share: float) -> Tensor:
    """Pixels taken one after another, the most influential first, until they have the share."""
    flat = influence.flatten().tolist()
    mask = torch.zeros(len(flat), dtype=torch.bool)
    taken = 0.0
    for pixel in sorted(range(len(flat)), key=lambda place: (-flat[place], place)):
        if taken >= share * sum(flat) or flat[pixel] == 0:
            break
        mask[pixel] = True
        taken += flat[pixel]
    return mask.view(influence.shape)


@pytest.mark.parametrize("share", [1e-9, 0.3, 0.5, 0.9, 1.0])
def test_smallest_sets_are_those_taken_one_by_one(share: float) -> None:
    given = torch.randint(0, 6, (3, 2, 4, 5)).double()  # whole numbers: many ties, sums without rounding
    found = smallest_sets(given, share)
    for image, neuron in itertools.product(range(3), range(2)):
        assert torch.equal(found[image, neuron], by_hand(given[image, neuron], share))


def test_no_smaller_set_has_the_share() -> None:
    given = torch.rand(2, 3, dtype=torch.float64)
    for share in (0.2, 0.5, 0.8):
        fewest = min(
            size
            for size in range(1, 7)
            if any(sum(some) >= share * float(given.sum()) for some in itertools.combinations(given.flatten(), size))
        )
        mask = smallest_sets(given, share)
        assert int(mask.sum()) == fewest
        assert float(given[mask].sum()) >= share * float(given.sum())


def test_ties_go_row_by_row_and_no_influence_is_no_pixel() -> None:
    assert smallest_sets(torch.ones(2, 4), 0.5).tolist() == [[True] * 4, [False] * 4]
    assert smallest_sets(torch.ones(2, 4), 0.51).tolist() == [[True] * 4, [True] + [False] * 3]
    assert not smallest_sets(torch.zeros(2, 3, 3), 0.5).any()
    assert smallest_sets(torch.tensor([[0.0, 2.0, 0.0, 1.0]]), 1.0).tolist() == [[False, True, False, True]]


def slow_influence(model: nn.Module, values: nn.Module, image: Tensor, neuron: int) -> Tensor:
    """One image, one neuron, colours added up."""
    leaf = image[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(values(leaf)[0, neuron], leaf)
    return gradient[0].abs().sum(0)


@pytest.mark.parametrize("batch", [1, 2, 128])
@pytest.mark.parametrize(("bands", "size"), [(1, (7, 5)), (3, (8, 9))])
def test_masks_are_those_of_one_image_and_one_neuron_at_a_time(batch: int, bands: int, size: tuple[int, int]) -> None:
    model = pooled(bands)
    benign, adversarial = torch.rand(2, 3, bands, *size, dtype=torch.float64)
    layer = find_neuron_layer(model, None, benign)
    values = nn.Sequential(*list(model.children())[:-1], nn.Flatten())
    neurons = [4, 0, 4]
    wanted = torch.stack(
        [
            torch.stack(
                [
                    slow_influence(model, values, benign[i], n) + slow_influence(model, values, adversarial[i], n)
                    for n in neurons
                ]
            )
            for i in range(3)
        ]
    )
    model.train()
    model.conv1.requires_grad_(False)
    with same_after(model):
        found = masks(model, layer, benign, adversarial, neurons, 0.4, batch)
    assert found.dtype == torch.bool
    for image, place in itertools.product(range(3), range(3)):
        assert torch.equal(found[image, place], by_hand(wanted[image, place], 0.4))
    assert 0 < int(found.sum()) < found.numel() / 2


def test_parameters_keep_gradients_that_they_had() -> None:
    model, images = pooled(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    layer = find_neuron_layer(model, None, images)
    model(images).sum().backward()
    with same_after(model):
        masks(model, layer, images, images.flip(0), [0, 1])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with same_after(model):
        assert masks(model, layer, images, images.flip(0), [0, 1]).any()


def test_the_mask_of_a_neuron_that_is_a_pixel_is_that_pixel() -> None:
    model = PixelPerNeuron(6, dead=(3,))
    images = torch.rand(2, 1, 2, 3) + 0.1
    images[:, :, 0, 1] = -1  # neuron 1 is off in both versions
    other = images.clone()
    other[0, 0, 0, 2] = -1  # neuron 2 in one
    layer = find_neuron_layer(model, None, images)
    found = masks(model, layer, images, other, range(6))
    wanted = torch.eye(6).bool()
    wanted[[1, 3]] = False
    for image in range(2):
        assert torch.equal(found[image].view(6, 6), wanted)


def test_masks_lie_inside_the_exact_receptive_field() -> None:
    body = [nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(4 * 9, 3)]
    model = nn.Sequential(*body).eval()
    images = torch.rand(2, 3, 9, 9)
    layer = find_neuron_layer(model, None, images)
    found = masks(model, layer, images, torch.rand(2, 3, 9, 9), range(36), share=1.0)
    fields, _ = geometry(model, layer, images)
    assert fields is not None
    assert found.any()
    outside = torch.ones(36, 9, 9, dtype=torch.bool)
    for neuron, (top, left, bottom, right) in enumerate(fields.boxes.tolist()):
        outside[neuron, top:bottom, left:right] = False
    assert outside.any()
    assert not (found & outside).any()


def test_layers_by_name_and_in_place_first_layers() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2)).eval()
    images = torch.rand(1, 1, 5, 5)
    kept = images.clone()
    found = influence(model, find_neuron_layer(model, "1", images), images, [0, 1])
    assert torch.equal(images, kept)
    weight = model.get_parameter("1.weight").detach()[:, 0]
    wanted = torch.zeros(2, 5, 5)
    for row, column in itertools.product(range(3), range(3)):
        wanted[:, row : row + 3, column : column + 3] += weight / 9  # a neuron's value is its mean over positions
    torch.testing.assert_close(found[0], wanted.abs())


def test_what_is_wrong_is_said_and_leaves_no_trace() -> None:
    model, images = pooled(dtype=torch.float32).train(), torch.rand(2, 3, 8, 8)
    layer = find_neuron_layer(model, None, images)
    with same_after(model):
        with pytest.raises(ValueError, match=r"neuron 6 was given, and .* has 6"):
            masks(model, layer, images, images, [0, 6])
        with pytest.raises(ValueError, match="share must be above 0 and at most 1, got 0"):
            masks(model, layer, images, images, [0], share=0)
        with pytest.raises(ValueError, match="must have one shape"):
            masks(model, layer, images, images[:1], [0])
        with pytest.raises(ValueError, match="images must be floating-point"):
            masks(model, layer, images.byte(), images.byte(), [0])

    steep = pooled(dtype=torch.float32)
    for weight in (steep.conv1.weight, steep.conv2.weight):
        weight.detach().mul_(1e30)
    with same_after(steep):  # gradients that are not finite say nothing of where a neuron looks
        assert not masks(steep, find_neuron_layer(steep, None, images), images, images, range(6)).any()

    class Cut(Pooled):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach())

    cut = Cut()
    with same_after(cut), pytest.raises(ValueError, match="the model's forward cuts it off"):
        masks(cut, find_neuron_layer(cut, None, images), images, images, [0])
