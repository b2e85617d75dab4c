"""The size of a reproduction, and what "equal budget" means in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from neurosens_fast.attacks.arguments import check_count, check_number
from neurosens_fast.models import model_for
from neurosens_fast.training import METHODS

COMPARED = ("standard", "pgd-at", "trades", "alp", "vulnerability", "sns")
"""The methods of the second claim, in the order of the report."""

SELECTION_SEED = 1000
"""Weights are chosen with this seed, which no reported model has."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What :func:`~neurosens_fast.reproduce.reproduce` does.

    ``epochs`` and ``steps`` are those of PGD adversarial training. Every method gets as many gradient evaluations
    (forward and backward passes of one sample, the attack's and the update's): its epochs follow. ``betas``,
    ``pairings``, ``suppressions``, ``shares`` and ``weights`` are what TRADES, ALP, vulnerability suppression and SNS
    (k and its weight) may choose from by validation accuracy under PGD. ``samples`` and ``test_samples`` limit the
    data, None for all of it; EBD and EBD-2 take ``boundary_samples`` of the test part and ``directions`` directions.
    """

    data: str = "digits"
    model: str = "digits-cnn"
    eps: float = 0.15
    steps: int = 7
    epochs: int = 12
    seeds: int = 3
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 3e-3
    samples: int | None = None
    test_samples: int | None = None
    val_share: float = 0.2
    betas: tuple[float, ...] = (3.0, 6.0)
    pairings: tuple[float, ...] = (0.5, 1.0)
    suppressions: tuple[float, ...] = (0.1, 0.3, 1.0)
    shares: tuple[float, ...] = (0.1, 0.3)
    weights: tuple[float, ...] = (0.1, 0.3, 1.0)
    directions: int = 10
    boundary_samples: int = 200

    def __post_init__(self) -> None:
        for name in ("eps", "lr", "val_share"):
            check_number(name, getattr(self, name))
        for name in ("steps", "epochs", "batch_size", "directions", "boundary_samples", "seeds"):
            check_count(name, getattr(self, name), 1)
        if self.seeds < 2:
            raise ValueError("seeds must be at least 2: a mean without its spread says little (the default is 3)")

    def epochs_of(self, method: str) -> int:
        """Epochs that take as many gradient evaluations as ``epochs`` of PGD adversarial training."""
        each = {name: METHODS[name].passes + (self.steps if METHODS[name].attack else 0) for name in (method, "pgd-at")}
        return max(1, round(self.epochs * each["pgd-at"] / each[method]))

    def choices(self, method: str) -> list[dict[str, Any]]:
        """The settings among which ``method`` chooses."""
        if method == "trades":
            return [{"beta": beta} for beta in self.betas]
        if method == "alp":
            return [{"weight": weight} for weight in self.pairings]
        if method == "vulnerability":
            return [{"weight": weight} for weight in self.suppressions]
        if method == "sns":
            return [{"k": share, "weight": weight} for share in self.shares for weight in self.weights]
        return [{}]

    def as_json(self) -> dict[str, Any]:
        """Name -> value."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


_SMALL_GRIDS: dict[str, Any] = {
    "betas": (6.0,),
    "pairings": (0.5,),
    "suppressions": (0.3, 1.0),
    "weights": (0.3, 1.0),
    "boundary_samples": 100,
    "test_samples": 300,
}
_OF_DATA: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {"eps": 0.1, "epochs": 5, "samples": 2000, **_SMALL_GRIDS},
    "fashion-mnist": {"eps": 0.05, "epochs": 5, "samples": 2000, **_SMALL_GRIDS},
    "cifar10": {"eps": 8 / 255, "epochs": 20, "batch_size": 128, **_SMALL_GRIDS},
}


def plan_for(data: str, **changes: Any) -> Plan:
    """The usual plan for a data set by its name, with ``changes``. ``ValueError`` where a model has to be named."""
    usual = {**_OF_DATA.get(data.partition(":")[0], {}), **changes}
    model = changes.get("model") or model_for(data)
    return Plan(**{**usual, "data": data, "model": model})
