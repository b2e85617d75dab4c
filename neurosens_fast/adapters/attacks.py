"""Attacks of torchattacks, foolbox and AutoAttack as attacks of this package: callables ``(x, y) -> x_adv``.

Torchattacks' objects and those of pyautoattack are such callables already, or nearly; what they leave behind in the
model, and what they expect of gradient mode, device and dtype, is seen to here. Nothing but :func:`from_foolbox`
imports the library it is for.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neurosens_fast.attacks.arguments import check_count, check_number
from neurosens_fast.attacks.worst import run_attack
from neurosens_fast.capture import parameters_device, untouched
from neurosens_fast.support.packages import import_package


class LibraryAttack(ABC):
    """A callable ``(images, labels) -> adversarial images`` around an attack of another library.

    ``images`` ``[N, *S]`` floating point, ``labels`` ``[N]`` integers, on any device. The result has the shape, dtype
    and device of ``images`` and no gradient. It is what the library returns, which may lie outside of the ball by a
    rounding. ``model`` runs in evaluation mode (unless torchattacks' ``set_model_training_mode`` says otherwise); its
    modes, ``.grad``, ``requires_grad`` and buffers are as before afterwards, also after an exception.

    ``attack`` is its name, ``wrapped`` the library's object; ``bounded`` tells whether an eps holds the perturbation.

    Raises on call: ``RuntimeError`` inside inference mode; ``ValueError`` for a result of another shape than
    ``images``; and whatever the library raises.
    """

    bounded = True

    def __init__(self, wrapped: Any, model: nn.Module, name: str) -> None:
        self.wrapped, self.model, self.attack = wrapped, model, name

    @abstractmethod
    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """What the library makes of ``images`` ``[N, *S]``, N > 0, with gradients enabled."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial examples for ``images`` ``[N, *S]`` with ``labels`` ``[N]``; see the class."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("attacks need gradients, which torch.inference_mode() forbids; call this outside of it")
        if not len(images):
            return images.detach().clone()
        with untouched(self.model), torch.enable_grad():
            return run_attack(self.perturb, images.detach(), labels.detach().long(), torch.arange(len(images)))

    def _check_device(self, device: torch.device | str | None) -> None:
        """``ValueError`` if the library was set up for another ``device`` than the model is on."""
        theirs, ours = None if device is None else torch.device(device), parameters_device(self.model)
        if theirs is None or ours is None or (theirs.type == ours.type and theirs.index in (None, ours.index)):
            return
        raise ValueError(f"the attack was made for {theirs}, its model is on {ours}; make it anew for that device")


class _Torchattacks(LibraryAttack):
    def __repr__(self) -> str:
        return f"from_torchattacks({self.wrapped!r})"

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        self._check_device(self.wrapped.device)
        adversarial: Tensor = self.wrapped(images, labels)
        return adversarial


def from_torchattacks(attack: Any) -> LibraryAttack:
    """An attack of torchattacks, such as ``torchattacks.PGD(model)``, as a :class:`LibraryAttack`.

    Random starts come from torch's global generator, as the library draws them. Raises ``TypeError`` for anything else
    than an instance of ``torchattacks.attack.Attack``; on call, ``ValueError`` if the model has moved to another
    device since the attack was made.
    """
    model = getattr(attack, "model", None)
    if not isinstance(model, nn.Module) or not callable(attack) or not hasattr(attack, "set_model_training_mode"):
        raise TypeError(f"from_torchattacks takes an attack such as torchattacks.PGD(model), got {_named(attack)}")
    return _Torchattacks(attack, model, f"torchattacks.{type(attack).__name__}")


class _Foolbox(LibraryAttack):
    def __init__(self, attack: Any, model: nn.Module, eps: float | None, bounds: tuple[float, float]) -> None:
        super().__init__(attack, model, f"foolbox.{type(attack).__name__}")
        self.eps, self.bounds, self.bounded = eps, bounds, eps is not None

    def __repr__(self) -> str:
        return f"from_foolbox({self.wrapped!r}, eps={self.eps}, bounds=({self.bounds[0]:g}, {self.bounds[1]:g}))"

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        foolbox: Any = import_package("foolbox", "from_foolbox needs")
        # Made for each call, inside evaluation mode; it would move the model if it chose the device itself.
        device = parameters_device(self.model) or images.device
        judged = foolbox.PyTorchModel(self.model, bounds=self.bounds, device=device)
        images, labels = images.to(device), labels.to(device)
        raw, clipped, success = self.wrapped(judged, images, labels, epsilons=self.eps)
        if self.eps is not None:
            return clipped
        # C&W returns zeros where it found nothing, and calls that a success where the model is wrong about zeros.
        found = success & raw.flatten(1).any(dim=1)
        return torch.where(found.view(-1, *(1,) * (images.dim() - 1)), raw, images)


def from_foolbox(
    attack: Any, model: nn.Module, eps: float | None, bounds: tuple[float, float] = (0, 1)
) -> LibraryAttack:
    """An attack of foolbox on ``model``, such as ``foolbox.attacks.LinfPGD()``, as a :class:`LibraryAttack`.

    ``eps`` is the radius in the attack's own norm. ``None``, for attacks that minimise the perturbation, returns the
    smallest that was found, and the input where none was (foolbox returns zeros there, or where the search ended).
    ``bounds`` are the least and the largest value of an image; foolbox refuses images outside of them.

    Raises ``ModuleNotFoundError`` without foolbox; ``TypeError`` if ``attack`` is none of foolbox's or ``model`` no
    module; ``ValueError`` for a wrong ``eps`` or ``bounds``, and for ``eps=None`` with an attack that needs one.
    """
    foolbox: Any = import_package("foolbox", "from_foolbox needs")
    if not isinstance(attack, foolbox.Attack):
        raise TypeError(f"from_foolbox takes an attack such as foolbox.attacks.LinfPGD(), got {_named(attack)}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not yet wrapped for foolbox, got {type(model).__name__}")
    if eps is not None:
        check_number("eps", eps)
    elif isinstance(attack, foolbox.attacks.base.FixedEpsilonAttack):
        raise ValueError(f"{type(attack).__name__} does not search for the smallest perturbation; give it eps")
    low, high = (check_number("bounds", bound, -float("inf")) for bound in bounds)
    if low >= high:
        raise ValueError(f"bounds must be the least and the largest value of an image, got {bounds}")
    return _Foolbox(attack, model, eps, (low, high))


class _AutoAttack(LibraryAttack):
    def __init__(self, adversary: Any, model: nn.Module, batch_size: int | None) -> None:
        super().__init__(adversary, model, type(adversary).__name__)
        self.batch_size = batch_size

    def __repr__(self) -> str:
        names = {"norm": "norm", "epsilon": "eps", "version": "version", "attacks_to_run": "attacks", "seed": "seed"}
        shown = [f"{name}={getattr(self.wrapped, theirs, None)!r}" for theirs, name in names.items()]
        size = "" if self.batch_size is None else f", batch_size={self.batch_size}"
        return f"from_autoattack({type(self.wrapped).__name__}({', '.join(shown)}){size})"

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        device = parameters_device(self.model)
        self._check_device(getattr(self.wrapped, "device", None))
        wrong = {parameter.dtype for parameter in self.model.parameters()} - {torch.float32}
        if wrong:
            raise ValueError(
                f"AutoAttack computes in float32, the model has {wrong.pop()} parameters; use model.float()"
            )
        sizes = {} if self.batch_size is None else {"batch_size": self.batch_size}
        with _global_state(device):
            outcome = self.wrapped.run_standard_evaluation(images.float(), labels, **sizes)
        adversarial: Tensor = outcome[0] if isinstance(outcome, tuple) else outcome  # the labels they get come second
        return adversarial


def from_autoattack(adversary: Any, batch_size: int | None = None) -> LibraryAttack:
    """The ``AutoAttack`` of pyautoattack as a :class:`LibraryAttack`.

    Each call is a ``run_standard_evaluation`` of its images, in batches of ``batch_size`` (default: AutoAttack's
    250). Samples that no attack fooled come back as they were. AutoAttack seeds torch's global generators; they are
    put back afterwards.

    Raises ``TypeError`` for anything else than an ``AutoAttack`` around a module, ``ValueError`` for a wrong
    ``batch_size``; on call, ``ValueError`` for a model that is not float32, in which AutoAttack computes, or not on
    the device that AutoAttack was made for.
    """
    model = getattr(adversary, "model", None)
    if not callable(getattr(adversary, "run_standard_evaluation", None)) or isinstance(adversary, type):
        raise TypeError(f"from_autoattack takes pyautoattack's AutoAttack(model, ...), got {_named(adversary)}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"AutoAttack must have been given the torch.nn.Module itself, got {_named(model)}")
    return _AutoAttack(adversary, model, None if batch_size is None else check_count("batch_size", batch_size, 1))


@contextmanager
def _global_state(device: torch.device | None) -> Iterator[None]:
    """Torch's generators and the trace function, which AutoAttack's check of the model unsets, put back afterwards."""
    devices = [device] if device is not None and device.type == "cuda" else []
    tracer = sys.gettrace()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        sys.settrace(tracer)


def _named(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
