"""What a training run is asked for: one object, checked before any work, kept in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from neurosens_fast.attacks import NORMS
from neurosens_fast.attacks.arguments import check_choice, check_count, check_number
from neurosens_fast.support.messages import did_you_mean

from .losses import CLASSIFIED

OptimizerBuilder = Callable[[Iterable[Tensor]], Optimizer]
"""Builds the optimiser for the parameters it is given."""

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cyclic", "step", "cosine", "constant")
AMP = ("bf16", "fp16")
COLLAPSE = ("stop", "back-off", "ignore")
KEEP = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keywords of :func:`~neurosens_fast.training.fit`, with their defaults.

    Attack in the loop: ``eps``, ``alpha`` (None: 2.5 eps / steps, 1.25 eps for ``fast``), ``steps``, ``norm``.

    Method: ``beta`` weighs the divergence of TRADES (None: 6) and MART (None: 5); ``weight`` the pairing of ALP (None:
    0.5), or the term of SNS and vulnerability suppression (None: 1). ``k``, ``distance``, ``layers``, ``scope``,
    ``refresh`` and ``detach_benign`` are those of :class:`~neurosens_fast.nn.SNSLoss` (``distance`` is its ``norm``);
    ``classify`` is that of :func:`~neurosens_fast.training.sns_objective`. ``joint``: benign and adversarial samples go
    through the model as one batch, or (False) one after the other, so that batch norm sees each half by itself.

    Optimisation: ``batch_size``; ``optimizer`` is ``"sgd"`` (Nesterov, with ``momentum``), ``"adam"``, ``"adamw"`` or
    a function ``(parameters) -> Optimizer``; the first three take ``weight_decay``. ``lr`` (None: 0.1, 0.001 for the
    Adams, the function's own) is the peak of ``schedule``: ``"cyclic"`` rises over the first 0.4 of all steps and falls
    to 0 (Wong et al., ICLR 2020), ``"step"`` divides by 10 after 0.5 and 0.75 of them, ``"cosine"`` falls to 0,
    ``"constant"``. ``label_smoothing`` is that of the cross-entropy, ``clip_norm`` bounds the L2 norm of all gradients
    together, ``ema`` (such as 0.999) averages the weights, and it is the average that is validated and saved.

    Computing: ``amp`` is None, ``"bf16"`` (the attack's forward too) or ``"fp16"`` with a scaler; ``channels_last``.

    Data: ``crop`` pads images by so many pixels of 0 and cuts the old size out at random, ``flip`` mirrors half of
    them; ``workers`` load data sets that are not tensors.

    Validation: PGD with ``val_steps`` steps of the same eps, after every ``val_every`` epochs and the last one.
    ``patience``: stop after so many epochs without a better adversarial accuracy (clean, for ``standard``).
    ``collapse``: what follows a fall of that accuracy by more than ``collapse_points`` percentage points below the
    best, as in catastrophic overfitting: ``"stop"``; ``"back-off"``, to the best weights with half the learning rate,
    three times at most; or ``"ignore"``. ``keep``: the weights that the model has in the end, ``"best"`` or ``"last"``.

    ``seed`` decides every draw. Defaults are choices of this package unless a source is named.
    """

    eps: float = 8 / 255
    alpha: float | None = None
    steps: int = 10
    norm: str = "linf"

    beta: float | None = None
    weight: float | None = None
    classify: str = "adversarial"
    k: int | float = 0.1
    distance: int | str = 1
    layers: Any = None
    scope: str = "layer"
    refresh: int | str = "batch"
    detach_benign: bool = False
    joint: bool = True

    batch_size: int = 128
    optimizer: str | OptimizerBuilder = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cyclic"
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None

    amp: str | None = None
    channels_last: bool = False

    crop: int = 0
    flip: bool = False
    workers: int = 0

    val_steps: int = 10
    val_every: int = 1
    patience: int | None = None
    collapse: str = "stop"
    collapse_points: float = 20.0
    keep: str = "best"

    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("eps", "momentum", "weight_decay", "collapse_points"):
            check_number(name, getattr(self, name))
        for name in ("alpha", "beta", "weight", "lr", "clip_norm"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        for name in ("steps", "crop", "workers", "val_steps", "seed"):
            check_count(name, getattr(self, name))
        for name in ("batch_size", "patience", "val_every"):
            value = getattr(self, name)
            if value is not None and check_count(name, value) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, known in _CHOICES.items():
            check_choice(name, getattr(self, name), known)
        if self.amp is not None:
            check_choice("amp", self.amp, AMP)
        if not callable(self.optimizer):
            check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("label_smoothing", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= check_number(name, value) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule multiplies."""
        return self.lr if self.lr is not None else 0.1 if self.optimizer == "sgd" else 1e-3

    def as_json(self) -> dict[str, Any]:
        """Name -> value, what cannot be written as JSON by its description."""
        return {name: _plain(value) for name, value in asdict(self).items()}


_CHOICES = {
    "norm": NORMS,
    "classify": CLASSIFIED,
    "schedule": SCHEDULES,
    "collapse": COLLAPSE,
    "keep": KEEP,
}


def settings_from(given: dict[str, Any]) -> Settings:
    """:class:`Settings` of the keywords ``given``. ``TypeError`` for one that does not exist, with close names."""
    known = [field.name for field in fields(Settings)]
    for name in given:
        if name not in known:
            raise TypeError(f"fit takes no argument {name!r}{did_you_mean(name, known) or '; see training.Settings'}")
    return Settings(**given)


def schedule_factor(schedule: str, done: float) -> float:
    """What the peak learning rate is multiplied with when the share ``done`` of all steps is behind."""
    if schedule == "cyclic":
        return done / 0.4 if done < 0.4 else (1 - done) / 0.6
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
