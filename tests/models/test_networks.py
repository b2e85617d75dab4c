"""The built-in networks: shapes, names of layers, and every activation called once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast.models import CifarResNet18, DigitsCNN, MnistCNN

NETWORKS = [(DigitsCNN, (1, 8, 8), 4), (MnistCNN, (1, 28, 28), 4), (CifarResNet18, (3, 32, 32), 17)]


@pytest.mark.parametrize(("network", "shape", "activations"), NETWORKS)
def test_each_activation_is_a_module_of_its_own(
    network: type[nn.Module], shape: tuple[int, ...], activations: int
) -> None:
    model = network().eval()
    calls: list[nn.Module] = []

    def seen(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(module)
        assert not module.inplace
        assert output.detach().min() >= 0

    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(seen)
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert calls == relus, "in the order of their names"
    assert len(relus) == activations
    assert network(7).eval()(torch.rand(1, *shape)).shape == (1, 7)


def test_resnet_has_the_common_names_and_sizes() -> None:
    state = CifarResNet18().state_dict()
    assert state["conv1.weight"].shape == (64, 3, 3, 3)
    assert state["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["layer2.0.shortcut.0.weight"].shape == (128, 64, 1, 1)
    assert "layer1.0.shortcut.0.weight" not in state
    assert state["linear.weight"].shape == (10, 512)
    assert sum(parameter.numel() for parameter in CifarResNet18().parameters()) == 11_173_962


def test_resnet_equals_its_definition() -> None:
    """Against the network written out with functions, on small images for speed."""
    model = CifarResNet18().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    state = model.state_dict()
    images = torch.rand(2, 3, 16, 16)

    def convolved(x: Tensor, convolution: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{convolution}.weight"]
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return nn.functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = convolved(images, "conv1", "bn1").relu()
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = convolved(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
            y = convolved(y, f"{name}.conv2", f"{name}.bn2")
            x = (y + (convolved(x, f"{name}.shortcut.0", f"{name}.shortcut.1", stride) if stride == 2 else x)).relu()
    expected = nn.functional.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
