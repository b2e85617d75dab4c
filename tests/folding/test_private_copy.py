"""The private copy gives the logits of the model and its gradient, whatever the model is made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from neurosens_fast.folding import NotTraced, PrivateCopy, shadow
from neurosens_fast.models import Normalized
from tests.attacks.networks import convolutional, uneven
from tests.capture.networks import torchvision_model


class Residual(nn.Module):
    """Two convolutions that share a batch norm, a functional ReLU, a sum, parameters and a buffer of its own."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(3)
        self.scale, self.plain = nn.Parameter(torch.rand(3, 1, 1)), torch.tensor([0.5, 2.0, 1.0]).view(3, 1, 1).double()
        self.register_buffer("shift", torch.rand(3))
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor, gate: Tensor | None = None, steps: int = 1) -> Tensor:
        if gate is not None:
            x = x * gate
        for _ in range(steps):
            x = F.relu(x + self.norm(self.conv2(F.relu(self.norm(self.conv1(x)))))) * self.scale
        x = x * self.plain + self.shift.view(1, -1, 1, 1) * torch.tensor(2.0)
        return self.head(x.mean((2, 3)))


class Twice(nn.Module):
    """A convolution that runs behind a batch norm once, before one once, and before another once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two, self.head = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.first(x)).tanh()
        x = self.two(self.conv(self.one(self.conv(x)))).tanh()
        seen = self.conv(x)
        return self.head((self.one(seen) + seen).mean((2, 3)))  # not alone behind the convolution: not folded


class Assigning(nn.Module):
    """Augmented assignments to the images, to what has readers under another name, and to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.mean = convolutional(), nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x -= self.mean
        same = y = x * 2
        y += 0.5
        y *= x.cos()
        y /= 3
        y -= same.mean((2, 3), keepdim=True)
        count = first = x.shape[2]
        count += 1
        return self.net(same * (count - first) + y)


class Wrapped(nn.Module):
    """Hands everything on, as DataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.module(*inputs, **keywords)


def convolution_1d() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 6, 3))


def convolution_3d() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 8, 3))


def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(3, 4, 2, stride=2)
    return nn.Sequential(up, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def behind(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(inplace=True), nn.Linear(7, 3))


def pruned() -> Any:
    model = convolutional()
    prune.l1_unstructured(model[0], "weight", amount=0.3)
    return model


def parametrized() -> Any:
    model = convolutional()
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[3])
    return model


def subclassed() -> Any:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    return nn.Sequential(Standardized(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


IMAGE = (3, 8, 8)

NETWORKS: list[Any] = [
    pytest.param(convolutional, IMAGE, 2, id="convolutional"),
    pytest.param(convolution_1d, (2, 8), 1, id="1d"),
    pytest.param(convolution_3d, (2, 3, 3, 3), 1, id="3d"),
    pytest.param(perceptron, (5,), 1, id="linear"),
    pytest.param(Residual, IMAGE, 2, id="shared norm, residual"),
    pytest.param(Twice, IMAGE, 2, id="shared convolution"),
    pytest.param(Assigning, IMAGE, 2, id="augmented assignments"),
    pytest.param(transposed, IMAGE, 0, id="transposed"),
    pytest.param(lambda: behind(nn.BatchNorm2d(4, affine=False)), IMAGE, 1, id="no affine"),
    pytest.param(lambda: behind(nn.BatchNorm2d(4, track_running_stats=False)), IMAGE, 0, id="no statistics"),
    pytest.param(lambda: behind(nn.BatchNorm2d(4, momentum=None, eps=0.5)), IMAGE, 1, id="large eps"),
    pytest.param(lambda: behind(nn.GroupNorm(2, 4)), IMAGE, 0, id="group norm"),
    pytest.param(lambda: Normalized(convolutional(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), IMAGE, 2, id="normalized"),
    pytest.param(lambda: Wrapped(convolutional()), IMAGE, 2, id="wrapped"),
    pytest.param(pruned, IMAGE, 1, id="pruned"),
    pytest.param(parametrized, IMAGE, 0, id="parametrized"),
    pytest.param(subclassed, IMAGE, 0, id="subclass"),
]


def agree(ours: Callable[[Tensor], Any], theirs: Callable[[Tensor], Any], x: Tensor) -> None:
    """The same logits and the same gradients for the input, in float64."""
    results = []
    for run in (ours, theirs):
        placed = x.clone().requires_grad_(True)
        logits = run(placed if run is ours else placed.clone())  # a model may overwrite its input
        results.append((logits, torch.autograd.grad(logits.sin().sum(), placed)[0]))
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("build", "shape", "folded"), NETWORKS)
@pytest.mark.parametrize("fold", [True, False])
def test_the_copy_equals_the_model(build: Callable[[], nn.Module], shape: Any, folded: int, fold: bool) -> None:
    torch.manual_seed(0)
    model = uneven(build())
    x = torch.rand(4, *shape, dtype=torch.float64)
    private = PrivateCopy(model, fold, False, None)
    private.refresh()
    assert private.folded == (folded if fold else 0)
    agree(private.run, model, x)
    uneven(model.float())  # other values in other places, as after model.to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and not name.endswith("mask"):
                buffer.mul_(0.8)
    fresh = PrivateCopy(model, fold, False, None)
    fresh.refresh()
    agree(fresh.run, model, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and not name.endswith("mask"):
                buffer.mul_(1.1)
    fresh.refresh()
    agree(fresh.run, model, x)


def test_the_copy_of_a_resnet() -> None:
    model = uneven(torchvision_model("resnet18"))
    private = PrivateCopy(model, True, True, None)
    private.refresh()
    assert private.folded == 20
    assert private.convolutions == 20
    agree(private.run, model, torch.rand(2, 3, 32, 32, dtype=torch.float64))


def test_grouped_and_dilated_convolutions_keep_their_settings() -> None:
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="reflect")
    model = uneven(nn.Sequential(conv, nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 3)))
    private = PrivateCopy(model, True, False, None)
    private.refresh()
    assert private.folded == 1
    agree(private.run, model, torch.rand(3, 4, 8, 8, dtype=torch.float64))


def test_the_copy_shares_no_tensor_that_it_writes_to() -> None:
    model = convolutional()
    kept = copy.deepcopy(model.state_dict())
    versions = [(tensor._version, tensor.data_ptr()) for tensor in model.state_dict(keep_vars=True).values()]
    private = PrivateCopy(model, True, True, torch.bfloat16)
    for _ in range(2):
        private.refresh()
    theirs = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    written = [part for pair in private._pairs for part in pair.copy.parameters()]
    assert len(written) == 6
    assert not theirs & {part.untyped_storage().data_ptr() for part in written}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in kept.items())
    assert versions == [(tensor._version, tensor.data_ptr()) for tensor in model.state_dict(keep_vars=True).values()]
    assert all(part.dtype == torch.bfloat16 and not part.requires_grad for part in written)
    places = [part.data_ptr() for part in written]
    private.refresh()
    assert places == [part.data_ptr() for pair in private._pairs for part in pair.copy.parameters()]
    assert private._pairs[0].copy.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator]


def test_the_copy_differentiates_no_parameter() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)))
    private = PrivateCopy(model, True, False, None)
    private.refresh()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in private.module.parameters())
    inner = dict(private.module.named_modules())["model.1"]
    assert isinstance(inner, nn.GroupNorm)
    assert inner is not model[1]
    assert inner.weight.data_ptr() == model[1].weight.data_ptr()


def test_modules_with_hooks_are_the_same_objects() -> None:
    model = uneven(nn.Sequential(nn.Sequential(convolutional()[:3]), *convolutional()[3:]))
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("container"))
    model[1].register_forward_pre_hook(lambda *_: calls.append("before a leaf"))
    model[2].register_full_backward_hook(lambda *_: calls.append("backward"))
    private = PrivateCopy(model, True, False, None)
    private.refresh()
    assert private.folded == 0
    inner = dict(private.module.named_modules())
    assert inner["model.0"] is model[0]
    assert inner["model.1"] is model[1]
    assert inner["model.2"] is model[2]
    agree(private.run, model, torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert calls == ["container", "before a leaf", "backward"] * 2


def refusal(model: nn.Module) -> str:
    with pytest.raises(NotTraced) as caught:
        PrivateCopy(model, True, False, None)
    return str(caught.value)


def test_reasons_for_no_copy() -> None:
    hooked = convolutional()
    hooked.register_forward_hook(lambda *_: None)
    assert refusal(hooked) == "the model itself carries hooks"
    own = convolutional()
    own.forward = lambda x: x
    assert refusal(own) == "the model itself is compiled or has a forward of its own instance"
    compiled = convolutional()
    compiled.compile()
    assert refusal(compiled) == "the model itself is compiled or has a forward of its own instance"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert refusal(convolutional()) == "hooks on all modules are set"
    finally:
        handle.remove()


def test_a_stand_in_takes_lists_and_bound_methods_along() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
            self.order = [self.conv, self.norm]
            self.by_name = {"head": (self.head, self)}
            self.end = self._end

        def _end(self, x: Tensor) -> Tensor:
            return self.by_name["head"][0](x.mean((2, 3)))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = layer(x)
            return self.end(x)

    model: Any = uneven(Listed())
    other: Any = shadow(model, lambda module: module is model.head)
    assert other.order[0] is other.conv is not model.conv
    assert other.end.__self__ is other
    assert other.by_name["head"][0] is other.head is model.head
    assert other.by_name["head"][1] is other
    assert other.conv.weight is model.conv.weight
    private = PrivateCopy(model, True, False, None)
    private.refresh()
    assert private.folded == 1
    agree(private.run, model, torch.rand(2, 3, 8, 8, dtype=torch.float64))
