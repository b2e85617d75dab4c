"""A model before and after a change: clean accuracy and that under attacks, compared sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neurosens_fast.attacks import FGSM, PGD
from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_data
from neurosens_fast.audit.progress import Report
from neurosens_fast.capture import hookable
from neurosens_fast.robustness import robust_accuracy

from .counts import Counts
from .levels import EPS, MakeAttack, attacks_of, checked_eps
from .scaling import checked_model

if TYPE_CHECKING:
    from pandas import DataFrame

CLEAN = "clean"


def pgd_10(model: nn.Module, eps: float) -> PGD:
    """PGD with 10 steps of ``eps / 4`` from a random start, the same for both models."""
    return PGD(model, eps, alpha=eps / 4, steps=10, seed=0)


ATTACKS: Mapping[str, MakeAttack] = MappingProxyType({"FGSM": FGSM, "PGD": pgd_10})
"""Attacks by name that a repair is judged by (a choice of this package)."""


@dataclass(repr=False)
class RepairEvaluation:
    """Accuracy of a model ``before`` and ``after``, on the same samples.

    ``conditions`` are the attack and eps of every ``[conditions]`` tensor (float64), of which the first is
    ``("clean", 0.0)``; ``counts`` holds what was counted. A sample is right under an attack if it is right as it is
    and the attack, made for the model itself, does not change that. ``warnings`` are those of
    :func:`~neurosens_fast.robustness.robust_accuracy`.
    """

    conditions: tuple[tuple[str, float], ...]
    counts: Counts
    data: str
    seed: int
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        numbers = zip(self.conditions, self.before.tolist(), self.after.tolist(), strict=True)
        shown = ", ".join(f"{label(*condition)} {before:.1%} -> {after:.1%}" for condition, before, after in numbers)
        return f"RepairEvaluation({shown}; {self.samples:,} samples)"

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.counts.samples

    @property
    def before(self) -> Tensor:
        """Accuracy of the first model, ``[conditions]``."""
        return self.counts.accuracy()

    @property
    def after(self) -> Tensor:
        """Accuracy of the second model, ``[conditions]``."""
        return self.before + self.change

    @property
    def change(self) -> Tensor:
        """Accuracy after less that before, ``[conditions]``."""
        return self.counts.change()[0]

    @property
    def standard_error(self) -> Tensor:
        """Standard error of :attr:`change` from the samples' paired changes, ``[conditions]``."""
        return self.counts.change_error()[0]

    @property
    def p_value(self) -> Tensor:
        """Exact two-sided McNemar test that nothing changed, ``[conditions]``."""
        return self.counts.p_values()[0]

    def right_after(self, attack: str) -> int:
        """How many samples the second model gets right under ``attack``, added up over its strengths."""
        places = [place for place, (name, _) in enumerate(self.conditions) if name == attack]
        right = self.counts.correct - self.counts.lost[0] + self.counts.gained[0]
        return int(right[places].sum())

    def to_pandas(self) -> DataFrame:
        """One row per condition: accuracy before and after, the change, its error and p-value, and what was counted."""
        from pandas import DataFrame

        return DataFrame(
            {
                "attack": [attack for attack, _ in self.conditions],
                "eps": [eps for _, eps in self.conditions],
                "accuracy_before": self.before.numpy(),
                "accuracy_after": self.after.numpy(),
                "change": self.change.numpy(),
                "standard_error": self.standard_error.numpy(),
                "p_value": self.p_value.numpy(),
                "lost": self.counts.lost[0].numpy(),
                "gained": self.counts.gained[0].numpy(),
                "samples": self.samples,
            }
        )


def evaluate(
    model: nn.Module,
    repaired: nn.Module,
    data: Data,
    attacks: Mapping[str, MakeAttack] = ATTACKS,
    eps: float | Iterable[float] = EPS,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
) -> RepairEvaluation:
    """Accuracy of ``model`` and of ``repaired``, clean and under each of ``attacks`` at each of ``eps``.

    ``attacks`` maps names to what makes one, called as ``attack(model, eps=eps)`` for each model anew: each is attacked
    itself, never with the other's adversarial inputs. Give attacks that draw random numbers a ``seed``, so that both
    models meet the same draws. ``data`` and the rest are as in :func:`~neurosens_fast.robustness.robust_accuracy`,
    and must give the same samples in the same order each time.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend: no attacks, strengths that are no
    numbers of at least 0, data that change from one pass to the next, and what ``robust_accuracy`` refuses.
    """
    judge = Judge(attacks, eps, device, batch_size, max_samples, progress, seed)
    return judge.compared(judge.outcome(model, data), judge.outcome(repaired, data), data)


@dataclass(frozen=True)
class Outcome:
    """What became of each sample: whether it was right, bool ``[conditions, N]``, and its label, ``[N]``."""

    right: Tensor
    labels: Tensor
    warnings: tuple[str, ...]


class Judge:
    """Judges models by the same attacks in the same way; arguments as those of :func:`evaluate`."""

    def __init__(
        self,
        attacks: Mapping[str, MakeAttack],
        eps: float | Iterable[float],
        device: torch.device | str | None,
        batch_size: int,
        max_samples: int | None,
        progress: bool | Report,
        seed: int,
    ) -> None:
        self.attacks, self.eps, self.seed = checked_attacks(attacks), checked_eps(eps), seed
        self.conditions = ((CLEAN, 0.0), *((name, level) for name in self.attacks for level in self.eps))
        self._device, self._batch_size, self._max_samples = device, batch_size, max_samples
        self._progress = progress

    def outcome(self, model: nn.Module, data: Data) -> Outcome:
        """What became of each sample of ``data`` in ``model``, which is attacked itself."""
        checked_model(model)
        model = hookable(model)
        made = {
            f"{name} {level}": made  # in full: two strengths may look the same in six digits
            for name, attack in self.attacks.items()
            for level, made in zip(self.eps, attacks_of(model, attack, self.eps, self.seed), strict=True)
        }
        report = robust_accuracy(
            model,
            data,
            made,
            device=self._device,
            batch_size=self._batch_size,
            max_samples=self._max_samples,
            progress=self._progress,
            seed=self.seed,
        )
        standing = [report.right & ~report.fooled[name] for name in made]
        return Outcome(torch.stack([report.right, *standing]), report.labels, tuple(report.warnings))

    def compared(self, before: Outcome, after: Outcome, data: Data) -> RepairEvaluation:
        """Both outcomes on ``data``; ``ValueError`` if they are not of the same samples."""
        if not torch.equal(before.labels, after.labels):
            raise ValueError(
                "the data gave other samples, or another order, to the second model than to the first, so that they "
                "cannot be compared sample by sample; give a list, tensors, or a DataLoader without shuffle"
            )
        counts = Counts.zeros(1, len(self.conditions))
        counts.add(before.right, after.right[None])
        warnings = tuple(dict.fromkeys(before.warnings + after.warnings))
        return RepairEvaluation(self.conditions, counts, describe_data(data), self.seed, warnings)


def checked_attacks(attacks: Mapping[str, MakeAttack]) -> dict[str, MakeAttack]:
    """``attacks`` by name; ``ValueError`` or ``TypeError`` for none, or other names."""
    if not isinstance(attacks, Mapping):
        raise TypeError(f"attacks must be a dict such as {{'FGSM': FGSM}}, got {type(attacks).__name__}")
    if not attacks:
        raise ValueError("attacks is empty; give at least one, as in attacks={'FGSM': FGSM}")
    for name in attacks:
        if not isinstance(name, str) or name == CLEAN:
            raise ValueError(f"attacks must have names other than {CLEAN!r}, which is that of no attack, got {name!r}")
    return dict(attacks)


def label(attack: str, eps: float) -> str:
    """``FGSM 0.1``, or ``clean``."""
    return attack if attack == CLEAN else f"{attack} {eps:g}"
