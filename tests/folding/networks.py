"""Networks for the tests of fused taps: small ones of each kind, with running statistics as after training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.models import CifarResNet18, DigitsCNN
from tests.capture.networks import Conv1dNet, torchvision_model


class Branching(nn.Module):
    """Runs another way for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.relu(x if x.sum() > 0 else -x).mean((2, 3))


def _torchvision(kind: str, **settings: Any) -> nn.Module:
    import torchvision

    if kind == "bottleneck":
        from torchvision.models.resnet import Bottleneck

        return torchvision.models.ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5)
    if kind == "mobilenet":
        return torchvision.models.MobileNetV2(5, inverted_residual_setting=[[1, 8, 1, 1], [6, 12, 2, 2], [6, 16, 1, 2]])
    if kind == "densenet":
        return torchvision.models.DenseNet(8, (2, 3), 16, num_classes=5)
    if kind == "vgg":
        features = torchvision.models.vgg.make_layers([8, "M", 16, "M", 16, "M"], batch_norm=True)
        head = nn.Sequential(nn.Linear(16 * 16, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 5))
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)
    if kind == "convnext":
        from torchvision.models.convnext import CNBlockConfig

        blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 2), CNBlockConfig(48, None, 1)]
        return torchvision.models.ConvNeXt(blocks, num_classes=5)
    return torchvision_model(kind, **settings)


def build(kind: str) -> nn.Module:
    """The network ``kind`` with weights of a fixed seed."""
    torch.manual_seed(0)
    if kind == "cifar":
        return CifarResNet18()
    if kind == "digits":
        return DigitsCNN()
    if kind == "conv1d":
        return Conv1dNet()
    if kind == "perceptron":
        return nn.Sequential(
            *(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 8, bias=False), nn.BatchNorm1d(8)),
            *(nn.ReLU(inplace=True), nn.Linear(8, 4)),
        )
    return _torchvision(kind, **({"init_weights": False} if kind == "googlenet" else {}))


def shape_of(kind: str) -> tuple[int, ...]:
    """The shape of one input of the network ``kind``."""
    shapes: dict[str, tuple[int, ...]] = {"digits": (1, 8, 8), "conv1d": (2, 9), "perceptron": (6,)}
    side = 64 if kind in ("bottleneck", "googlenet") else 32  # with one position per row, ratios divide by anything
    return shapes.get(kind, (3, side, side))


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, count: int = 3) -> tuple[Tensor, Tensor]:
    """Benign and adversarial inputs ``[count, *shape]`` in [0, 1] that differ much."""
    generator = torch.Generator().manual_seed(5)
    benign = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    change = 0.3 * torch.randn(benign.shape, generator=generator, dtype=torch.float64)
    return benign.to(dtype), (benign + change).clamp(0, 1).to(dtype)
