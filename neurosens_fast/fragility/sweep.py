"""Repairs of several strengths: one is picked on validation data and judged on test data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import nn

from neurosens_fast.audit.batches import Data
from neurosens_fast.audit.descriptions import describe_callable, describe_model
from neurosens_fast.audit.progress import Report
from neurosens_fast.audit.storage import write_whole
from neurosens_fast.capture import hookable
from neurosens_fast.support.files import csv_content

from .evaluation import ATTACKS, Judge, RepairEvaluation
from .levels import MakeAttack
from .repair import checked_compress, repair, repair_scales
from .report import FragilityReport
from .scaling import copied

if TYPE_CHECKING:
    from pandas import DataFrame

NO_REPAIR = 1.0


@dataclass(repr=False)
class RepairReport:
    """Accuracy after repairs of several strengths, and the strength that was picked on validation data alone.

    ``validation`` maps every compression factor, from 1 (no repair) downwards, to its evaluation; ``test`` is that of
    the ``picked`` one. ``repaired`` is the picked model (a copy of the original for 1). ``pick_by`` names the attack
    whose accuracy decided; ``layer``, ``where``, ``score``, ``threshold`` and ``conserve`` say what was repaired;
    ``model`` and ``attacks`` describe what was measured.
    """

    validation: dict[float, RepairEvaluation]
    test: RepairEvaluation
    picked: float
    pick_by: str
    layer: str
    where: str
    score: str
    threshold: float
    conserve: str
    reestimated: bool
    model: str
    attacks: dict[str, str]
    repaired: nn.Module = field(compare=False)

    def __repr__(self) -> str:
        factors = ", ".join(f"{factor:g}" for factor in self.validation)
        return f"RepairReport({self.model}; {self.layer}, compress {self.picked:g} picked of {factors}; {self.test!r})"

    def to_pandas(self) -> DataFrame:
        """One row per split, compression factor and condition, with the columns of :class:`RepairEvaluation`."""
        from pandas import concat

        entries = [("validation", factor, found) for factor, found in self.validation.items()]
        frames = []
        for split, factor, evaluation in (*entries, ("test", self.picked, self.test)):
            frame = evaluation.to_pandas()
            frame.insert(0, "split", split)
            frame.insert(3, "compress", factor)
            frames.append(frame)
        return concat(frames, ignore_index=True)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_pandas` as CSV with full float64 precision: the whole file, or ``ReportError`` says why."""
        write_whole(path, csv_content(self.to_pandas()))

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the change of accuracy over the compression factor, and accuracy before and after on the test data.

        Bars are one standard error of the paired change; the suffix decides the format. Raises ``ValueError`` for an
        unknown format, ``ReportError`` if the file cannot be written.
        """
        from .repair_plot import plot

        plot(self, path)


def repair_sweep(
    model: nn.Module,
    report: FragilityReport,
    validation: Data,
    test: Data,
    compress: float | Iterable[float] = (0.95, 0.9, 0.75, 0.5, 0.25),
    attacks: Mapping[str, MakeAttack] = ATTACKS,
    eps: float | Iterable[float] | None = None,
    conserve: str = "norm",
    *,
    pick_by: str | None = None,
    score: str = "adversarial",
    score_eps: float | None = None,
    threshold: float | None = None,
    where: str | None = None,
    norm: str | None = None,
    reestimate: Data | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    seed: int = 0,
) -> RepairReport:
    """Repair with each factor of ``compress``, pick one on ``validation``, and judge it on ``test``.

    Picked is the factor with the most right answers on ``validation`` under the attack named ``pick_by`` (default: the
    first of ``attacks``), added up over ``eps``: the largest mean accuracy under it, whatever becomes of the clean
    one. 1.0, no repair and no re-estimation, is always among the candidates; of equal ones the mildest is picked. That
    rule is a choice of this package. ``test`` is seen by the original and the picked model alone.

    Neither ``validation`` nor ``test`` should hold samples on which ``report`` classified the neurons. ``eps``
    (default: those of the report) are the strengths at which models are judged, ``score_eps`` that at which neurons are
    classified. ``conserve``, ``score``, ``threshold``, ``where``, ``norm`` and ``reestimate`` are as in :func:`repair`;
    ``attacks`` and the rest as in :func:`evaluate`. ``max_samples`` holds for ``validation`` and ``test`` each, and for
    ``reestimate``, too.

    Raises ``ValueError`` or ``TypeError``, naming what was wrong and the mend, as those functions do.
    """
    factors = _factors(compress)
    if not isinstance(report, FragilityReport):
        raise TypeError(f"report must be a FragilityReport, got {type(report).__name__}")
    judge = Judge(attacks, report.eps if eps is None else eps, device, batch_size, max_samples, progress, seed)
    pick_by = next(iter(judge.attacks)) if pick_by is None else pick_by
    if pick_by not in judge.attacks:
        raise ValueError(f"pick_by must be one of {', '.join(judge.attacks)}, the names of attacks, got {pick_by!r}")
    # Refuses what cannot be repaired before anything is measured.
    repair_scales(
        model, report, factors[-1], conserve, score=score, eps=score_eps, threshold=threshold, where=where, norm=norm
    )

    def repaired(factor: float) -> nn.Module:
        if factor == NO_REPAIR:
            return copied(model)
        return repair(
            *(model, report, factor, conserve),
            score=score,
            eps=score_eps,
            threshold=threshold,
            where=where,
            norm=norm,
            reestimate=reestimate,
            device=device,
            batch_size=batch_size,
            max_samples=max_samples,
            progress=progress,
            seed=seed,
        )

    before = judge.outcome(model, validation)
    evaluations = {NO_REPAIR: judge.compared(before, before, validation)}
    for factor in factors[1:]:
        evaluations[factor] = judge.compared(before, judge.outcome(repaired(factor), validation), validation)
    # max() takes the first of equal ones, and the mildest comes first.
    picked = max(evaluations, key=lambda factor: evaluations[factor].right_after(pick_by))
    chosen = repaired(picked)
    before = judge.outcome(model, test)
    after = before if picked == NO_REPAIR else judge.outcome(chosen, test)
    return RepairReport(
        validation=evaluations,
        test=judge.compared(before, after, test),
        picked=picked,
        pick_by=pick_by,
        layer=report.layer,
        where=where or report.where,
        score=score,
        threshold=report.threshold(score, score_eps) if threshold is None else threshold,
        conserve=conserve,
        reestimated=reestimate is not None,
        model=describe_model(hookable(model)),
        attacks={name: describe_callable(attack) for name, attack in judge.attacks.items()},
        repaired=chosen,
    )


def _factors(compress: float | Iterable[float]) -> list[float]:
    """Every factor once, from 1 downwards."""
    given = [compress] if isinstance(compress, int | float) else list(compress)
    for factor in given:
        checked_compress(factor)
    factors = sorted({NO_REPAIR, *map(float, given)}, reverse=True)
    if len(factors) == 1:
        raise ValueError("compress holds no factor below 1, so nothing is repaired; give compress=[0.75, 0.5]")
    return factors
