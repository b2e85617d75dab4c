"""What every attack shares: argument checks, a model left as it was, the loss, the record of how it ran."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurosens_fast.capture import evaluation_mode, parameters_device

from .arguments import check_choice, check_count, check_number
from .engine import Choice, Engine, Switches, checked_switches
from .losses import BY_NAME, NAMES, Loss, Objective, difference_of_logits_ratio_to, divergence
from .noise import Noise
from .problem import Problem

NORMS = ("linf", "l2", "l1")

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Options(Switches, total=False):
    """Keywords that every attack takes beside the switches; see :class:`Attack`."""

    loss: str | Loss
    targeted: bool
    seed: int | None
    generator: torch.Generator | None


class Attack(ABC):
    """A callable ``(images, labels) -> adversarial images`` on inputs in ``[low, high]``.

    ``images`` ``[N, *S]`` floating point, ``labels`` ``[N]`` integers. The result has the shape, dtype and device of
    ``images`` and no gradient; it lies in the ``eps`` ball around them (measured in float64) and in ``[low, high]``.
    With ``targeted=True`` the labels are the classes to reach. ``index`` ``[N]`` numbers the samples within a whole
    data set (default 0..N-1): a ``seed`` gives every sample a stream of its own, keyed by that number, so that draws
    depend neither on batch size, order or device, nor on the number of processes. Without a seed all draws come from
    ``generator``, or from torch's global one.

    The model runs in evaluation mode and gets its modes back module by module, also after an exception; its
    parameters are never differentiated: ``.grad``, ``requires_grad`` and batch-norm statistics stay as they were.

    ``loss`` is what the attack maximises: ``"ce"``, ``"dlr"``, ``"margin"``, ``"kl"`` (TRADES' inner loss, which
    wants a random start), or a function ``(logits, labels) -> [N]`` that grows towards the attack's aim, such as
    :func:`~neurosens_fast.attacks.neuron_loss`. For a targeted attack the named losses lead to the label instead of
    away from it (``"dlr"`` then needs four classes).

    The switches (keywords) are those of :class:`~neurosens_fast.attacks.engine.Switches`: ``exact``, ``fold``,
    ``channels_last``, ``dtype``, ``compaction``, ``graph``; :meth:`explain` tells what was used. An attack keeps its
    private copy of the model for the next call, recomputed from the model's weights each time.

    Attributes have torchattacks' names: ``attack``, ``model``, ``eps``, and those of the subclass.

    Raises on call: ``TypeError`` for images that are no floating-point tensor or labels that are no integer tensor;
    ``ValueError`` for values that are NaN or outside ``[low, high]``, labels of another length or out of range,
    another device than the model's, and a model without a finite gradient for its input; ``RuntimeError`` inside
    inference mode.
    """

    needs_gradient = True
    """False for black-box attacks."""
    bounded = True
    """False for attacks that have no ``eps``."""
    own_rule = ""
    """What the attack does with samples that fell, where the switch ``compaction`` does not apply to it."""

    def __init__(
        self,
        model: nn.Module,
        eps: float,
        norm: str = "linf",
        low: float = 0.0,
        high: float = 1.0,
        /,  # a subclass that fixes one of them refuses it like any other unknown argument
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        check_choice("norm", norm, NORMS)
        self.attack = type(self).__name__
        self.model = model
        self.eps = check_number("eps", eps)
        self.norm = norm
        self.low, self.high = check_number("low", low, -math.inf), check_number("high", high, -math.inf)
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={low} and high={high}")
        given: dict[str, Any] = {**options}
        loss, targeted = given.pop("loss", "ce"), given.pop("targeted", False)
        seed, generator = given.pop("seed", None), given.pop("generator", None)
        if not callable(loss):
            check_choice("loss", loss, NAMES)
        if loss == "kl" and targeted:
            raise ValueError("loss 'kl' leads away from the clean prediction and knows no target; use 'ce'")
        self.loss: str | Loss = loss
        self.targeted = bool(targeted)
        if seed is not None and generator is not None:
            raise ValueError("give seed or generator, not both")
        self.seed = None if seed is None else check_count("seed", seed)
        self.generator: torch.Generator | None = generator
        self.switches = checked_switches(given)
        self._engine: Engine | None = None
        self._choices: tuple[Choice, ...] = ()

    @abstractmethod
    def evaluations(self) -> int:
        """Forwards that one call makes at most."""

    @abstractmethod
    def perturb(self, problem: Problem) -> Tensor:
        """The attack itself: adversarial examples ``[N, *S]``, with the model in evaluation mode, without gradients."""

    def settings(self) -> dict[str, object]:
        """What decides the result, apart from model and seed: name -> value."""
        return {"eps": self.eps, "norm": self.norm, "low": self.low, "high": self.high}

    def __repr__(self) -> str:
        shared = {"loss": self.loss, "targeted": self.targeted, **self.switches}
        usual = {"low": 0.0, "high": 1.0, "loss": "ce", "targeted": False, **checked_switches({})}
        settings = {**self.settings(), **shared}
        changed = {name: value for name, value in settings.items() if name not in usual or usual[name] != value}
        if self.switches["exact"]:
            changed = {name: value for name, value in changed.items() if name not in usual or name == "exact"}
        shown = {name: f"{value:.6g}" if isinstance(value, float) else repr(value) for name, value in changed.items()}
        return f"{self.attack}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def explain(self) -> str:
        """How the last call ran: one line for each switch, whether it was used and why (not)."""
        if not self._choices:
            return f"{self.attack} has not run yet; call it on images and labels first"
        return "\n".join(map(str, self._choices))

    def __getstate__(self) -> dict[str, Any]:
        # A CUDA graph can be neither copied nor saved; the next call makes what it needs.
        return {**self.__dict__, "_engine": None}

    def __call__(self, images: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        """Adversarial examples for ``images`` ``[N, *S]`` with ``labels`` ``[N]``; see the class."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "attacks need gradients, which torch.inference_mode() forbids and torch.enable_grad() does not give "
                "back; call the attack outside of it (torch.no_grad() is fine)"
            )
        self._check(images, labels)
        numbers = self._numbers(index, len(images))
        images = images.detach().clone() if images.is_inference() else images.detach()
        if images.shape[0] == 0:
            return images.clone()
        labels = labels.detach().clone().long()
        if self._engine is None or self._engine.model is not self.model:
            self._engine = Engine(self.model, self.switches, self.attack, self.own_rule)
        engine = self._engine
        attached: AbstractContextManager[Any] = getattr(self.loss, "attached", lambda _: nullcontext())(self.model)
        with evaluation_mode(self.model), torch.no_grad(), attached:
            engine.begin(images, self.evaluations(), isinstance(self.loss, str))
            origin = engine.placed(images)
            objective = self._objective(engine, origin, labels)
            problem = Problem(engine, origin, labels, numbers, objective, self.targeted, [])
            adversarial = self.perturb(problem)
            self._choices = tuple(engine.choices)
        flaws = [*problem.flaws, ~adversarial.isfinite().all()]
        if bool(torch.stack(flaws).any()):
            raise ValueError(
                f"{self.attack}: the gradient of the loss for the input is not finite; look for NaN weights or an "
                "overflow in the model"
            )
        if adversarial.stride() == images.stride():
            return adversarial
        return torch.empty_like(images).copy_(adversarial)

    def noise(self, problem: Problem, purpose: int = 0) -> Noise:
        """The random streams of the samples; each ``purpose`` has its own."""
        return Noise(self.seed, self.generator, problem.index, problem.origin.device, purpose)

    def _objective(self, engine: Engine, images: Tensor, labels: Tensor) -> Objective:
        extremes = int(labels.min()), int(labels.max())
        if callable(self.loss):
            return Objective(self.loss, (labels,), extremes=extremes)
        if self.loss == "kl":
            return Objective(divergence, (F.log_softmax(engine.logits(images).float(), 1),), extremes=extremes)
        if self.loss == "dlr" and self.targeted:
            return Objective(difference_of_logits_ratio_to, (labels,), extremes=extremes)
        return Objective(BY_NAME[self.loss], (labels,), -1.0 if self.targeted else 1.0, extremes)

    def _numbers(self, index: Tensor | None, count: int) -> Tensor:
        if index is None:
            return torch.arange(count)
        if not isinstance(index, Tensor) or index.dtype not in _INTEGERS or index.shape != (count,):
            raise ValueError(f"index must hold one whole number per sample, [{count}]; leave it out for 0..{count - 1}")
        numbers = index.detach().cpu().long()
        if count and int(numbers.min()) < 0:
            raise ValueError("index must not be negative")
        return numbers

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
