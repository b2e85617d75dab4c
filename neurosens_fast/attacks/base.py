"""What every gradient attack shares: argument checks, a model left as it was, gradients for the input only."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neurosens_fast.capture import evaluation_mode, logits_of, parameters_device

NORMS = ("linf", "l2", "l1")

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Gradient = Callable[[Tensor], Tensor]
"""Gradient of the attack's loss at some images, in their shape."""


class Attack(ABC):
    """A callable ``(images, labels) -> adversarial images`` on inputs in ``[low, high]``.

    ``images`` ``[N, *S]`` floating point, ``labels`` ``[N]`` integers. The result has the shape, dtype
    and device of ``images`` and no gradient; it lies in the ``eps`` ball around them (measured in
    float64) and in ``[low, high]``.

    The model runs in evaluation mode and gets its modes back module by module, also after an exception;
    its parameters are never differentiated: ``.grad``, ``requires_grad`` and batch-norm statistics stay
    as they were.

    Attributes have torchattacks' names: ``attack``, ``model``, ``eps``, and those of the subclass.

    Raises on call: ``TypeError`` for images that are no floating-point tensor or labels that are no
    integer tensor; ``ValueError`` for values that are NaN or outside ``[low, high]``, labels of another
    length or out of range, another device than the model's, and a model without a finite gradient for
    its input; ``RuntimeError`` inside inference mode.
    """

    def __init__(self, model: nn.Module, eps: float, norm: str = "linf", low: float = 0.0, high: float = 1.0) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")
        self.attack = type(self).__name__
        self.model = model
        self.eps = check_number("eps", eps)
        self.norm = norm
        self.low, self.high = check_number("low", low, -math.inf), check_number("high", high, -math.inf)
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={low} and high={high}")

    @abstractmethod
    def perturb(self, images: Tensor, gradient: Gradient) -> Tensor:
        """The attack itself on checked images, with the model in evaluation mode and gradients enabled."""

    def settings(self) -> dict[str, object]:
        """What decides the result, apart from model and seed: name -> value."""
        return {"eps": self.eps, "norm": self.norm, "low": self.low, "high": self.high}

    def __repr__(self) -> str:
        usual = {"low": 0.0, "high": 1.0}
        settings = {name: value for name, value in self.settings().items() if usual.get(name) != value}
        shown = {name: f"{value:.6g}" if isinstance(value, float) else repr(value) for name, value in settings.items()}
        return f"{self.attack}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial examples for ``images`` ``[N, *S]`` with true ``labels`` ``[N]``; see the class."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "attacks need gradients, which torch.inference_mode() forbids and torch.enable_grad() does not give "
                "back; call the attack outside of it (torch.no_grad() is fine)"
            )
        self._check(images, labels)
        images = images.detach().clone() if images.is_inference() else images.detach()
        if images.shape[0] == 0:
            return images.clone()
        labels = labels.detach().clone().long()
        extremes = int(labels.min()), int(labels.max())
        flaws: list[Tensor] = []  # stay on the device until the end: sign(NaN) is 0, so the result does not show them

        def gradient(point: Tensor) -> Tensor:
            slope = self._gradient(point, labels, extremes)
            flaws.append(slope.isnan().any())
            return slope

        with evaluation_mode(self.model), torch.enable_grad():
            adversarial = self.perturb(images, gradient)
        flaws.append(~adversarial.isfinite().all())
        if bool(torch.stack(flaws).any()):
            raise ValueError(
                f"{self.attack}: the gradient of the loss for the input is not finite; look for NaN weights or an "
                "overflow in the model"
            )
        return adversarial

    def _gradient(self, images: Tensor, labels: Tensor, extremes: tuple[int, int]) -> Tensor:
        """Gradient of the cross-entropy, summed over samples, for ``images``; nothing else is differentiated."""
        images = images.detach().requires_grad_(True)
        output = self.model(images)
        logits = logits_of(output, labels.shape[0])
        if logits is None:
            got = f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{self.attack} needs a model that returns logits [N, classes], got {got}; wrap the model in a module "
                "that returns them"
            )
        classes = logits.shape[1]
        if extremes[0] < 0 or extremes[1] >= classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1} for a model with {classes} classes, got "
                f"{extremes[0]}..{extremes[1]}"
            )
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        gradient = torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None
        if gradient is None:
            raise ValueError(
                f"{self.attack}: the model's output has no gradient for its input; look for detach(), no_grad() or a "
                "rounding step in its forward, or use an attack without gradients"
            )
        return gradient

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if not isinstance(images, Tensor) or not images.is_floating_point():
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a floating-point tensor in [{self.low:g}, {self.high:g}], got {got}")
        if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS:
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels must be a tensor of integer class numbers, got {got}")
        if images.dim() < 2 or labels.dim() != 1 or labels.shape[0] != images.shape[0]:
            raise ValueError(
                f"images must be [N, ...] and labels [N], got {list(images.shape)} and {list(labels.shape)}"
            )
        device = parameters_device(self.model)
        for name, tensor in (("images", images), ("labels", labels)):
            if tensor.device != (device or images.device):
                theirs = device or images.device
                raise ValueError(f"{name} are on {tensor.device}, the model on {theirs}; move one of them")
        if images.numel():
            least, most = (float(value) for value in images.detach().aminmax())
            low, high = (float(torch.tensor(limit, dtype=images.dtype)) for limit in (self.low, self.high))
            if not (least >= low and most <= high):
                raise ValueError(
                    f"images must lie in [{self.low:g}, {self.high:g}] without NaN, got values from {least:g} to "
                    f"{most:g}; scale them, and wrap a network that wants normalised input in "
                    "Normalized(model, mean, std)"
                )


def check_number(name: str, value: float, minimum: float = 0.0) -> float:
    """``value`` as a float; ``TypeError`` if it is no number, ``ValueError`` if not finite or below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    if not math.isfinite(value) or value < minimum:
        bound = f" and at least {minimum:g}" if math.isfinite(minimum) else ""
        raise ValueError(f"{name} must be finite{bound}, got {value}")
    return float(value)


def check_count(name: str, value: int, minimum: int = 0) -> int:
    """``value`` as an int; ``TypeError`` if it is none, ``ValueError`` if below ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__} {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value
