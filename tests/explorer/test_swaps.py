"""Swapped activations and pixels, against plain loops and answers that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.explorer import forwards, swaps
from neurosens_fast.explorer.forwards import Forwards
from neurosens_fast.explorer.reference import activation_swap_loop, pixel_swap_loop
from neurosens_fast.explorer.swaps import activation_swap, pixel_swap

from .field_networks import PixelPerNeuron, pooled, same_after


def drawn(samples: int, neurons: int, classes: int, scale: float = 1.0) -> tuple[nn.Linear, tuple[Tensor, ...]]:
    linear = nn.Linear(neurons, classes).double().requires_grad_(False)
    values = scale * torch.randn(samples, neurons, dtype=torch.float64).relu()
    adversarial = scale * torch.randn(samples, neurons, dtype=torch.float64).relu()
    labels, others = torch.randint(classes, (2, samples))
    return linear, (values, adversarial, labels, others)


@pytest.mark.parametrize(("samples", "neurons", "classes"), [(1, 1, 2), (7, 13, 3), (5, 40, 11), (3, 9, 200)])
@pytest.mark.parametrize("chunk", [1, 64, 2**19])
def test_swap_is_what_the_linear_layer_makes_of_it(
    samples: int, neurons: int, classes: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swaps, "_CHUNK", chunk)
    linear, (values, adversarial, labels, others) = drawn(samples, neurons, classes)
    found = activation_swap(linear(values), values, adversarial, linear.weight, labels, others)
    for ours, wanted in zip(found, activation_swap_loop(linear, values, adversarial, labels, others), strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-13)


def test_logits_of_any_size_do_not_overflow() -> None:
    linear, (values, adversarial, labels, others) = drawn(6, 8, 4, scale=1e4)
    wanted = activation_swap_loop(linear, values, adversarial, labels, others)
    narrow = [part.float() for part in (linear(values), values, adversarial, linear.weight)]
    found = activation_swap(narrow[0], narrow[1], narrow[2], narrow[3], labels, others)
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        assert bool(ours.isfinite().all())
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-2)
    assert float(torch.stack(wanted).abs().max()) > 0.5  # something does happen


def test_neuron_that_keeps_its_value_has_exactly_nothing() -> None:
    linear, (values, adversarial, labels, others) = drawn(9, 12, 5)
    adversarial[:, ::2] = values[:, ::2]
    parts = [part.float() for part in (linear(values), values, adversarial, linear.weight)]
    drop, rise = activation_swap(parts[0], parts[1], parts[2], parts[3], labels, others)
    assert not drop[:, ::2].any()
    assert not rise[:, ::2].any()
    assert bool(drop[:, 1::2].any())


def test_known_swap() -> None:
    # two classes, logits 0 and 0; neuron 0 adds log 3 to class 1: its probability goes from 1/2 to 3/4
    values, adversarial = torch.zeros(1, 2), torch.tensor([[3.0, 5.0]]).log()
    weights = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    first, second = torch.tensor([0]), torch.tensor([1])
    drop, rise = activation_swap(torch.zeros(1, 2), values, adversarial, weights, first, second)
    torch.testing.assert_close(drop, torch.tensor([[0.25, 0.0]]))
    torch.testing.assert_close(rise, torch.tensor([[0.25, 0.0]]))


def test_half_precision_is_computed_in_single() -> None:
    linear, (values, adversarial, labels, others) = drawn(4, 6, 3)
    parts = [part.bfloat16() for part in (linear(values), values, adversarial, linear.weight)]
    found = activation_swap(parts[0], parts[1], parts[2], parts[3], labels, others)
    wide = [part.float() for part in parts]
    wanted = activation_swap(wide[0], wide[1], wide[2], wide[3], labels, others)
    assert torch.equal(torch.stack(found), torch.stack(wanted))


def test_activation_swap_says_what_does_not_fit() -> None:
    linear, (values, adversarial, labels, others) = drawn(4, 6, 3)
    logits, weights = linear(values), linear.weight
    with pytest.raises(ValueError, match=r"weights must be \[K, C\], here \[3, 6\], got \[6, 3\]"):
        activation_swap(logits, values, adversarial, weights.T, labels, others)
    with pytest.raises(ValueError, match=r"both values \[N, C\] were expected"):
        activation_swap(logits, values, adversarial[:3], weights, labels, others)
    with pytest.raises(ValueError, match="labels must be 4 whole class numbers"):
        activation_swap(logits, values, adversarial, weights, labels[:3], others)
    with pytest.raises(ValueError, match="adversarial_classes must be 4 whole class numbers"):
        activation_swap(logits, values, adversarial, weights, labels, others.double())
    with pytest.raises(ValueError, match="class 3 was given, and the model has classes 0 to 2"):
        activation_swap(logits, values, adversarial, weights, labels, others * 0 + 3)
    with pytest.raises(ValueError, match="class -1 was given"):
        activation_swap(logits, values, adversarial, weights, labels * 0 - 1, others)


@pytest.mark.parametrize("batch", [1, 4, 128])
@pytest.mark.parametrize(("bands", "size"), [(1, (7, 5)), (3, (8, 9))])
def test_pixel_swap_is_the_loop(batch: int, bands: int, size: tuple[int, int]) -> None:
    model = pooled(bands).train()  # evaluation mode is the swap's business
    benign, adversarial = torch.rand(2, 3, bands, *size, dtype=torch.float64)
    masks = torch.rand(3, 5, *size) < 0.3
    masks[1, 2] = False
    labels, others = torch.tensor([0, 1, 2]), torch.tensor([1, 3, 3])
    passes: list[int] = []
    with same_after(model):
        found = pixel_swap(model, benign, adversarial, masks, labels, others, batch, done=passes.append)
    assert sum(passes) == 15
    for ours, wanted in zip(
        found, pixel_swap_loop(model.eval(), benign, adversarial, masks, labels, others), strict=True
    ):
        assert ours.shape == (3, 5)
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)
        assert ours[1, 2] == 0


class DependsOnItsInput(nn.Module):
    """What cannot be traced, and so runs as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pooled()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits if bool(images.sum() > 0) else -logits


@pytest.mark.parametrize("traced", [True, False])
def test_many_swaps_are_the_loop_on_a_private_copy_or_without(traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards, "_REPAID", 1)
    model = pooled() if traced else DependsOnItsInput()
    norm = model.get_submodule("bn" if traced else "inner.bn")
    calls: list[int] = []
    benign, adversarial = torch.rand(2, 4, 3, 8, 9, dtype=torch.float64)
    masks = torch.rand(4, 40, 8, 9) < 0.3
    labels, others = torch.randint(4, (2, 4))
    wanted = pixel_swap_loop(model.eval(), benign, adversarial, masks, labels, others)
    handle = model.register_forward_pre_hook(lambda _module, inputs: calls.append(len(inputs[0])))
    hooked = pixel_swap(model, benign, adversarial, masks, labels, others, 32)
    assert sum(calls) >= 4 + 160, "hooks are the user's, so the model runs as it is"
    handle.remove()
    before = norm.get_buffer("running_mean").clone()
    with same_after(model):
        found = pixel_swap(model, benign, adversarial, masks, labels, others, 32)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(hooked, wanted, rtol=1e-9, atol=1e-12)
    assert torch.equal(norm.get_buffer("running_mean"), before)


def test_forwards_of_many_images_run_on_the_private_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = pooled(dtype=torch.float32), torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        wanted = model(images)
    repaid = sum(parameter.numel() for parameter in model.parameters()) * 50
    monkeypatch.setattr(forwards, "_REPAID", repaid)
    few, many = Forwards(model, images, 49), Forwards(model, images, 50)
    monkeypatch.setattr(model, "forward", None)  # nothing asks the model itself any more
    torch.testing.assert_close(many.logits(images), wanted)
    with pytest.raises(TypeError):
        few.logits(images)


def test_swapping_the_pixel_of_a_neuron_changes_its_class() -> None:
    model = PixelPerNeuron(6)
    benign, adversarial = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
    masks = torch.eye(6).bool().view(1, 6, 2, 3)
    labels, others = torch.tensor([0]), torch.tensor([4])
    drop, rise = pixel_swap(model, benign, adversarial, masks, labels, others)
    best, rest = torch.e / (torch.e + 5), 1 / (torch.e + 5)
    wanted = torch.full((6,), 1 / 6 - rest)
    wanted[0] = 1 / 6 - best
    torch.testing.assert_close(drop[0], wanted)
    wanted = torch.full((6,), rest - 1 / 6)
    wanted[4] = best - 1 / 6
    torch.testing.assert_close(rise[0], wanted)


def test_pixel_swap_under_autocast_gives_single_precision() -> None:
    model = pooled(dtype=torch.float32)
    benign, adversarial = torch.rand(2, 2, 3, 8, 8)
    masks = torch.rand(2, 3, 8, 8) < 0.5
    classes = torch.tensor([0, 1]), torch.tensor([2, 3])
    found = pixel_swap(model, benign, adversarial, masks, *classes, autocast=torch.bfloat16)
    exact = pixel_swap(model, benign, adversarial, masks, *classes)
    assert found[0].dtype == torch.float32
    assert not torch.equal(found[0], exact[0])
    torch.testing.assert_close(torch.stack(found), torch.stack(exact), rtol=0, atol=2e-2)


def test_pixel_swap_says_what_does_not_fit() -> None:
    model = pooled(dtype=torch.float32)
    images, masks, classes = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"must be images \[J, B, H, W\], got \[2, 3, 8\]"):
        pixel_swap(model, images[..., 0], images[..., 0], masks, classes, classes)
    with pytest.raises(ValueError, match=r"masks must be bool \[J, S, H, W\]"):
        pixel_swap(model, images, images, masks[:1], classes, classes)
    with pytest.raises(ValueError, match=r"masks must be bool \[J, S, H, W\]"):
        pixel_swap(model, images, images, masks.float(), classes, classes)
    with pytest.raises(ValueError, match="batch must be a whole number"):
        pixel_swap(model, images, images, masks, classes, classes, 0)
    with same_after(model), pytest.raises(ValueError, match="class 4 was given, and the model has classes 0 to 3"):
        pixel_swap(model, images, images, masks, classes + 3, classes)
    with pytest.raises(ValueError, match="must put out logits"):
        pixel_swap(nn.Conv2d(3, 1, 1), images, images, masks, classes, classes)
