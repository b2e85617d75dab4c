"""ResNet-18 in the form that is usual for CIFAR."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: ``[N, channels, H, W]`` to ``[N, width, H/stride, W/stride]``.

    Both activations are modules of their own: ``relu1`` between the convolutions, ``relu2`` after the sum.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output ``[N, width, H/stride, W/stride]`` for ``x`` ``[N, channels, H, W]``."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class CifarResNet18(nn.Module):
    """ResNet-18 with a 3x3 stem and no max pooling, for images ``[N, 3, 32, 32]``.

    Returns logits ``[N, classes]``. About 11.2 million parameters. Every activation is a module with a name of its
    own. Parameters are named as is common for this network: ``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``shortcut``
    around a block and ``linear`` at the end. Source: He et al., Deep Residual Learning for Image Recognition (2016);
    the stem is the one in general use for images of this size.
    """

    WEIGHT_SYNONYMS: ClassVar[Mapping[str, str]] = MappingProxyType({"downsample": "shortcut", "fc": "linear"})
    """Parts of parameter names that other packages (torchvision, timm) use, and what they are called here."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu1 = nn.ReLU()
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 3, 32, 32]``."""
        x = self.relu1(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits
