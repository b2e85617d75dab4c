"""A file of a person's own for ``neurosens-fast fragility``: tiny networks, data and attacks. Tests copy it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM

FOLDER = pathlib.Path(__file__).parent
Attack = Callable[[Tensor, Tensor], Tensor]


def build() -> nn.Sequential:
    """Neuron k < 3 is the logit of class k; neuron 3 speaks against class 0."""
    conv, linear = nn.Conv2d(4, 4, 1, bias=False), nn.Linear(4, 3)
    scale = nn.Conv2d(4, 4, 1, groups=4, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
        linear.weight.copy_(torch.eye(4)[:3])
        linear.weight[0, 3] = -1.0
        linear.bias.zero_()
        scale.weight.fill_(1)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), scale, nn.Flatten(), linear)


def of_digits() -> nn.Sequential:
    """Random features of the digits, read out by ridge regression: a trained network in no time."""
    from neurosens_fast.data import digits

    conv, linear = nn.Conv2d(1, 6, 3), nn.Linear(216, 10, bias=False)
    features = nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()).eval()
    split = digits()
    with torch.no_grad():
        seen, targets = features(split.train_images).double(), torch.eye(10).double()[split.train_labels]
        gram = seen.T @ seen + torch.eye(216).double()  # some features are always zero
        linear.weight.copy_(torch.linalg.solve(gram, seen.T @ targets).T)
    return nn.Sequential(*features, linear)


def tensors() -> tuple[Tensor, Tensor]:
    images = torch.rand(32, 4, 1, 1, generator=torch.Generator().manual_seed(1)) / 2
    labels = torch.arange(32) % 3
    images[torch.arange(32), labels] += 0.3
    return images, labels


def load() -> list[tuple[Tensor, Tensor]]:
    return list(zip(*tensors(), strict=True))


def batched() -> list[tuple[Tensor, Tensor]]:
    images, labels = tensors()
    return list(zip(images.split(4), labels.split(4), strict=True))


def few() -> list[tuple[Tensor, Tensor]]:
    return load()[:3]


def stream() -> Iterator[tuple[Tensor, Tensor]]:
    return iter(batched())


def attack(model: nn.Module, eps: float) -> Attack:
    return FGSM(model, eps)


def counting(model: nn.Module, eps: float) -> Attack:
    """FGSM that counts its calls in a file, and acts as Ctrl-C in the one after those that the file ``last`` allows."""
    made = FGSM(model, eps)
    calls, last = FOLDER / "calls", FOLDER / "last"

    def attack(x: Tensor, y: Tensor) -> Tensor:
        calls.write_text(calls.read_text() + "." if calls.exists() else ".")
        if last.exists() and len(calls.read_text()) > int(last.read_text()):
            raise KeyboardInterrupt
        return made(x, y)

    return attack


def no_eps(model: nn.Module) -> Attack:
    return FGSM(model, 0.1)


def no_attack(model: nn.Module, eps: float) -> int:
    return 3


def elsewhere(model: nn.Module, eps: float) -> Attack:
    return lambda x, y: (x + eps * torch.rand_like(x)).clamp(0, 1)
